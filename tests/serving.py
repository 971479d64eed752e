"""A server of the API in threads of this process, for the tests of it."""

from __future__ import annotations

import json
import threading
import time

import uvicorn
from openai import OpenAI

from conftest import many_rows
from tunesmith.exec.worker import Settings, Worker
from tunesmith.serve.app import make_app
from tunesmith.serve.engines import Engines
from tunesmith.serve.keys import create_key
from tunesmith.serve.names import read_bases
from tunesmith.serve.server import Server
from tunesmith.store.stores import open_stores
from tunesmith.web.pages import add_pages

OURS = {"tunesmith": {"precision": "fp32", "output": {"checkpoint_every": 3}, "optim": {"batch_size": 8}}}


class Running:
    """A server of its own, in threads of this process."""

    def __init__(self, folder, base, records=None, origins=(), engines=None, **settings):
        self.stores = open_stores(records or f"sqlite:///{folder / 'records.sqlite'}", str(folder / "blobs"))
        bases = read_bases([f"tiny={base}", f"gpt-3.5-turbo={base}"])
        server = Server(self.stores, bases, engines or Engines(), folder / "models", 1 << 20, **settings)
        self.server_settings, self.base = server, base
        self.app = make_app(server, ["127.0.0.1"], list(origins))
        add_pages(self.app)
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self.worker = Worker(self.stores, Settings(look=0.05, work=folder / "work"), lambda sentence: None)
        self.folder, self.clients = folder, []
        self.threads = [threading.Thread(target=one.run) for one in (self.server, self.worker)]
        for thread in self.threads:
            thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def client(self, project="default", role="member"):
        _, secret = create_key(self.stores.records, "test", project, role)
        return self.as_client(secret)

    def as_client(self, secret, strict=True):
        client = OpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0, _strict_response_validation=strict)
        self.clients.append(client)
        return client

    def stop(self):
        for client in self.clients:
            client.close()
        self.server.should_exit = True
        self.worker.drain()
        for thread in self.threads:
            thread.join(60)
        self.stores.records.close()


def rows(count):
    return ("rows.jsonl", "".join(json.dumps(row) + "\n" for row in many_rows(count)).encode())


def wait_for_end(client, id, states=("succeeded", "failed", "cancelled")):
    deadline = time.monotonic() + 90
    while (job := client.fine_tuning.jobs.retrieve(id)).status not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job
