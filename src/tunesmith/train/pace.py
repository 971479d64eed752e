"""Whether a run has become much slower than it was, and whether other programs are the reason.

On a CPU that is worth knowing at once: threads of a product wait for the one whose core another program has taken.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field

from tunesmith.exec.cores import allowed_cores, read_times

SLOW = 0.5  # of the usual tokens a second
FEWEST = 5  # steps, before anything is usual
IN_A_ROW, LASTING = 3, 5.0  # slow steps, and seconds of them, before something is said
TAKEN = 0.5  # cores that others use on average, from which they are the reason


@dataclass(frozen=True)
class Slower:
    """What is said of a run that became slow.

    Attributes:
        times: as long as usual, that a step takes now.
        others: cores that other programs use, on average.
        there: cores that this process may use.
    """

    times: float
    others: float
    there: int

    @property
    def free(self) -> int:
        """Cores that others leave."""
        return max(1, min(self.there, int(self.there - self.others + 0.5)))

    @property
    def sentence(self) -> str:
        """For people."""
        reason = f"other programs use {self.others:.1f} of {self.there} cores"
        if self.others < TAKEN:
            reason = "no other program here is the reason (a machine that is shared with others, or hot, may be)"
        return f"a step takes {self.times:.1f} times as long as before: {reason}."


@dataclass
class Pace:
    """The speeds of a run's steps.

    Attributes:
        processes: that train together on this machine.
        usual: tokens a second of the steps that were not slow.
        told: whether it has been said already.
    """

    processes: int = 1
    usual: list[float] = field(default_factory=list[float])
    told: bool = False
    _slow: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    _since: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _before: tuple[float, float, float] = field(default_factory=lambda: spent())

    def note(self, rate: float, seconds: float) -> Slower | None:
        """Take in a step; what is to be said when the run has become slow, once.

        Args:
            rate: tokens a second.
            seconds: that the step took.
        """
        before, self._before = self._before, spent()
        if self.told or len(self.usual) < FEWEST or rate >= SLOW * statistics.median(self.usual):
            self.usual.append(rate)
            self._slow.clear()
            return None
        if not self._slow:
            self._since = before
        self._slow.append((rate, seconds))
        if len(self._slow) < IN_A_ROW or sum(seconds for _, seconds in self._slow) < LASTING:
            return None
        self.told = True
        passed, busy, own = (now - then for now, then in zip(self._before, self._since, strict=True))
        others = max(0.0, busy - own * self.processes) / passed
        rates = [rate for rate, _ in self._slow]
        return Slower(statistics.median(self.usual) / statistics.median(rates), others, len(allowed_cores()))


def spent() -> tuple[float, float, float]:
    """Seconds so far: of the clock, of all cores that were busy, of this process on all cores."""
    allowed, times = set(allowed_cores()), read_times()
    busy = sum(spent - idle for core, (spent, idle) in enumerate(times) if core in allowed)
    return time.perf_counter(), busy, time.process_time()
