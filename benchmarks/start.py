"""How long things take to start, as whole processes: `make bench`.

Prints a Markdown table: the median of several runs of `--help` and `check`, and the time from
`tunesmith train` to the end of its first step, with the machine named.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def first_step() -> float:
    """Seconds from `tunesmith train` to the end of the first step, median of three."""
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "start.yaml"
            recipe.write_text("data: {train: hotel, test: 0, validation: 0}\noptim: {steps: 1}\n")
            started = time.time()
            subprocess.run(
                [*TUNESMITH, "train", str(recipe), "--set", f"output.folder={folder}"], check=True, capture_output=True
            )
            metrics = Path(folder) / "start" / "metrics.jsonl"
            seconds.append(metrics.stat().st_mtime - started)
    return statistics.median(seconds)


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
    print(f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}\n")
    print("| what | seconds |\n|---|---|")
    print(f"| `tunesmith --help` | {whole_process('--help'):.3f} |")
    print(f"| `tunesmith check hotel` (1145 rows) | {whole_process('check', 'hotel'):.2f} |")
    print(f"| `tunesmith train` to the end of its first step (ember, LoRA) | {first_step():.1f} |")


if __name__ == "__main__":
    main()
