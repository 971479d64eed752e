"""Rows that are longer than a row may be: refused, dropped, cut off at the end, or (plain text) cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.ledger import Ledger, RowFault, Source
from tunesmith.data.rows import Row, Text
from tunesmith.prompt.contract import Contract, Rendered

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Stretch:
    """What is taken of a rendered row: all of it, its beginning, or a piece.

    Attributes:
        row: what the ids stand for.
        ids: token ids, length T.
        spans: begin and end of each stretch of `ids` that is trained on.
        cut: whether the row's end was cut away.
        goes_on: whether another piece of the same text follows.
    """

    row: Row
    ids: np.ndarray
    spans: Spans
    cut: bool = False
    goes_on: bool = False


def count_trained(spans: Iterable[tuple[int, int]]) -> int:
    """Tokens in `spans` that have a prediction: all but the first of the row."""
    return sum(max(0, end - max(begin, 1)) for begin, end in spans)


@dataclass
class Fitting:
    """Holds rows to a length; those that are too long are counted, to be told at the end.

    Attributes:
        contract: how rows were rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, `truncate` (the end is lost) or `split` (plain text becomes pieces).
        came, went: rows that were asked about, rows of which something is left.
        refused: rows that were too long where nothing may be done about it.
        longest, first: tokens of the longest row, and the first of the refused.
    """

    contract: Contract
    max_length: int
    over_long: str
    came: int = 0
    went: int = 0
    refused: int = 0
    longest: int = 0
    first: Source | None = None

    def stretches(self, row: Row, text: Rendered, ledger: Ledger) -> list[Stretch]:
        """What goes on of a row; nothing where it is lost. The ledger hears of what does not go on whole."""
        ids = np.frombuffer(text.ids, np.int32)
        self.came += 1
        self.longest = max(self.longest, len(ids))
        fits = len(ids) <= self.max_length
        found = [Stretch(row, ids, text.spans)] if fits else self._shorter(row, text, ids, ledger)
        self.went += bool(found)
        return found

    def _shorter(self, row: Row, text: Rendered, ids: np.ndarray, ledger: Ledger) -> list[Stretch]:
        found = f"{len(ids)} tokens, more than {self.max_length}."
        if self.over_long == "split" and isinstance(row.content, Text):
            pieces = list(self._pieces(row, ids))
            fault = RowFault("split", found, f"It was cut into {len(pieces)} pieces.")
            ledger.revise("cut", row.source, fault, was=row.outcome)
            ledger.notes["pieces that long texts were cut into"] += len(pieces)
            return pieces
        spans = tuple((begin, min(end, self.max_length)) for begin, end in text.spans if begin < self.max_length)
        if self.over_long == "truncate" and count_trained(spans):
            ledger.revise("cut", row.source, RowFault("over_long", found, "Its end was cut away."), was=row.outcome)
            return [Stretch(row, ids[: self.max_length], spans, cut=True)]
        if self.over_long == "truncate":
            found = f"{found.removesuffix('.')}, and nothing that is trained on stands before the cut."
        if self.over_long in ("fail", "split"):
            self.refused += 1
            self.first = self.first or row.source
        ledger.revise(
            row.loss, row.source, RowFault("over_long", found, "Raise data.max_length to keep it."), was=row.outcome
        )
        return []

    def _pieces(self, row: Row, ids: np.ndarray) -> Iterator[Stretch]:
        """Pieces of nearly equal length, every token in one of them.

        Each begins with the model's beginning-of-sequence token where texts do.
        """
        bos = self.contract.tokenizer.bos_token_id
        head = ids[:1] if bos is not None and ids[0] == bos else ids[:0]
        body = ids[len(head) :]
        pieces = np.array_split(body, -(-len(body) // (self.max_length - len(head))))
        for number, piece in enumerate(pieces, start=1):
            part = Row(Text(self.contract.decode(piece.tolist())), row.source, row.labels, whole=row)
            whole = np.concatenate([head, piece])
            yield Stretch(part, whole, ((0, len(whole)),), goes_on=number < len(pieces))

    def refuse(self) -> None:
        """When all rows have come: refuse those for which nothing was allowed, and a file of which nothing is left.

        Raises:
            DataError: with the choices that there are.
        """
        if self.refused:
            chats = self.over_long == "split"
            why = " These are chats, and data.over_long=split cuts plain text alone." if chats else ""
            ways = (
                "or truncate (their end is lost)"
                if chats
                else "truncate (their end is lost) or split (plain text only)"
            )
            raise DataError(
                f"{self.refused} of {counted(self.came, 'row')} are longer than {self.max_length} tokens "
                f"(first: {self.first}, longest: {self.longest}).{why} Raise data.max_length if the model can take "
                f"more, or set data.over_long to drop (leave them out), {ways}."
            )
        if self.came and not self.went:
            within = "has a trained token within" if self.over_long == "truncate" else "fits in"
            raise DataError(
                f"no row {within} {self.max_length} tokens; the longest has {self.longest}. Raise data.max_length."
            )
