"""A script as OpenAI's users have it, step by step, against a server of its own: from a file to a model that answers.

    python scripts/openai_walkthrough.py                     ember and the hotel, about four minutes on two cores
    python scripts/openai_walkthrough.py --file chats.jsonl --model SOME/BASE

Starts `tunesmith serve` as a process with a worker, does with the unmodified client what OpenAI's guides do (check the
file, upload it, create a job, follow its events, read the table of results, list checkpoints, ask the tuned model at
once and streamed, beside its base), and says what each step gave.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from openai import OpenAI

SERVE = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--port", "0"]
QUESTIONS = ("What time is breakfast?", "Can I bring my dog?", "Is there a gym I can use?")


def started(home: Path, model: str) -> tuple[subprocess.Popen[str], str, str]:
    """A server, its address and its first key."""
    command = [*SERVE, "--home", str(home), "--model", model, "--log", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    key = url = ""
    for line in process.stdout:
        key = line.split()[-1] if "API key" in line else key
        if found := re.search(r"serving (http\S+/v1)", line):
            url = found[1]
            break
    return process, url, key


def hotel(folder: Path) -> Path:
    """The embedded file of conversations, as a file of chats."""
    from tunesmith.data.source import find_files

    [file] = find_files("hotel")
    return Path(shutil.copy(file.path, folder / "hotel.jsonl"))


def looked_at(path: Path) -> None:
    """What the guides do first: count rows, roles and turns."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    roles = Counter(message["role"] for row in rows for message in row["messages"])
    print(f"1. {path.name}: {len(rows)} examples; messages by role: {dict(roles)}")


def followed(client: OpenAI, id: str) -> Any:
    """The job when it has ended; its events are printed as they come."""
    seen: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(id)
        events = [event for event in client.fine_tuning.jobs.list_events(id, limit=100) if event.id not in seen]
        for event in reversed(events):
            seen.add(event.id)
            step = event.data.get("step") if isinstance(event.data, dict) else None
            if step is None or step % 20 == 0:
                print(f"   {time.strftime('%H:%M:%S', time.localtime(event.created_at))} {event.message}")
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1.0)


def walk(client: OpenAI, path: Path, model: str, questions: tuple[str, ...]) -> int:
    """All steps; returns an exit code."""
    looked_at(path)
    with path.open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    client.files.wait_for_processing(file.id)
    print(f"2. uploaded: {file.id}, {file.bytes:,} bytes, {file.status}")
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, suffix="walk", seed=1)
    listed = job.id in {one.id for one in client.fine_tuning.jobs.list()}
    print(f"3. created: {job.id}, {job.status}, {'and' if listed else 'but not'} listed")
    began = time.monotonic()
    job = followed(client, job.id)
    print(
        f"4. {job.status} after {time.monotonic() - began:.0f} s, {job.trained_tokens} tokens trained on; {job.error}"
    )
    if job.status != "succeeded":
        return 1
    table = list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))
    print(
        f"5. results: {len(table)} steps, training loss {table[0]['train_loss'][:5]} -> {table[-1]['train_loss'][:5]}"
    )
    kept = client.fine_tuning.jobs.checkpoints.list(job.id).data
    print(f"6. checkpoints: {[one.fine_tuned_model_checkpoint for one in kept]}")
    names = [model, *([kept[-1].fine_tuned_model_checkpoint] if len(kept) > 1 else []), job.fine_tuned_model]
    print("7. answers:")
    for question in questions:
        for name in names:
            asked: Any = {"model": name, "messages": [{"role": "user", "content": question}], "temperature": 0}
            whole = client.chat.completions.create(**asked, max_tokens=60).choices[0].message.content
            pieces = client.chat.completions.create(**asked, max_tokens=60, stream=True)
            streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
            print(f"   {name}: {whole!r}" + ("" if whole == streamed else f", but streamed {streamed!r}"))
    print(f"8. deleted: {client.models.delete(job.fine_tuned_model).deleted and client.files.delete(file.id).deleted}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--model", default="ember")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        process, url, key = started(Path(name) / "home", options.model)
        try:
            client = OpenAI(base_url=url, api_key=key, _strict_response_validation=True)
            return walk(client, options.file or hotel(Path(name)), options.model.partition("=")[0], QUESTIONS)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
