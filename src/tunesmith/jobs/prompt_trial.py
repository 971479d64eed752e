"""What is tried on which rows: the options of `tunesmith prompts`, looked at before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.core.names import did_you_mean
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.choose import Examples, shows_no_tools
from tunesmith.data.prompting.schema import is_json, label_schema, read_schema
from tunesmith.data.prompting.variant import (
    Prompting,
    Template,
    Variant,
    answer_of,
    choices_of,
    instruction_of,
    template_from,
    variants,
    with_labels,
)
from tunesmith.evaluate.prompts.labels import SCORINGS
from tunesmith.evaluate.prompts.rows import PromptRows, prompt_rows
from tunesmith.evaluate.prompts.spending import Budget, Price, parse_prices
from tunesmith.evaluate.prompts.table import Entry, best_of, metric_called, table_of
from tunesmith.score.metrics import Metric

AGAINST = ("best", "first")
ANSWERS = ("label", "json")  # of rows with classes
LABEL_TOKENS, ANSWER_TOKENS = 32, 128  # longest written answer, where nobody says: a label, any other
JSON_LABEL_TOKENS, JSON_TOKENS = 64, 256  # and of one that is JSON
ABSENT: dict[str, Any] = {"answer": [], "schema": None, "into": None}  # options that callers may leave out


class Chooser(Protocol):
    """What chooses the worked examples of each question."""

    def for_rows(self, variant: Variant, asked: Sequence[Row]) -> list[list[Row]]:
        """The examples for each question."""
        ...


@dataclass(frozen=True)
class Trial:
    """What is tried, on which rows.

    Attributes:
        rows: split.
        ways: the variants.
        prompting: what they share.
        words: the instruction as versions keep it; and that of answers that are a class as JSON.
        examples: to choose from.
        schema: what answers that are to be JSON must fit.
        metric: that prompts are chosen by.
        arguments: what was asked for.
        budget: of servers.
        prices: by model.
        report: hears of progress.
    """

    rows: PromptRows
    ways: list[Variant]
    prompting: Prompting
    words: tuple[str, str]
    examples: Chooser
    schema: dict[str, Any] | None
    metric: Metric
    arguments: dict[str, Any]
    budget: Budget
    prices: dict[str, Price]
    report: Report

    def longest(self, way: Variant) -> int:
        """Tokens of the longest written answer."""
        usual = (LABEL_TOKENS, JSON_LABEL_TOKENS) if self.rows.labels else (ANSWER_TOKENS, JSON_TOKENS)
        return self.arguments["max_new_tokens"] or usual[way.json]

    def schema_of(self, way: Variant) -> dict[str, Any] | None:
        """What its answers must fit; None if anything."""
        return self.schema if way.json else None

    def prompting_of(self, way: Variant) -> Prompting:
        """What it has in common with others whose answers are of its kind."""
        if not (way.json and self.rows.labels):
            return self.prompting
        return replace(self.prompting, instruction=with_labels(self.words[True], self.rows.labels), json=True)


def trial_of(arguments: Mapping[str, Any], report: Report) -> Trial:
    """What is to be tried; refuses what makes no sense before a model is loaded.

    Raises:
        ConfigError: an option makes no sense for these rows.
        DataError: the rows cannot be used.
    """
    arguments = {**ABSENT, **arguments}
    for name, known in (("scoring", SCORINGS), ("against", AGAINST)):
        if arguments[name] not in known:
            raise ConfigError(f"--{name} {arguments[name]}: {did_you_mean(arguments[name], known)}")
    prices = parse_prices(arguments["price"])
    if arguments["max_cost"] is not None and not prices:
        raise ConfigError("--max-cost is in dollars, and no price is known. Give one with --price IN,OUT.")
    given = {
        key: arguments[key] for key in ("format", "columns", "label_names", "validation", "test") if arguments[key]
    }
    rows = prompt_rows(DataConfig(train=arguments["data"], **given), arguments["rows"], arguments["seed"])
    answers, schema = answers_of(arguments["answer"], arguments["schema"], rows)
    shots, choices = arguments["shots"], choices_of(arguments["examples"], rows.kind)
    examples = Examples(rows.training, arguments["seed"])
    examples.refuse_more(shots)
    plain, json = (instruction_of(arguments["instruction"], rows.labels, json) for json in (False, True))
    template: Template | None = None
    if arguments["template"]:
        template = template_from(arguments["template"], rows.kind, rows.pairs, shots, arguments["instruction"])
        plain, json = (plain, json) if "instruction" in template.fields else ("", "")
    ways = variants(shots, choices, bool(plain), bare=True, answers=answers)
    fields = schema is not None and all(is_json(answer_of(row)) for row in (*rows.validation, *rows.test))
    metric = metric_called(arguments["metric"], rows.kind, fields, all(answers))
    prompting = Prompting(rows.kind, rows.labels, with_labels(plain, rows.labels), template)
    budget = Budget(arguments["max_requests"], arguments["max_cost"])
    return Trial(rows, ways, prompting, (plain, json), examples, schema, metric, arguments, budget, prices, report)


def report_of(
    trial: Trial, tried: Sequence[Entry], tested: Sequence[Entry], chosen: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:  # fmt: skip
    """All that was found, as plain values.

    Args:
        trial: what was tried.
        tried: on validation rows.
        tested: on test rows.
        chosen: the prompt of each model on these.
        notes: sentences.
    """
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
        "training_rows": sum(map(shows_no_tools, rows.training)), "instruction": trial.prompting.instruction,
        "template": trial.prompting.template and trial.prompting.template.text, "seed": trial.arguments["seed"],
        "schema": trial.schema, **parts, "chosen": dict(chosen), "spent": trial.budget.to_json(), "notes": notes,
    }  # fmt: skip


def answers_of(
    asked: Sequence[str], schema: str | dict[str, Any] | None, rows: PromptRows
) -> tuple[list[bool], dict[str, Any] | None]:  # fmt: skip
    """Whether answers are to be JSON, for each kind of answer that is tried; and the schema of those that are.

    Args:
        asked: `label` and `json`, of rows with classes; the label if empty.
        schema: of answers to chats: a file, or what it holds.
        rows: that are asked about.

    Raises:
        ConfigError: they are not for these rows, or the schema cannot be used.
    """
    for one in asked:
        if one not in ANSWERS:
            raise ConfigError(f"--answer {one}: {did_you_mean(one, ANSWERS)}")
    if rows.labels:
        if schema is not None:
            raise ConfigError("--schema: these rows have classes. --answer json asks for one of them as JSON.")
        return [one == "json" for one in dict.fromkeys(asked or ["label"])], label_schema(rows.labels)
    if asked:
        raise ConfigError("--answer is for rows with classes. For other answers in JSON give their --schema FILE.")
    read = read_schema(schema) if isinstance(schema, str) else schema
    return [read is not None], read
