"""What a job's folder holds, as another worker needs it to go on: frozen while the job writes, kept, brought back."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tunesmith.core.files import read_object
from tunesmith.core.manifest import MANIFEST, why_changed
from tunesmith.store.blobs import Blobs
from tunesmith.store.stores import Files

CHECKPOINTS = "checkpoints"
STEP = re.compile(r"checkpoints/step-(\d+)")
WRITTEN_ONCE = ".safetensors"  # files that are written whole and never changed: another name of one is a copy


def freeze(folder: Path, into: Path, inputs: Iterable[str]) -> None:
    """Copy what a job's folder holds now, but for its inputs and what is being written, in no time.

    A checkpoint that is taken away meanwhile is not copied.

    Args:
        folder: the job's.
        into: on the same disk, and not there yet.
        inputs: paths that its folder was given.
    """
    given, gone = set(inputs), set[str]()
    for name in _walk(folder):
        if name in given:
            continue
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy(folder / name, target)
        except FileNotFoundError:
            gone |= {found.group() for found in [STEP.match(name)] if found}
    for checkpoint in gone:
        shutil.rmtree(into / checkpoint, ignore_errors=True)


def _walk(folder: Path) -> Iterator[str]:
    """Paths of files in a folder, without hidden ones: locks, and what is written under another name."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield str((Path(parent) / name).relative_to(folder))


def _copy(source: Path, target: Path) -> None:
    if source.suffix == WRITTEN_ONCE:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def whole(frozen: Path) -> tuple[dict[str, Path], dict[str, str], int | None]:
    """What of a frozen folder is whole: checkpoints that are not are left out.

    Returns:
        Its files by path, the SHA-256 of those that have just been read, and the last step of its checkpoints.
    """
    paths = {name: frozen / name for name in _walk(frozen)}
    hashes: dict[str, str] = {}
    steps: list[int] = []
    for checkpoint in sorted({found.group() for name in paths if (found := STEP.match(name))}):
        inside = frozen / checkpoint
        try:
            fine = why_changed(inside) is None
        except (OSError, ValueError):
            fine = False
        if fine:
            known = read_object(inside / MANIFEST)["sha256"]
            hashes |= {f"{checkpoint}/{name}": sha256 for name, sha256 in known.items()}
            steps.append(int(checkpoint.rpartition("-")[2]))
        else:
            paths = {name: path for name, path in paths.items() if not name.startswith(f"{checkpoint}/")}
    return paths, hashes, max(steps, default=None)


def what_is_made(paths: dict[str, Path]) -> dict[str, Path]:
    """What a success publishes: all but its checkpoints, or all where no model was to be made."""
    rest = {name: path for name, path in paths.items() if not name.startswith(f"{CHECKPOINTS}/")}
    return rest if any(name.startswith("model/") for name in rest) else paths


def bring(blobs: Blobs, files: Files, folder: Path, before: Callable[[], None] = lambda: None) -> None:
    """Write files of a record into a folder, each verified; `before` each of them something may be asked.

    Raises:
        Missing, Damaged: a blob is not there, or another than its name says.
        StoreError: the store cannot be reached.
    """
    for name, (sha256, _) in files.items():
        target = (folder / name).resolve()
        assert target.is_relative_to(folder.resolve()), name
        before()
        blobs.fetch(sha256, target)
