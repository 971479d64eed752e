"""`tunesmith serve`: the OpenAI-compatible API and its workers; `tunesmith keys`: who may use it."""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.queue.stores import Blobs, Records, addresses, opened_records

if TYPE_CHECKING:
    from tunesmith.store.records import Records as Database

keys = typer.Typer(help="Keys of the API: create, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
WORKER = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "worker", "--with-parent"]
Home = Annotated[Path | None, typer.Option(help="The server's --home, where it has no --records.")]
LOOK = 5.0  # seconds between two looks at whether they live


class Log(enum.StrEnum):
    """How requests are logged."""

    text = "text"
    json = "json"
    none = "none"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    home: Annotated[Path | None, typer.Option(help="Folder for records, files and models.")] = None,
    model: Annotated[
        list[str], typer.Option(help="A base that may be tuned and asked: NAME, or NAME=BASE; repeatable.")
    ] = ["ember"],  # noqa: B006
    workers: Annotated[int, typer.Option(help="Workers on this machine; 0 if they are elsewhere.", min=0)] = 1,
    allow_host: Annotated[list[str], typer.Option(help="Another name that clients reach it by; repeatable.")] = [],  # noqa: B006
    allow_origin: Annotated[
        list[str], typer.Option(help="A site whose pages may ask it, as in https://app.example; repeatable.")
    ] = [],  # noqa: B006
    allow_integration: Annotated[
        list[str], typer.Option(help="A tracker that clients may send metrics to: wandb; repeatable.")
    ] = [],  # noqa: B006
    allow_private_webhooks: Annotated[
        bool, typer.Option(help="Let webhooks be in your own networks, and without TLS.")
    ] = False,
    log: Annotated[Log, typer.Option(help="How each request is written to stderr.")] = Log.text,
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Serve the API that OpenAI's clients use: files, fine-tuning jobs, models, chat."""
    from importlib.util import find_spec

    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import data_home

    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "multipart")):
        raise ConfigError("the server needs an extra: pip install 'tunesmith[serve]'.")
    import uvicorn

    from tunesmith.serve.app import make_app
    from tunesmith.serve.engines import Engines
    from tunesmith.serve.keys import create_key, list_keys
    from tunesmith.serve.logs import write_log
    from tunesmith.serve.names import read_bases
    from tunesmith.serve.server import Server
    from tunesmith.store.stores import open_stores

    if unknown := set(allow_integration) - {"wandb"}:
        raise ConfigError(f"--allow-integration {min(unknown)}: wandb is the one that OpenAI's API has.")
    home = (home or data_home()).absolute()
    where = addresses(records or _records_of(home), blobs)
    stores = open_stores(*where)
    server = Server(
        stores, read_bases(model), Engines(), home / "models", private_webhooks=allow_private_webhooks,
        integrations=tuple(allow_integration),
    )  # fmt: skip
    listening = _bound(host, port)
    if not list_keys(stores.records):
        _, secret = create_key(stores.records, "first", "default", "admin")
        typer.echo(f"your API key, shown this once: {secret}")
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listening.getsockname()[1]}/v1"
    typer.echo(f"serving {url}, models {', '.join(server.bases.table)}")
    typer.echo(f"  curl {url}/models -H 'Authorization: Bearer YOUR_KEY'")
    typer.echo(f"  Python: OpenAI(base_url='{url}', api_key='YOUR_KEY')")
    hosts = ["*"] if host in ("0.0.0.0", "::") else [host, "localhost", "127.0.0.1", *allow_host]
    write_log(log)
    with _workers(workers, where):
        config = uvicorn.Config(
            make_app(server, hosts, allow_origin), log_level="warning", access_log=False, timeout_graceful_shutdown=30
        )
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        ConfigError: it is taken, or is not this machine's.
    """
    from tunesmith.core.errors import ConfigError

    try:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({reason}). Take another --port."
        ) from None
    return made


def _records_of(home: Path) -> str:
    return f"sqlite:///{home.absolute() / 'records.sqlite'}"


@contextlib.contextmanager
def _workers(count: int, where: tuple[str, str]) -> Generator[None]:
    """Workers in processes of their own: started again when they die, ended when this process ends, however it does."""
    given = {**os.environ, "TUNESMITH_RECORDS": where[0], "TUNESMITH_BLOBS": where[1]}  # a list of processes shows none

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(WORKER, stdin=subprocess.PIPE, env=given)

    started, over = [start() for _ in range(count)], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            for number, process in enumerate(started):
                if process.poll() is not None:
                    typer.echo(f"a worker ended with code {process.returncode}; another is started", err=True)
                    started[number] = start()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    project: Annotated[str, typer.Option(help="Whose files, jobs and models it opens.")] = "default",
    role: Annotated[str, typer.Option(help="member or admin.")] = "member",
    per_minute: Annotated[int | None, typer.Option(help="Requests that it may make.", min=1)] = None,
    largest_file: Annotated[int | None, typer.Option(help="Bytes of a file that it may send.", min=1)] = None,
    home: Home = None,
    records: Records = None,
) -> None:
    """Make a key; its secret is shown once."""
    from tunesmith.serve.audit import by_operator
    from tunesmith.serve.keys import create_key

    opened = _opened(home, records)
    key, secret = create_key(opened, name, project, role, per_minute, largest_file)
    by_operator(opened, project, "create", key.id)
    typer.echo(f"{key.id} ({key.role} of {key.project}): {secret}")


@keys.command("list")
def list_all(home: Home = None, records: Records = None) -> None:
    """List all keys."""
    from tunesmith.serve.keys import list_keys

    for key in list_keys(_opened(home, records)):
        state = "revoked" if key.revoked else key.role
        limits = f"{key.per_minute} a minute" if key.per_minute else ""
        limits += f", files to {key.largest_file:,} bytes" if key.largest_file else ""
        typer.echo(
            f"{key.id}  {key.start}...  {state:8} {key.project}  {key.name}  {limits.removeprefix(', ')}".rstrip()
        )


@keys.command("revoke")
def revoke(id: Annotated[str, typer.Argument(help="Of the key.")], home: Home = None, records: Records = None) -> None:
    """Let a key open nothing any more."""
    from tunesmith.serve.audit import by_operator
    from tunesmith.serve.keys import revoke_key

    opened = _opened(home, records)
    key = revoke_key(opened, id)
    by_operator(opened, key.project, "revoke", key.id)
    typer.echo(f"{key.id}: revoked")


def audit(
    days: Annotated[float, typer.Option(help="How far back.", min=0)] = 1.0,
    project: Annotated[str | None, typer.Option(help="Of one project alone.")] = None,
    most: Annotated[int, typer.Option(help="Lines, the last ones.", min=1)] = 1000,
    home: Home = None,
    records: Records = None,
) -> None:
    """Show who has changed what through the API: one JSON object a line."""
    import json
    import time

    from tunesmith.serve.audit import read

    for entry in read(_opened(home, records), time.time() - days * 24 * 3600, project, most):
        typer.echo(json.dumps(vars(entry)))


def _opened(home: Path | None, records: str | None) -> Database:
    return opened_records(records or (_records_of(home) if home is not None else None))
