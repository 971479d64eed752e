"""Try prompts on held-out rows, beside tuned models. Runs in a child process.

Every variant of the prompt is tried on validation rows; the test rows are for what was chosen by them, once.
"""

from __future__ import annotations

from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.core.names import counted
from tunesmith.evaluate.prompts.ask import LabelScorer, Question
from tunesmith.evaluate.prompts.rows import asked_in
from tunesmith.evaluate.prompts.table import Entry, best_of
from tunesmith.infer.remote import RemoteModel
from tunesmith.jobs.prompt_asking import Asker, Found, Note, classified, found_models, refuse_unfit
from tunesmith.jobs.prompt_trial import Trial, report_of, trial_of
from tunesmith.jobs.prompt_versions import keep_best, note_look, prompt_of
from tunesmith.jobs.run_rows import training_rows
from tunesmith.model.export import ExportedModel


def try_prompts(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Try every variant with every model.

    Args:
        arguments: the options of `tunesmith prompts`, by their names.
        report: hears of progress, and notes.

    Returns:
        `report`: plain values: for `validation` and `test` a line for each model and prompt, what was `chosen`, what
        was `spent`, `notes`, and which version was `kept`.
    """
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        report(events.Warning(sentence))

    trial = trial_of(arguments, report)
    for part, rows in (("validation", trial.rows.validation), ("test", trial.rows.test)):
        if known := asked_in(trial.rows.training, rows):
            note(
                f"{part}: {known} of {counted(len(rows), 'row')} ask what a training row asks. None of these is among "
                "the nearest examples, but those of chance may give an answer away, and tuned models may know it."
            )
    models = found_models(arguments["models"])
    refuse_unfit(models, trial)
    tried: list[Entry] = []
    tested: list[Entry] = []
    for name, model in models:
        own, test = _one_model(name, model, trial, note)
        tried += own
        tested += [test] if test is not None else []
    if all(entry.left_out for entry in tried):
        raise ConfigError(f"nothing could be asked. {tried[0].model}, {tried[0].prompt}: {tried[0].left_out}")
    if trial.budget.too_dear and not trial.budget.requests and not any(entry.places for entry in tried):
        raise ConfigError(
            f"--max-cost {arguments['max_cost']:g}: one request can cost {trial.budget.too_dear:.6f} dollars, so that "
            "none was sent. Give more, or ask for shorter answers with --max-new-tokens."
        )
    if trial.budget.ended:
        note(
            f"the budget ended it early, after {counted(trial.budget.requests, 'request')} of this call and "
            f"{trial.budget.dollars:.4f} dollars: rows that are missing were not asked. What was answered is kept, and "
            "the same command with a larger budget goes on."
        )
    for entry in tested:
        if (way := entry.variant) is None:
            continue
        if sentence := note_look(trial, prompt_of(trial, way), trial.schema_of(way), entry.model):
            note(sentence)
    kept = keep_best(trial, tried, note) if trial.arguments["into"] else None
    chosen = {entry.model: entry.prompt for entry in tested}
    return {"report": {**report_of(trial, tried, tested, chosen, notes), "kept": kept}}


def _one_model(name: str, model: Found, trial: Trial, note: Note) -> tuple[list[Entry], Entry | None]:
    """What a model does with each variant on the validation rows, and with the best on the test rows."""
    rows, wants_test = trial.rows, not trial.arguments["validate_only"]
    if isinstance(model, ExportedModel):
        _note_seen(name, model, trial, note)
    if isinstance(model, ExportedModel) and not model.chats:
        entry, test = classified(name, model, trial)
        return [entry], test
    asker = Asker(name, model, trial)
    tried: list[Entry] = []
    for way in trial.ways:
        tried.append(asker.asked(way, rows.validation, trial, "validation rows"))
        if tried[-1].left_out:
            note(f"{name}, {way.name}: left out. {tried[-1].left_out}")
    _note_how(name, model, asker, trial, note)
    best = best_of(tried, trial.metric)
    if best is None or best.variant is None or not wants_test or not rows.test:
        if wants_test and not rows.test:
            note(f"{name}: there are no test rows, so that its scores are those by which its prompt was chosen.")
        elif best is None:
            note(f"{name}: no prompt was tried on all validation rows, so that none is chosen.")
        return tried, None
    test = asker.asked(best.variant, rows.test, trial, "test rows")
    return tried, test if test.places or test.left_out else None


def _note_how(name: str, model: Found, asker: Asker, trial: Trial, note: Note) -> None:
    """Say that labels begin alike, where that might be feared to matter; and that a server's are not scored."""
    scoring = trial.arguments["scoring"]
    if isinstance(model, RemoteModel) and trial.rows.labels and scoring != "sum":
        note(f"{name}: --scoring {scoring} is of models of this machine; this one writes its answers.")
    answerer = asker.answerer(trial.ways[0], trial)
    if not isinstance(answerer, LabelScorer):
        return
    first = Question(trial.prompting.conversation(trial.rows.validation[0], [], False))
    if (found_alike := answerer.alike(first)) is not None:
        count, (one, other) = found_alike
        note(
            f"{name}: {counted(count, 'label')} begin with the same token as another, such as {one!r} and {other!r}. "
            "Whole labels are scored, so that they are told apart."
        )


def _note_seen(name: str, model: ExportedModel, trial: Trial, note: Note) -> None:
    """Say that a tuned model has learned from rows that it is measured on, or that nobody can tell."""
    if "recipe" not in model.card:
        return
    try:
        seen = [row.row for row in training_rows(model, silent)]
    except TunesmithError:
        note(f"{name}: the rows that it was trained on are gone, so that nobody can tell whether it has seen these.")
        return
    for part, rows in (("validation", trial.rows.validation), ("test", trial.rows.test)):
        if known := asked_in(seen, rows):
            note(f"{name}: was trained on {known} of {len(rows)} rows of the {part} part, whose scores flatter it.")
