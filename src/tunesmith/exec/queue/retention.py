"""What can go: checkpoints of jobs that have ended, files that have expired, and contents that no record needs then."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select, update

from tunesmith.core.errors import ConfigError
from tunesmith.exec.queue.commit import drop_checkpoint
from tunesmith.exec.queue.control import ENDED, locked_row
from tunesmith.store.records import Records, now
from tunesmith.store.schema import attempts, audit, checkpoints, deliveries, events, files, jobs, models, parts, uploads
from tunesmith.store.stores import Stores, release, sweep

OVER = ("succeeded", "cancelled")  # states that a job never leaves; a failed one may be resumed, and needs what it has
DAY = 24 * 3600.0
MONTH, YEAR = 31 * DAY, 366 * DAY  # that deliveries of webhooks and lines of the audit log are kept


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
        days: since a job succeeded or was cancelled, after which its checkpoints go, and the inputs of a cancelled one;
            what was published stays, with its inputs.
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
    given_up = select(jobs.c.id).where(jobs.c.state == "cancelled", jobs.c.ended < moment - days * DAY)
    half = select(parts.c.id).join(uploads, uploads.c.id == parts.c.upload).where(uploads.c.expires < moment)
    expired = select(files.c.id).where(files.c.expires < moment)
    with stores.records.read() as connection:
        old = [(row.job, row.step) for row in connection.execute(ended)]
        gone, ids = list(connection.scalars(expired)), list(connection.scalars(given_up))
        halves = list(connection.scalars(half))
    if not dry:
        for id in ids:
            with stores.records.write() as connection:
                release(connection, f"inputs:{id}")
                connection.execute(update(jobs).where(jobs.c.id == id).values(bytes=0))
        for id in halves:
            with stores.records.write() as connection:
                release(connection, f"part:{id}")
                connection.execute(delete(parts).where(parts.c.id == id))
        for job, step in old:
            with stores.records.write() as connection:
                drop_checkpoint(connection, job, step)
        for id in gone:
            with stores.records.write() as connection:
                connection.execute(delete(files).where(files.c.id == id))
                release(connection, f"file:{id}")
        with stores.records.write() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.done < moment - MONTH))
            connection.execute(delete(audit).where(audit.c.time < moment - YEAR))
    count, size = sweep(stores, moment - grace, dry)
    return Collected(len(old), len(gone), count, size)


def delete_job(records: Records, id: str) -> str:
    """Delete a job that has ended, with all that is written of it and its model; returns its id.

    Raises:
        MissingError: there is none.
        ConfigError: it has not ended.
    """
    with records.write() as connection:
        row = locked_row(connection, id)
        if row.state not in ENDED:
            raise ConfigError(f"{row.id}: it is {row.state}. Cancel it first.")
        for step in connection.scalars(select(checkpoints.c.step).where(checkpoints.c.job == row.id)).all():
            drop_checkpoint(connection, row.id, step)
        for model in connection.scalars(select(models.c.id).where(models.c.job == row.id)).all():
            release(connection, f"model:{model}")
        release(connection, f"inputs:{row.id}")
        for table in (models, events, attempts):
            connection.execute(delete(table).where(table.c.job == row.id))
        connection.execute(delete(jobs).where(jobs.c.id == row.id))
    return row.id
