"""How long things take to start, as whole processes.

    python benchmarks/start.py --write          # -> benchmarks/RESULTS.md

Prints a Markdown table: the median of several runs of `--help` and `check`, and the time from `tunesmith train` to the
end of its first step: with layers as they are, compiled for the first time, and compiled once more.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from results import put

TUNESMITH = [sys.executable, "-c", "from tunesmith.cli.main import run; run()"]
RUNS = 5


def whole_process(*arguments: str) -> float:
    """Median seconds of RUNS runs, after one that is not counted."""
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([*TUNESMITH, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def first_step(layers: str, cache: str) -> float:
    """Seconds from `tunesmith train` to the end of the first step.

    Args:
        layers: the recipe's `compile`.
        cache: folder for what is compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "start.yaml"
        recipe.write_text(f"data: {{train: hotel, test: 0, validation: 0}}\noptim: {{steps: 1}}\ncompile: '{layers}'\n")
        started = time.time()
        subprocess.run(
            [*TUNESMITH, "train", str(recipe), "--until", "trained", "--set", f"output.folder={folder}"],
            check=True, capture_output=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        )  # fmt: skip
        return (Path(folder) / "start" / "metrics.jsonl").stat().st_mtime - started


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        names = [
            line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    what = "`tunesmith train` to the end of its first step (ember, LoRA)"
    with tempfile.TemporaryDirectory() as cache:
        rows = {
            "`tunesmith --help`": f"{whole_process('--help'):.3f}",
            "`tunesmith check hotel` (1145 rows)": f"{whole_process('check', 'hotel'):.2f}",
            what: f"{statistics.median(first_step('off', cache) for _ in range(3)):.1f}",
            f"{what}, layers compiled for the first time": f"{first_step('on', cache):.1f}",
            f"{what}, compiled once more": f"{statistics.median(first_step('on', cache) for _ in range(3)):.1f}",
        }
    lead = f"{os.cpu_count()} cores of {processor()}, {platform.system()}, Python {platform.python_version()}"
    text = "\n".join(
        [f"{lead}, {datetime.now(UTC).date()}.", "", "| what | seconds |", "|---|---|"]
        + [f"| {name} | {seconds} |" for name, seconds in rows.items()]
    )
    print(text)
    if options.write:
        put("start", text)


if __name__ == "__main__":
    main()
