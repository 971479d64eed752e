"""The kinds of rows that there are, and the formats that they come in. A new kind is a file and a line here."""

from __future__ import annotations

from tunesmith.core.names import look_up
from tunesmith.data.formats.format import Format
from tunesmith.data.kinds import chat, labelled, pair, passage, preference, reinforcement, tagged, text, verdict
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Row

KINDS: dict[str, RowKind] = {}
FORMATS: dict[str, Format] = {}


def register(kind: RowKind) -> RowKind:
    """Make a kind known, with its formats.

    Returns:
        The kind.
    """
    names = {format.name for format in kind.formats}
    assert kind.formats, f"{kind.name} has no format"
    assert all(format.kind == kind.name for format in kind.formats), f"a format of {kind.name} names another kind"
    assert kind.name not in KINDS, f"kind {kind.name} is there already"
    assert not FORMATS.keys() & names, f"one of the formats {names} is there already"
    KINDS[kind.name] = kind
    FORMATS.update({format.name: format for format in kind.formats})
    return kind


for module in (chat, text, preference, verdict, reinforcement, labelled, tagged, pair, passage):
    register(module.KIND)


def find_kind(name: str) -> RowKind:
    """The kind called `name`.

    Raises:
        ConfigError: there is none.
    """
    return look_up(KINDS, name, "kind of row")


def kind_of(row: Row) -> RowKind:
    """The kind that a row is of."""
    return KINDS[row.content.kind]
