"""How many rows the comparison at the end of a run takes: a few are answered first, and their time tells."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.events import silent
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import TIMED, RowResults, evaluate_rows
from tunesmith.infer.generator import Generator
from tunesmith.score.rewards.reward import Rewards

TRAINING_SHARE = 0.25  # of the seconds of training, that the comparison may take
LEAST_SECONDS = 10.0  # seconds that may always be spent
ROWS_TRIED = 10  # rows that are answered to see how long that takes
FEWEST_ROWS = 10  # of each set, whatever they take: fewer would show nothing
ALONE = 1.5  # answers at the speed of a batch of `ROWS_TRIED`, that one answer alone takes the time of
MOST_ROWS = 200


@dataclass(frozen=True)
class Sample:
    """What is answered.

    Attributes:
        sets: places of rows, by what each set is.
        timed: answers that are made once more, alone, to see how long people wait.
        seconds: that all of it takes for both models, about.
    """

    sets: dict[str, list[int]]
    timed: int
    seconds: float


def seconds_a_row(
    generator: Generator, rows: Sequence[Prepared], max_new_tokens: int, rewards: Rewards | None = None
) -> tuple[float, RowResults]:
    """How long scoring and answering one row takes, of the first few together; and what was found on these."""
    rows = rows[:ROWS_TRIED]
    evaluate_rows(generator, rows[:1], 2, silent, "", timed=0)  # the first answer makes it ready
    started = time.perf_counter()
    found = evaluate_rows(generator, rows, max_new_tokens, silent, "", timed=0, rewards=rewards)
    return (time.perf_counter() - started) / len(rows), found


def choose_sample(sizes: Mapping[str, int], each: float, training: float, wanted: int | None) -> Sample:
    """Which rows of each set both models answer.

    Args:
        sizes: rows of each set.
        each: seconds for one row.
        training: seconds that the run was trained for.
        wanted: rows that the recipe asks for, whatever they take; None for what is affordable.
    """
    most = {what: min(size, wanted or MOST_ROWS) for what, size in sizes.items()}
    allowed = max(TRAINING_SHARE * training, LEAST_SECONDS) / 2 / max(each, 1e-9)  # rows of one model
    timed = TIMED if wanted else min(TIMED, int(allowed / 4 / (ALONE * len(sizes))))
    part = 1.0 if wanted else min(1.0, (allowed - timed * ALONE * len(sizes)) / sum(most.values()))
    counts = {what: min(size, max(FEWEST_ROWS, int(part * size))) for what, size in most.items()}
    seconds = 2 * each * (sum(counts.values()) + timed * ALONE * len(sizes))
    return Sample({what: spread(count, sizes[what], wanted) for what, count in counts.items()}, timed, seconds)


def spread(count: int, size: int, wanted: int | None) -> list[int]:
    """Places of `count` rows among `size`: the first few, which are tried, and more evenly apart if nobody asked."""
    tried = min(ROWS_TRIED, count)
    rest = count - tried
    step = range(tried, count) if wanted else (tried + place * (size - tried) // rest for place in range(rest))
    return [*range(tried), *step]
