"""Children that hang are killed in the end, whoever reads what they say."""

from __future__ import annotations

import sys
import threading

import psutil
import pytest

from tunesmith.core.errors import JobError
from tunesmith.exec.local import Job, run_child

CHILD = """#!{python}
import json, os, signal, sys, time
arguments = json.loads(sys.stdin.readline())
print(json.dumps({{"kind": "here", "rank": arguments.get("rank", 0), "pid": os.getpid()}}), flush=True)
hang = arguments["hangs"]
if arguments.get("rank", 0) in hang:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.get("finishes"):
        print(json.dumps({{"kind": "done", "value": 7}}), flush=True)
        os.close(1)
    time.sleep(600)  # it reads no pipe and hears no signal
print(json.dumps({{"kind": "done", "value": 7}}), flush=True)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Children are this program, which stands in for Python with `-m tunesmith.jobs`."""
    program = tmp_path / "python"
    program.write_text(CHILD.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


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
    pids = []
    job = Job("any", {"hangs": [1]}, processes=2)
    done = in_time(lambda: run_child(job, tmp_path / "log", lambda event: pids.append(event.get("pid")), grace=0.3))
    assert done["value"] == 7
    assert not [one for one in psutil.Process().children() if str(tmp_path) in " ".join(one.cmdline())]


def test_a_leader_that_hangs_when_all_is_said_is_killed_and_has_succeeded(child, tmp_path):
    job = Job("any", {"hangs": [0, 1], "finishes": True}, processes=2)
    done = in_time(lambda: run_child(job, tmp_path / "log", lambda event: None, grace=0.3))
    assert done["value"] == 7


def test_whoever_hears_a_child_that_hangs_may_give_up(child, tmp_path):
    def hear(event):
        raise JobError("enough")

    error = in_time(lambda: run_child(Job("any", {"hangs": [0, 1]}, processes=2), tmp_path / "log", hear, grace=0.3))
    assert str(error) == "enough"
    assert not [one for one in psutil.Process().children() if str(tmp_path) in " ".join(one.cmdline())]
