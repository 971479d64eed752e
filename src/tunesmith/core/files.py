"""Files written under a temporary name and published once, so that nobody reads half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TextIO, cast

from tunesmith.core.errors import MissingError, TunesmithError


def expanded(name: str | Path) -> Path:
    """The path with `~` as the home folder; a file whose own name begins with `~` keeps it."""
    path = Path(name)
    if str(name).startswith("~") and not str(name).startswith("~/"):
        try:
            return path if path.exists() else path.expanduser()  # ~anna/rows.jsonl
        except (RuntimeError, OSError):  # there is no such user, and no such name
            return path
    return path.expanduser()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def open_new(path: Path) -> Generator[TextIO]:
    """A file to write text to, which appears under its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    make_folder(path.parent, path.name)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        MissingError: there is no such file.
        TunesmithError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file.") from None
    except json.JSONDecodeError as error:
        raise TunesmithError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        raise TunesmithError(f"{path}: not JSON (byte {error.start + 1} is no UTF-8).") from None
    except RecursionError:
        raise TunesmithError(f"{path}: not JSON that can be read (too deeply nested).") from None
    except OSError as error:
        raise TunesmithError(f"{path}: cannot be read ({error.strerror}).") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        MissingError: there is no such file.
        TunesmithError: it is not JSON, or another value than an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise TunesmithError(f"{path}: must hold a JSON object, and holds {json.dumps(value)[:40]}.")
    return cast(dict[str, Any], value)


def append_line(path: Path, value: Any) -> None:
    """Append `value` as one JSON line; half a line that a crash left at the end is ended first, or both would be lost.

    Raises:
        TunesmithError: the disk is full.
    """
    line = (json.dumps(value) + "\n").encode()
    try:
        with path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
    except OSError as error:
        raise full_disk(path, len(line), error) from None


def full_disk(path: Path, needed: int, error: Exception) -> TunesmithError:
    """The error of a file that cannot be written, as a sentence.

    Args:
        path: of the file or folder.
        needed: bytes that were to be written.
        error: what the system said.
    """
    try:
        free = f", and {shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = ""
    reason = getattr(error, "strerror", None) or str(error)
    return TunesmithError(
        f"{path}: cannot be written ({reason}); it needs {needed:,} bytes{free}. What was written before is intact: "
        "make room and resume."
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in `path`, one a line; what is none, as a kill or a lost page leaves it, is passed over."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(cast(dict[str, Any], value))
    return lines


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Leave only the wanted ones of a file's JSON lines."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if wanted(line)))


@contextlib.contextmanager
def publish_folder(target: Path, replace: bool = True) -> Generator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and vanishes when not.

    Args:
        target: the folder to make.
        replace: whether it takes the place of one that is there; if not, the one that is there stays.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        if leftover == temporary or not _lives(leftover.name.split(".")[-2]):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in sorted(temporary.rglob("*")):
            if written.is_file():
                to_disk(written)
        if replace and target.exists():
            shutil.rmtree(target)
        try:
            temporary.rename(target)
        except OSError:  # another process was first
            if replace or not target.exists():
                raise
        to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lives(process: str) -> bool:
    """Whether a process of this number is there: what it writes is not to be touched."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk itself."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home() -> Path:
    """Where tunesmith keeps what it can make again: `TUNESMITH_HOME`, else the user's cache folder."""
    if given := os.environ.get("TUNESMITH_HOME"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"


def data_home() -> Path:
    """Where tunesmith keeps what it cannot make again: `TUNESMITH_HOME`, else the user's folder for data."""
    if given := os.environ.get("TUNESMITH_HOME"):
        return Path(given)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tunesmith"


def make_folder(path: Path, what: str) -> Path:
    """Create `path` and its parents, or say in one sentence why it cannot be.

    Raises:
        TunesmithError: no permission, no space, or a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise TunesmithError(f"{path}: cannot write {what} there ({error.strerror}). Choose another folder.") from None
    return path
