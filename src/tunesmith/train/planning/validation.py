"""How often a run is validated, and on how many rows: what it may cost, decided beforehand.

A token that is validated on costs no more than one that is trained on, which is computed backward too. So tokens are
what is counted, and the decision is the same on every machine and at every try.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHARE = 0.1  # of the tokens that are trained on, that all validations may take together
MOST, FEWEST = 10, 2
WORTH = 32  # rows of a validation before there are more of them
FEWEST_ROWS = 8  # of a validation, whatever it costs


@dataclass(frozen=True)
class ValidationPlan:
    """When to validate, and on what.

    Attributes:
        every: steps between two; there is one after the last step too.
        places: of the rows that are taken, among all validation rows.
        share: of the tokens that are trained on, what all of them take together.
    """

    every: int
    places: np.ndarray
    share: float


def plan_validation(
    steps: int, trained: float, lengths: np.ndarray, every: int | None = None, rows: int | None = None
) -> ValidationPlan:
    """The validations of a run: as many as asked for, else what `SHARE` of the training allows.

    There are ten, on all rows, where that is cheap; then fewer rows, down to `WORTH`; then fewer of them.

    Args:
        steps: of the run.
        trained: tokens that it trains on in all.
        lengths: tokens of each validation row; at least one.
        every: steps between two, if somebody asked for that.
        rows: rows of one, if somebody asked for that.
    """
    allowed, all_of_them = SHARE * trained, len(lengths)

    def affordable(times: int) -> int:
        return min(all_of_them, int(allowed / times / lengths.mean()))

    if every is None and rows is None:
        worth = min(WORTH, all_of_them)
        times = next((n for n in range(MOST, FEWEST, -1) if affordable(n) >= worth), FEWEST)
        rows = max(min(FEWEST_ROWS, all_of_them), affordable(times))
    elif every is None:
        times = max(FEWEST, min(MOST, int(allowed / (rows * lengths.mean()))))
    else:
        times = math.ceil(steps / every)
    every = every or max(1, math.ceil(steps / times))
    count = min(rows or all_of_them, all_of_them)
    places = np.arange(count) * all_of_them // count
    return ValidationPlan(every, places, math.ceil(steps / every) * float(lengths[places].sum()) / trained)
