"""API keys: a secret that is shown once, kept as its hash, with a role in a project."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.exec.queue.submit import PROJECT
from tunesmith.store.records import Records, now
from tunesmith.store.schema import keys
from tunesmith.store.stores import know_project

ROLES = ("member", "admin")  # an admin may also see and do what is every project's
START = "sk-ts-"


@dataclass(frozen=True)
class Key:
    """A key, without its secret.

    Attributes:
        id, project, name, role: its own, and whose it is.
        start: of the secret, to know it again.
        created, revoked: Unix seconds.
        per_minute: requests that it may make; any number if None.
        largest_file: bytes of an upload; as many as the server takes if None.
    """

    id: str
    project: str
    name: str
    role: str
    start: str
    created: float
    revoked: float | None
    per_minute: int | None = None
    largest_file: int | None = None


def create_key(
    records: Records, name: str, project: str, role: str = "member", per_minute: int | None = None,
    largest_file: int | None = None,
) -> tuple[Key, str]:  # fmt: skip
    """A new key and its secret, which nobody can ever see again.

    Raises:
        ConfigError: there is no such role, or no project can have this name.
    """
    if role not in ROLES:
        raise ConfigError(f"role {role!r}: must be one of {', '.join(ROLES)}.")
    if not PROJECT.fullmatch(project):
        raise ConfigError(f"project {project!r}: letters, digits, '.', '_' and '-' make a name, at most 64 of them.")
    secret = START + secrets.token_urlsafe(32)
    start = secret[: len(START) + 4]
    key = Key(f"key-{secrets.token_hex(8)}", project, name, role, start, now(), None, per_minute, largest_file)
    with records.write() as connection:
        know_project(connection, project)
        connection.execute(insert(keys).values(**vars(key), hash=_hash(secret)))
    return key, secret


def find_key(records: Records, secret: str) -> Key | None:
    """The key of a secret, unless it was revoked."""
    hashed = _hash(secret)
    with records.read() as connection:
        row = connection.execute(select(keys).where(keys.c.hash == hashed, keys.c.revoked.is_(None))).one_or_none()
    return key_of(row) if row is not None and hmac.compare_digest(row.hash, hashed) else None


def list_keys(records: Records) -> list[Key]:
    """All keys, the latest last."""
    with records.read() as connection:
        return [key_of(row) for row in connection.execute(select(keys).order_by(keys.c.created))]


def revoke_key(records: Records, id: str) -> Key:
    """Let a key open nothing any more.

    Raises:
        MissingError: there is none of this id.
    """
    with records.write() as connection:
        this = keys.c.id == id
        connection.execute(update(keys).where(this, keys.c.revoked.is_(None)).values(revoked=now()))
        row = connection.execute(select(keys).where(this)).one_or_none()
    if row is None:
        raise MissingError(f"key {id!r}: there is none. `tunesmith keys list` shows them.")
    return key_of(row)


def key_of(row: Any) -> Key:
    """A key of its row."""
    return Key(
        row.id, row.project, row.name, row.role, row.start, row.created, row.revoked, row.per_minute, row.largest_file
    )


def _hash(secret: str) -> str:
    """The secret has 256 random bits: a plain hash cannot be turned back."""
    return hashlib.sha256(secret.encode()).hexdigest()
