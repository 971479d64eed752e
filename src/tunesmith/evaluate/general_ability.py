"""What a model was able to do before it was tuned, asked again: so that forgetting is seen and not only hoped against.

The embedded model has a check of its own; for others people give files of general rows: chats or plain texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.core.errors import DataError
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.load import load_rows, require_rows
from tunesmith.data.prepare import Prepared, prepare
from tunesmith.prompt.base import EMBEDDED
from tunesmith.prompt.contract import Contract

READS = frozenset({"chat", "text"})  # kinds of rows that can be asked or read
TEXTS = "plain text"
OWN = {"general questions": "general-questions", TEXTS: "general-texts"}
MOST_ROWS = 200  # of each file


def general_files(wanted: str | Sequence[str], base: str, of_texts: bool = False) -> dict[str, str]:
    """The files of the check, by what the report calls them.

    Args:
        wanted: `auto`, `off`, or the names of files.
        base: the base model's name; only the embedded one has one of its own.
        of_texts: whether the rows in question are plain texts: beside these, `auto` has general ones for any base.
    """
    if wanted == "off":
        return {}
    if wanted == "auto":
        return OWN if base == EMBEDDED else {TEXTS: OWN[TEXTS]} if of_texts else {}
    names = [Path(name).name for name in wanted]
    return {short if names.count(short) == 1 else name: name for short, name in zip(names, wanted, strict=True)}


def load_general(
    name: str, contract: Contract, max_length: int, reads: frozenset[str] = READS
) -> list[Prepared]:  # fmt: skip
    """The rows of one file, as this model reads them; of those that are too long, texts are cut and others left out.

    Args:
        name: of the file.
        contract: how rows are rendered.
        max_length: longest row in tokens.
        reads: the kinds of rows that can be asked or read.

    Raises:
        DataError: there are none, or none that can be asked or read.
    """
    dataset = load_rows(name)
    ledgers = dataset.reading.ledgers
    require_rows(ledgers, "fail")
    rows = dataset.rows[:MOST_ROWS]
    if rows[0].content.kind not in reads:
        taken = "chats or plain text" if "chat" in reads else "plain text of this model"
        raise DataError(f"{name}: the general-ability check takes {taken}, and these are {rows[0].content.kind} rows.")
    over_long = "drop" if kind_of(rows[0]).split is None else "split"
    prepared = list(prepare(rows, ledgers, contract, max_length, reads, over_long, "drop"))
    if not prepared:
        raise DataError(f"{name}: no row has at most {max_length} tokens.")
    return prepared
