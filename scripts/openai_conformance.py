"""OpenAI's own tests of its client, against a tunesmith server: which methods of the client work here.

    python scripts/openai_conformance.py            prints counts and the methods
    python scripts/openai_conformance.py --write    puts them into docs/serve.md

The tests come with the source distribution of the `openai` that is installed; it is fetched from the package index.
They show the shape of answers alone (strictly validated); what jobs and models do is shown by tests/test_serve.py. They
name ids that they expect to be there: a middleware of this script makes such records before each request, and leaves
out the parameters of DROPPED. It answers nothing itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, MARKS = ROOT / "docs" / "serve.md", re.compile(r"(<!-- methods -->\n).*(<!-- /methods -->\n)", re.DOTALL)
SUITES = ("test_files.py", "test_uploads.py", "uploads", "fine_tuning", "test_models.py", "chat", "test_completions.py")
SUITES = (*SUITES, "test_webhooks.py", "webhooks")
DROPPED = ("tools", "functions", "tool_choice", "function_call", "md5", "logit_bias")  # no tools; the last two are none
FILES, JOB = ("file-abc123", "file_id"), "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
MODELS = ("ft:gpt-4o-mini:acemeco:suffix:abc123", "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd")
COMPLETION = "completion_id"
WEBHOOK, NOWHERE = "whe_123", "https://"  # the tests' address is none: that of the server's health stands for it
UPLOAD, PART, PERMISSION = "upload_abc123", "string", "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
BASES = ["gpt-4o-mini=ember", "gpt-5.4=ember", "gpt-6-astra=ember", "gpt-3.5-turbo-instruct=ember", "string=ember"]


class Seeds:
    """Makes what a test names, before its request."""

    def __init__(self, app: Any, stores: Any) -> None:
        self.app, self.stores, self.told = app, stores, ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = self.seed()
        given = [*MODELS, *([JOB] if "/checkpoints/" in scope["path"] and "/jobs/" not in scope["path"] else [])]
        for one in given:
            scope["path"] = scope["path"].replace(one, name)
        scope["raw_path"] = scope["path"].encode()
        body = b""
        if scope["method"] == "POST" and b"json" in dict(scope["headers"]).get(b"content-type", b""):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            if body:
                values = {key: value for key, value in json.loads(body).items() if key not in DROPPED}
                if values.get("url") == NOWHERE:
                    values["url"] = self.told
                body = json.dumps(values).encode()
            scope["headers"] = [
                (key, str(len(body)).encode() if key == b"content-length" else value) for key, value in scope["headers"]
            ]
            sent = False

            async def again() -> Any:
                nonlocal sent
                if sent:
                    return await receive()
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self.app(scope, again, send)
            return
        await self.app(scope, receive, send)

    def seed(self) -> str:
        """Files, upload, job, permission and a tuned model, whose name is returned."""
        from sqlalchemy import delete, insert, select, update

        from tunesmith.exec.executor import Job
        from tunesmith.exec.queue.commit import Ending, end
        from tunesmith.exec.queue.lease import claim
        from tunesmith.exec.queue.submit import Submission, submit
        from tunesmith.serve.names import tuned_name
        from tunesmith.serve.signing import new_secret
        from tunesmith.store import schema
        from tunesmith.store.stores import know_project, touch, use

        stores, content = self.stores, b"{}\n" * 20
        sha256 = stores.blobs.put_bytes(content)
        touch(stores.records, [(sha256, len(content))])
        details = {
            "api": True, "n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 1.0, "seed": 0,
            "model": "gpt-4o-mini", "training_file": FILES[0], "validation_file": None, "metadata": None,
            "suffix": None, "root": "gpt-4o-mini",
        }  # fmt: skip
        with stores.records.write() as connection:
            know_project(connection, "default")
            for id in FILES:
                connection.execute(delete(schema.files).where(schema.files.c.id == id))
                row = {
                    "id": id,
                    "project": "default",
                    "name": "rows.jsonl",
                    "purpose": "fine-tune",
                    "bytes": len(content),
                }
                connection.execute(insert(schema.files).values(**row, sha256=sha256, created=time.time()))
                use(connection, f"file:{id}", [(sha256, len(content))])
            connection.execute(delete(schema.completions))
            message = {"role": "assistant", "content": "x", "refusal": None}
            choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
            answer = {"id": COMPLETION, "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
            row = {"id": COMPLETION, "project": "default", "model": "m", "created": time.time(), "metadata": {}}
            asked = {"messages": [message]}
            connection.execute(insert(schema.completions).values(**row, asked=asked, answer=answer))
            connection.execute(delete(schema.deliveries))
            connection.execute(delete(schema.webhooks))
            row = {"id": WEBHOOK, "project": "default", "name": "n", "url": self.told, "types": ["batch.completed"]}
            row |= {"secret": new_secret(), "created": time.time(), "updated": time.time()}
            connection.execute(insert(schema.webhooks).values(**row))
            connection.execute(delete(schema.parts).where(schema.parts.c.upload == UPLOAD))
            connection.execute(delete(schema.uploads).where(schema.uploads.c.id == UPLOAD))
            row = {"name": "rows.jsonl", "purpose": "fine-tune", "bytes": len(content), "created": time.time()}
            row |= {"status": "pending", "project": "default", "expires": time.time() + 600}
            connection.execute(insert(schema.uploads).values(id=UPLOAD, **row))
            row = {"upload": UPLOAD, "sha256": sha256, "bytes": len(content), "created": time.time()}
            connection.execute(insert(schema.parts).values(id=PART, **row))
            there = connection.scalar(select(schema.jobs.c.id).where(schema.jobs.c.id == JOB))
        wanted = Submission(Job("finetune", {}), details=details)
        if there is None:
            made = submit(stores.records, wanted)
            with stores.records.write() as connection:
                connection.execute(update(schema.jobs).where(schema.jobs.c.id == made).values(id=JOB))
        with stores.records.write() as connection:
            connection.execute(update(schema.jobs).where(schema.jobs.c.id == JOB).values(state="queued", wanted="run"))
            published = connection.scalar(select(schema.models.c.job))
        if published is None:
            id = submit(stores.records, Submission(Job("finetune", {}), details=details, priority=1))
            lease = claim(stores.records, "seed", 60.0)
            assert lease is not None
            assert lease.id == id
            end(stores.records, lease, Ending("succeeded", files={}))
            published = id
        name = tuned_name("gpt-4o-mini", "default", None, published)
        with stores.records.write() as connection:
            connection.execute(delete(schema.permissions).where(schema.permissions.c.id == PERMISSION))
            row = {"id": PERMISSION, "model": name, "project": "shared", "created": time.time()}
            connection.execute(insert(schema.permissions).values(**row))
        return name


def serve(folder: Path) -> tuple[Any, str]:
    """A server in a thread, and its address."""
    import hashlib

    import uvicorn
    from sqlalchemy import update

    from tunesmith.serve.app import make_app
    from tunesmith.serve.engines import Engines
    from tunesmith.serve.keys import create_key
    from tunesmith.serve.names import read_bases
    from tunesmith.serve.server import Server
    from tunesmith.store import schema
    from tunesmith.store.stores import open_stores

    stores = open_stores(f"sqlite:///{folder / 'records.sqlite'}", str(folder / "blobs"))
    for name, role in (("My API Key", "admin"), ("My Admin API Key", "admin")):
        key, _ = create_key(stores.records, name, "default", role)
        with stores.records.write() as connection:
            hashed = hashlib.sha256(name.encode()).hexdigest()
            connection.execute(update(schema.keys).where(schema.keys.c.id == key.id).values(hash=hashed))
    models = folder / "models"
    about = Server(
        stores, read_bases(BASES), Engines(), models, private_webhooks=True, integrations=("wandb",)
    )  # fmt: skip
    seeds = Seeds(make_app(about, ["127.0.0.1"]), stores)
    server = uvicorn.Server(uvicorn.Config(seeds, port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    seeds.told = f"{url}/healthz"
    return server, f"{url}/v1"


def fetch(folder: Path) -> Path:
    """The source of the installed client, with its tests."""
    version = importlib.metadata.version("openai")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-binary", "openai", "--dest", folder, f"openai=={version}"], check=True)
    [archive] = folder.glob("openai-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run(source: Path, url: str, folder: Path) -> dict[str, Counter[str]]:
    """How the tests of each method of the client ended."""
    report = folder / "report.xml"
    suites = [f"tests/api_resources/{name}" for name in SUITES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *suites]
    command += ["-n", "0", "-o", "addopts=", "-k", "not AsyncHTTPX"]
    environment = {**os.environ, "TEST_API_BASE_URL": url}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    print(done.stdout[-3000:] if done.returncode else done.stdout.splitlines()[-1])
    from xml.etree import ElementTree

    found: dict[str, Counter[str]] = defaultdict(Counter)
    for case in ElementTree.parse(report).iter("testcase"):
        place = case.get("classname", "").removeprefix("tests.api_resources.")
        area = re.sub(r"\.Test\w+$", "", place).replace("test_", "")
        name = re.sub(r"^test_(method|raw_response|streaming_response|path_params)_", "", case.get("name", ""))
        method = re.sub(r"\[.*|_with_all_params|_overload_\d", "", name)
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        found[f"{area}.{method}"][outcome] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = fetch(folder)
        server, url = serve(folder)
        found = run(source, url, folder)
        server.should_exit = True
    total = sum(found.values(), Counter[str]())
    works = sorted(method for method, counts in found.items() if not counts["failure"] + counts["error"])
    version = importlib.metadata.version("openai")
    lines = [
        f"{len(works)} of {len(found)} methods of the client (openai {version}) answer as its own tests want; "
        f"{total['passed']} of {sum(total.values())} tests pass, with strict validation.",
        "",
        f"- they do: {', '.join(f'`{one}`' for one in works)}",
        f"- they do not: {', '.join(f'`{one}`' for one in sorted(set(found) - set(works))) or 'none'}",
    ]
    print("\n".join(lines))
    if options.write:
        text = PAGE.read_text()
        PAGE.write_text(MARKS.sub(lambda marks: marks[1] + "\n".join(lines) + "\n" + marks[2], text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
