"""Sessions of the page: a key, typed once, opens it in one browser for a week."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import delete, insert, select

from tunesmith.serve.keys import Key, key_of
from tunesmith.store.records import Records, now
from tunesmith.store.schema import keys, sessions

COOKIE = "tunesmith_session"
PAGE = "x-tunesmith-page"  # a header that pages of other sites cannot send, so that the cookie alone opens no route
SECONDS = 7 * 86400


def open_session(records: Records, key: Key) -> str:
    """A new session; returns what the browser keeps, of which only a hash is kept here."""
    token = secrets.token_urlsafe(32)
    with records.write() as connection:
        connection.execute(delete(sessions).where(sessions.c.expires < now()))
        connection.execute(insert(sessions).values(hash=_hash(token), key=key.id, expires=now() + SECONDS))
    return token


def key_of_session(records: Records, token: str) -> Key | None:
    """The key that a session was opened with, unless either has ended."""
    this = (sessions.c.hash == _hash(token)) & (sessions.c.expires >= now())
    wanted = select(keys).join(sessions, sessions.c.key == keys.c.id).where(this, keys.c.revoked.is_(None))
    with records.read() as connection:
        row = connection.execute(wanted).one_or_none()
    return None if row is None else key_of(row)


def close_session(records: Records, token: str) -> None:
    """End a session."""
    with records.write() as connection:
        connection.execute(delete(sessions).where(sessions.c.hash == _hash(token)))


def _hash(token: str) -> str:
    """The token has 256 random bits: a plain hash cannot be turned back."""
    return hashlib.sha256(token.encode()).hexdigest()
