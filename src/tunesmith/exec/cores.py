"""How many cores are free for a job, and how its threads wait for each other.

The threads of a matrix product wait for each other actively. Where one of them has lost its core to another program,
all others spin until it comes back, many times a layer: one busy program on one of two cores made training thirty times
slower. So a job takes as many threads as cores are free when it starts, and a thread that has waited for a bounded time
sleeps. What that gains: benchmarks/busy.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SPINS = "5000"  # turns that a thread of GNU's OpenMP, which torch brings on Linux, waits actively before it sleeps
LOOK = 0.5  # seconds that cores are looked at
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Cores:
    """What this process may compute on.

    Attributes:
        there: cores that it may use.
        free: of them, those that others did not need when they were looked at; at least one.
    """

    there: int
    free: int

    @property
    def sentence(self) -> str:
        """For people; empty if all are free."""
        if self.free == self.there:
            return ""
        return (
            f"other programs use {self.there - self.free} of {self.there} cores, so this takes {self.free} "
            f"thread{'s' if self.free > 1 else ''}. Set OMP_NUM_THREADS for another number."
        )


def look_at_cores(seconds: float = LOOK) -> Cores:
    """Watch for `seconds`, in which this process does nothing, what the cores do that it may use."""
    before = read_times()
    time.sleep(seconds)
    idle = idle_shares(before, read_times())
    allowed = [core for core in allowed_cores() if core < len(idle)]
    limits = [len(allowed), psutil.cpu_count(logical=False), quota(_read(QUOTA))]
    return count_free(min(limit for limit in limits if limit), [idle[core] for core in allowed])


def count_free(there: int, idle: Sequence[float]) -> Cores:
    """Cores that are free, to the nearest whole one.

    Args:
        there: how many may be used.
        idle: share of the time that each core had nothing to do.
    """
    return Cores(there, max(1, min(there, int(sum(idle) + 0.5))))


def read_times() -> list[tuple[float, float]]:
    """For each core the seconds that it has spent in all, and those of them with nothing to do."""
    # The first eight are apart from each other; what guests took stands in `user` already.
    return [(sum(times[:8]), times.idle + getattr(times, "iowait", 0.0)) for times in psutil.cpu_times(percpu=True)]


def idle_shares(before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]) -> list[float]:
    """The share of its time that each core had nothing to do between two readings of `read_times`."""
    pairs = zip(before, after, strict=False)
    changes = [(new[0] - old[0], new[1] - old[1]) for old, new in pairs]
    return [min(1.0, max(0.0, idle / spent)) if spent > 0 else 1.0 for spent, idle in changes]


def allowed_cores() -> list[int]:
    """Numbers of the cores that the system lets this process use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def quota(text: str) -> int | None:
    """Whole cores that a container may use at once, from the text of `cpu.max`; None if it sets no limit."""
    words = text.split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None
    return max(1, int(words[0]) // int(words[1]))


def waiting(given: Mapping[str, str]) -> dict[str, str]:
    """Settings for threads that wait, unless the user has said how they shall."""
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(given)
    return {} if chosen else {"GOMP_SPINCOUNT": SPINS}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
