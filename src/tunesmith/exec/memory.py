"""How close children come to the end of this machine's memory, and whether the system killed one for it.

On Linux the kernel answers a lack of memory with SIGKILL, which says nothing of its reason. Two witnesses
are heard: the kernel's own count of such kills, and what was in use when the child was last looked at.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import psutil

NEAR = 0.9  # share of the memory from which a kill is taken for one by lack of it
EVERY = 0.2  # seconds between two looks
LOOKS = 25  # that count: what was in use hours ago says nothing
COUNTERS = (
    Path("/proc/vmstat"),
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """Bytes that processes here may use together: the machine's, or less where a container says so."""
    limits = [psutil.virtual_memory().total]
    for path in LIMITS:
        text = _read(path).strip()
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def kills_for_memory() -> int:
    """How often the kernel has killed for lack of memory, as far as it says; only a rise means something."""
    lines = (line.split() for path in COUNTERS for line in _read(path).splitlines())
    return sum(int(words[1]) for words in lines if len(words) == 2 and words[0] == "oom_kill")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


class MemoryWatch:
    """Looks at processes from time to time, in a thread, until it is closed.

    Attributes:
        shares: of the memory that were in use at the last looks, by them or by all.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self.shares: deque[float] = deque(maxlen=LOOKS)
        self._limit = memory_limit()
        self._kills = kills_for_memory()
        self._processes = processes
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()

    def blames_memory(self) -> bool:
        """Whether a child that was killed was so for lack of memory."""
        return kills_for_memory() > self._kills or max(self.shares, default=0.0) >= NEAR

    def _run(self) -> None:
        while not self._end.wait(EVERY):
            held = 0
            for number in self._processes:
                try:
                    held += psutil.Process(number).memory_info().rss
                except psutil.Error:  # it has ended
                    continue
            machine = psutil.virtual_memory()
            self.shares.append(max(held / self._limit, 1 - machine.available / machine.total))
