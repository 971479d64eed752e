"""Versions of a prompt: a table keeps its best, a changed one is scored beside its parent, one is tested at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, DataError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.names import counted
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.labelled import Labelled
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.choose import Examples
from tunesmith.data.prompting.schema import label_schema
from tunesmith.data.prompting.variant import (
    Prompting,
    Variant,
    checked_template,
    question_of,
    turns_of,
    with_labels,
)
from tunesmith.data.quality.ledger import Source
from tunesmith.evaluate.prompts.table import CHATS, CLASSES, Entry, best_of, label_in
from tunesmith.evaluate.prompts.used import note_use
from tunesmith.evaluate.prompts.versions import Chosen, Prompt, Version, Versions, now
from tunesmith.jobs.prompt_asking import Asker, Note, found_models, refuse_unfit
from tunesmith.jobs.prompt_trial import Trial, report_of, trial_of
from tunesmith.model.export import ExportedModel
from tunesmith.prompt.messages import Message
from tunesmith.score.interval import score_interval

REMEMBERED = (  # options of a version that are those of its children, where nobody says otherwise
    "rows", "validation", "test", "format", "columns", "label_names", "chat_template", "scoring", "max_new_tokens",
    "seed", "metric",
)  # fmt: skip


class Given:
    """Worked examples that a version names, the same for all questions."""

    def __init__(self, chosen: Chosen, kind: str, json: bool) -> None:
        """Make rows of `chosen`.

        Args:
            chosen: question and answer of each.
            kind: of the rows.
            json: whether answers are a class as JSON.
        """
        self._rows = [_worked(question, answer, kind, json) for question, answer in chosen]

    def for_rows(self, variant: Variant, asked: Sequence[Row]) -> list[list[Row]]:
        """The examples for each question."""
        return [self._rows for _ in asked]


def _worked(question: str, answer: str, kind: str, json: bool) -> Row:
    if kind == "chat":
        return Row(Chat((Message("user", question), Message("assistant", answer))), Source("version", 1))
    return Row(Labelled(question, label_in(answer) if json else answer), Source("version", 1))


def chosen_of(trial: Trial, way: Variant) -> Chosen | None:
    """The worked examples of a variant as a version names them; None where they are not the same for all questions.

    Those of several turns are named by seed and kind alone.
    """
    if not way.shots or way.choice == "nearest":
        return None
    [rows] = trial.examples.for_rows(way, trial.rows.validation[:1])
    if any(len(turns_of(row)) > 1 for row in rows):
        return None
    shared = trial.prompting_of(way)
    return [[question_of(row), shared.shown(row)] for row in rows]


def prompt_of(trial: Trial, way: Variant) -> Prompt:
    """A variant as versions keep it."""
    template, words = trial.prompting.template, trial.words[way.json and bool(trial.rows.labels)]
    return Prompt(
        None if template is None else template.text, words if way.instructed else "", way.shots, way.choice,
        trial.arguments["seed"], chosen_of(trial, way),
    )  # fmt: skip


def trial_for(trial: Trial, prompt: Prompt, schema: dict[str, Any] | None) -> tuple[Trial, Variant]:
    """The trial of one prompt on the rows of another trial.

    Raises:
        ConfigError: the prompt does not fit the rows, or the schema none of their answers.
    """
    rows, template = trial.rows, None
    if prompt.template is not None:
        template = checked_template(prompt.template, rows.kind, rows.pairs, prompt.shots > 0, "the template")
    if rows.labels and schema is not None and schema != label_schema(rows.labels):
        raise ConfigError("the version's schema has other labels than the rows. Try prompts anew on these rows.")
    way = Variant(prompt.shots, prompt.examples, bool(prompt.instruction), schema is not None)
    kept = Given(prompt.chosen, rows.kind, schema is not None) if prompt.chosen is not None else None
    examples = Examples(rows.training, prompt.seed)
    if kept is None:
        examples.refuse_more([prompt.shots])
    prompting = Prompting(rows.kind, rows.labels, with_labels(prompt.instruction, rows.labels), template)
    words = (prompt.instruction, prompt.instruction)
    own = replace(
        trial, ways=[way], prompting=prompting, words=words, examples=kept or examples, schema=schema
    )  # fmt: skip
    return own, way


def version_of(trial: Trial, entry: Entry, prompt: Prompt, parent: str | None, note: str) -> Version:
    """What is kept of a prompt that was asked about the validation rows."""
    rows, kinds = trial.rows, {metric.name: metric for metric in (*CLASSES, *CHATS)}
    assert entry.variant is not None
    scores = {
        name: {key: round(value, 4) for key, value in asdict(score_interval(kinds[name], counts)).items()}
        for name, counts in entry.counts.items()
    }
    about = {
        "file": trial.arguments["data"], "content": rows.content, "kind": rows.kind, "pairs": rows.pairs,
        "validation": rows.validation_id, "test": rows.test_id,
    }  # fmt: skip
    options = {key: trial.arguments[key] for key in REMEMBERED}
    schema = trial.schema_of(entry.variant)
    return Version(
        "", parent, now(), note, prompt, schema, entry.model, about, trial.metric.name, scores, options
    )  # fmt: skip


def keep_best(trial: Trial, tried: Sequence[Entry], note: Note) -> dict[str, Any] | None:
    """Keep the best prompt of the best model of a table as a version.

    Returns:
        Its id and file, and whether it is new; None where no prompt was tried on all rows, or it cannot be kept, which
        is noted.
    """
    prompted = [entry for entry in tried if entry.variant is not None]
    best = best_of(prompted, trial.metric)
    if best is None or best.variant is None:
        return None
    models = counted(len({entry.model for entry in prompted}), "model")
    lines = counted(len(prompted), "line")
    said = f"the best by {trial.metric.name} of a table of {lines} ({models}): {best.prompt}"
    try:
        return _keep(trial, version_of(trial, best, prompt_of(trial, best.variant), None, said))
    except TunesmithError as error:
        note(f"the best prompt is not kept. {error}")
        return None


def _keep(trial: Trial, version: Version) -> dict[str, Any]:
    versions = Versions(Path(trial.arguments["into"]))
    before = {one.id for one in versions.all}
    kept, best = versions.keep(version), versions.best()
    return {
        "id": kept.id, "file": str(versions.folder / f"{kept.id}.yaml"), "new": kept.id not in before,
        "best": best is not None and best.id == kept.id,
    }  # fmt: skip


def score_prompt(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Score a changed prompt on validation rows beside its parent, and keep it as a version.

    Args:
        arguments: those of `tunesmith prompts`, with one model; `into`, the folder; `parent`, an id; `prompt`, as a
            version's file holds it, `chosen` left out where examples are to be chosen anew; `schema`; `note`.
        report: hears of progress.

    Returns:
        `report`: as `try_prompts` gives it, with the parent's line first.

    Raises:
        ConfigError: the prompt cannot be asked, or not about all rows.
    """
    versions = Versions(Path(arguments["into"]))
    parent = versions.find(arguments["parent"])
    trial = trial_of(options_for(arguments, arguments["schema"], parent), report)
    asker = asker_of(arguments["models"], trial)
    own, way = trial_for(trial, Prompt(**arguments["prompt"]), arguments["schema"])
    prompt = Prompt(**{**arguments["prompt"], "chosen": chosen_of(own, way)})
    beside, other = trial_for(trial, parent.prompt, parent.schema)
    before = asker.asked(other, trial.rows.validation, beside, "validation rows", f"{parent.id} (its parent)")
    after = asker.asked(way, trial.rows.validation, own, "validation rows", "the new one")
    if after.left_out:
        raise ConfigError(f"the prompt is not kept: {after.left_out}")
    if not after.complete:
        raise ConfigError(
            f"the prompt is not kept: the budget ended after {len(after.places)} of {counted(after.asked, 'row')}. "
            "Their answers are, and a larger budget goes on from there."
        )
    kept = _keep(own, version_of(own, after, prompt, parent.id, arguments["note"]))
    tried = [before, replace(after, called=f"{kept['id']}, the new one")]
    return {"report": {**report_of(own, tried, [], {}, []), "kept": kept}}


def measure_prompt(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure a version on the test rows, and note in its folder that this was done.

    Args:
        arguments: those of `tunesmith prompts`, with one model; `into`, the folder; `version`, an id.
        report: hears of progress, and notes.

    Raises:
        DataError: there are no test rows.
        ConfigError: the prompt cannot be asked, or not about all rows.
    """
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        report(events.Warning(sentence))

    versions = Versions(Path(arguments["into"]))
    version = versions.find(arguments["version"])
    trial = trial_of(options_for(arguments, version.schema, version), report)
    if not trial.rows.test:
        raise DataError(f"{arguments['data']}: there are no test rows. Give more rows, or a file with --test.")
    asker = asker_of(arguments["models"], trial)
    own, way = trial_for(trial, version.prompt, version.schema)
    entry = asker.asked(way, trial.rows.test, own, "test rows", version.id)
    if entry.left_out or not entry.complete:
        rows = f"the budget ended after {len(entry.places)} of {counted(entry.asked, 'row')}."
        raise ConfigError(f"{version.id} was not measured: {entry.left_out or rows}")
    elsewhere = note_look(trial, version.prompt, version.schema, entry.model)
    if not _note_tests(versions, version, trial, note) and elsewhere:
        note(elsewhere)
    found = {"report": report_of(own, [], [entry], {entry.model: version.id}, notes)}
    [line] = found["report"]["test"]["entries"]
    scores = {one["metric"]: one["score"] for one in line["scores"]}
    versions.note_test(version, {"model": entry.model, "test": trial.rows.test_id, "scores": scores})
    return found


def note_look(trial: Trial, prompt: Prompt, schema: dict[str, Any] | None, model: str) -> str:
    """Note that a model was asked about the test rows with a prompt, by a table or as a version.

    Returns:
        What is to be known of it; empty if these rows were not looked at with another prompt before.
    """
    return note_use(trial.rows.test_id, model, [prompt.to_plain(), schema, trial.arguments["scoring"]])


def _note_tests(versions: Versions, version: Version, trial: Trial, note: Note) -> bool:
    """Say that test rows were looked at before for other versions of the folder, and whether they were."""
    before = [one for one in versions.tests() if one.get("test") == trial.rows.test_id]
    own = [one for one in before if one.get("id") == version.id]
    others = sorted({str(one.get("id")) for one in before} - {version.id})
    if own:
        note(
            f"{version.id} was measured on these test rows before, on {own[0].get('made')}: this is look number "
            f"{len(own) + 1}, and it tells nothing new."
        )
    if others:
        note(
            f"these test rows were looked at for {', '.join(others)} before. Who chooses by them measures the chosen "
            "version on rows that it was chosen by, which flatters it. Choose by validation rows, or give new rows "
            "with --test."
        )
    return bool(others)


def options_for(arguments: dict[str, Any], schema: dict[str, Any] | None, version: Version) -> dict[str, Any]:
    """The options of a table, where it is one prompt that is asked."""
    answers = (["json"] if schema is not None else []) if version.rows["kind"] == "labelled" else []
    return {
        **arguments, "shots": [0], "examples": [], "instruction": None, "template": None, "against": "first",
        "validate_only": True, "answer": answers, "schema": None if version.rows["kind"] == "labelled" else schema,
    }  # fmt: skip


def asker_of(names: list[str], trial: Trial) -> Asker:
    """The one model that is asked.

    Raises:
        ConfigError: there are several, or it is a classifier.
    """
    models = found_models(names)
    if len(models) > 1:
        raise ConfigError(f"a version is asked of one model, and --models names {len(models)}. Name one.")
    refuse_unfit(models, trial)
    [(name, model)] = models
    if isinstance(model, ExportedModel) and not model.chats:
        raise ConfigError(f"{name}: a classifier is asked without a prompt. Name a model that chats with --models.")
    return Asker(name, model, trial)
