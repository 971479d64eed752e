"""Try prompts on held-out rows, beside tuned models. Runs in a child process.

Every variant of the prompt is tried on validation rows; the test rows are for what was chosen by them, once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import append_line, read_lines
from tunesmith.core.names import counted, did_you_mean
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.choose import Examples
from tunesmith.data.prompting.variant import (
    Prompting,
    Variant,
    choices_of,
    instruction_of,
    template_from,
    variants,
    without_words,
)
from tunesmith.evaluate.prompts.ask import Answerer, LabelScorer, Question, Reply, TooLong, Writer
from tunesmith.evaluate.prompts.cache import Answers, identity_of, key_of, prompts_folder
from tunesmith.evaluate.prompts.labels import SCORINGS, refuse_twins
from tunesmith.evaluate.prompts.rows import PromptRows, asked_in, prompt_rows
from tunesmith.evaluate.prompts.spending import Budget, Price, parse_prices, price_of
from tunesmith.evaluate.prompts.table import TRAINED, Entry, best_of, entry_of, metric_called, table_of
from tunesmith.infer.engine.endings import Endings
from tunesmith.infer.generator import GivenUp
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.table import load_predictor
from tunesmith.infer.remote import RemoteModel, parse_remote
from tunesmith.jobs.merge import training_rows
from tunesmith.model.adapter import soft_places
from tunesmith.model.export import ExportedModel, find_model
from tunesmith.prompt.base import context_length
from tunesmith.prompt.messages import plain
from tunesmith.score.metrics import Metric
from tunesmith.train.recipe import LONGEST

LABEL_TOKENS, ANSWER_TOKENS = 32, 128  # longest written answer, where nobody says: a label, any other
AGAINST = ("best", "first")
MATCHED = "answers written, and matched to labels: case and punctuation aside; what matches none is wrong"
WRITTEN = "answers written"
CLASSIFIED = "a classifier, which is asked without a prompt"
Named = tuple[str, ExportedModel | RemoteModel]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """What is tried, on which rows.

    Attributes:
        rows: split.
        ways: the variants.
        prompting: what they share.
        examples: to choose from.
        metric: that prompts are chosen by.
        arguments: what was asked for.
        budget: of servers.
        prices: by model.
        report: hears of progress.
    """

    rows: PromptRows
    ways: list[Variant]
    prompting: Prompting
    examples: Examples
    metric: Metric
    arguments: dict[str, Any]
    budget: Budget
    prices: dict[str, Price]
    report: Report

    @property
    def longest(self) -> int:
        """Tokens of the longest written answer."""
        return self.arguments["max_new_tokens"] or (LABEL_TOKENS if self.rows.labels else ANSWER_TOKENS)


def try_prompts(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Try every variant with every model.

    Args:
        arguments: the options of `tunesmith prompts`, by their names.
        report: hears of progress, and notes.

    Returns:
        `report`: plain values: for `validation` and `test` a line for each model and prompt, what was `chosen`, what
        was `spent`, and `notes`.
    """
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        report(events.Warning(sentence))

    trial = trial_of(arguments, report)
    for part, rows in (("validation", trial.rows.validation), ("test", trial.rows.test)):
        if known := asked_in(trial.rows.training, rows):
            note(
                f"{part}: {known} of {counted(len(rows), 'row')} ask what a training row asks, so that examples may "
                "give their answers away."
            )
    models = [(name, found(name)) for name in dict.fromkeys(arguments["models"])]
    refuse_unfit(models, trial)
    tried: list[Entry] = []
    tested: list[Entry] = []
    chosen: dict[str, str] = {}
    for name, model in models:
        own, test = _one_model(name, model, trial, note)
        tried += own
        tested += [test] if test is not None else []
        if test is not None:
            chosen[name] = test.prompt
    if all(entry.left_out for entry in tried):
        raise ConfigError(f"nothing could be asked. {tried[0].model}, {tried[0].prompt}: {tried[0].left_out}")
    if trial.budget.ended:
        note(
            f"the budget ended it early, after {counted(trial.budget.requests, 'request')} of this call and "
            f"{trial.budget.dollars:.4f} dollars: rows that are missing were not asked. What was answered is kept, and "
            "the same command with a larger budget goes on."
        )
    if tested:
        _note_use(trial, chosen, note)
    return {"report": _report(trial, tried, tested, chosen, notes)}


def trial_of(arguments: dict[str, Any], report: Report) -> Trial:
    """What is to be tried; refuses what makes no sense before a model is loaded.

    Raises:
        ConfigError: an option makes no sense for these rows.
        DataError: the rows cannot be used.
    """
    for name, known in (("scoring", SCORINGS), ("against", AGAINST)):
        if arguments[name] not in known:
            raise ConfigError(f"--{name} {arguments[name]}: {did_you_mean(arguments[name], known)}")
    prices = parse_prices(arguments["price"])
    if arguments["max_cost"] is not None and not prices:
        raise ConfigError("--max-cost is in dollars, and no price is known. Give one with --price IN,OUT.")
    given = {
        key: arguments[key] for key in ("format", "columns", "label_names", "validation", "test") if arguments[key]
    }
    config = DataConfig(train=arguments["data"], **given)
    rows = prompt_rows(config, arguments["rows"], arguments["seed"])
    shots, choices = arguments["shots"], choices_of(arguments["examples"], rows.kind)
    examples = Examples(rows.training, arguments["seed"])
    examples.refuse_more(shots)
    instruction, template = instruction_of(arguments["instruction"], rows.labels), None
    if arguments["template"]:
        template = template_from(arguments["template"], rows.kind, rows.pairs, shots, arguments["instruction"])
        instruction = instruction if "instruction" in template.fields else ""
    ways = variants(shots, choices, bool(instruction), bare=True)
    metric = metric_called(arguments["metric"], rows.kind)
    prompting = Prompting(rows.kind, rows.labels, instruction, template)
    budget = Budget(arguments["max_requests"], arguments["max_cost"])
    return Trial(rows, ways, prompting, examples, metric, arguments, budget, prices, report)


def found(name: str) -> ExportedModel | RemoteModel:
    """The model called `name`: on this machine, or behind a URL."""
    remote = parse_remote(name)
    return find_model(name) if remote is None else RemoteModel(*remote)


def refuse_unfit(models: Sequence[Named], trial: Trial) -> None:
    """Refuse models that cannot stand in this table, before any is asked.

    Raises:
        ConfigError: with the reason.
    """
    labels = trial.rows.labels
    remote = [(name, model) for name, model in models if isinstance(model, RemoteModel)]
    for name, model in models:
        if isinstance(model, RemoteModel) and labels:
            refuse_twins(labels, name)
        if isinstance(model, RemoteModel) or model.chats:
            continue
        if model.task != "classify" or not labels:
            raise ConfigError(
                f"{name}: a model for the task {model.task!r} is not asked by prompts, and stands beside them where "
                "rows have one class each. Leave it out."
            )
        known = model.card.get("facts", {}).get("labels", {})
        if unknown := [label for label in labels if label not in known]:
            raise ConfigError(
                f"{name}: does not know {counted(len(unknown), 'label')} of these rows, such as {unknown[0]!r}. It was "
                "trained on other rows."
            )
    limits = [option for option in ("max_requests", "max_cost") if trial.arguments[option] is not None]
    if not remote and (limits or trial.prices):
        raise ConfigError(
            "--price, --max-requests and --max-cost are for models behind a URL, and none is named. Leave them out."
        )
    if trial.arguments["max_cost"] is not None:
        for name, model in remote:
            if price_of(trial.prices, model.endpoint.url, model.model) is None:
                raise ConfigError(f"--max-cost: no price is known for {name}. Give --price {model.model}=IN,OUT.")


def _one_model(
    name: str, model: ExportedModel | RemoteModel, trial: Trial, note: Note
) -> tuple[list[Entry], Entry | None]:  # fmt: skip
    """What a model does with each variant on the validation rows, and with the best on the test rows."""
    rows, wants_test = trial.rows, not trial.arguments["validate_only"]
    if isinstance(model, ExportedModel):
        _note_seen(name, model, trial, note)
    if isinstance(model, ExportedModel) and not model.chats:
        trial.report(events.Phase(f"loading {name}"))
        predictor = load_predictor(model, trial.arguments["device"])
        entry = _classified(name, predictor, rows.validation, rows.labels)
        return [entry], _classified(name, predictor, rows.test, rows.labels) if wants_test and rows.test else None
    answerer = _answerer(name, model, trial)
    tried: list[Entry] = []
    for way in trial.ways:
        tried.append(_asked(name, answerer, way, rows.validation, trial, "validation rows"))
        if tried[-1].left_out:
            note(f"{name}, {way.name}: left out. {tried[-1].left_out}")
    _note_alike(name, answerer, trial, note)
    best = best_of(tried, trial.metric)
    if best is None or best.variant is None or not wants_test or not rows.test:
        if wants_test and not rows.test:
            note(f"{name}: there are no test rows, so that its scores are those by which its prompt was chosen.")
        elif best is None:
            note(f"{name}: no prompt was tried on all validation rows, so that none is chosen.")
        return tried, None
    test = _asked(name, answerer, best.variant, rows.test, trial, "test rows")
    return tried, test if test.places or test.left_out else None


def _answerer(name: str, model: ExportedModel | RemoteModel, trial: Trial) -> Answerer:
    """What asks a model: labels are scored where that is possible, else answers are written."""
    labels, arguments = trial.rows.labels, trial.arguments
    if isinstance(model, RemoteModel):
        price = price_of(trial.prices, model.endpoint.url, model.model)
        how = MATCHED if labels else WRITTEN
        return Writer(model, how, Answers(model.name), trial.longest, None, budget=trial.budget, price=price)
    trial.report(events.Phase(f"loading {name}"))
    try:
        contract = model.contract(arguments["chat_template"])
    except ModelError as error:
        raise ModelError(str(error).replace("model.template", "--chat-template")) from None
    loaded = model.load(arguments["device"])
    engine = LocalEngine(loaded, contract)
    takes = (context_length(model.base.folder if model.base else model.folder) or LONGEST) - soft_places(model.folder)
    answers = Answers(key_of(identity_of(model, str(loaded.device)), contract.id))
    if labels:
        return LabelScorer(Endings(engine), contract, labels, arguments["scoring"], answers, takes)
    return Writer(engine, WRITTEN, answers, trial.longest, contract, takes)


def _asked(name: str, answerer: Answerer, way: Variant, rows: Sequence[Row], trial: Trial, part: str) -> Entry:
    """What a model does with one prompt on rows."""
    examples = trial.examples.for_rows(way, rows)
    questions = [_question(row, some, way, trial.prompting) for row, some in zip(rows, examples, strict=True)]
    example = [{"role": turn["role"], "content": turn["content"]} for turn in plain(questions[0].turns)]
    try:
        answerer.refuse_long(questions)
    except TooLong as error:
        return Entry(name, way, answerer.how, len(rows), left_out=str(error), example=example)

    def heard(done: int) -> None:
        trial.report(events.Pulse(f"{part}: {name}, {way.name}", done, len(rows)))

    try:
        replies = answerer.replies(questions, heard)
    except GivenUp as error:
        raise GivenUp(f"{error} What was answered is kept, and the same command goes on from there.") from None
    return entry_of(name, way, answerer.how, rows, replies, trial.rows.labels, example)


def _question(row: Row, examples: Sequence[Row], way: Variant, prompting: Prompting) -> Question:
    turns = prompting.conversation(row, examples, way.instructed)
    if row.content.kind == "chat":
        return Question(turns, row.tools)
    return Question(turns, (), prompting.conversation(without_words(row), examples, way.instructed))


def _classified(name: str, predictor: Any, rows: Sequence[Row], labels: Sequence[str]) -> Entry:
    """What a classifier says of rows."""
    started = time.perf_counter()
    reads = [predictor.read(tuple(row.content.texts())) for row in rows]
    said = predictor.answers(reads)
    seconds = (time.perf_counter() - started) / len(rows)
    lengths = [len(read[0]) for read in reads]
    replies = [
        Reply(prediction.label, True, _log_shares(prediction, labels), length, 0, seconds)
        for prediction, length in zip(said, lengths, strict=True)
    ]
    return replace(entry_of(name, None, CLASSIFIED, rows, replies, labels, []), new=0)


def _log_shares(prediction: Any, labels: Sequence[str]) -> list[float]:
    """The logarithm of each label's probability; one that these rows have not is none of them."""
    return [math.log(max(prediction.probabilities[label], 1e-30)) for label in labels]


def _note_alike(name: str, answerer: Answerer, trial: Trial, note: Note) -> None:
    """Say that labels begin alike, where that might be feared to matter."""
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
        seen = {row.row.asked for row in training_rows(model, silent)}
    except TunesmithError:
        note(f"{name}: the rows that it was trained on are gone, so that nobody can tell whether it has seen these.")
        return
    for part, rows in (("validation", trial.rows.validation), ("test", trial.rows.test)):
        if known := sum(row.asked in seen for row in rows):
            note(f"{name}: was trained on {known} of {len(rows)} rows of the {part} part, whose scores flatter it.")


def _note_use(trial: Trial, chosen: dict[str, str], note: Note) -> None:
    """Note that the test rows were used, and say of which models they were before, for other prompts."""
    path = prompts_folder() / f"used-{trial.rows.test_id}.jsonl"
    shared, template = trial.prompting, trial.prompting.template
    words = [shared.instruction, template and template.text, trial.arguments["scoring"], trial.arguments["seed"]]
    before = read_lines(path)
    for model, prompt in ((model, prompt) for model, prompt in chosen.items() if prompt != TRAINED):
        line = {"model": model, "prompt": key_of(prompt, *words)}
        others = {one.get("prompt") for one in before if one.get("model") == model} - {line["prompt"]}
        if line not in before:
            append_line(path, line)
        if others:
            note(
                f"{model}: these test rows were used {counted(len(others), 'time')} before, for other prompts. The "
                "more often they are looked at, the less they say of new rows: choose with --validate-only, and look "
                "at them once."
            )


def _report(
    trial: Trial, tried: list[Entry], tested: list[Entry], chosen: dict[str, str], notes: list[str]
) -> dict[str, Any]:  # fmt: skip
    """All that was found, as plain values."""
    rows, first = trial.rows, trial.arguments["against"] == "first"
    parts: dict[str, Any] = {}
    for name, entries, held_out, of in (
        ("validation", tried, rows.validation, rows.of[0]), ("test", tested, rows.test, rows.of[1]),
    ):  # fmt: skip
        asked = [entry for entry in entries if entry.places]
        beside = next(iter(asked), None) if first else best_of(asked, trial.metric)
        sources = [str(row.source) for row in held_out]
        lines = table_of(entries, rows.kind, beside)
        parts[name] = {"rows": len(held_out), "of": of, "sources": sources, "entries": lines}
    return {
        "data": trial.arguments["data"], "kind": rows.kind, "labels": rows.labels, "metric": trial.metric.name,
        "training_rows": len(trial.examples.rows), "instruction": trial.prompting.instruction,
        "template": trial.prompting.template and trial.prompting.template.text, "seed": trial.arguments["seed"],
        **parts, "chosen": chosen, "spent": trial.budget.to_json(), "notes": notes,
    }  # fmt: skip
