"""Rows through the prompt contract: token ids and the mask of what is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.errors import DataError, ModelError
from tunesmith.data.ledger import Ledger, RowFault
from tunesmith.data.load import Dataset, Row
from tunesmith.prompt.contract import Contract, Rendered


@dataclass(frozen=True)
class Prepared:
    """A row ready for training.

    Attributes:
        row: where it comes from.
        ids: token ids, length T.
        mask: which of them are trained on as targets, length T.
    """

    row: Row
    ids: list[int]
    mask: list[bool]

    @property
    def trained(self) -> int:
        """Tokens that count in the loss: the first token of a row has no prediction."""
        return sum(self.mask[1:])

    @property
    def key(self) -> str:
        """Equal for rows that teach the same."""
        return repr((self.ids, self.mask))


def prepare(
    dataset: Dataset,
    contract: Contract,
    max_length: int,
    over_long: str = "fail",
    bad_rows: str = "fail",
) -> list[Prepared]:
    """Render every row and hold it to `max_length` tokens.

    Args:
        dataset: checked rows; its ledger hears of rows that are cut or dropped here.
        contract: how they are rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, or `truncate` (the end is lost).
        bad_rows: `fail`, or `drop` rows that the chat template refuses.

    Raises:
        DataError: rows that the template refuses or that are too long, under `fail`; or no row is left.
    """
    rendered = _rendered(dataset, contract, bad_rows)
    longest = max((len(one.ids) for _, one in rendered), default=0)
    too_long = [row for row, one in rendered if len(one.ids) > max_length]
    if too_long and over_long == "fail":
        raise DataError(
            f"{len(too_long)} of {len(rendered)} rows are longer than {max_length} tokens "
            f"(first: {too_long[0].source}, longest: {longest}). Raise data.max_length if the model can take more, "
            "or set data.over_long to drop or truncate."
        )
    prepared = [
        one for row, text in rendered if (one := _fitted(row, text, max_length, over_long, dataset.ledger)) is not None
    ]
    if rendered and not prepared:
        within = "has a trained token within" if over_long == "truncate" else "fits in"
        raise DataError(f"no row {within} {max_length} tokens; the longest has {longest}. Raise data.max_length.")
    return prepared


def dataset_id(rows: Sequence[Prepared]) -> str:
    """SHA-256 over what is really trained on: ids and masks, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key.encode())
    return digest.hexdigest()


def _rendered(dataset: Dataset, contract: Contract, bad_rows: str) -> list[tuple[Row, Rendered]]:
    rendered: list[tuple[Row, Rendered]] = []
    refused: list[tuple[Row, ModelError]] = []
    for row in dataset.rows:
        try:
            rendered.append((row, contract.render(row.conversation)))
        except ModelError as error:
            refused.append((row, error))
    if refused and (bad_rows == "fail" or not rendered):
        row, error = refused[0]
        more = f" So do {len(refused) - 1} more rows." if len(refused) > 1 else ""
        raise DataError(f"{row.source}: {error}{more}")
    for row, error in refused:
        dataset.ledger.revise("dropped", row.source, RowFault("template", str(error), ""))
    return rendered


def _fitted(row: Row, text: Rendered, max_length: int, over_long: str, ledger: Ledger) -> Prepared | None:
    if len(text.ids) <= max_length:
        return Prepared(row, text.ids, text.mask)
    found = f"{len(text.ids)} tokens, more than {max_length}."
    if over_long == "truncate" and any(text.mask[1:max_length]):
        ledger.revise("cut", row.source, RowFault("over_long", found, "Its end was cut away."))
        return Prepared(row, text.ids[:max_length], text.mask[:max_length])
    ledger.revise("dropped", row.source, RowFault("over_long", found, "Raise data.max_length to keep it."))
    return None


@dataclass(frozen=True)
class Spread:
    """Mean, median, 5th and 95th percentile and extremes of a count."""

    mean: float
    median: float
    p5: float
    p95: float
    least: int
    most: int


def spread(values: Sequence[int]) -> Spread:
    """How `values` (at least one) are spread."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    mean = sum(ordered) / len(ordered)
    return Spread(round(mean, 1), quantile(0.5), quantile(0.05), quantile(0.95), ordered[0], ordered[-1])
