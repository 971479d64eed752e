"""Blobs: contents under the name of their SHA-256, in a folder or in a bucket, through fsspec.

What is there is whole: a file appears in a folder by being renamed, and in a bucket when its upload is complete. Who
fetches a blob gets the bytes that its name promises, or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs  # pyright: ignore
from fsspec.implementations.local import LocalFileSystem  # pyright: ignore

from tunesmith.core.errors import ConfigError, MissingError, StoreError, TunesmithError
from tunesmith.core.files import sha256_of, to_disk

CHUNK = 1 << 20  # bytes that are held at once
STALE = 24 * 3600.0  # seconds after which what a killed writer left half written is taken away
OWNER = "records.txt"  # says whose blobs these are


class Damaged(TunesmithError):  # noqa: N818  what it is
    """A blob is there, and its bytes are not those that its name promises."""


class Missing(MissingError):  # noqa: N818  what it is
    """There is no such blob."""


@dataclass(frozen=True)
class Blobs:
    """A store of blobs.

    Attributes:
        files: fsspec's file system.
        root: where in it.
        name: the address, for people.
    """

    files: Any
    root: str
    name: str

    @property
    def local(self) -> Path | None:
        """The folder, where it is one of this machine."""
        return Path(self.root) if isinstance(self.files, LocalFileSystem) else None

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob; None if it is not there.

        Raises:
            StoreError: the store cannot be reached. (As of all methods.)
        """
        with self._attributed(sha256, may_lack=True):
            try:
                return int(self.files.info(self._path(sha256))["size"])
            except FileNotFoundError:
                self._refuse_absent()
                return None

    def put(self, path: Path, sha256: str | None = None) -> str:
        """Keep the contents of a file, which nobody changes meanwhile; returns their SHA-256.

        Args:
            path: the file.
            sha256: of it, where it is known.
        """
        sha256 = sha256 or sha256_of(path)
        if self.size(sha256) == path.stat().st_size:
            return sha256
        with self._attributed(sha256):
            if self.local is not None:
                self._put_here(path, sha256)
            else:
                self.files.put_file(str(path), self._path(sha256))
        if self.size(sha256) != path.stat().st_size:
            raise StoreError(f"{self.name}: {sha256} did not arrive whole. It is tried again.")
        return sha256

    def put_bytes(self, content: bytes) -> str:
        """Keep a few bytes; returns their SHA-256."""
        return self.put_stream([content])[0]

    def put_stream(self, chunks: Iterable[bytes], most: int | None = None) -> tuple[str, int]:
        """Keep what comes in pieces, of which one is held at a time; returns its SHA-256 and its bytes.

        Args:
            chunks: the pieces.
            most: bytes that are taken.

        Raises:
            TunesmithError: there are more.
        """
        with self._spool() as spool:
            digest, size = hashlib.sha256(), 0
            with self._attributed(self.root):
                file = spool.open("wb")
            with file:
                for chunk in chunks:
                    size += len(chunk)
                    if most is not None and size > most:
                        raise TunesmithError(f"more than {most:,} bytes.")
                    digest.update(chunk)
                    with self._attributed(spool.name):
                        file.write(chunk)
            self.put(spool, digest.hexdigest())
        return digest.hexdigest(), size

    def read(self, sha256: str) -> Iterator[bytes]:
        """The contents of a blob in pieces; the last one comes only if all were what the name promises.

        Raises:
            Missing: there is none.
            Damaged: it is another.
        """
        digest, held = hashlib.sha256(), b""
        with self._attributed(sha256, may_lack=True):
            try:
                file = self.files.open(self._path(sha256), "rb")
            except FileNotFoundError:
                self._refuse_absent()
                raise Missing(f"{self.name}: blob {sha256} is not there. Bring it back from a backup.") from None
        with file:
            while True:
                with self._attributed(sha256):
                    chunk = file.read(CHUNK)
                if not chunk:
                    break
                digest.update(chunk)
                if held:
                    yield held
                held = chunk
        if digest.hexdigest() != sha256:
            raise Damaged(f"{self.name}: blob {sha256} is damaged. Bring it back from a backup.")
        if held:
            yield held

    def fetch(self, sha256: str, target: Path) -> None:
        """Write a blob to a file, whole and verified, or not at all.

        One that is damaged, read twice, is put aside, so that whoever has its content can put it there again.

        Raises:
            Missing, Damaged: as `read`.
            StoreError: the file cannot be written, too.
        """
        try:
            self._fetch(sha256, target)
        except Damaged:
            try:
                self._fetch(sha256, target)
            except Damaged:
                with self._attributed(sha256):
                    self.files.mv(self._path(sha256), f"{self._path(sha256)}.damaged")
                raise

    def _fetch(self, sha256: str, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for chunk in self.read(sha256):
                    file.write(chunk)
            temporary.replace(target)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{target}: cannot be written ({error.strerror or error}). Make room.") from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def delete(self, sha256: str) -> None:
        """Take a blob away, if it is there."""
        with self._attributed(sha256), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self._path(sha256))

    def all(self) -> Iterator[str]:
        """The SHA-256 of each blob."""
        with self._attributed("all"):
            try:
                found: list[str] = self.files.find(self.root)
            except FileNotFoundError:
                found = []
        for path in found:
            folder, _, name = path.rpartition("/")
            if re.fullmatch("[0-9a-f]{64}", name) and folder.endswith("/" + name[:2]):
                yield name

    def bind(self, id: str, known: bool = False) -> None:
        """Say that these blobs belong to the records called `id`, so that no other's retention deletes them.

        Args:
            id: of the records.
            known: whether they were bound before: then these must be they.

        Raises:
            ConfigError: they belong to others.
            StoreError: they were bound, and are not there.
        """
        path = f"{self.root}/{OWNER}"
        if known:
            self._refuse_absent(everywhere=True)
        with self._attributed(OWNER):
            if not self.files.exists(path):
                if self.local is not None:
                    self._own_here(id)
                else:
                    self.files.pipe_file(path, id.encode())
            owner = self.files.cat_file(path).decode(errors="replace").strip()
        if owner != id:
            raise ConfigError(
                f"blobs {self.name}: they belong to other records ({owner}, and these are {id}). Each database needs "
                "blobs of its own: name another folder or bucket."
            )

    def _own_here(self, id: str) -> None:
        """Write the owner whole, unless another was first."""
        assert self.local is not None
        self.local.mkdir(parents=True, exist_ok=True)
        with self._spool() as spool:
            spool.write_text(id)
            to_disk(spool)
            with contextlib.suppress(FileExistsError):
                os.link(spool, self.local / OWNER)

    def _refuse_absent(self, everywhere: bool = False) -> None:
        """Tell a blob that is not there from a store that is not: a disk that is not mounted, a wrong address."""
        if (everywhere or self.local is not None) and not self.files.exists(f"{self.root}/{OWNER}"):
            raise StoreError(
                f"{self.name}: the blobs of these records are not there ({OWNER} is missing). Is the address right, "
                "and the disk mounted?"
            )

    def clean(self, older: float) -> None:
        """Take away what was half written before the Unix time `older` by processes that are no more."""
        for path in self.local.glob(".*.tmp") if self.local else ():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < older:
                    path.unlink()

    def _path(self, sha256: str) -> str:
        assert re.fullmatch("[0-9a-f]{64}", sha256), sha256
        return f"{self.root}/{sha256[:2]}/{sha256}"

    def _put_here(self, path: Path, sha256: str) -> None:
        """Copy a file into the folder: on the disk before it has its name."""
        target = Path(self._path(sha256))
        target.parent.mkdir(exist_ok=True)
        with self._spool() as spool:
            shutil.copyfile(path, spool)
            if sha256_of(spool) != sha256:
                raise StoreError(f"{path}: it changed while it was read. It is tried again.")
            to_disk(spool)
            spool.replace(target)
        to_disk(target.parent)

    @contextlib.contextmanager
    def _spool(self) -> Generator[Path]:
        """A file to write to, in the same folder as the blobs where they are in one; gone at the end."""
        folder = self.local or Path(tempfile.gettempdir())
        path = folder / f".{os.getpid()}-{secrets.token_hex(6)}.tmp"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _attributed(self, what: str, may_lack: bool = False) -> Generator[None]:
        """Whatever keeps the store from doing something is a `StoreError` that says where and what.

        Args:
            what: is asked for.
            may_lack: that it is not there is an answer.
        """
        try:
            yield
        except TunesmithError:
            raise
        except FileNotFoundError as error:
            if may_lack:
                raise
            raise StoreError(f"{self.name}: {what}: there is no such folder or bucket ({error}).") from None
        except Exception as error:  # noqa: BLE001  each kind of store raises its own, and all mean the same here
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise StoreError(f"{self.name}: {what}: the blobs cannot be reached or written ({reason}).") from None


def open_blobs(url: str) -> Blobs:
    """The blobs at an address: a folder, or `s3://bucket/prefix` and whatever else fsspec knows.

    Raises:
        ConfigError: nobody knows such an address, or what it needs is not installed.
        StoreError: it cannot be reached.
    """
    options: dict[str, Any] = {"use_listings_cache": False} if "://" in url else {}
    try:
        address = url if options else str(Path(url).expanduser().absolute())
        found: tuple[Any, Any] = url_to_fs(address, **options)  # pyright: ignore
    except ImportError as error:
        extra = "pip install 'tunesmith[s3]'" if url.startswith("s3") else str(error)
        raise ConfigError(f"blobs {url!r}: this kind of store needs an extra: {extra}.") from None
    except ValueError as error:
        raise ConfigError(f"blobs {url!r}: {error}. Name a folder, or s3://bucket/prefix.") from None
    root = str(found[1]).rstrip("/")
    if not root:
        raise ConfigError(f"blobs {url!r}: a bucket is missing. Name a folder, or s3://bucket/prefix.")
    return Blobs(found[0], root, url)
