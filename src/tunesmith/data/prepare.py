"""Rows through the prompt contract: token ids and the mask of what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.errors import DataError
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
        """Tokens that count in the loss."""
        return sum(self.mask[1:])


def prepare(dataset: Dataset, contract: Contract, max_length: int, over_long: str = "fail") -> list[Prepared]:
    """Render every row and hold it to `max_length` tokens.

    Args:
        dataset: checked rows; its ledger hears of rows that are cut or dropped here.
        contract: how they are rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, or `truncate` (the end is lost).

    Raises:
        DataError: over-long rows under `fail`, with the length that would fit; or no row is left.
    """
    rendered = [(row, contract.render(row.conversation)) for row in dataset.rows]
    longest = max((len(one.ids) for _, one in rendered), default=0)
    too_long = [row for row, one in rendered if len(one.ids) > max_length]
    if too_long and over_long == "fail":
        raise DataError(
            f"{len(too_long)} of {len(rendered)} rows are longer than {max_length} tokens "
            f"(first: {too_long[0].source}). Set data.max_length={longest} to fit them all, "
            "or data.over_long to drop or truncate."
        )
    prepared = [
        one for row, text in rendered if (one := _fitted(row, text, max_length, over_long, dataset.ledger)) is not None
    ]
    if rendered and not prepared:
        raise DataError(f"no row fits in {max_length} tokens. Set data.max_length={longest} to fit them all.")
    return prepared


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
