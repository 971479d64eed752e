"""The queue on both databases: whose turn it is, what a lease allows, what people can do with a job, what stays."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, select, update

from conftest import new_database
from tunesmith.core import events as kinds
from tunesmith.core.errors import ConfigError, LeaseLost, LimitReached, MissingError, StoreError
from tunesmith.exec.executor import Job
from tunesmith.exec.queue import commit as commit_module
from tunesmith.exec.queue import lease as lease_module
from tunesmith.exec.queue.commit import Ending, commit_checkpoint, end, read_checkpoints, take_back
from tunesmith.exec.queue.control import (
    cancel,
    find_job,
    list_jobs,
    pause,
    read_attempts,
    read_model,
    read_said,
    resume,
)
from tunesmith.exec.queue.lease import Said, Watch, beat, claim
from tunesmith.exec.queue.retention import collect, delete_job
from tunesmith.exec.queue.submit import Submission, read_limits, set_limits, submit
from tunesmith.store.backup import backup, restore
from tunesmith.store.records import open_records
from tunesmith.store.schema import events, jobs, models, projects
from tunesmith.store.schema import files as files_table
from tunesmith.store.stores import keep, know_project, open_stores, use

pytestmark = pytest.mark.usefixtures("connections")

JOB = Submission(Job("count", {"steps": 3}))


def put(stores, text):
    path = stores.blobs.local.parent / f"{text}.txt"
    path.write_text(text)
    return keep(stores, {f"{text}.txt": path})


def step(number, value=1.0):
    return Said(number, 0.0, kinds.Step(number, 9, {"loss": value}, 0.1, 1.0, 1, 1.0, 0.1, 1).to_json())


def claimed(records, seconds=30.0):
    lease = claim(records, "worker", seconds)
    assert lease is not None
    return lease


# Submitting


def test_a_job_is_there_as_it_was_submitted(stores):
    inputs = put(stores, "rows")
    wanted = Submission(Job("count", {"steps": 3}, processes=2), inputs, "name", "a", 5, 7, "key", {"suffix": "x"})
    job = find_job(stores.records, submit(stores.records, wanted))
    assert (job.state, job.label, job.project, job.priority, job.details) == ("queued", "name", "a", 5, {"suffix": "x"})
    assert (job.inputs, Job(**job.job), job.attempts, job.step) == (inputs, wanted.job, 0, None)
    lease = claimed(stores.records)
    assert (lease.job, lease.inputs, lease.project, lease.token) == (wanted.job, inputs, "a", 1)


def test_a_thousand_submissions_with_one_key_are_one_job(records):
    begin = threading.Barrier(50)

    def many(_):
        begin.wait()
        return {submit(records, replace(JOB, key="key")) for _ in range(20)}

    with ThreadPoolExecutor(50) as pool:
        assert len(set.union(*pool.map(many, range(50)))) == 1
    assert len(list_jobs(records)) == 1


def test_a_key_is_for_one_thing_in_one_project(records):
    first = submit(records, replace(JOB, key="key"))
    with pytest.raises(ConfigError, match=rf"key 'key': it was used for another job, {first}"):
        submit(records, replace(JOB, key="key", priority=1))
    assert submit(records, replace(JOB, key="key", project="b")) != first
    assert submit(records, JOB) != submit(records, JOB)  # without one each is a job


def test_a_project_may_have_so_many_jobs_and_bytes(stores):
    records = stores.records
    set_limits(records, "a", 2, None)
    for _ in range(2):
        last = submit(records, replace(JOB, project="a"))
    with pytest.raises(LimitReached, match=r"project 'a': 2 jobs wait, and it may have 2\. Wait, cancel some"):
        submit(records, replace(JOB, project="a"))
    submit(records, replace(JOB, project="b"))
    claimed(records)
    submit(records, replace(JOB, project="a"))  # one runs
    cancel(records, last)
    set_limits(records, "a", None, 5)
    assert read_limits(records, "a") == (None, 5)
    submit(records, replace(JOB, project="a", inputs=put(stores, "rows")))
    with pytest.raises(LimitReached, match="it holds 4 bytes, and may hold 5; this job needs 6 more"):
        submit(records, replace(JOB, project="a", inputs=put(stores, "others")))
    submit(records, replace(JOB, project="a"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"project": "a b"}, "project 'a b': must be letters"), ({"project": "x" * 65}, "at most 64"),
        ({"label": "../x"}, "must be the name of a folder"), ({"label": ""}, "must be the name of a folder"),
        ({"label": "x" * 101}, "at most 100 characters"), ({"key": "x" * 256}, "must have 1 to 255 characters"),
    ],
)  # fmt: skip
def test_names_that_nobody_could_bear_are_refused(records, wrong, reason):
    with pytest.raises(ConfigError, match=reason):
        submit(records, replace(JOB, **wrong))


def test_inputs_that_were_deleted_meanwhile_are_no_inputs(stores):
    with pytest.raises(StoreError, match="was deleted before it was used"):
        submit(stores.records, replace(JOB, inputs={"x": ("0" * 64, 1)}))
    assert list_jobs(stores.records) == []


# Whose turn it is


def test_higher_priorities_go_first_then_projects_take_turns_then_the_oldest(records):
    sent = {}
    for name, project, priority in [
        ("a1", "a", 0), ("a2", "a", 0), ("a3", "a", 0), ("b1", "b", 0), ("b2", "b", 0), ("c1", "c", 0), ("a9", "a", 9),
    ]:  # fmt: skip
        sent[submit(records, replace(JOB, project=project, priority=priority))] = name
    order = []
    for _ in range(7):
        lease = claimed(records)
        order.append(sent[lease.id])
        end(records, lease, Ending("succeeded"))
    assert order == ["a9", "b1", "c1", "a1", "b2", "a2", "a3"]
    assert claim(records, "worker", 30.0) is None


def test_who_has_fewer_running_jobs_goes_first(records):
    sent = {submit(records, replace(JOB, project=name[0])): name for name in ("a1", "a2", "a3", "b1", "b2")}
    order = [sent[claimed(records).id] for _ in range(5)]
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_each_job_is_claimed_once_however_many_want_it(records):
    sent = {submit(records, replace(JOB, project=f"p{number % 3}")) for number in range(40)}

    def take(_):
        found = []
        while (lease := claim(records, "worker", 30.0)) is not None:
            found.append(lease.id)
        return found

    with ThreadPoolExecutor(8) as pool:
        taken = [id for some in pool.map(take, range(8)) for id in some]
    left = [lease.id for _ in range(40) if (lease := claim(records, "worker", 30.0))]  # passed over while locked
    assert sorted(taken + left) == sorted(sent)


# What a lease allows


def test_a_holder_that_was_taken_over_can_write_nothing(stores):
    records, found = stores.records, put(stores, "model")
    id = submit(records, JOB)
    late = claimed(records)

    def refused():
        with pytest.raises(LeaseLost):
            commit_checkpoint(records, late, 4, found)
        for ending in (Ending("succeeded", files=found), Ending("stopped")):
            with pytest.raises(LeaseLost):
                end(records, late, ending)
        assert beat(records, [(late, [step(1)])]) == [None]

    assert take_back(records, id, late.token, 0) == "queued"
    refused()  # while nobody has it
    lease = claimed(records)
    refused()  # while another works on it
    end(records, lease, Ending("succeeded", files=found))
    refused()  # and once it is done
    with records.read() as connection:
        assert connection.execute(select(events)).all() == []
        assert len(connection.execute(select(models)).all()) == 1
    assert read_checkpoints(records, id) == []
    assert [one.outcome for one in read_attempts(records, id)] == ["silent", "succeeded"]


def test_an_end_that_is_written_twice_is_one(stores):
    """Whoever is cut off while it commits tries again, and must not take its own success for a lost lease."""
    id = submit(stores.records, JOB)
    lease, ending = (
        claimed(stores.records),
        Ending("succeeded", files=put(stores, "model"), result={"loss": float("nan")}),
    )
    assert [end(stores.records, lease, ending, [step(1)]) for _ in range(2)] == ["succeeded"] * 2
    assert find_job(stores.records, id).result == {"loss": None}
    model = read_model(stores.records, id)
    assert model is not None
    assert model[1] == ending.files
    assert len(read_said(stores.records, id)) == 1


def test_events_are_written_once_in_their_order(records):
    id = submit(records, JOB)
    lease = claimed(records)
    assert beat(records, [(lease, [step(1), step(2, float("nan"))])]) == ["run"]
    beat(records, [(lease, [step(2, float("nan")), step(3)])])  # sent again, as after an answer that was lost
    found = read_said(records, id)
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.body["loss"] for one in found] == [1.0, None, 1.0]
    assert kinds.from_json(found[0].body) == kinds.from_json(step(1).body)
    assert [one.number for one in read_said(records, id, after=2)] == [3]
    take_back(records, id, lease.token, find_beats(records, id))
    assert claimed(records).next_event == 4


def find_beats(records, id):
    with records.read() as connection:
        return connection.scalar(select(jobs.c.beats).where(jobs.c.id == id))


def test_silence_is_measured_by_the_clock_of_who_looks(records, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "time", lambda: 7.0)  # nobody asks what time it is
    id = submit(records, JOB)
    lease, watch = claimed(records, seconds=10.0), Watch()

    def look(seconds):
        clock[0] += seconds
        return watch.silent(records)

    assert [look(2.0) for _ in range(5)] == [[]] * 5
    beat(records, [(lease, [])])
    assert [look(2.0) for _ in range(3)] == [[]] * 3  # it has moved
    assert look(1000.0) == []  # who could not look for so long does not know who could write
    assert look(2.0) == []
    assert look(2.0) == [(id, 1, 1)]
    assert Watch().silent(records) == []  # who has just begun to look knows nothing
    beat(records, [(lease, [])])
    assert take_back(records, id, 1, 1) is None  # it was heard of after all
    assert take_back(records, id, 1, 2) == "queued"


# How attempts end


def test_attempts_that_bring_a_job_no_further_end_it(stores):
    records, found = stores.records, put(stores, "state")
    id = submit(records, replace(JOB, most_fruitless=2))
    assert end(records, claimed(records), Ending("crashed", "it fell over.")) == "queued"
    lease = claimed(records)
    commit_checkpoint(records, lease, 10, found)  # further: they are counted anew
    assert end(records, lease, Ending("crashed", "it fell over.")) == "queued"
    lease = claimed(records)
    commit_checkpoint(records, lease, 10, found)  # no further
    assert end(records, lease, Ending("crashed", "it fell over.")) == "queued"
    lease = claimed(records)
    assert take_back(records, id, lease.token, find_beats(records, id)) == "failed"
    job = find_job(records, id)
    assert "2 attempts in a row brought it no further, the last one since: worker worker fell silent" in job.sentence
    assert (job.fruitless, job.attempts) == (2, 4)
    assert resume(records, id).state == "queued"
    assert find_job(records, id).fruitless == 0


def test_a_failure_that_would_be_met_again_ends_a_job_at_once_and_a_stop_does_not(records):
    ids = [submit(records, JOB) for _ in range(3)]
    assert end(records, claimed(records), Ending("failed", "row 3: no\x00 answer.", log="a\x00b")) == "failed"
    assert end(records, claimed(records), Ending("stopped")) == "queued"
    assert end(records, claimed(records), Ending("released")) == "queued"
    assert find_job(records, ids[0]).sentence == "row 3: no\ufffd answer."
    assert read_attempts(records, ids[0])[0].log == "a\ufffdb"
    assert [find_job(records, id).fruitless for id in ids] == [0, 0, 0]


def test_the_last_checkpoints_stay_and_those_of_a_way_that_was_left_go(stores):
    submit(stores.records, JOB)
    lease = claimed(stores.records)
    for number in (2, 4, 6, 8):
        commit_checkpoint(stores.records, lease, number, put(stores, f"state-{number}"))
    assert [step for step, _ in read_checkpoints(stores.records, lease.id)] == [8, 6, 4]
    commit_checkpoint(stores.records, lease, 6, put(stores, "another"))  # it went back
    found = read_checkpoints(stores.records, lease.id)
    assert [step for step, _ in found] == [6, 4]
    assert list(found[0][1]) == ["another.txt"]


# What people can do


@pytest.mark.parametrize(
    ("state", "act", "becomes"),
    [
        ("queued", cancel, "cancelled"), ("queued", pause, "paused"), ("queued", resume, "queued"),
        ("running", cancel, "running, to cancel"), ("running", pause, "running, to pause"),
        ("running", resume, "running"), ("paused", cancel, "cancelled"), ("paused", pause, "paused"),
        ("paused", resume, "queued"), ("succeeded", cancel, "it is succeeded already"),
        ("succeeded", pause, "it is succeeded"), ("succeeded", resume, "cannot go on"),
        ("failed", cancel, "cancelled"), ("failed", pause, "it is failed"), ("failed", resume, "queued"),
        ("cancelled", cancel, "cancelled"), ("cancelled", pause, "it is cancelled"),
        ("cancelled", resume, "cannot go on"),
    ],
)  # fmt: skip
def test_what_can_be_done_with_a_job(records, state, act, becomes):
    id = submit(records, JOB)
    with records.write() as connection:
        connection.execute(update(jobs).values(state=state))
    if state in ("succeeded", "failed", "cancelled") and becomes not in ("queued", "cancelled"):
        with pytest.raises(ConfigError, match=becomes):
            act(records, id)
        return
    job = act(records, id)
    assert (job.state if job.wanted == "run" else f"{job.state}, to {job.wanted}") == becomes


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "crashed", "stopped", "released"])
def test_a_cancelled_job_is_cancelled_however_its_attempt_ends(stores, outcome):
    id = submit(stores.records, JOB)
    lease = claimed(stores.records)
    cancel(stores.records, id)
    with pytest.raises(ConfigError, match="about to be cancelled"):
        pause(stores.records, id)
    assert beat(stores.records, [(lease, [])]) == ["cancel"]
    assert end(stores.records, lease, Ending(outcome, files=put(stores, "model"))) == "cancelled"
    assert read_model(stores.records, id) is None


def test_a_job_whose_worker_fell_silent_is_what_people_wanted(records):
    for act, becomes in ((cancel, "cancelled"), (pause, "paused")):
        id = submit(records, JOB)
        lease = claimed(records)
        act(records, id)
        assert take_back(records, id, lease.token, 0) == becomes
        assert find_job(records, id).wanted == "run"


def test_a_paused_job_that_was_resumed_before_it_stopped_goes_on(records):
    id = submit(records, JOB)
    lease = claimed(records)
    pause(records, id)
    resume(records, id)
    assert end(records, lease, Ending("stopped")) == "queued"


def test_a_job_is_found_by_the_beginning_of_its_id(records):
    id, other = submit(records, JOB), submit(records, JOB)
    assert find_job(records, id).id == find_job(records, id[:-1]).id == find_job(records, id[6:]).id == id
    assert [job.id for job in list_jobs(records)] == [other, id]
    assert list_jobs(records, project="none") == list_jobs(records, states=["failed"]) == []
    for name in ("ftjob-", "ftjob-%", "nonsense", ""):
        with pytest.raises(MissingError, match="there is none"):
            find_job(records, name)


# What stays


def test_retention_takes_what_nobody_can_need(stores):
    records = stores.records
    for outcome in ("succeeded", "failed", "stopped"):
        id = submit(records, replace(JOB, inputs=put(stores, f"input-{outcome}")))
        lease = claimed(records)
        commit_checkpoint(records, lease, 1, put(stores, f"state-{outcome}"))
        end(records, lease, Ending(outcome, files=put(stores, "model")))
        if outcome == "stopped":
            pause(records, id)
    put(stores, "nobody's")
    for name, expires in (("old", 1.0), ("kept", None)):
        [(sha256, size)] = (kept := put(stores, f"file-{name}")).values()
        with records.write() as connection:
            know_project(connection, "default")
            row = {"id": name, "project": "default", "name": name, "purpose": "fine-tune", "created": 0.0}
            connection.execute(insert(files_table).values(**row, bytes=size, sha256=sha256, expires=expires))
            use(connection, f"file:{name}", kept.values())
    assert collect(stores, days=7, grace=0.0).contents == 2  # nobody's, and the expired file
    assert collect(stores, days=0, grace=3600).contents == 0  # somebody may be about to use what is young
    assert collect(stores, days=0, grace=0.0).contents == 1  # whose checkpoint went, the content may go
    left = {b"".join(stores.blobs.read(sha256)).decode() for sha256 in stores.blobs.all()}
    assert left == {
        "input-succeeded", "input-failed", "input-stopped", "model", "state-failed", "state-stopped", "file-kept"
    }  # fmt: skip
    assert len(list_jobs(records)) == 3


def test_a_job_that_has_ended_can_be_deleted_with_all_that_is_its(stores):
    records = stores.records
    id = submit(records, replace(JOB, inputs=put(stores, "input")))
    with pytest.raises(ConfigError, match=r"it is queued\. Cancel it first"):
        delete_job(records, id)
    lease = claimed(records)
    commit_checkpoint(records, lease, 1, put(stores, "state"), [step(1)])
    end(records, lease, Ending("succeeded", files=put(stores, "model")))
    delete_job(records, id[:12])
    assert list_jobs(records) == []
    assert collect(stores, grace=0.0).contents == 3
    assert list(stores.blobs.all()) == []


def test_the_inputs_of_a_cancelled_job_go(stores):
    cancel(stores.records, submit(stores.records, replace(JOB, inputs=put(stores, "input"))))
    assert collect(stores, days=0, grace=0.0).contents == 1


def test_who_held_a_lease_before_a_restore_can_write_nothing_after_it(database, postgres, tmp_path):
    """Though the job had not been claimed yet when the backup was made, so that both would hold token 1."""
    stores = open_stores(database, str(tmp_path / "blobs"))
    id = submit(stores.records, JOB)
    backup(stores, tmp_path / "backup")
    late = claimed(stores.records)
    here = stores.records.sqlite is not None
    target = f"sqlite:///{tmp_path / 'new.sqlite'}" if here else new_database(postgres)
    restore(tmp_path / "backup", target, str(tmp_path / "new"))
    records = open_records(target)
    lease = claimed(records)
    assert beat(records, [(late, [])]) == [None]
    with pytest.raises(LeaseLost):
        end(records, late, Ending("succeeded"))
    assert end(records, lease, Ending("succeeded")) == "succeeded"
    assert find_job(records, id).state == "succeeded"


def test_who_waited_for_the_database_takes_nothing_over(records, monkeypatch):
    id = submit(records, JOB)
    claimed(records, seconds=8.0)
    clock = iter([0.0, 3.0])  # before and after the wait for the lock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_module.time, "monotonic", lambda: next(clock))
        assert take_back(records, id, 1, 0) is None
    assert find_job(records, id).state == "running"


def test_projects_are_made_as_they_are_named(records):
    submit(records, replace(JOB, project="a"))
    with records.read() as connection:
        assert connection.scalars(select(projects.c.name)).all() == ["a"]
