"""Formats: a raw row's keys become what it teaches. One entry of `FORMATS` for each format that people have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.names import did_you_mean
from tunesmith.data import convert
from tunesmith.data.ledger import RowFault
from tunesmith.data.nearest import nearest_format
from tunesmith.data.rows import Chat, Content, Labelled, Pair, Passage, Preference, Tagged, Task, Text, Verdict
from tunesmith.data.tools import TOOL_KEYS
from tunesmith.data.turns import SYSTEM_KEYS
from tunesmith.data.values import Values, Warn


@dataclass(frozen=True)
class Format:
    """A way to write a row.

    Attributes:
        name: what users call it.
        kind: the kind of row it makes.
        needs: sets of keys, one of which a row has wholly if it is of this format.
        uses: further keys that the format reads; all others travel along as labels.
        convert: makes the content, or raises `RowFault`; tells `Warn` of what it passes over.
        looks: where keys do not suffice, what else must hold of the row.
    """

    name: str
    kind: str
    needs: tuple[frozenset[str], ...]
    uses: frozenset[str]
    convert: Callable[[Values, Warn], Content]
    looks: Callable[[Values], bool] | None = None

    @cached_property
    def keys(self) -> frozenset[str]:
        """All keys that the format reads."""
        return self.uses.union(*self.needs)

    def fit(self, row: Values) -> int:
        """How many keys of the row speak for this format; 0 if it is not of it."""
        return self.has_keys(row) if self.looks is None or self.looks(row) else 0

    def has_keys(self, row: Values) -> int:
        """How many of the keys that the format needs the row has, if it has all of a set; else 0."""
        keys = {key for key, value in row.items() if value is not None}
        return max((len(need) for need in self.needs if need <= keys), default=0)

    def labels(self, row: Values) -> dict[str, Any]:
        """The keys that the format does not read."""
        if self.kind == Task.kind:
            return {}
        return {key: value for key, value in row.items() if key not in self.keys}

    def missing(self, row: Values) -> RowFault:
        """The fault of a row that lacks the format's keys."""
        nearest = min(self.needs, key=lambda need: len(need - set(row)))
        lacking = ", ".join(map(repr, sorted(nearest - {key for key, value in row.items() if value is not None})))
        other = next((other.name for other in FORMATS.values() if other is not self and other.fit(row)), None)
        advice = f"It looks like {other}: keep formats in files of their own." if other else "Add it or delete the row."
        return RowFault("missing_key", f"no {lacking or 'value'}, which {self.name} rows have.", advice)


def _is_task(row: Values) -> bool:
    """Whether nothing answers the last turn and there are fields for a grader; without them the answer is missing."""
    turns = row.get("messages")
    if not set(row) - {"messages", "parallel_tool_calls", *TOOL_KEYS, *SYSTEM_KEYS}:
        return False
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and turns[-1].get("role") == "user"


def _is_verdict(row: Values) -> bool:
    """Whether the label says true or false; a class would be another format's."""
    label = row.get("label", row.get("kto_tag"))
    return isinstance(label, bool) or label in (0, 1) or str(label).strip().lower() in ("true", "false", "0", "1")


def _is_gemini(row: Values) -> bool:
    """Whether `contents` are turns with parts; a text would be another format's."""
    turns = row.get("contents")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "parts" in turns[0]


def _sets(*needs: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(need.split()) for need in needs)


def _entry(
    name: str,
    kind: str,
    needs: tuple[frozenset[str], ...],
    uses: str,
    convert: Callable[[Values, Warn], Content],
    looks: Callable[[Values], bool] | None = None,
) -> Format:
    return Format(name, kind, needs, frozenset(uses.split()), convert, looks)


PAIRS = convert.TEXT_PAIRS
SYSTEM, TOOLS = " ".join(SYSTEM_KEYS), " ".join((*TOOL_KEYS, "parallel_tool_calls"))
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        _entry("chat", Chat.kind, _sets("messages", "interactions"), f"{SYSTEM} {TOOLS}", convert.chat),
        _entry("sharegpt", Chat.kind, _sets("conversations"), f"{SYSTEM} {TOOLS}", convert.chat),
        _entry("gemini", Chat.kind, _sets("contents"), f"{SYSTEM} {TOOLS}", convert.chat, _is_gemini),
        _entry("alpaca", Chat.kind, _sets("instruction output", "instruction response", "instruction input output",
                                          "instruction input response", "instruction context response"),
               f"input context history {SYSTEM} {TOOLS}", convert.alpaca),
        _entry("prompt-completion", Chat.kind, _sets("prompt completion", "prompt response", "input output"),
               f"context history {SYSTEM} {TOOLS}",
               convert.exchange_of(("prompt", "input"), ("completion", "response", "output"))),
        _entry("question-answer", Chat.kind,
               _sets("question answer", "question response", "query response", "query answer"),
               f"context history {SYSTEM} {TOOLS}",
               convert.exchange_of(("question", "query"), ("answer", "response"))),
        _entry("text", Text.kind, _sets("text", "content"), "", convert.text),
        _entry("openai-preference", Preference.kind,
               _sets("input preferred_output non_preferred_output",
                     "input preferred_completion non_preferred_completion"),
               "", convert.openai_preference),
        _entry("preference", Preference.kind,
               _sets("chosen rejected", "prompt chosen rejected", "conversations chosen rejected",
                     "messages chosen rejected", "question chosen rejected", "instruction chosen rejected"),
               f"input {SYSTEM} {TOOLS}", convert.preference),
        _entry("kto", Verdict.kind,
               _sets("prompt completion label", "messages label", "messages kto_tag", "conversations label",
                     "conversations kto_tag"), SYSTEM, convert.verdict, _is_verdict),
        _entry("reinforcement", Task.kind, _sets("messages"), f"{SYSTEM} {TOOLS}", convert.task, _is_task),
        _entry("text-label", Labelled.kind,
               _sets("text label", "sentence label", *(f"{one} {two} label" for one, two in PAIRS)), "",
               convert.labelled),
        _entry("text-labels", Labelled.kind,
               _sets("text labels", "sentence labels", *(f"{one} {two} labels" for one, two in PAIRS)), "",
               convert.multi_labelled),
        _entry("text-number", Labelled.kind,
               _sets(*(f"{text} {key}" for text in ("text", "sentence", "sentence1 sentence2")
                       for key in ("score", "number", "value"))), "", convert.scored),
        _entry("tokens-tags", Tagged.kind,
               _sets(*(f"{words} {tags}" for words in ("tokens", "words")
                       for tags in ("tags", "ner_tags", "pos_tags", "labels"))), "", convert.tagged),
        _entry("source-target", Pair.kind, _sets("source target"), "", convert.pair),
        _entry("passage", Passage.kind, _sets("question context answers"), "", convert.passage),
    )
}  # fmt: skip
KEYS = frozenset(key for entry in FORMATS.values() for key in entry.keys)
CANONICAL = {  # the format that `to_plain` writes, for each kind of row
    Chat.kind: "chat", Text.kind: "text", Preference.kind: "openai-preference", Verdict.kind: "kto",
    Task.kind: "reinforcement", Tagged.kind: "tokens-tags", Pair.kind: "source-target", Passage.kind: "passage",
}  # fmt: skip


def canonical(content: Content) -> Format:
    """The format in which a content writes itself."""
    if isinstance(content, Labelled):
        return FORMATS["text-labels" if isinstance(content.label, tuple) else "text-label"]
    return FORMATS[CANONICAL[content.kind]]


def find_format(rows: Iterable[Mapping[str, Any]], file: str) -> Format:
    """The one format that fits the most of `rows`, by the most keys.

    Raises:
        DataError: none fits, or several do equally well; the message shows the keys.
    """
    votes: dict[str, list[int]] = {}
    samples = list(rows)
    for row in samples:
        fits = {entry.name: fit for entry in FORMATS.values() if (fit := entry.fit(row))}
        if "reinforcement" in fits:  # every such row also looks like a chat
            fits.pop("chat", None)
        best = max(fits.values(), default=0)
        for name, fit in fits.items():
            if fit == best:
                votes.setdefault(name, []).append(fit)
    if not votes:
        keys = ", ".join(map(repr, samples[0])) if samples and samples[0] else "(none)"
        advice = nearest_format(FORMATS, samples) if samples else "Give at least one row."
        raise DataError(f"{file}: no known format has the keys {keys}. {advice}")
    most = max(len(fits) for fits in votes.values())
    leaders = [name for name, fits in votes.items() if len(fits) == most]
    if len(leaders) > 1:  # a rendered copy of the row often stands beside it
        leaders = [name for name in leaders if name != "text"]
    if len(leaders) > 1:
        raise DataError(
            f"{file}: its rows can be read as {' and as '.join(leaders)}. Name one with data.format (check: --format)."
        )
    return FORMATS[leaders[0]]


def also_read_as(chosen: Format, rows: Iterable[Mapping[str, Any]]) -> str:
    """How supervised fine-tuning could read rows with labels or verdicts: a sentence, empty where it could not."""
    if chosen.kind not in (Verdict.kind, Labelled.kind, Tagged.kind):
        return ""
    samples = [row for row in rows if chosen.has_keys(row)]
    others = [one.name for one in FORMATS.values() if one.kind in (Chat.kind, Text.kind)]
    name = next((name for name in others if samples and all(FORMATS[name].fit(row) for row in samples)), None)
    if name is None:
        return ""
    left = sorted({key for row in samples for key in row if key in chosen.keys} - FORMATS[name].keys)
    return (
        f"Read as {chosen.name} rows, for their {', '.join(map(repr, left))}. If they are {name} rows, say so with "
        f"data.format={name}, in check --format {name}."
    )


def named_format(name: str) -> Format:
    """The format called `name`.

    Raises:
        DataError: there is none.
    """
    if name not in FORMATS:
        raise DataError(f"format {name!r}: {did_you_mean(name, FORMATS)}")
    return FORMATS[name]
