"""`tunesmith serve`: the OpenAI-compatible API and its workers."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.keys import records_of
from tunesmith.cli.queue.stores import Blobs, Records, addresses

if TYPE_CHECKING:
    from tunesmith.serve.server import Server

SWITCH = 0.0005  # seconds that one thread may keep the others from the interpreter: what computes must soon go on


class Log(enum.StrEnum):
    """How requests are logged."""

    text = "text"
    json = "json"
    none = "none"


class Precision(enum.StrEnum):
    """Of weights."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Engine(enum.StrEnum):
    """What computes answers."""

    local = "local"
    vllm = "vllm"


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
    grader: Annotated[
        list[str], typer.Option(help="A model elsewhere that may grade: NAME=https://host/v1#model; repeatable.")
    ] = [],  # noqa: B006
    allow_private_webhooks: Annotated[
        bool, typer.Option(help="Let webhooks be in your own networks, and without TLS.")
    ] = False,
    precision: Annotated[
        Precision, typer.Option(help="Of the weights that answer: auto is fp32 on a CPU and bf16 on a GPU.")
    ] = Precision.auto,
    engine: Annotated[
        Engine, typer.Option(help="What computes answers: this machine, or a vLLM server.")
    ] = Engine.local,
    url: Annotated[
        str | None,
        typer.Option(help="Address of the vLLM server, as in http://gpu:8000/v1; it reads our models' folder."),
    ] = None,
    log: Annotated[Log, typer.Option(help="How each request is written to stderr.")] = Log.text,
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Serve the API that OpenAI's clients use: files, fine-tuning jobs, models, chat."""
    # 1. what the options may not be is said before anything heavy is loaded
    from importlib.util import find_spec

    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import data_home

    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "multipart")):
        raise ConfigError("the server needs an extra: pip install 'tunesmith[serve]'.")
    if unknown := set(allow_integration) - {"wandb"}:
        raise ConfigError(f"--allow-integration {min(unknown)}: wandb is the one that OpenAI's API has.")
    if (url is None) != (engine is Engine.local) or (url and precision is not Precision.auto):
        raise ConfigError("--engine vllm needs --url, which --engine local has not; vLLM chooses its own --precision.")
    import uvicorn

    from tunesmith.cli.serving import Draining, bound, workers_beside
    from tunesmith.infer.vllm import VllmServer
    from tunesmith.serve.app import make_app
    from tunesmith.serve.engines import Engines, by_vllm, local
    from tunesmith.serve.logs import write_log
    from tunesmith.serve.names import read_bases, read_graders
    from tunesmith.serve.server import Server
    from tunesmith.store.stores import open_stores
    from tunesmith.web.pages import add_pages

    # 2. stores, bases, and what answers
    home = (home or data_home()).absolute()
    bases = read_bases(model)
    make = local(precision.value) if url is None else by_vllm(VllmServer(url), bases.table)
    where = addresses(records or records_of(home), blobs)
    stores = open_stores(*where)
    server = Server(
        stores, bases, Engines(make=make), home / "models",
        private_webhooks=allow_private_webhooks, integrations=tuple(allow_integration), graders=read_graders(grader),
    )  # fmt: skip
    # 3. an address, which is told before anybody can ask there
    listening = bound(host, port)
    greet(server, host, listening.getsockname()[1])
    # 4. the app and its workers, until a signal ends them
    hosts = ["*"] if host in ("0.0.0.0", "::") else [host, "localhost", "127.0.0.1", *allow_host]
    app = make_app(server, hosts, allow_origin)
    add_pages(app)
    rules: dict[str, Any] = {"access_log": False, "timeout_graceful_shutdown": 30}
    write_log(log)
    sys.setswitchinterval(SWITCH)
    with workers_beside(workers, where):
        Draining(server.ending, uvicorn.Config(app, log_level="warning", **rules)).run(sockets=[listening])


def greet(server: Server, host: str, port: int) -> None:
    """Say where it is, and the first key, once."""
    from tunesmith.serve.keys import create_key, list_keys

    if not list_keys(server.stores.records):
        _, secret = create_key(server.stores.records, "first", "default", "admin")
        typer.echo(f"your API key, shown this once: {secret}")
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    typer.echo(f"serving {url}, models {', '.join(server.bases.table)}")
    typer.echo(f"  curl {url}/models -H 'Authorization: Bearer YOUR_KEY'")
    typer.echo(f"  Python: OpenAI(base_url='{url}', api_key='YOUR_KEY')")
    typer.echo(f"  in a browser: {url.removesuffix('v1')}")
