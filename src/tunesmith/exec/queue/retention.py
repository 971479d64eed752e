"""What can go: checkpoints of jobs that have ended, files that have expired, and contents that no record needs then."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from tunesmith.exec.queue.commit import drop_checkpoint
from tunesmith.store.records import now
from tunesmith.store.schema import checkpoints, files, jobs
from tunesmith.store.stores import Stores, release, sweep

OVER = ("succeeded", "cancelled")  # states that a job never leaves; a failed one may be resumed, and needs what it has
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Collected:
    """What was deleted, or would be."""

    checkpoints: int
    files: int
    contents: int
    bytes: int


def collect(stores: Stores, days: float = 7.0, grace: float = DAY, dry: bool = False) -> Collected:
    """Delete what nobody needs any more.

    Args:
        stores: from where.
        days: since a job succeeded or was cancelled, after which its checkpoints go; its model stays.
        grace: seconds since anybody has last put a content there, within which it stays whatever records say. More than
            the longest upload takes, and by how much clocks are apart.
        dry: only say what would go; contents that only such records need are not counted.
    """
    moment = now()
    ended = (
        select(checkpoints.c.job, checkpoints.c.step)
        .join(jobs, jobs.c.id == checkpoints.c.job)
        .where(jobs.c.state.in_(OVER), jobs.c.ended < moment - days * DAY)
    )
    expired = select(files.c.id).where(files.c.expires < moment)
    with stores.records.read() as connection:
        old = [(row.job, row.step) for row in connection.execute(ended)]
        gone = list(connection.scalars(expired))
    if not dry:
        for job, step in old:
            with stores.records.write() as connection:
                drop_checkpoint(connection, job, step)
        for id in gone:
            with stores.records.write() as connection:
                connection.execute(delete(files).where(files.c.id == id))
                release(connection, f"file:{id}")
    count, size = sweep(stores, moment - grace, dry)
    return Collected(len(old), len(gone), count, size)
