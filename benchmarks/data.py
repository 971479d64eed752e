"""Preparing and checking data, beside the `tokenizers` library alone on the same rows and cores.

    python benchmarks/data.py                    50,000 rows, 3 rounds: about three minutes
    python benchmarks/data.py --rows 1000000     the million-row file: time and peak memory
    python benchmarks/data.py --profile          where the time of preparing goes: processor time of each part, alone

Every measurement is a process of its own, in turn, so that memory and warm caches are its own too. The
floor encodes texts that are already rendered and in memory, without asking where tokens stand
(`encode_batch_fast`), and reads the ids out: the least that anybody can do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from results import put
from start import processor

ANSWER = {"role": "assistant", "content": "Hello."}
CHUNK = 256  # rows the floor encodes at once


def write_rows(path: Path, count: int, seed_file: str) -> None:
    """`count` different chat rows: answers of the seed file's rows put together anew, about a kilobyte each."""
    from tunesmith.data.load import load_rows

    seeds = load_rows(seed_file).rows
    sentences = [part for row in seeds for part in row.answer.split(". ") if part.strip()]
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = f"{draw.choice(seeds).prompt[-1].content} ({number})"
            answer = ""
            while len(answer) < 840:
                answer += draw.choice(sentences).strip() + ". "
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


def open_contract(model: str) -> Any:
    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.load import load_contract
    from tunesmith.prompt.messages import as_conversation

    contract = load_contract(resolve(model).folder)
    contract.render_many([contract.draft((*as_conversation("Hi?"), *as_conversation([ANSWER])))])  # imports and caches
    return contract


def texts_of(path: Path, contract: Any) -> Iterator[str]:
    from tunesmith.prompt.messages import as_conversation

    with path.open(encoding="utf-8") as file:
        for line in file:
            yield contract.text(as_conversation(json.loads(line)["messages"]))


def floor(path: Path, model: str) -> tuple[float, int]:
    """The tokenizers library alone. A million rows are too many to hold: the first 50,000 stand for all."""
    contract = open_contract(model)
    texts = list(islice(texts_of(path, contract), 50_000))
    rows = path.read_bytes().count(b"\n")
    tokenizer, tokens = contract.tokenizer.backend_tokenizer, 0
    tokenizer.encode_batch_fast(texts[:CHUNK], add_special_tokens=False)
    started = time.perf_counter()
    for start in range(0, len(texts), CHUNK):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + CHUNK], add_special_tokens=False):
            tokens += len(encoding.ids)
    return (time.perf_counter() - started) * rows / len(texts), tokens * rows // len(texts)


def prepared(path: Path, model: str) -> tuple[float, int]:
    """Read, check, render, mask, tokenise and write."""
    from tunesmith.data.cache import prepared_dataset
    from tunesmith.data.config import DataConfig
    from tunesmith.data.source import find_files

    contract = open_contract(model)
    config = DataConfig(train=str(path), near_duplicates="off")
    started = time.perf_counter()
    dataset = prepared_dataset(find_files(config.train), config, contract, 2048, "fail", frozenset({"chat"}))
    return time.perf_counter() - started, int(dataset.lengths.sum())


def checked(path: Path, model: str, near: bool = False, personal: bool = False) -> tuple[float, int]:
    """Every check of `tunesmith check`; near duplicates and personal data only where asked for."""
    from tunesmith.data.config import DataConfig
    from tunesmith.data.load import Reading
    from tunesmith.data.quality.near_duplicates import NearDuplicates
    from tunesmith.data.quality.report import data_report
    from tunesmith.data.source import find_files

    contract = open_contract(model)
    config = DataConfig(train=str(path))
    started = time.perf_counter()
    reading = Reading(find_files(config.train), config, personal)
    found = data_report(reading, contract, 2048, NearDuplicates() if near else None, 2**63)
    return time.perf_counter() - started, sum(found.lengths)


TASKS: dict[str, Callable[[Path, str], tuple[float, int]]] = {
    "tokenizers alone": floor,
    "prepare": prepared,
    "check": checked,
    "check with personal data": lambda path, model: checked(path, model, personal=True),
    "check with near duplicates": lambda path, model: checked(path, model, near=True),
}


def in_own_process(task: str, path: Path, model: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, __file__, "--task", task, "--file", str(path), "--model", model],
            env={**os.environ, "TUNESMITH_HOME": home, "TOKENIZERS_PARALLELISM": "true"},
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout)


def run_task(task: str, path: Path, model: str) -> None:
    seconds, tokens = TASKS[task](path, model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak": peak}))


def profile(path: Path, model: str) -> None:
    """Microseconds of processor time a row, each part alone; then the functions that take the most."""
    import cProfile
    import pstats

    from tunesmith.data.config import DataConfig
    from tunesmith.data.kinds.table import kind_of
    from tunesmith.data.load import Reading
    from tunesmith.data.prepare import ENCODED_TOGETHER, patient_collector
    from tunesmith.data.source import find_files

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        made = work()
        print(f"{name:40} {(time.process_time() - started) / rows * 1e6:6.1f}")
        return made

    contract = open_contract(model)
    rows = path.read_bytes().count(b"\n")
    with patient_collector():
        read = timed("read, check, key", lambda: list(Reading(find_files(str(path)), DataConfig(train=str(path)))))
        drafts = timed(
            "render", lambda: [draft for row in read for draft in kind_of(row).drafts(row.content, contract)]
        )
        groups = [drafts[start : start + ENCODED_TOGETHER] for start in range(0, rows, ENCODED_TOGETHER)]
        timed("encode and find spans", lambda: [contract.render_many(group) for group in groups])
        encode = contract.tokenizer.backend_tokenizer.encode_batch_fast
        texts = [[draft.text for draft in group] for group in groups]
        timed("encode alone", lambda: [len(encode(group, add_special_tokens=False)) for group in texts])
    timed("all of it, with writing and waiting", lambda: prepared(path, model))
    os.environ["TUNESMITH_HOME"] += "-again"
    meter = cProfile.Profile()
    meter.enable()
    prepared(path, model)
    meter.disable()
    pstats.Stats(meter).sort_stats("tottime").print_stats(25)


def table(path: Path, rows: int, rounds: int, model: str, tasks: list[str]) -> str:
    import tokenizers

    found: dict[str, list[dict[str, float]]] = {task: [] for task in tasks}
    for _ in range(rounds):
        for task in tasks:
            found[task].append(in_own_process(task, path, model))
    base = statistics.median(one["seconds"] for one in found[tasks[0]])
    lines = [
        f"{rows:,} chat rows, {path.stat().st_size / 1e6:,.0f} MB, {found[tasks[0]][0]['tokens'] / rows:.0f} tokens a "
        f"row ({model}'s tokenizer); {os.cpu_count()} cores of {processor()}, Python {platform.python_version()}, "
        f"tokenizers {tokenizers.__version__}, {datetime.now(UTC):%Y-%m-%d}; median of {rounds}.",
        "",
        "| | seconds | rows/s | tokens/s | of tokenizers alone | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for task, runs in found.items():
        seconds = statistics.median(one["seconds"] for one in runs)
        peak = max(one["peak"] for one in runs) / 2**20
        lines.append(
            f"| {task} | {seconds:.2f} | {rows / seconds:,.0f} | {runs[0]['tokens'] / seconds:,.0f} | "
            f"{base / seconds:.0%} | {peak:,.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed-file", default="hotel", help="file whose sentences the rows are made of")
    parser.add_argument("--model", default="ember")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        return run_task(options.task, options.file, options.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows, options.seed_file)
        if options.profile:
            os.environ["TUNESMITH_HOME"] = folder
            return profile(path, options.model)
        tasks = list(TASKS) if options.rows <= 100_000 else list(TASKS)[:3]
        rounds = options.rounds if options.rows <= 100_000 else 1
        text = table(path, options.rows, rounds, options.model, tasks)
        print(text)
        if options.write:
            put(f"data-{options.rows}", text)
    return None


if __name__ == "__main__":
    main()
