"""Rows that are longer than a row may be: refused, dropped, cut off at the end, or cut into pieces or windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.kinds.prepared import Prepared, Tokens, prepared
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import KINDS, kind_of
from tunesmith.data.quality.ledger import Ledger, RowFault, Source
from tunesmith.prompt.contract import Contract

STRIDE = 128  # tokens that neighbouring windows share, where nobody says


@dataclass
class Fitting:
    """Holds every sequence of a row to a length; rows that are too long are counted, to be told at the end.

    Attributes:
        contract: how rows were rendered.
        max_length: longest sequence in tokens.
        over_long: `fail`, `drop`, `truncate` (the end is lost) or `split` (as the kind of row does it, if it does).
        stride: tokens that neighbouring windows share, of kinds that read long rows in windows.
        beside: a sentence on what makes rows long, for errors.
        came, went: rows that were asked about, rows of which something is left.
        refused: rows that were too long where nothing may be done about it.
        longest, first: tokens of the longest sequence, and the first of the refused with its kind.
    """

    contract: Contract
    max_length: int
    over_long: str
    stride: int = STRIDE
    beside: str = ""
    came: int = 0
    went: int = 0
    refused: int = 0
    longest: int = 0
    first: tuple[Source, str] | None = None

    def fitted(self, row: Row, sequences: list[Tokens], ledger: Ledger) -> list[Prepared]:
        """What goes on of a row; nothing where it is lost. The ledger hears of what does not go on whole."""
        self.came += 1
        longest = max(len(one.ids) for one in sequences)
        self.longest = max(self.longest, longest)
        if longest <= self.max_length:
            found = [prepared(row, sequences)]
        else:
            found = self._shorter(row, sequences, longest, ledger)
        self.went += bool(found)
        return found

    def _shorter(self, row: Row, sequences: list[Tokens], longest: int, ledger: Ledger) -> list[Prepared]:
        found = f"{longest} tokens, more than {self.max_length}."
        split = kind_of(row).split
        windows = kind_of(row).windows
        if windows is not None and (parts := windows(row, sequences, self.max_length, self.stride)):
            ledger.notes["rows too long for one window, read in several"] += 1
            return parts
        if self.over_long == "split" and split is not None:
            parts = split(row, sequences, self.max_length, self.contract)
            pieces = sum(len(part.sequences) for part in parts)
            fault = RowFault("split", found, f"It was cut into {pieces} pieces.")
            ledger.revise("cut", row.source, fault, was=row.outcome)
            ledger.notes["pieces that long texts were cut into"] += pieces
            return parts
        if self.over_long == "truncate":
            shorter = [self._truncated(one) for one in sequences]
            if all(new.trained or not one.trained for new, one in zip(shorter, sequences, strict=True)):
                ledger.revise("cut", row.source, RowFault("over_long", found, "Its end was cut away."), was=row.outcome)
                return [prepared(row, shorter, cut=True)]
            found = f"{found.removesuffix('.')}, and nothing that is trained on stands before the cut."
        else:
            self.refused += self.over_long != "drop"
            self.first = self.first or (row.source, row.content.kind)
        ledger.revise(
            row.loss, row.source, RowFault("over_long", found, "Raise data.max_length to keep it."), was=row.outcome
        )
        return []

    def _truncated(self, one: Tokens) -> Tokens:
        most = self.max_length
        if not one.spans:  # a source, which ends as its tokenizer ends it
            return Tokens(np.append(one.ids[: most - 1], one.ids[-1:]), ())
        return Tokens(one.ids[:most], tuple((begin, min(end, most)) for begin, end in one.spans if begin < most))

    def refuse(self) -> None:
        """When all rows have come: refuse those for which nothing was allowed, and a file of which nothing is left.

        Raises:
            DataError: with the choices that there are.
        """
        if self.refused:
            assert self.first is not None
            source, name = self.first
            can_be_split = " and ".join(kind.words for kind in KINDS.values() if kind.split is not None)
            ways = f"truncate (their end is lost) or split ({can_be_split} only)"
            why = ""
            if self.over_long == "split":
                why = f" These are {name} rows, and data.over_long=split cuts {can_be_split} alone."
                ways = "or truncate (their end is lost)"
            raise DataError(
                f"{self.refused} of {counted(self.came, 'row')} are longer than {self.max_length} tokens "
                f"(first: {source}, longest: {self.longest}).{why} Raise data.max_length if the model can take "
                f"more, or set data.over_long to drop (leave them out), {ways}.{self.beside}"
            )
        if self.came and not self.went:
            within = "has a trained token within" if self.over_long == "truncate" else "fits in"
            raise DataError(
                f"no row {within} {self.max_length} tokens; the longest has {self.longest}. Raise data.max_length."
                f"{self.beside}"
            )
