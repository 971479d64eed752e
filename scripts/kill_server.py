"""Kill the server in uploads, creates and streams: what was acknowledged is there, and nothing else is half there.

    python scripts/kill_server.py               60 kills, about four minutes
    python scripts/kill_server.py --kills 3

Clients upload files (whole and in parts), create jobs under keys that they send again, and read streamed answers,
while the server is killed by SIGKILL at random moments and started again. Whoever got an answer writes it down. At the
end each file that was acknowledged has the bytes that were sent, each key has one job, and whatever else the records
know of is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

SERVE = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--workers", "0"]
ROW = b'{"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}\n'


class Clients:
    """Threads that ask without end, and write down what they were told."""

    def __init__(self, url: str, secret: str, draw: random.Random) -> None:
        self.url, self.secret, self.over = url, secret, False
        self.files: dict[str, str] = {}  # id -> SHA-256
        self.jobs: dict[str, set[str]] = {}  # key -> ids
        self.asked, self.lock = Counter[str](), threading.Lock()
        doings = (self.upload, self.upload_in_parts, self.create, self.stream)
        seeds = [draw.random() for _ in doings]
        self.threads = [threading.Thread(target=self.go_on, args=pair) for pair in zip(doings, seeds, strict=True)]

    def go_on(self, doing: Any, seed: float) -> None:
        draw = random.Random(seed)
        client = OpenAI(base_url=self.url, api_key=self.secret, max_retries=0, timeout=20)
        while not self.over:
            try:
                doing(client, draw)
                self.note(f"{doing.__name__}, answered")
            except (openai.APIConnectionError, openai.APIError):
                self.note(f"{doing.__name__}, broken off")
                time.sleep(0.05)

    def note(self, what: str) -> None:
        with self.lock:
            self.asked[what] += 1

    def upload(self, client: OpenAI, draw: random.Random) -> None:
        content = draw.randbytes(draw.choice([100, 100_000, 4_000_000]))
        self.files[client.files.create(file=content, purpose="batch").id] = hashlib.sha256(content).hexdigest()

    def upload_in_parts(self, client: OpenAI, draw: random.Random) -> None:
        parts = [draw.randbytes(50_000) for _ in range(3)]
        whole = b"".join(parts)
        upload = client.uploads.create(bytes=len(whole), filename="x", mime_type="text/plain", purpose="batch")
        ids = [client.uploads.parts.create(upload.id, data=part).id for part in parts]
        done = client.uploads.complete(upload.id, part_ids=ids)
        assert done.file is not None
        self.files[done.file.id] = hashlib.sha256(whole).hexdigest()

    def create(self, client: OpenAI, draw: random.Random) -> None:
        key = f"key-{draw.randrange(10_000)}"
        content = ROW * 12 + f"{key}\n".encode()
        file = client.files.create(file=content, purpose="fine-tune")
        self.files[file.id] = hashlib.sha256(content).hexdigest()
        while not self.over:  # sent again until it is answered, as a careful client does
            try:
                headers = {"Idempotency-Key": key}
                job = client.fine_tuning.jobs.create(model="ember", training_file=file.id, extra_headers=headers)
            except openai.APIConnectionError:
                time.sleep(0.05)
            else:
                self.jobs.setdefault(key, set()).add(job.id)
                return

    def stream(self, client: OpenAI, draw: random.Random) -> None:
        asked = [{"role": "user", "content": "What time is breakfast?"}]
        for _ in client.chat.completions.create(model="ember", messages=asked, max_tokens=20, stream=True):  # type: ignore
            pass


def start(home: Path, port: int) -> subprocess.Popen[bytes]:
    with (home / "log").open("ab") as log:
        command = [*SERVE, "--home", str(home / "home"), "--port", str(port)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def until_ready(port: int) -> None:
    while True:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def verify(clients: Clients, client: OpenAI, home: Path) -> list[str]:
    """What is not as it must be."""
    from sqlalchemy import select

    from tunesmith.store.schema import uses
    from tunesmith.store.stores import open_stores

    wrong: list[str] = []
    for id, sha256 in clients.files.items():
        try:
            found = hashlib.sha256(client.files.content(id).read()).hexdigest()
        except openai.NotFoundError:
            wrong.append(f"lost: {id}")
        else:
            wrong += [] if found == sha256 else [f"another content: {id}"]
    there = {job.id for job in client.fine_tuning.jobs.list(limit=1000)}
    for key, ids in clients.jobs.items():
        wrong += [f"doubled: {key} has the jobs {ids}"] if len(ids) != 1 else []
        wrong += [f"lost: {id}" for id in ids - there]
    stores = open_stores(f"sqlite:///{home / 'home' / 'records.sqlite'}", str(home / "home" / "blobs"))
    with stores.records.read() as connection:
        needed = set(connection.scalars(select(uses.c.sha256)))
    for sha256 in needed:
        try:
            for _ in stores.blobs.read(sha256):
                pass
        except Exception as error:  # noqa: BLE001  whatever it is, it is wrong
            wrong.append(f"half there: {error}")
    stores.records.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        home = Path(name)
        os.environ["TUNESMITH_HOME"] = str(home / "cache")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = start(home, port)
        until_ready(port)
        secret = next(line.split()[-1] for line in (home / "log").read_text().splitlines() if "API key" in line)
        clients = Clients(f"http://127.0.0.1:{port}/v1", secret, draw)
        for thread in clients.threads:
            thread.start()
        for number in range(options.kills):
            time.sleep(draw.uniform(0.1, 2.0) + (8.0 if number % 5 == 4 else 0.0))  # a model takes seconds to load
            server.send_signal(signal.SIGKILL)
            server.wait()
            server = start(home, port)
            until_ready(port)
        clients.over = True
        for thread in clients.threads:
            thread.join()
        client = OpenAI(base_url=clients.url, api_key=secret)
        wrong = verify(clients, client, home)
        server.terminate()
        server.wait()
    for what, count in sorted(clients.asked.items()):
        print(f"  {count:5} {what}")
    counts = f"{len(clients.files)} files and {len(clients.jobs)} keys of jobs were acknowledged"
    print(f"seed {options.seed}: {options.kills} kills; {counts}; {len(wrong)} found wrong")
    for line in wrong:
        print("  " + line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
