"""Files of the API: how fast large ones go in and out, and how much memory the server takes for them.

    python benchmarks/api_files.py --write          # 512 MB, in one piece and in parts; -> benchmarks/RESULTS.md
    python benchmarks/api_files.py --megabytes 20

A server in a process of its own; its memory (resident, without what files it has mapped) is looked at every few
milliseconds. The client sends from memory that it makes as it goes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
from results import put
from start import processor

SERVE = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--port", "0", "--workers", "0"]
PIECE = b"x" * 65_535 + b"\n"
PART = 32 << 20
GOAL = 150  # MB


class Memory:
    """The most that a process takes while the block runs, over what it took before, in MB."""

    def __init__(self, pid: int) -> None:
        self._process, self._over = psutil.Process(pid), threading.Event()
        self._before = self._most = self._now()
        self._thread = threading.Thread(target=self._look)

    def _now(self) -> int:
        memory = self._process.memory_info()
        return memory.rss - getattr(memory, "shared", 0)

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._most = max(self._most, self._now())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """MB."""
        return (self._most - self._before) / 1e6


def pieces(size: int, head: bytes = b"", tail: bytes = b"") -> Iterator[bytes]:
    yield head
    for _ in range(size // len(PIECE)):
        yield PIECE
    yield PIECE[: size % len(PIECE)] + tail


def form(client: httpx.Client, path: str, field: str, size: int) -> dict[str, str]:
    """Send bytes as a field of a form."""
    part = "--b\r\nContent-Disposition: form-data; name="
    head = f'{part}"purpose"\r\n\r\nbatch\r\n{part}"{field}"; filename="x.jsonl"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post(path, content=pieces(size, head.encode(), b"\r\n--b--\r\n"), headers=kind)
    answer.raise_for_status()
    return answer.json()


def whole(client: httpx.Client, size: int) -> None:
    sent.append(form(client, "/files", "file", size)["id"])


def in_parts(client: httpx.Client, size: int) -> None:
    body = {"bytes": size, "filename": "x.jsonl", "mime_type": "text/plain", "purpose": "batch"}
    upload = client.post("/uploads", json=body).json()["id"]
    sizes = [PART] * (size // PART) + ([size % PART] if size % PART else [])
    parts = [form(client, f"/uploads/{upload}/parts", "data", one)["id"] for one in sizes]
    client.post(f"/uploads/{upload}/complete", json={"part_ids": parts}).raise_for_status()


def content(client: httpx.Client, size: int) -> None:
    with client.stream("GET", f"/files/{sent[0]}/content") as answer:
        assert sum(len(piece) for piece in answer.iter_bytes()) == size


sent: list[str] = []  # ids of files


def measure(megabytes: int, home: Path) -> dict[str, tuple[float, float]]:
    """Seconds, and MB that the server's memory grew, of each way."""
    process = subprocess.Popen(
        [*SERVE, "--home", str(home), "--log", "none"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    key = process.stdout.readline().split()[-1]
    found = re.search(r"serving (http\S+)", process.stdout.readline())
    assert found is not None
    size, results = megabytes << 20, dict[str, tuple[float, float]]()
    ways: dict[str, Callable[[httpx.Client, int], None]] = {
        "upload": whole, "upload in parts of 32 MB": in_parts, "download": content
    }  # fmt: skip
    try:
        with httpx.Client(
            base_url=found[1].rstrip(","), headers={"Authorization": f"Bearer {key}"}, timeout=600
        ) as client:
            while True:
                try:
                    form(client, "/files", "file", 1000)  # what is loaded once is loaded
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            for name, way in ways.items():
                begun = time.perf_counter()
                with Memory(process.pid) as memory:
                    way(client, size)
                results[name] = (time.perf_counter() - begun, memory.growth)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
        sent.clear()
    return results


def table(results: dict[str, tuple[float, float]], megabytes: int) -> str:
    lines = [
        f"| a file of {megabytes} MB | seconds | MB a second | memory grows by, MB | goal |",
        "|---|---|---|---|---|",
    ]
    for name, (seconds, growth) in results.items():
        lines.append(f"| {name} | {seconds:.1f} | {megabytes / seconds:.0f} | {growth:.0f} | {GOAL} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=511, help="512 MB is the most that one upload may have")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = measure(options.megabytes, Path(name))
    here = f"{processor()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    command = f"`python benchmarks/{Path(sys.argv[0]).name}`"
    text = f"## Files of the API\n\n{table(results, options.megabytes)}\n{here}, by {command}.\n"
    print(text)
    if options.write:
        put("api-files", text)


if __name__ == "__main__":
    main()
