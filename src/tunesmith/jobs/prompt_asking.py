"""One model with one prompt on rows: what trials of prompts and their versions have in common."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.names import counted, did_you_mean
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.variant import Prompting, Variant, without_words
from tunesmith.evaluate.prompts.ask import Answerer, LabelScorer, Question, Reply, TooLong, Writer
from tunesmith.evaluate.prompts.cache import Answers, identity_of, key_of
from tunesmith.evaluate.prompts.labels import refuse_twins
from tunesmith.evaluate.prompts.spending import Price, price_of
from tunesmith.evaluate.prompts.table import Entry, entry_of
from tunesmith.infer.engine.endings import Endings
from tunesmith.infer.generator import GivenUp, NoSchemas
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.table import load_predictor
from tunesmith.infer.remote import RemoteModel, parse_remote
from tunesmith.jobs.prompt_trial import Trial
from tunesmith.model.adapter import soft_places
from tunesmith.model.export import ExportedModel, find_model
from tunesmith.prompt.base import context_length
from tunesmith.prompt.messages import plain
from tunesmith.train.recipe import LONGEST

MATCHED = "answers written, and matched to labels: case and punctuation aside; what matches none is wrong"
WRITTEN = "answers written"
KEPT_TO = "answers written as JSON, of which the engine lets through nothing that does not fit the schema"
FORMATTED = "answers written as JSON, which the server is asked for by response_format"
CLASSIFIED = "a classifier, which is asked without a prompt"
LIMITS = ("max_requests", "max_cost")
Found = ExportedModel | RemoteModel
Named = tuple[str, Found]
Note = Callable[[str], None]


def found(name: str) -> Found:
    """The model called `name`: on this machine, or behind a URL."""
    remote = parse_remote(name)
    return find_model(name) if remote is None else RemoteModel(*remote)


def found_models(names: Sequence[str]) -> list[Named]:
    """The models of a table.

    Raises:
        ConfigError: none is named, or one twice.
    """
    if not names:
        raise ConfigError("--models names none. Name a base model, a run, or https://host/v1#name.")
    models: list[Named] = []
    for name in names:
        model = found(name)
        first = next((known for known, other in models if known == name or _is(model, other)), None)
        if first is not None:
            other = f"{name} is named twice" if first == name else f"{first} and {name} are the same model"
            raise ConfigError(f"--models: {other}. Leave one out.")
        models.append((name, model))
    return models


def _is(one: Found, other: Found) -> bool:
    if isinstance(one, RemoteModel) and isinstance(other, RemoteModel):
        return one.name == other.name
    if isinstance(one, RemoteModel) or isinstance(other, RemoteModel):
        return False
    return one.folder.resolve() == other.folder.resolve()


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
    _refuse_unfit_servers(remote, len(models), trial)


def _refuse_unfit_servers(remote: Sequence[tuple[str, RemoteModel]], models: int, trial: Trial) -> None:
    arguments = trial.arguments
    if not remote and (trial.prices or any(arguments[option] is not None for option in LIMITS)):
        raise ConfigError(
            "--price, --max-requests and --max-cost are for models behind a URL, and none is named. Leave them out."
        )
    refuse_other_prices(trial.prices, [model for _, model in remote])
    if remote and len(remote) == models and trial.rows.labels and arguments["scoring"] != "sum":
        raise ConfigError(
            f"--scoring {arguments['scoring']} compares log probabilities of labels, and {remote[0][0]} is a server's, "
            "which writes its answers: many servers tell none. Leave it out, or name a model of this machine."
        )
    if arguments["max_cost"] is not None:
        for name, model in remote:
            if price_of(trial.prices, model.endpoint.url, model.model) is None:
                raise ConfigError(f"--max-cost: no price is known for {name}. Give --price {model.model}=IN,OUT.")


def refuse_other_prices(prices: Mapping[str, Price], models: Sequence[RemoteModel]) -> None:
    """Refuse prices of models that are not asked.

    Raises:
        ConfigError: with the first.
    """
    names = [one for model in models for one in (model.model, model.name)]
    if unknown := [name for name in prices if name and name not in names]:
        raise ConfigError(f"--price {unknown[0]}: this model is not asked: {did_you_mean(unknown[0], names)}")


class Asker:
    """One model that is asked with prompts: labels are scored where that is possible, else answers are written."""

    def __init__(self, name: str, model: Found, trial: Trial) -> None:
        """Load a model of this machine.

        Args:
            name: as the user named it.
            model: that chats.
            trial: says on which device, and with which chat template.

        Raises:
            ModelError: it has no chat template.
        """
        self.name, self._model = name, model
        self._made: dict[tuple[str | None, int], Answerer] = {}
        if isinstance(model, RemoteModel):
            return
        trial.report(events.Phase(f"loading {name}"))
        try:
            self._contract = model.contract(trial.arguments["chat_template"])
        except ModelError as error:
            raise ModelError(str(error).replace("model.template", "--chat-template")) from None
        loaded = model.load(trial.arguments["device"])
        self._engine = LocalEngine(loaded, self._contract)
        self._takes = takes_of(model)
        self._answers = Answers(key_of(identity_of(model, str(loaded.device)), self._contract.id))

    def answerer(self, way: Variant, trial: Trial) -> Answerer:
        """What asks it in one way."""
        schema = trial.schema_of(way)
        key = (None if schema is None else json.dumps(schema, ensure_ascii=False), trial.longest(way))
        if key not in self._made:
            self._made[key] = self._make(*key, trial)
        return self._made[key]

    def _make(self, schema: str | None, longest: int, trial: Trial) -> Answerer:
        model, labels = self._model, trial.rows.labels
        if isinstance(model, RemoteModel):
            price = price_of(trial.prices, model.endpoint.url, model.model)
            how = FORMATTED if schema is not None else MATCHED if labels else WRITTEN
            answers = Answers(model.name)
            return Writer(model, how, answers, longest, None, budget=trial.budget, price=price, schema=schema)
        if labels and schema is None:
            scoring = trial.arguments["scoring"]
            return LabelScorer(Endings(self._engine), self._contract, labels, scoring, self._answers, self._takes)
        how = WRITTEN if schema is None else KEPT_TO
        return Writer(self._engine, how, self._answers, longest, self._contract, self._takes, schema=schema)

    def asked(self, way: Variant, rows: Sequence[Row], trial: Trial, part: str, called: str = "") -> Entry:
        """What the model does with one prompt on rows.

        Args:
            way: the prompt.
            rows: with references.
            trial: what it shares with others.
            part: what they are, for people.
            called: what the line says of the prompt, where that is not its own name.

        Raises:
            GivenUp: a server does not answer.
            TunesmithError: it cannot be asked at all.
        """
        name, answerer = self.name, self.answerer(way, trial)
        questions = questions_of(way, rows, trial)
        example = [{"role": turn["role"], "content": turn["content"]} for turn in plain(questions[0].turns)]
        left_out = Entry(name, way, answerer.how, len(rows), example=example, called=called)

        def heard(done: int) -> None:
            trial.report(events.Pulse(f"{part}: {name}, {called or way.name}", done, len(rows)))

        try:
            answerer.refuse_long(questions)
            replies = answerer.replies(questions, heard)
        except (TooLong, NoSchemas) as error:
            return replace(left_out, left_out=str(error))
        except GivenUp as error:
            raise GivenUp(f"{error} What was answered is kept, and the same command goes on from there.") from None
        schema = trial.schema_of(way)
        entry = entry_of(name, way, answerer.how, rows, replies, trial.rows.labels, example, schema)
        return replace(entry, called=called)


def takes_of(model: ExportedModel) -> int:
    """Tokens of prompt and answer that a model takes."""
    folder = model.base.folder if model.base else model.folder
    return (context_length(folder) or LONGEST) - soft_places(model.folder)


def questions_of(way: Variant, rows: Sequence[Row], trial: Trial) -> list[Question]:
    """What is asked about each row."""
    examples, prompting = trial.examples.for_rows(way, rows), trial.prompting_of(way)
    return [_question(row, some, way, prompting) for row, some in zip(rows, examples, strict=True)]


def _question(row: Row, examples: Sequence[Row], way: Variant, prompting: Prompting) -> Question:
    turns = prompting.conversation(row, examples, way.instructed)
    if row.content.kind == "chat":
        return Question(turns, row.tools)
    return Question(turns, (), prompting.conversation(without_words(row), examples, way.instructed))


def classified(name: str, model: ExportedModel, trial: Trial) -> tuple[Entry, Entry | None]:
    """What a classifier says of the validation rows, and of the test rows if they are wanted."""
    rows = trial.rows
    trial.report(events.Phase(f"loading {name}"))
    predictor = load_predictor(model, trial.arguments["device"])
    entry = _classified(name, predictor, rows.validation, rows.labels)
    wants = rows.test and not trial.arguments["validate_only"]
    return entry, _classified(name, predictor, rows.test, rows.labels) if wants else None


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
