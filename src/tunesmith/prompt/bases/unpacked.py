"""A GGUF file as a folder that everything else reads: unpacked once, in a child process, under the file's hash.

Unpacking needs torch, and a damaged file may end it in any way, so it is a job: what comes back is a folder or a
sentence.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from tunesmith.core import events
from tunesmith.core.errors import JobError, ModelError, OutOfMemory, Stopped, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import home, make_folder, read_object, sha256_of, write_json
from tunesmith.prompt.bases.gguf import checked
from tunesmith.prompt.bases.record import Source, find_unpacked, models_folder

LONGEST_STEM = 60
JOB = "unpack"


def unpacked(path: Path, source: Source | None = None, report: Report = silent) -> Path:
    """The folder of the model in the GGUF file `path`.

    Args:
        path: of the file.
        source: where it came from, if that is not the path itself.
        report: hears what is done.

    Raises:
        MissingError: there is no such file.
        ModelError: the model in it cannot be used.
        OutOfMemory, JobError: there was no room to unpack it, or it could not be.
    """
    known = _known_hash(path) if path.exists() else None
    if known and (found := find_unpacked(known)) is not None:
        return found
    header = checked(path)
    sha256 = known or hashed(path)
    if (found := find_unpacked(sha256)) is not None:  # the same file under another name
        return found
    source = source or Source(name=str(path), source=str(path.absolute()))
    folder = models_folder() / f"{_stem(path)}-{sha256[:12]}"
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(events.Phase(f"waiting for another process that unpacks {path.name}"))
        lock.acquire()
    try:
        if not folder.exists():
            report(events.Phase(f"unpacking {path.name} ({header.numbers / 1e6:,.0f} million numbers), once"))
            _run(
                {"file": str(path.absolute()), "folder": str(folder), "sha256": sha256, "source": asdict(source)},
                report,
            )
    finally:
        lock.release()
    return folder


def _run(arguments: dict[str, object], report: Report) -> None:
    from tunesmith.exec.alone import run_alone
    from tunesmith.exec.executor import Job
    from tunesmith.exec.local import LocalExecutor

    try:
        run_alone(LocalExecutor(), Job(JOB, arguments), report)
    except OutOfMemory as error:
        raise OutOfMemory(f"{arguments['file']}: {error} Unpacking takes about 8 bytes a number: close what else runs "
                          "here, or take a smaller model.") from None  # fmt: skip
    except (JobError, Stopped):
        raise
    except TunesmithError as error:  # in words for the user, which came through a pipe
        raise ModelError(str(error)) from None


def _stem(path: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(".gguf"))
    return stem.strip(".-")[:LONGEST_STEM] or "model"


def hashed(path: Path) -> str:
    """The SHA-256 of a large file, read again only where its length or its time has changed."""
    if (known := _known_hash(path)) is not None:
        return known
    sha256 = sha256_of(path)
    note = _note_of(path)
    make_folder(note.parent, "hashes")
    write_json(note, {**_looks(path), "sha256": sha256})
    return sha256


def _known_hash(path: Path) -> str | None:
    try:
        found = read_object(_note_of(path))
        return found["sha256"] if found == {**_looks(path), "sha256": found["sha256"]} else None
    except (TunesmithError, OSError, KeyError):
        return None


def _looks(path: Path) -> dict[str, object]:
    """What tells that a file is still the one that it was."""
    found = path.stat()
    return {"path": str(path.absolute()), "bytes": found.st_size, "time": found.st_mtime_ns, "node": found.st_ino}


def _note_of(path: Path) -> Path:
    from hashlib import sha256

    return home() / "hashes" / f"{sha256(str(path.absolute()).encode()).hexdigest()}.json"
