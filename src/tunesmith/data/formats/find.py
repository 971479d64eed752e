"""Which format a file's rows are of, found by their keys; and what to say where they are of none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.names import did_you_mean
from tunesmith.data.formats.format import Format
from tunesmith.data.formats.nearest import nearest_format
from tunesmith.data.formats.values import Values
from tunesmith.data.kinds.table import FORMATS
from tunesmith.data.quality.ledger import RowFault

LABELS, ALSO = (
    ("verdict", "labelled", "tagged", "source-target"),
    ("chat", "text"),
)  # kinds whose labels others may not need, and those


def missing_keys(chosen: Format, row: Values) -> RowFault:
    """The fault of a row that lacks its file's format's keys."""
    nearest = min(chosen.needs, key=lambda need: len(need - set(row)))
    lacking = ", ".join(map(repr, sorted(nearest - {key for key, value in row.items() if value is not None})))
    others = (other for other in FORMATS.values() if other is not chosen and not other.on_request)
    other = next((other.name for other in others if other.fit(row)), None)
    advice = f"It looks like {other}: keep formats in files of their own." if other else "Add it or delete the row."
    null = next((key for key in sorted(nearest) if key in row and row[key] is None), None)
    if null is not None:
        return RowFault("missing_key", f"{null!r} is null.", "Give it, or delete the row.", (null,))
    if chosen.lacks and chosen.has_keys(chosen.completed(row)):
        advice = f"If rows without it have none, say so: data.format={chosen.name}, in check --format {chosen.name}."
    return RowFault("missing_key", f"no {lacking or 'value'}, which {chosen.name} rows have.", advice)


def find_format(
    rows: Iterable[Mapping[str, Any]], file: str, reads: frozenset[str] = frozenset(), named: Iterable[str] = ()
) -> Format:
    """The one format that fits the most of `rows`, by the most keys.

    Args:
        rows: of the file.
        file: its name.
        reads: kinds that the objective reads, whose formats on request count too, and before others.

    Raises:
        DataError: none fits, or several do equally well; the message shows the keys.
    """
    votes: dict[str, list[int]] = {}
    samples = list(rows)
    usual = {name: entry for name, entry in FORMATS.items() if not entry.on_request}
    known = {**usual, **{name: entry for name, entry in FORMATS.items() if entry.kind in reads}}
    for row in samples:
        fits = {entry.name: fit for entry in known.values() if (fit := entry.fit(row))}
        if "reinforcement" in fits:  # every such row also looks like a chat
            fits.pop("chat", None)
        best = max(fits.values(), default=0)
        for name, fit in fits.items():
            if fit == best:
                votes.setdefault(name, []).append(fit)
    wanted = [name for name in votes if all(map(FORMATS[name].reads, named))]
    votes = {name: votes[name] for name in wanted or votes}
    if not votes:
        keys = ", ".join(map(repr, samples[0])) if samples and samples[0] else "(none)"
        advice = nearest_format(usual, samples) if samples else "Give at least one row."
        raise DataError(f"{file}: no known format has the keys {keys}. {advice}")
    most = max(len(fits) for fits in votes.values())
    leaders = [name for name, fits in votes.items() if len(fits) == most]
    if len(leaders) > 1:  # a rendered copy of the row often stands beside it
        leaders = [name for name in leaders if name != "text"]
        leaders = [name for name in leaders if FORMATS[name].on_request] or leaders
    if len(leaders) > 1:
        raise DataError(
            f"{file}: its rows can be read as {' and as '.join(leaders)}. Name one with data.format (check: --format)."
        )
    return FORMATS[leaders[0]]


def also_read_as(chosen: Format, rows: Iterable[Mapping[str, Any]]) -> str:
    """How supervised fine-tuning could read rows with labels or verdicts: a sentence, empty where it could not."""
    if chosen.kind not in LABELS or chosen.on_request:
        return ""
    samples = [row for row in rows if chosen.has_keys(row)]
    others = [one.name for one in FORMATS.values() if one.kind in ALSO]
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
