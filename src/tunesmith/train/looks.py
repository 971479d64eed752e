"""How often a run looks at its validation rows, and at how many of them: what it may cost, decided beforehand.

A token that is looked at costs no more than one that is trained on, which is computed backward too. So tokens are what
is counted, and the decision is the same on every machine and at every try.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHARE = 0.1  # of the tokens that are trained on, that all looks may take together
MOST_LOOKS, FEWEST_LOOKS = 10, 2
WORTH = 32  # rows that a look takes before there are more looks
FEWEST_ROWS = 8  # of a look, whatever it costs


@dataclass(frozen=True)
class Looks:
    """When to look, and at what.

    Attributes:
        every: steps between two looks; there is one after the last step too.
        places: of the rows that are looked at, among all validation rows.
        share: of the tokens that are trained on, what all looks take together.
    """

    every: int
    places: np.ndarray
    share: float


def plan_looks(
    steps: int, trained: float, lengths: np.ndarray, every: int | None = None, rows: int | None = None
) -> Looks:
    """The looks of a run: as many as asked for, else what `SHARE` of the training allows.

    There are ten looks at all rows where that is cheap; then fewer rows, down to `WORTH`; then fewer looks.

    Args:
        steps: of the run.
        trained: tokens that it trains on in all.
        lengths: tokens of each validation row; at least one.
        every: steps between looks, if somebody asked for that.
        rows: rows of a look, if somebody asked for that.
    """
    allowed, all_of_them = SHARE * trained, len(lengths)

    def affordable(looks: int) -> int:
        return min(all_of_them, int(allowed / looks / lengths.mean()))

    if every is None and rows is None:
        worth = min(WORTH, all_of_them)
        looks = next((n for n in range(MOST_LOOKS, FEWEST_LOOKS, -1) if affordable(n) >= worth), FEWEST_LOOKS)
        rows = max(min(FEWEST_ROWS, all_of_them), affordable(looks))
    elif every is None:
        looks = max(FEWEST_LOOKS, min(MOST_LOOKS, int(allowed / (rows * lengths.mean()))))
    else:
        looks = math.ceil(steps / every)
    every = every or max(1, math.ceil(steps / looks))
    count = min(rows or all_of_them, all_of_them)
    places = np.arange(count) * all_of_them // count
    return Looks(every, places, math.ceil(steps / every) * float(lengths[places].sum()) / trained)
