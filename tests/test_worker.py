"""Workers: jobs that succeed, fail, stop and are taken over; stores that do not answer; cores.

The jobs compute without torch: scripts/counting_job.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import ROOT, new_database
from tunesmith.core.errors import StoreError
from tunesmith.exec import attempt as attempt_module
from tunesmith.exec.executor import Job
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.queue import control
from tunesmith.exec.queue.commit import read_checkpoints
from tunesmith.exec.queue.control import find_job, read_attempts, read_model, read_said
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.exec.worker import Settings, Worker, shares
from tunesmith.store.blobs import Blobs
from tunesmith.store.stores import keep, open_stores

sys.path.insert(0, str(ROOT / "scripts"))
from counting_job import chain

pytestmark = pytest.mark.usefixtures("connections")
PROGRAM = (sys.executable, str(ROOT / "scripts" / "counting_job.py"))


@pytest.fixture
def stores(tmp_path):
    return open_stores(f"sqlite:///{tmp_path / 'records.sqlite'}", str(tmp_path / "blobs"))


def send(stores, fruitless=3, **arguments):
    (stores.blobs.local.parent / "start.txt").write_text("begin")
    inputs = keep(stores, {"inputs/start.txt": stores.blobs.local.parent / "start.txt"})
    job = Job("count", {"steps": 20, "every": 5, **arguments}, stoppable=True)
    return submit(stores.records, Submission(job, inputs, label="named", most_fruitless=fruitless))


def made(stores, id):
    model = read_model(stores.records, id)
    assert model is not None
    return json.loads(b"".join(stores.blobs.read(model[1]["model/result.json"][0])))


def worker(stores, said=None, **settings):
    settings = {"look": 0.02, "lease": 1.0, "until_empty": True, **settings}
    settings.setdefault("work", stores.records.sqlite.parent / "work" if stores.records.sqlite else None)
    settings["executor"] = lambda cores: LocalExecutor(cores=cores, program=PROGRAM)
    return Worker(stores, Settings(**settings), (said if said is not None else []).append)


@contextmanager
def working(stores, **settings):
    """A worker in a thread, which is drained at the end."""
    one = worker(stores, until_empty=False, **settings)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one
    finally:
        one.drain()
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def step_of(stores, id):
    return find_job(stores.records, id).step or 0


# Ends


def test_a_job_is_done_and_published(stores):
    said, id = [], send(stores)
    worker(stores, said).run()
    job = find_job(stores.records, id)
    assert (job.state, job.attempts, job.step, job.sentence) == ("succeeded", 1, 20, "")
    assert made(stores, id)["state"] == job.result["state"] == chain("begin", 20)
    assert "folder" not in job.result
    kinds = [one.body["kind"] for one in read_said(stores.records, id)]
    assert kinds == ["resumed", *(["step"] * 5 + ["checkpoint"]) * 4, "exported"]
    assert sorted(read_model(stores.records, id)[1]) == [
        "child.log",
        "events.jsonl",
        "metrics.jsonl",
        "model/result.json",
    ]
    assert said[0].startswith(f"{id}: taken (named)")
    assert said[-1] == f"{id}: succeeded"
    assert list((stores.records.sqlite.parent / "work").iterdir()) == []


def test_a_job_that_fails_for_its_users_reason_is_not_tried_again(stores):
    id = send(stores, at=7, fail="row 3: no answer.")
    worker(stores).run()
    job = find_job(stores.records, id)
    assert (job.state, job.sentence, job.attempts, job.step) == ("failed", "row 3: no answer.", 1, 5)


def test_a_job_that_crashes_is_tried_again_from_its_checkpoint_and_not_for_ever(stores):
    id = send(stores, fruitless=2, at=7, crash=9)
    worker(stores).run()
    job, tries = find_job(stores.records, id), read_attempts(stores.records, id)
    assert [one.outcome for one in tries] == ["crashed"] * 3  # the first one brought it to step 5
    assert (job.state, job.step) == ("failed", 5)
    assert re.search(f"2 attempts in a row .* exit code 9: no word. Its log: tunesmith logs {id}", job.sentence)
    assert [one.body["step"] for one in read_said(stores.records, id) if one.body["kind"] == "resumed"] == [0, 5, 5]


def test_our_own_mistake_is_a_crash_with_its_traceback_and_the_worker_lives_on(stores, monkeypatch):
    monkeypatch.setattr(attempt_module, "supervise", lambda *arguments: 1 / 0)
    id, said = send(stores, fruitless=1), []
    worker(stores, said).run()
    assert "ZeroDivisionError" in find_job(stores.records, id).sentence
    assert "Traceback" in read_attempts(stores.records, id)[0].log
    monkeypatch.undo()
    control.resume(stores.records, id)
    worker(stores).run()
    assert find_job(stores.records, id).state == "succeeded"


# What people want of it


def test_a_job_rests_and_goes_on_to_the_same_end(stores):
    id = send(stores, steps=150, pause=0.02)
    with working(stores):
        wait_for(lambda: step_of(stores, id) >= 5)
        control.pause(stores.records, id)
        wait_for(lambda: find_job(stores.records, id).state == "paused")
        stood = step_of(stores, id)
        assert 5 <= stood < 150
        assert [one.outcome for one in read_attempts(stores.records, id)] == ["stopped"]
        control.resume(stores.records, id)
        wait_for(lambda: find_job(stores.records, id).state == "succeeded")
    assert made(stores, id)["state"] == chain("begin", 150)
    assert [one.body["step"] for one in read_said(stores.records, id) if one.body["kind"] == "resumed"] == [0, stood]


def test_a_job_is_cancelled_while_it_runs(stores):
    id = send(stores, steps=4000, pause=0.02)
    with working(stores):
        wait_for(lambda: step_of(stores, id) >= 5)
        control.cancel(stores.records, id)
        wait_for(lambda: find_job(stores.records, id).state == "cancelled")
    assert read_model(stores.records, id) is None


def test_a_worker_that_is_drained_gives_its_job_back_and_another_goes_on(stores):
    id = send(stores, fruitless=1, steps=120, pause=0.02)
    with working(stores):
        wait_for(lambda: step_of(stores, id) >= 5)
    job = find_job(stores.records, id)
    assert (job.state, job.fruitless) == ("queued", 0)
    worker(stores).run()
    assert made(stores, id)["state"] == chain("begin", 120)
    assert [one.outcome for one in read_attempts(stores.records, id)] == ["stopped", "succeeded"]


def test_a_worker_that_is_asked_twice_ends_at_once(stores):
    id = send(stores, steps=4000, at=6, hang=True)
    with working(stores) as one:
        wait_for(lambda: step_of(stores, id) >= 5)
        begun = time.monotonic()
        one.drain()
    assert time.monotonic() - begun < 10  # and not the ten minutes that a job has to stop
    assert find_job(stores.records, id).state == "queued"


# Leases


def test_a_silent_workers_job_is_taken_over_and_it_can_write_nothing_more(stores, monkeypatch):
    """The first worker's beats do not arrive any more, though its job goes on."""
    id, said = send(stores, steps=200, pause=0.02), []
    first = worker(stores, said, until_empty=False)
    thread = threading.Thread(target=first.run)
    thread.start()
    wait_for(lambda: step_of(stores, id) >= 5)
    monkeypatch.setattr(first, "_beat", lambda: None)
    monkeypatch.setattr(attempt_module, "commit_checkpoint", refuse_from(first.name, attempt_module.commit_checkpoint))
    worker(stores).run()
    wait_for(lambda: find_job(stores.records, id).state in ("running", "succeeded"))
    while find_job(stores.records, id).state != "succeeded":
        worker(stores).run()
        time.sleep(0.1)
    monkeypatch.undo()
    wait_for(lambda: any("what was done here since does not count" in words for words in said))
    first.drain()
    thread.join(20)
    assert made(stores, id)["state"] == chain("begin", 200)
    assert [one.outcome for one in read_attempts(stores.records, id)] == ["silent", "succeeded"]


def refuse_from(name, call):
    """The call, but for the first worker, whose commits would count as beats."""

    def commit(records, lease, *rest):
        if lease.token == 1:
            raise StoreError("cut off")
        return call(records, lease, *rest)

    return commit


def test_a_job_goes_on_on_another_machine(stores, tmp_path, monkeypatch):
    """Nothing of the first worker's disk is left, and what it has put into the stores is enough."""
    id = send(stores, steps=100, pause=0.02)
    with working(stores, work=tmp_path / "one"):
        wait_for(lambda: step_of(stores, id) >= 10)
    shutil.rmtree(tmp_path / "one")
    worker(stores, work=tmp_path / "other").run()
    assert made(stores, id)["state"] == chain("begin", 100)


@pytest.mark.parametrize("damage", ["last", "all"])
def test_a_damaged_checkpoint_is_not_gone_on_from(stores, damage):
    id = send(stores, steps=200, pause=0.02)
    with working(stores):
        wait_for(lambda: step_of(stores, id) >= 15)
    found = read_checkpoints(stores.records, id)
    assert len(found) == 3
    own = {files[f"checkpoints/step-{step:06d}/state.json"][0] for step, files in found[: 1 if damage == "last" else 3]}
    for sha256 in own:
        Path(stores.blobs._path(sha256)).write_text("x")
    worker(stores).run()
    job = find_job(stores.records, id)
    if damage == "last":
        assert made(stores, id)["state"] == chain("begin", 200)
        notes = [one.body["sentence"] for one in read_said(stores.records, id) if one.body["kind"] == "warning"]
        assert [re.sub(r"step \d+", "step N", note).partition(":")[0] for note in notes] == [
            "the checkpoint of step N is not used"
        ]
    else:
        assert job.state == "failed"
        assert "none of its checkpoints is whole. Bring" in job.sentence


def test_jobs_do_not_go_on_without_a_worker(stores, monkeypatch):
    """Its main thread meets what nobody foresaw: its job is given back, and its folder is gone with it."""
    id = send(stores, steps=4000, pause=0.02)
    one = worker(stores, until_empty=False)
    monkeypatch.setattr(one, "_take_back", lambda watch: 1 / (step_of(stores, id) < 5))
    with pytest.raises(ZeroDivisionError):
        one.run()
    assert find_job(stores.records, id).state == "queued"
    assert list((stores.records.sqlite.parent / "work").iterdir()) == []


def test_a_log_on_a_full_disk_stops_no_worker(stores):
    def say(sentence):
        raise OSError(28, "No space left on device")

    id = send(stores)
    one = worker(stores)
    one._say = say
    one.run()
    assert find_job(stores.records, id).state == "succeeded"


# Stores that do not answer


def test_a_blob_store_that_fails_half_of_its_writes_only_takes_longer(stores, monkeypatch):
    write, writes = Blobs._put_here, []

    def fails(self, path, sha256):
        writes.append(sha256)
        if len(writes) % 2:
            raise StoreError("the blobs cannot be reached or written (No space left on device).")
        write(self, path, sha256)

    id = send(stores, steps=10)
    monkeypatch.setattr(Blobs, "_put_here", fails)
    worker(stores).run()
    assert len(writes) > 10
    assert made(stores, id)["state"] == chain("begin", 10)
    assert [one.outcome for one in read_attempts(stores.records, id)] == ["succeeded"]


def test_a_folder_that_is_full_for_a_while_is_waited_for(stores, monkeypatch):
    full, put, waited = threading.Event(), Blobs.put, []

    def fails(self, path, sha256=None):
        if full.is_set():
            waited.append(path)
            raise StoreError("No space left on device")
        return put(self, path, sha256)

    id = send(stores, steps=30, pause=0.01)
    monkeypatch.setattr(Blobs, "put", fails)
    full.set()
    with working(stores):
        wait_for(lambda: len(waited) > 3)
        assert find_job(stores.records, id).state == "running"
        full.clear()
        wait_for(lambda: find_job(stores.records, id).state == "succeeded")
    assert made(stores, id)["state"] == chain("begin", 30)


def outage(postgres, tmp_path, seconds):
    """A job whose database takes no connection for a while, and ends those that there are."""
    from sqlalchemy import create_engine, make_url, text

    address = new_database(postgres)
    stores = open_stores(address, str(tmp_path / "blobs"))
    id, said = send(stores, steps=int(100 + seconds * 10), pause=0.03), []
    one = worker(stores, said, until_empty=False, work=tmp_path / "work", lease=3.0)
    thread = threading.Thread(target=one.run)
    thread.start()
    wait_for(lambda: step_of(stores, id) >= 10)
    name = make_url(address).database
    admin = create_engine(make_url(postgres).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        others = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        connection.execute(others, {"name": name})
        time.sleep(seconds)
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()
    wait_for(lambda: find_job(stores.records, id).state == "succeeded", seconds=90)
    one.drain()
    thread.join(30)
    assert made(stores, id)["state"] == chain("begin", int(100 + seconds * 10))
    assert [attempt.outcome for attempt in read_attempts(stores.records, id)] == ["succeeded"]
    numbers = [one.number for one in read_said(stores.records, id)]
    assert numbers == list(range(1, len(numbers) + 1))
    steps = [one.body["step"] for one in read_said(stores.records, id) if one.body["kind"] == "step"]
    assert steps == list(range(1, int(100 + seconds * 10) + 1))
    assert any(words.startswith("waiting: ") for words in said)


def test_a_database_that_is_gone_for_a_while_is_waited_for(postgres, tmp_path):
    outage(postgres, tmp_path, 3.0)


@pytest.mark.kills
def test_a_database_that_is_gone_for_a_minute_is_waited_for(postgres, tmp_path):
    outage(postgres, tmp_path, 60.0)


# Slots


def test_jobs_at_once_have_cores_of_their_own(stores):
    ids = [send(stores, steps=30, pause=0.02) for _ in range(2)]
    worker(stores, slots=2).run()
    jobs = [find_job(stores.records, id) for id in ids]
    assert jobs[0].ended > jobs[1].started  # both ran
    assert jobs[1].started < jobs[0].ended
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        first, second = (set(made(stores, id)["cores"]) for id in ids)
        assert first
        assert not first & second


def test_cores_are_shared_out():
    assert shares([0, 1, 2, 3, 4], 1) == [None]
    assert shares([0, 1, 2, 3, 4], 2) == [(0, 1), (2, 3, 4)]
    assert shares([4, 6], 2) == [(4,), (6,)]
    assert shares([4, 6], 3) == [(4,), (6,), (4,)]
