"""An executor of its own: jobs that run in threads, stopped from another one, and killed when they hang."""

from __future__ import annotations

import queue
import threading

import pytest

from tunesmith.core import events
from tunesmith.core.errors import Stopped
from tunesmith.exec.executor import Job
from tunesmith.exec.supervise import result_of, supervise


class Threads:
    """Jobs are functions of what a job's arguments say."""

    def start(self, job, folder):
        return Thread(job)


class Thread:
    def __init__(self, job):
        self.said, self.asked, self.dead = queue.Queue(), threading.Event(), threading.Event()
        self.end = None
        self.hangs = job.arguments.get("hangs", False)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        self.said.put(events.Phase("counting"))
        while not self.dead.wait(0.01):
            if self.asked.is_set() and not self.hangs:
                self.end = events.Stopped("stopped at a good place.")
                break
        self.end = self.end or events.Failed("killed.", "killed")
        self.said.put(None)

    def events(self):
        while (event := self.next()) is not self.said:
            yield event

    def next(self):
        try:
            event = self.said.get(timeout=0.02)
        except queue.Empty:
            return None
        return self.said if event is None else event

    def stop(self):
        self.asked.set()

    def kill(self):
        self.dead.set()

    def outcome(self):
        while self.end is None:
            self.dead.wait(0.01)
        return self.end


@pytest.mark.parametrize("hangs", [False, True])
def test_a_job_elsewhere_is_stopped_or_killed(tmp_path, hangs):
    wanted, heard = threading.Event(), []

    def hear(event):
        heard.append(event)
        threading.Timer(0.05, wanted.set).start()

    job = Job("count", {"hangs": hangs}, stoppable=True)
    outcome = supervise(Threads(), job, tmp_path, hear, cancelled=wanted.is_set, patience=0.3)
    assert heard == [events.Phase("counting")]
    if hangs:
        assert outcome == events.Failed("killed.", "killed")
    else:
        with pytest.raises(Stopped, match="at a good place"):
            result_of(outcome)
