"""Tells webhooks of the ends of jobs: each at least once, for three days, however often a server is restarted.

Which ends there are is read from the jobs themselves, so that none is missed whoever has written it. Several servers on
one database share the work: who raises a delivery's number of tries is the one to try.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from tunesmith.core.errors import ConfigError, StoreError
from tunesmith.exec.queue.control import ENDED
from tunesmith.serve.outside import post
from tunesmith.serve.signing import signed
from tunesmith.store.records import Records, now
from tunesmith.store.schema import deliveries, jobs, webhooks
from tunesmith.store.stores import upsert

log = logging.getLogger("tunesmith.serve")
TYPE = "fine_tuning.job."
LOOK = 2.0  # seconds between two looks
AT_ONCE = 8  # addresses that are told at the same time
FIRST, LONGEST = 5.0, 3600.0  # seconds until the second try; it doubles, up to an hour
GIVE_UP = 72 * 3600.0  # seconds after which nobody is told any more
HOLD = 60.0  # seconds that a try may take, after which another server may try


class Deliverer:
    """A thread that tells, until it is stopped."""

    def __init__(self, records: Records, private: bool) -> None:
        """Jobs and webhooks are in `records`; `private`: these may be in the operator's own networks."""
        self._records, self._private = records, private
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, once who is being told has answered."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, "webhooks") as pool:
            while not self._over.wait(LOOK):
                try:
                    self.note_ends()
                    for _ in pool.map(self._tell, self._due()):
                        pass
                except StoreError as error:
                    log.warning("webhooks wait: %s", error)
                except Exception:  # the next look may fare better
                    log.exception("webhooks wait")

    def note_ends(self) -> None:
        """Write down who is to be told of what has ended since it was last looked."""
        with self._records.read() as connection:
            found = connection.execute(_untold()).all()
        for row in found:
            if TYPE + row.state in row.types:
                with contextlib.suppress(IntegrityError), self._records.write() as connection:  # it was just deleted
                    _write(connection, row)

    def _due(self) -> list[Any]:
        """The oldest of each address that is due, to be told by this process alone."""
        wanted = (
            select(deliveries, webhooks.c.url, webhooks.c.secret, webhooks.c.old_secret, webhooks.c.old_until)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook)
            .where(deliveries.c.done.is_(None), deliveries.c.due <= now())
            .order_by(deliveries.c.created, deliveries.c.id)
        )
        with self._records.read() as connection:
            rows = {row.webhook: row for row in reversed(connection.execute(wanted).all())}
        mine: list[Any] = []
        for row in rows.values():
            this = (deliveries.c.id == row.id) & (deliveries.c.tries == row.tries) & deliveries.c.done.is_(None)
            with self._records.write() as connection:
                taken = connection.execute(update(deliveries).where(this).values(tries=row.tries + 1, due=now() + HOLD))
            if taken.rowcount == 1:
                mine.append(row)
        return mine

    def _tell(self, row: Any) -> None:
        body = event_of(row.id, row.type, row.job, row.created)
        sentence = ""
        try:
            status = tell(row, row.id, body, self._private)
            sentence = "" if 200 <= status < 300 else f"answered with status {status}"
        except (ConfigError, OSError) as error:
            sentence = str(error)
        values: dict[str, Any] = {"sentence": sentence or None}
        pause = min(LONGEST, FIRST * 2**row.tries)
        if not sentence or now() + pause > row.created + GIVE_UP:
            values["done"] = now()
        else:
            values["due"] = now() + pause
        with self._records.write() as connection:
            connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(**values))


def know_ended(connection: Connection, webhook: str) -> None:
    """Let a new webhook hear of nothing that had ended before, in the transaction that makes it."""
    for row in connection.execute(_untold().where(webhooks.c.id == webhook)).all():
        _write(connection, row, now())


def _untold() -> Any:
    """Webhooks, and ends of jobs of the last days that there is no delivery of."""
    told = select(deliveries.c.id).where(
        deliveries.c.webhook == webhooks.c.id, deliveries.c.job == jobs.c.id,
        deliveries.c.type == TYPE + jobs.c.state, deliveries.c.token == jobs.c.token,
    )  # fmt: skip
    return (
        select(webhooks.c.id.label("webhook"), webhooks.c.types, jobs.c.id, jobs.c.state, jobs.c.token)
        .join(jobs, jobs.c.project == webhooks.c.project)
        .where(jobs.c.state.in_(ENDED), jobs.c.ended > now() - GIVE_UP, ~told.exists())
    )


def _write(connection: Connection, row: Any, done: float | None = None) -> None:
    """A delivery of what `_untold` has found."""
    values = {"webhook": row.webhook, "job": row.id, "type": TYPE + row.state, "token": row.token, "done": done}
    values |= {"id": f"evt_{secrets.token_hex(12)}", "tries": 0, "created": now(), "due": now()}
    upsert(connection, deliveries, values, ["webhook", "job", "type", "token"], None)


def event_of(id: str, type: str, job: str, created: float) -> bytes:
    """An event as OpenAI's client reads it."""
    event = {"id": id, "object": "event", "type": type, "created_at": int(created), "data": {"id": job}}
    return json.dumps(event).encode()


def tell(webhook: Any, id: str, body: bytes, private: bool) -> int:
    """Send an event to a webhook (its row); returns the status of the answer.

    Raises:
        ConfigError, OSError: as `post`.
    """
    moment = int(time.time())
    old = [webhook.old_secret] if webhook.old_secret and (webhook.old_until or 0) > moment else []
    headers = {"Content-Type": "application/json", "User-Agent": "tunesmith"}
    return post(webhook.url, body, headers | signed(id, moment, body, [webhook.secret, *old]), private)
