"""The queue with many jobs in it: what it takes to submit one, to claim one, to say that it is held.

    python benchmarks/job_queue.py --write                      # SQLite; -> benchmarks/RESULTS.md
    python benchmarks/job_queue.py --records postgresql://...   # and an empty database there

Prints a Markdown table: median and 95th percentile in milliseconds. Each call is a transaction that is on the disk.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from results import put
from start import processor

from tunesmith.exec.executor import Job
from tunesmith.exec.queue.commit import Ending, end
from tunesmith.exec.queue.lease import Lease, beat, claim
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.store.records import Records, open_records

PROJECTS = 20
CALLS = 500


def timed(action: Callable[[], object], times: int) -> np.ndarray:
    """Milliseconds of each call."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        found.append((time.perf_counter() - begun) * 1e3)
    return np.array(found)


def measure(records: Records, queued: int, calls: int) -> dict[str, np.ndarray]:
    """What each call takes while about `queued` jobs wait."""
    held: list[Lease] = []

    def send() -> None:
        submit(records, Submission(Job("count", {}), project=f"project-{sent[0] % PROJECTS}"))
        sent[0] += 1

    def take() -> None:
        lease = claim(records, "worker", 30.0)
        assert lease is not None
        held.append(lease)

    sent = [0]
    for _ in range(queued):
        send()
    found = {"submit": timed(send, calls), "claim": timed(take, calls)}
    found["beat for 8 leases"] = timed(lambda: beat(records, [(lease, []) for lease in held[:8]]), calls)
    found["end"] = timed(lambda: end(records, held.pop(), Ending("succeeded", files={})), calls)
    return found


def table(name: str, found: dict[str, np.ndarray], queued: int) -> str:
    lines = [f"| {name}, {queued:,} jobs wait | median, ms | 95% of calls within, ms |", "|---|---|---|"]
    for what, times in found.items():
        lines.append(f"| {what} | {np.median(times):.2f} | {np.quantile(times, 0.95):.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--records", action="append", default=[], help="an empty Postgres database; repeatable")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for url in [f"sqlite:///{Path(folder) / 'records.sqlite'}", *options.records]:
            records = open_records(url)
            found = measure(records, options.queued, options.calls)
            kind = "Postgres" if records.sqlite is None else "SQLite"
            tables.append(table(kind, found, options.queued))
            records.close()
    here = f"{processor()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    text = "## The queue\n\n" + "\n".join(tables) + f"\n{here}, by `python benchmarks/{Path(sys.argv[0]).name}`.\n"
    print(text)
    if options.write:
        put("queue", text)


if __name__ == "__main__":
    main()
