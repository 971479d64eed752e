"""What looks and the final comparison may cost, and that a run says when it becomes slow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tunesmith.evaluate.budget import choose_sample
from tunesmith.train.pace import Pace, Slower
from tunesmith.train.planning.validation import SHARE, plan_validation


@pytest.mark.parametrize("steps", [20, 60, 150, 500, 5000])
@pytest.mark.parametrize("rows", [40, 99, 1000])
def test_looks_take_a_tenth_of_the_training_at_most(steps, rows):
    lengths = np.random.default_rng(0).integers(50, 300, rows)
    trained = steps * 16 * lengths.mean()
    looks = plan_validation(steps, trained, lengths)
    spent = -(-steps // looks.every) * lengths[looks.places].sum()
    assert spent / trained == pytest.approx(looks.share)
    assert looks.share <= SHARE * 1.2  # which rows they are is not chosen by length
    assert len(set(looks.places)) == len(looks.places) >= 8
    assert -(-steps // looks.every) in range(2, 11)


def test_a_long_run_looks_ten_times_at_all_rows_and_a_short_one_at_few():
    lengths = np.full(100, 100)
    assert [len(plan_validation(n, n * 1600, lengths).places) for n in (1000, 200, 20)] == [100, 32, 16]
    assert [plan_validation(n, n * 1600, lengths).every for n in (1000, 200, 20)] == [100, 20, 10]
    assert len(plan_validation(3, 3 * 1600, lengths).places) == 8  # never fewer, whatever they take
    assert len(plan_validation(3, 3 * 1600, lengths[:5]).places) == 5


def test_looks_that_somebody_asked_for_are_taken():
    lengths = np.full(100, 100)
    asked = plan_validation(20, 32000, lengths, every=1)
    assert (asked.every, len(asked.places)) == (1, 100)
    assert len(plan_validation(20, 32000, lengths, every=1, rows=7).places) == 7
    fewer = plan_validation(200, 320000, lengths, rows=80)
    assert (fewer.every, len(fewer.places)) == (50, 80)  # four looks at eighty rows are a tenth


def test_the_comparison_takes_a_quarter_of_the_training_or_what_was_asked_for():
    sizes = {"": 500, "general questions": 120}
    whole = choose_sample(sizes, 0.01, 600, None)
    assert [len(places) for places in whole.sets.values()] == [200, 120]
    assert whole.seconds <= 150
    part = choose_sample(sizes, 0.5, 600, None)
    assert part.seconds <= 150
    assert [len(places) for places in part.sets.values()] == [78, 47]  # after eight answers alone of each
    assert part.sets["general questions"][-1] >= 110  # evenly apart, not the first ones
    short = choose_sample(sizes, 5.0, 30, None)
    assert [len(places) for places in short.sets.values()] == [10, 10]
    assert short.timed == 0
    asked = choose_sample(sizes, 5.0, 30, 300)
    assert [len(places) for places in asked.sets.values()] == [300, 120]
    assert asked.sets[""] == list(range(300))


def test_a_run_that_becomes_slow_says_so_once_and_why():
    pace = Pace()
    assert [pace.note(1000, 1) for _ in range(8)] == [None] * 8
    assert pace.note(300, 3) is None  # one slow step is nothing
    assert pace.note(900, 1) is None
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        found = [pace.note(250, 4) or _wait() for _ in range(3)]
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert found[:2] == [None, None]
    assert found[2].times == 4
    assert found[2].others > 0.5
    assert pace.note(250, 4) is None


def _wait():
    """Others compute while this process waits."""
    import time

    time.sleep(0.3)


def test_what_is_said_names_the_reason_it_knows():
    assert Slower(3.0, 1.02, 2).sentence == (
        "a step takes 3.0 times as long as before: other programs use 1.0 of 2 cores."
    )
    assert "no other program" in Slower(3.0, 0.1, 2).sentence
    assert [Slower(3.0, others, 4).free for others in (0.1, 1.0, 2.6, 9.0)] == [4, 3, 1, 1]
