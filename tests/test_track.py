"""Tracking sinks: what was said arrives, value by value; a resumed run goes on; a dead server costs nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from tunesmith.core import events
from tunesmith.core.config import validate
from tunesmith.core.errors import ConfigError, Stopped, TunesmithError
from tunesmith.core.events import from_json, silent
from tunesmith.core.files import read_json
from tunesmith.track import sink as track_sink
from tunesmith.track.sink import Note, Sender
from tunesmith.track.trackers import TrackConfig, open_trackers

# MLflow's tables are declared in a way that SQLAlchemy 2.1 calls deprecated.
foreign = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

RECIPE = {
    "model": {"base": "ember", "revision": None},
    "data": {
        "train": {"data/*.jsonl": 2.0},
        "columns": {"question": "Frage"},
        "clean": [],
        "system": "Be the concierge.",
    },
    "optim": {"learning_rate": 0.001, "betas": [0.9, 0.999], "clip": True},
    "track": {"mlflow": "http://me:password@127.0.0.1:1"},
}
PLAN = {"kind": "plan", "device": "cpu", "threads": 2, "reasons": {"device": "no CUDA device"}, "trainable": 128,
        "learning_rate": 0.25}  # fmt: skip


@dataclass(frozen=True)
class Later(events.Event):
    """A kind that no sink knows."""

    step: int
    rows: int
    text: str


def interval(value):
    return {"value": value, "low": value - 1, "high": value + 1, "rows": 12}


SCORES = {
    "kind": "scores", "model": "concierge", "rows": 12, "against": "ember",
    "scores": [
        {"metric": "token accuracy", "unit": "%", "score": interval(61.5), "other": interval(40.25),
         "difference": interval(21.25), "verdict": "better"},
        {"metric": "perplexity", "unit": "", "score": interval(3.5), "other": None, "difference": None, "verdict": ""},
    ],
}  # fmt: skip
SCORED = {
    "score/token_accuracy/tuned": 61.5,
    "score/token_accuracy/base": 40.25,
    "score/token_accuracy/difference": 21.25,
    "score/perplexity/tuned": 3.5,
}


def step(number, scale=1.0):
    return {
        "kind": "step", "time": 1.0, "step": number, "steps": 8, "loss": scale / number, "token_accuracy": 0.5,
        "learning_rate": 1e-4 * number, "gradient_norm": 2.0 * scale, "trained_tokens": 300 + number,
        "tokens_per_second": 812.25, "seconds": 0.5, "memory_bytes": 3 * 2**30 + number, "later_metric": -scale,
        "note": "words", "flag": True,
    }  # fmt: skip


def validation(number, scale=1.0):
    return {"kind": "validation", "step": number, "loss": scale * 2 / number, "token_accuracy": 0.25, "best": True}


DRAWN = ["loss", "token_accuracy", "learning_rate", "gradient_norm", "trained_tokens", "tokens_per_second",
         "seconds", "memory_bytes", "later_metric"]  # fmt: skip


def first_attempt(track):
    """Six steps, a look after the third and the sixth, and a stop."""
    track(from_json(PLAN))
    for number in range(1, 7):
        track(from_json(step(number)))
        if number % 3 == 0:
            track(from_json(validation(number)))
    raise Stopped("stopped after step 6 of 8.")


def second_attempt(track):
    """From the checkpoint of step 4 to the end; other values, to tell the attempts apart."""
    track(from_json({"kind": "resumed", "step": 4, "changes": []}))
    track(from_json(PLAN))
    for number in range(5, 9):
        track(from_json(step(number, 10.0)))
        if number % 3 == 0:
            track(from_json(validation(number, 10.0)))
    track(from_json(SCORES))


def expected():
    """Tag, then step, then value: of both attempts, what holds in the end."""
    values = {}
    for number in range(1, 9):
        scale = 1.0 if number <= 4 else 10.0
        for name in DRAWN:
            values.setdefault(f"train/{name}", {})[number] = step(number, scale)[name]
        if number % 3 == 0:
            for name in ("loss", "token_accuracy"):
                values.setdefault(f"validation/{name}", {})[number] = validation(number, scale)[name]
    return values | {name: {8: value} for name, value in SCORED.items()}


def run_both(config, folder):
    """A run in two attempts; returns the warnings."""
    folder.mkdir(exist_ok=True)
    heard = []
    with pytest.raises(Stopped), open_trackers(config, folder, RECIPE, heard.append) as track:
        first_attempt(track)
    with open_trackers(config, folder, RECIPE, heard.append) as track:
        second_attempt(track)
    return heard


# The section


def test_the_section_needs_no_heavy_library():
    code = (
        "import sys, tunesmith.track.trackers as t; t.TrackConfig(mlflow='sqlite:///x.db'); "
        "sys.exit(bool({'torch', 'mlflow', 'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_an_address_without_a_scheme_is_refused_with_advice():
    with pytest.raises(ConfigError, match=r"mlflow = '127\.0\.0\.1:5000': must match .*Write the scheme too"):
        validate(TrackConfig, {"mlflow": "127.0.0.1:5000"}, "recipe.yaml")
    for uri in ("http://127.0.0.1:5000", "sqlite:///m.db", "postgresql+psycopg://me@host/m", "databricks"):
        assert validate(TrackConfig, {"mlflow": uri}, "recipe.yaml").mlflow == uri


def test_without_sinks_nothing_is_written(tmp_path):
    with open_trackers(TrackConfig(), tmp_path, RECIPE, silent) as track:
        track(from_json(step(1)))
    assert list(tmp_path.iterdir()) == []


def test_beside_tells_the_sinks_before_a_report_that_ends_the_work(tmp_path):
    pytest.importorskip("tensorboard")

    def ends(event):
        raise Stopped("enough")

    with pytest.raises(Stopped), open_trackers(TrackConfig(tensorboard=True), tmp_path, RECIPE, silent) as track:
        track.beside(ends)(from_json(step(1)))
    assert read_scalars(tmp_path)["train/loss"] == {1: 1.0}


# The thread between


class Sometimes:
    """A sink that fails as often as told, and then takes all."""

    name = "sometimes"

    def __init__(self, failures):
        self.failures, self.notes, self.ending = failures, [], None

    def send(self, notes):
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        self.notes += notes

    def close(self, ending):
        self.ending = ending


def finish(sender, patience=60.0):
    sender.end("finished")
    sender.wait(time.monotonic() + patience)
    return sender.trouble()


def test_notes_arrive_in_order_and_once_although_a_call_failed():
    sink = Sometimes(failures=1)
    sender = Sender(sink)
    notes = [Note(number, {"loss": 1.0}) for number in range(track_sink.MOST)]
    for note in notes:
        sender.put(note)
    deadline = time.monotonic() + 20
    while not sink.notes and time.monotonic() < deadline:
        time.sleep(0.05)
    last = Note(99)
    sender.put(last)
    assert finish(sender) is None
    assert sink.notes == [*notes, last]
    assert sink.ending == "finished"


def test_a_sink_that_keeps_failing_is_left_alone_with_one_sentence():
    sink = Sometimes(failures=1000)
    sender = Sender(sink)
    sender.put(Note(1))
    sentence = finish(sender)
    assert sentence.startswith("sometimes is left alone from here on: Connection refused.")
    assert sender.trouble() is None
    assert sink.ending is None
    tries = 1000 - sink.failures
    sender.put(Note(2))
    assert tries == 1000 - sink.failures == 2


def test_a_sink_that_hangs_or_falls_behind_does_not_hold_the_run(monkeypatch):
    class Hanging(Sometimes):
        def send(self, notes):
            time.sleep(600)

    monkeypatch.setattr(track_sink, "FARTHEST_BEHIND", 60)
    sender = Sender(Hanging(0))
    sender.put(Note(1))
    assert "did not take the last notes" in finish(sender, patience=0.1)
    sender = Sender(Hanging(0))
    for number in range(200):
        sender.put(Note(number))
    assert "60 notes behind" in finish(sender, patience=0.1)


# TensorBoard


def read_board(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return board.Reload()


def read_scalars(folder):
    board = read_board(folder)
    return {tag: {point.step: point.value for point in board.Scalars(tag)} for tag in board.Tags()["scalars"]}


def as_float32(values):
    """What TensorBoard keeps of a number."""
    return {tag: {at: float(np.float32(value)) for at, value in points.items()} for tag, points in values.items()}


def test_tensorboard_holds_every_value_and_a_resumed_run_takes_back_what_it_does_again(tmp_path):
    pytest.importorskip("tensorboard")
    assert run_both(TrackConfig(tensorboard=True), tmp_path) == []
    assert read_scalars(tmp_path) == as_float32(expected())
    board = read_board(tmp_path)
    texts = {tag: [event.tensor_proto.string_val[0].decode() for event in board.Tensors(tag)]
             for tag in board.Tags()["tensors"]}  # fmt: skip
    assert "    optim.learning_rate: 0.001\n" in texts["recipe/text_summary"][0]
    assert "    plan.reasons.device: no CUDA device" in texts["plan/text_summary"][-1]
    loss = [(point.step, point.value) for point in board.Scalars("train/loss")]
    assert len(loss) == 8, "steps 5 and 6 were drawn twice"
    assert not (tmp_path / "track.json").exists()


def test_a_run_that_goes_back_in_the_middle_is_drawn_once(tmp_path):
    pytest.importorskip("tensorboard")
    with open_trackers(TrackConfig(tensorboard=True), tmp_path, RECIPE, silent) as track:
        for number in range(1, 6):
            track(from_json(step(number)))
        track(from_json({"kind": "rolled_back", "step": 2}))
        for number in range(3, 5):
            track(from_json(step(number, 10.0)))
    loss = [(point.step, point.value) for point in read_board(tmp_path).Scalars("train/loss")]
    assert loss == [(1, 1.0), (2, 0.5), (3, pytest.approx(10 / 3)), (4, 2.5)]


# MLflow


class Server:
    """A real tracking server on SQLite, started when needed and killed with all its processes."""

    def __init__(self, folder):
        self.folder, self.process, self.uri = folder, None, ""

    def start(self):
        if self.process is not None:
            return self.uri
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        command = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return self.uri
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self):
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("mlflow")
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


def client_of(uri):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(uri)


def test_mlflow_holds_every_value_and_a_resumed_run_goes_on_in_the_same_run(server, tmp_path):
    config = TrackConfig(mlflow=server.start(), experiment="hotel", name="shown")
    assert run_both(config, tmp_path) == []
    kept = read_json(tmp_path / "track.json")["mlflow"]
    client = client_of(server.uri)
    [run] = client.search_runs([client.get_experiment_by_name("hotel").experiment_id])
    assert kept == {"uri": server.uri, "experiment": "hotel", "run": run.info.run_id}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "shown")
    histories = {tag: client.get_metric_history(run.info.run_id, tag) for tag in expected()}
    assert set(run.data.metrics) == set(expected())
    newest = {tag: {point.step: point.value for point in points} for tag, points in histories.items()}
    assert newest == expected()
    assert [point.step for point in histories["train/loss"]] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert run.data.params == {
        "model.base": "ember", "model.revision": "null", "data.train": '{"data/*.jsonl": 2.0}',
        "data.columns.question": "Frage", "data.clean": "[]", "optim.learning_rate": "0.001",
        "optim.betas": "[0.9, 0.999]", "optim.clip": "true", "plan.device": "cpu", "plan.threads": "2",
        "plan.reasons.device": "no CUDA device", "plan.trainable": "128",
        "plan.learning_rate": "0.25",
    }  # fmt: skip


def end_with(error, track):
    track(from_json({**step(1), "loss": float("nan"), "gradient_norm": float("inf")}))
    raise error


def test_mlflow_is_told_how_a_run_ended_and_keeps_what_is_not_finite(server, tmp_path):
    client = client_of(server.start())
    for error, status in ((Stopped("by the user"), "KILLED"), (RuntimeError("ours"), "FAILED")):
        folder = tmp_path / status
        folder.mkdir()
        config = TrackConfig(mlflow=server.uri)
        with pytest.raises(type(error)), open_trackers(config, folder, RECIPE, silent) as track:
            end_with(error, track)
        run = client.get_run(read_json(folder / "track.json")["mlflow"]["run"])
        assert (run.info.status, run.info.run_name) == (status, status)
        assert client.get_experiment(run.info.experiment_id).name == "tunesmith"
        assert np.isnan(run.data.metrics["train/loss"])
        assert run.data.metrics["train/gradient_norm"] > 1e300  # MLflow's databases keep the largest number


def test_a_remote_run_that_is_gone_is_refused_with_the_way_out(server, tmp_path):
    config = TrackConfig(mlflow=server.start())
    (tmp_path / "track.json").write_text(
        json.dumps({"mlflow": {"uri": server.uri, "experiment": "tunesmith", "run": "0" * 32}})
    )
    with pytest.raises(TunesmithError, match=r"does not take the run \(.*not found.*delete track\.json"):
        open_trackers(config, tmp_path, RECIPE, silent)
    elsewhere = TrackConfig(mlflow=server.uri, experiment="another")
    with open_trackers(elsewhere, tmp_path, RECIPE, silent):
        assert read_json(tmp_path / "track.json")["mlflow"]["run"] != "0" * 32


def test_a_server_killed_in_the_middle_costs_one_warning(server, tmp_path):
    config = TrackConfig(mlflow=server.start(), tensorboard=True)
    heard = []
    with open_trackers(config, tmp_path, RECIPE, heard.append) as track:
        track(from_json(step(1)))
        server.kill()
        for number in range(2, 200):
            track(from_json(step(number)))
    assert [event.kind for event in heard] == ["warning"]
    assert heard[0].sentence.startswith(f"MLflow at {config.mlflow} is left alone from here on: Connection refused.")
    assert len(read_scalars(tmp_path)["train/loss"]) == 199
    with pytest.raises(TunesmithError, match=r"does not take the run \(Connection refused\)\. Start the server"):
        open_trackers(config, tmp_path, RECIPE, silent)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Path of a database that MLflow may fill with its tables, which takes it seconds."""
    pytest.importorskip("mlflow")
    return tmp_path_factory.mktemp("database") / "m.db"


@foreign
def test_mlflow_without_a_server_writes_into_a_database(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TunesmithError, match="unable to open database file"):
        open_trackers(TrackConfig(mlflow=f"sqlite:///{tmp_path}/none/m.db"), tmp_path, RECIPE, silent)
    assert list(tmp_path.iterdir()) == []
    before = dict(os.environ)
    uri = f"sqlite:///{database}"
    with open_trackers(TrackConfig(mlflow=uri), tmp_path, RECIPE, silent) as track:
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        track(from_json(step(1)))
    assert dict(os.environ) == before
    run = client_of(uri).get_run(read_json(tmp_path / "track.json")["mlflow"]["run"])
    assert run.data.metrics["train/loss"] == 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"track.json"}


def test_mlflow_says_nothing_to_its_makers(tmp_path):
    """Checked by the library's own word, outside of pytest, which it takes for a reason to be silent."""
    pytest.importorskip("mlflow")
    code = f"""
import sys
from pathlib import Path
from tunesmith.core.errors import TunesmithError
from tunesmith.track.trackers import TrackConfig, open_trackers
try:
    open_trackers(TrackConfig(mlflow="http://127.0.0.1:9"), Path({str(tmp_path)!r}), {{}}, print)
except TunesmithError as error:
    assert "Connection refused" in str(error), error
from mlflow.telemetry import get_telemetry_client
sys.exit(get_telemetry_client() is not None)
"""
    silent_reasons = ("CI", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "MLFLOW_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in silent_reasons}
    environment["XDG_CONFIG_HOME"] = str(tmp_path)
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=100).returncode == 0
    assert not (tmp_path / "mlflow").exists()  # where it would keep the number that it gives an installation


# Weights & Biases


@pytest.fixture
def offline(monkeypatch):
    """Gives a function that ends the library's own process, which may write its file a moment after a run's end."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield wandb.teardown
    wandb.teardown()


def read_wandb(path):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) behind seven bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def item_of(item):
    return item.key or "/".join(item.nested_key), json.loads(item.value_json)


def history_of(records):
    """Tag, then step, then value."""
    values = {}
    for record in records:
        row = dict(item_of(item) for item in record.history.item)
        for name, value in row.items():
            if not name.startswith("_"):
                values.setdefault(name, {})[row["_step"]] = value
    return values


def test_wandb_offline_holds_every_value_and_a_resumed_run_keeps_its_id(offline, tmp_path):
    assert run_both(TrackConfig(wandb="hotel", experiment="group", name="shown"), tmp_path) == []
    offline()
    kept = read_json(tmp_path / "track.json")["wandb"]
    first, second = sorted(
        (tmp_path / "wandb").glob(f"offline-run-*/run-{kept['run']}.wandb"), key=lambda path: path.parent.name
    )
    assert kept["project"] == "hotel"
    parts = [list(read_wandb(first)), list(read_wandb(second))]
    values = history_of(parts[0])
    assert values["train/loss"] == {number: 1 / number for number in range(1, 7)}
    for tag, points in history_of(parts[1]).items():
        values[tag] = {**values.get(tag, {}), **points}
    assert values == expected()
    for records in parts:
        [run] = [record.run for record in records if record.run.run_id]
        assert (run.run_id, run.project, run.run_group, run.display_name) == (kept["run"], "hotel", "group", "shown")
        assert run.host == ""
        config = dict(
            item_of(item) for record in records for item in (*record.run.config.update, *record.config.update)
        )
        assert config["optim.learning_rate"] == 0.001
        assert config["data.train"] == {"data/*.jsonl": 2.0}
        assert config["plan.threads"] == 2
    exits = [[record.exit.exit_code for record in records if record.HasField("exit")] for records in parts]
    assert exits == [[1], [0]]
    assert [any(record.HasField("preempting") for record in records) for records in parts] == [True, False]


def test_wandb_reports_nothing_to_its_makers(offline, tmp_path):
    """The library's own process for the network is told so when it starts."""
    with open_trackers(TrackConfig(wandb="hotel"), tmp_path, RECIPE, silent):
        [core] = [child for child in psutil.Process().children() if "wandb-core" in child.name()]
        assert "--no-observability" in core.cmdline()


def test_wandb_without_a_login_or_a_server_is_refused_before_anything(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = TrackConfig(wandb="hotel")
    wandb.teardown()
    with pytest.raises(TunesmithError, match=r"No API key configured.*WANDB_MODE=offline"):
        open_trackers(config, tmp_path, RECIPE, silent)
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.raises(TunesmithError, match=r"track\.wandb = hotel: .* does not take the run .*refused"):
        open_trackers(config, tmp_path, RECIPE, silent)
    wandb.teardown()
    assert not (tmp_path / "track.json").exists()
    assert "WANDB_ERROR_REPORTING" not in os.environ


# All of them


@pytest.mark.parametrize(
    ("absent", "config", "extra"),
    [
        ("tensorboard", {"tensorboard": True}, "tensorboard"),
        ("mlflow", {"mlflow": "http://127.0.0.1:9"}, "mlflow"),
        ("wandb", {"wandb": "hotel"}, "wandb"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, absent, config, extra):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(TunesmithError, match=rf"track\.{absent}: .*pip install 'tunesmith\[{extra}\]'"):
        open_trackers(TrackConfig(**config), tmp_path, RECIPE, silent)


@foreign
def test_nothing_of_rows_answers_or_secrets_reaches_a_sink(database, offline, tmp_path):
    """Every byte of every file of every sink is searched; what must be there is found by the same search."""
    pytest.importorskip("tensorboard")
    config = TrackConfig(tensorboard=True, mlflow=f"sqlite:///{database}", wandb="hotel")
    with open_trackers(config, tmp_path, RECIPE, silent) as track:
        track(events.Data("chat", [{"sentence": "ROW-TEXT"}], {"train": 4}, {}, 9, "id", None))
        track(events.Warning("ROW-TEXT"))
        track(from_json(PLAN))
        track(from_json({**step(1), "note": "ROW-TEXT", "rows": ["ROW-TEXT"]}))
        track(from_json({**validation(1), "answer": "ROW-TEXT"}))
        track(from_json(SCORES))
        track(events.Samples("concierge", "ember", [{"messages": [{"content": "ROW-TEXT"}], "answer": "ROW-TEXT"}]))
        track(Later(2, 7, "ROW-TEXT"))
    offline()
    paths = [*database.parent.iterdir(), *tmp_path.rglob("*")]
    files = {path: path.read_bytes() for path in paths if path.is_file()}
    assert {"m.db", "track.json"} <= {path.name for path in files}
    for secret in (b"ROW-TEXT", b"me:password", RECIPE["data"]["system"].encode()):
        assert [path for path, data in files.items() if secret in data] == []
    holders = {path.suffix for path, data in files.items() if b"optim.learning_rate" in data}
    assert {".db", ".wandb"} < holders
    assert any("tfevents" in path.name and b"optim.learning_rate" in data for path, data in files.items())
