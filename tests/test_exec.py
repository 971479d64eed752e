"""A job is heard, stopped and killed from any thread; children that hang are killed in the end."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass

import psutil
import pytest

from tunesmith.core import events
from tunesmith.core.errors import JobError, Stopped
from tunesmith.core.events import Event, silent
from tunesmith.exec.executor import Job
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.supervise import result_of, supervise

CHILD = """#!{python}
import json, os, signal, sys, time
arguments = json.loads(sys.stdin.readline())
print(json.dumps({{"kind": "here", "rank": arguments.get("rank", 0)}}), flush=True)
if arguments.get("until_stopped"):
    sys.stdin.readline()
    print(json.dumps({{"kind": "stopped", "sentence": "stopped as asked."}}), flush=True)
    sys.exit(1)
if arguments.get("rank", 0) in arguments["hangs"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.get("finishes"):
        print(json.dumps({{"kind": "done", "result": {{"value": 7}}}}), flush=True)
        os.close(1)
    time.sleep(600)  # it reads no pipe and hears no signal
print(json.dumps({{"kind": "done", "result": {{"value": 7}}}}), flush=True)
"""
QUICK = LocalExecutor(grace=0.3)


@dataclass(frozen=True)
class Here(Event):
    """A kind of event that these children alone know."""

    rank: int


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Children are this program, which stands in for Python with `-m tunesmith.jobs`."""
    program = tmp_path / "python"
    program.write_text(CHILD.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda: [one for one in psutil.Process().children() if str(tmp_path) in " ".join(one.cmdline())]


def in_time(work):
    """What `work` returns or raises; fails, and does not hang, should it never end."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001  whatever it is
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive(), "it waits for a child that hangs"
    return found[0]


def test_a_rank_that_hangs_after_its_work_is_killed(child, tmp_path):
    job, heard = Job("any", {"hangs": [1]}, processes=2), []
    done = in_time(lambda: result_of(supervise(QUICK, job, tmp_path, heard.append)))
    assert (done["value"], heard[0]) == (7, Here(0))
    assert not child()


def test_a_leader_that_hangs_when_all_is_said_is_killed_and_has_succeeded(child, tmp_path):
    job = Job("any", {"hangs": [0, 1], "finishes": True}, processes=2)
    assert in_time(lambda: result_of(supervise(QUICK, job, tmp_path, silent)))["value"] == 7


def test_whoever_hears_a_child_that_hangs_may_give_up(child, tmp_path):
    def hear(event):
        raise JobError("enough")

    job = Job("any", {"hangs": [0, 1]}, processes=2)
    assert str(in_time(lambda: supervise(QUICK, job, tmp_path, hear))) == "enough"
    assert not child()


def test_a_job_is_stopped_from_another_thread(child, tmp_path):
    running = QUICK.start(Job("any", {"until_stopped": True}), tmp_path)
    assert next(event for event in running.events() if event) == Here(0)
    threading.Thread(target=running.stop).start()
    assert in_time(running.outcome) == events.Stopped("stopped as asked.")
    with pytest.raises(Stopped, match="as asked"):
        result_of(running.outcome())


def test_a_job_that_hangs_is_killed_from_another_thread(child, tmp_path):
    running = QUICK.start(Job("any", {"hangs": [0]}), tmp_path)
    threading.Thread(target=running.kill).start()
    assert "killed by SIGKILL" in in_time(running.outcome).sentence
    assert not child()


def test_a_job_that_does_not_stop_when_it_is_asked_to_is_killed(child, tmp_path):
    wanted = threading.Event()
    job = Job("any", {"hangs": [0]}, stoppable=True)
    outcome = in_time(
        lambda: supervise(QUICK, job, tmp_path, lambda event: wanted.set(), cancelled=wanted.is_set, patience=0.5)
    )
    assert "killed by SIGKILL" in outcome.sentence
    assert not child()


def test_an_event_is_its_json_and_back():
    event = events.Step(3, 9, {"loss": 1.5, "token_accuracy": 0.5}, 1e-3, 0.1, 10, 100.0, 0.1, 1 << 20)
    assert event.to_json()["token_accuracy"] == 0.5
    assert events.from_json(json.loads(json.dumps({"time": 1.0, **event.to_json()}))) == event
    assert events.from_json({"kind": "here", "rank": 4}) == Here(4)
