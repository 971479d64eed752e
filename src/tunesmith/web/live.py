"""A job while it is watched: what is new of it, as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from tunesmith.exec.queue.commit import read_checkpoints
from tunesmith.exec.queue.control import JobRecord, find_job, read_said
from tunesmith.exec.queue.lease import Said
from tunesmith.serve.fine_tuning import describe, list_checkpoints
from tunesmith.serve.keys import Key
from tunesmith.serve.results import ALL, events_of, steps_of
from tunesmith.serve.server import Server
from tunesmith.serve.tuned import tuned
from tunesmith.store.records import now
from tunesmith.web.shown import ACTIONS, state_of, wanted_words

EVERY = 0.5  # seconds between two looks
SILENCE = 15.0  # seconds, after which a watcher is told that nothing has happened
WATCHERS = 64  # at once
OVER = ("succeeded", "failed", "cancelled")


class Watch:
    """What one watcher has not been told yet."""

    def __init__(self, here: Server, key: Key, id: str, after: int, page: Callable[..., str]) -> None:
        """Watch a job.

        Args:
            here: the server.
            key: whose it is.
            id: of the job.
            after: number of the last event that the watcher knows.
            page: renders a template.
        """
        self._here, self._key, self._id, self._after, self._page = here, key, id, after, page
        self._said: list[Said] = []
        self._shown: Any = None
        self._kept = -1

    def look(self) -> dict[str, Any] | None:
        """What is new, if anything is."""
        records = self._here.stores.records
        job = find_job(records, self._id)
        self._said += read_said(records, self._id, self._said[-1].number if self._said else 0, ALL)
        said = [one for one in self._said if one.number > self._after]
        kept = len(read_checkpoints(records, self._id))
        shown = (job.state, job.wanted, job.sentence, kept)
        if not said and shown == self._shown:
            return None
        news = self._news(job, said, first=self._shown is None)
        if kept != self._kept:
            checkpoints = list_checkpoints(self._here, self._key, self._id, None, 100)["data"]
            news["checkpoints"] = self._page("job.checkpoints.html.jinja", checkpoints=checkpoints)
        self._shown, self._kept = shown, kept
        if said:
            self._after = said[-1].number
        return {**news, "number": self._after}

    def _news(self, job: JobRecord, said: list[Said], first: bool) -> dict[str, Any]:
        described = describe(self._here, job, self._said)
        state, finish = state_of(job, described), described["estimated_finish"]
        words = events_of(job, job.details["training_file"], said, tuned(job))
        if not first or self._after:  # that it was created is known
            words = words[:-1]
        steps = steps_of(self._said) if said else {}
        fresh = {one.body["step"] for one in said if one.body["kind"] in ("step", "validation")}
        failed = job.state == "failed"
        return {
            "state": state, "state_words": wanted_words(job, state), "sentence": job.sentence if failed else "",
            "left": None if finish is None else max(0.0, finish - now()), "over": job.state in OVER,
            "actions": ACTIONS.get(job.state, ()), "steps": [steps[n] for n in sorted(fresh) if n in steps],
            "events": words[::-1], "checkpoints": None,
        }  # fmt: skip


async def told(watch: Watch, may: Callable[[], bool]) -> AsyncIterator[str]:
    """Server-sent events of a job, until it is over, or the watcher's session or the server is.

    Args:
        watch: what is told.
        may: whether the watcher still may see it.
    """
    silent = 0.0
    while True:
        allowed, news = await anyio.to_thread.run_sync(lambda: (True, watch.look()) if may() else (False, None))
        if not allowed:
            return
        if news is not None:
            silent = 0.0
            yield f"data: {json.dumps(news)}\n\n"
            if news["over"]:
                return
        elif silent >= SILENCE:
            silent = 0.0
            yield ": nothing new\n\n"
        silent += EVERY
        await asyncio.sleep(EVERY)
