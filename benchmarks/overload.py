"""What `tunesmith serve` does when ten times as much is asked as it can answer.

    python benchmarks/overload.py --write          # about five minutes; -> benchmarks/RESULTS.md
    python benchmarks/overload.py --size tiny --seconds 3 --warm 1

A Llama of 135 million random weights in bf16, keys of four projects, answers of 64 tokens. First as many users as it
answers at once ask again and again: that is its capacity. Then questions come at random moments (Poisson) at nine
tenths of that rate and at ten times that rate, whether or not those before are answered, and nobody asks again who was
refused. It is said how answers ended, how long those took that were answered, and what memory grew by.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from results import put
from serve import NEW, OURS, Served, load
from sft_cpu import SIZES, make_model
from start import processor

KEYS = 4
TIMES = 10


@dataclass
class Met:
    """What came of the questions at one rate."""

    rate: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter[int])
    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


async def flood(served: Served, keys: list[str], rate: float, seconds: float) -> Met:
    """Ask at random moments, `rate` times a second in the mean."""
    met, chance, asked = Met(rate), random.Random(0), set[asyncio.Task[None]]()
    body = {
        "model": "base", "temperature": 0, "max_tokens": NEW,
        "messages": [{"role": "user", "content": "A guest asks when the pool opens, and who may swim there."}],
    }  # fmt: skip
    limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}/v1", timeout=300, limits=limits) as client:

        async def one(key: str) -> None:
            began = time.perf_counter()
            answer = await client.post("/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
            met.statuses[answer.status_code] += 1
            (met.seconds if answer.status_code == 200 else met.refused).append(time.perf_counter() - began)
            if answer.status_code != 200:
                assert "retry-after" in answer.headers

        begun, next_one = time.perf_counter(), 0.0
        while next_one < seconds:
            await asyncio.sleep(max(0.0, begun + next_one - time.perf_counter()))
            task = asyncio.create_task(one(chance.choice(keys)))
            asked.add(task)
            task.add_done_callback(asked.discard)
            if len(met.memory) < next_one:
                met.memory.append(served.memory)
            next_one += chance.expovariate(rate)
        await asyncio.gather(*asked)
    met.memory.append(served.memory)
    return met


def measure(options: argparse.Namespace, folder: Path) -> list[Met]:
    """At capacity, by users that wait for their answers; a little below, and at ten times that, by some that do not."""
    make_model(folder / "model", options.size)
    home = folder / "home"
    command = [*OURS, "--precision", "bf16", "--model", f"base={folder / 'model'}", "--home", str(home)]
    with Served(command) as served:
        create = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "keys", "create"]
        said = [
            subprocess.run(
                [*create, f"k{n}", "--project", f"p{n}", "--home", str(home)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for n in range(KEYS)
        ]
        keys = [word for text in said for word in text.split() if word.startswith("sk-ts-")]
        assert len(keys) == KEYS
        load(served, ["base"], 32, options.warm)
        closed = load(served, ["base"], 32, options.seconds / 2)
        rate = closed.requests / closed.seconds
        asyncio.run(flood(served, keys, TIMES * rate, options.warm / 8))  # its connections are part of its memory
        full = Met(rate, Counter({200: closed.requests}), closed.whole, [], [closed.memory])
        return [full, *(asyncio.run(flood(served, keys, times * rate, options.seconds)) for times in (0.9, TIMES))]


def table(found: list[Met]) -> str:
    names = ("questions a second", "answered", "429", "503", "others", "answered after, median", "95%", "refused after")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for met in found:
        others = met.statuses.total() - sum(met.statuses[status] for status in (200, 429, 503))
        slow = statistics.quantiles(met.seconds, n=20)[-1]
        refused = f"{statistics.median(met.refused) * 1e3:.0f} ms" if met.refused else ""
        counts = " | ".join(str(met.statuses[status]) for status in (200, 429, 503))
        median = statistics.median(met.seconds)
        lines.append(f"| {met.rate:.1f} | {counts} | {others} | {median:.1f} s | {slow:.1f} s | {refused} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="135m")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm", type=float, default=60.0)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    at, below, over = found
    grown = max(over.memory) / max(below.memory) - 1
    longer = statistics.median(over.seconds) / statistics.median(at.seconds)
    before = max(below.memory) / 1e6
    said = (
        f"At {TIMES} times its capacity for {options.seconds:.0f} s, answers took {longer:.2f} times as long as at "
        f"capacity, the first line (goal: at most 2), and memory grew by {100 * grown:.1f}% from {before:.0f} MB "
        "(goal: at most 5%)."
    )
    here = f"2 cores of {processor()}, torch {version('torch')}, {datetime.now(UTC):%Y-%m-%d}"
    text = f"## Overload\n\n{table(found)}\n\n{said}\n\n{here}, by `python benchmarks/overload.py`.\n"
    print(text)
    if options.write:
        put("overload", text)
    return text


if __name__ == "__main__":
    main()
