"""What is known of a model that was fetched or unpacked: a file in its folder, or beside it for one of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import home, make_folder, read_object, write_json

RECORD = "source.json"  # in the folder of an unpacked model


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    Attributes:
        name: as it was asked for.
        source: a path, `wheel of the package index NAME==VERSION`, or a hub id with its commit.
        sha256: of the file that it was unpacked from; empty for a folder of the hub.
        licence: as the model's card or file has it; empty if it does not.
        kinds: of the file's tensors: how many of each.
        numbers: in all tensors.
        template: `its own` or `none`.
        notes: what whoever uses it should know.
        hub, commit: for a folder of the hub.
        versions: of the libraries that unpacked it.
        made: when.
    """

    name: str
    source: str
    sha256: str = ""
    licence: str = ""
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    numbers: int = 0
    template: str = ""
    notes: tuple[str, ...] = ()
    hub: str = ""
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def save(self, path: Path) -> None:
        """Write it down."""
        write_json(path, asdict(self))


def read_source(path: Path) -> Source | None:
    """What stands in a record; None where there is none that can be read."""
    try:
        values: dict[str, Any] = read_object(path)
        known = {one.name for one in fields(Source)}
        return Source(**{**{name: values[name] for name in values.keys() & known}, "notes": tuple(values["notes"])})
    except (TunesmithError, TypeError, KeyError):
        return None


def notes_of(folder: Path) -> tuple[str, ...]:
    """What whoever uses the base model in `folder` should know."""
    found = read_source(folder / RECORD)
    return found.notes if found else ()


def models_folder() -> Path:
    """Where models lie that tunesmith has unpacked."""
    return make_folder(home() / "models", "models")


def unpacked_models() -> Iterator[tuple[Path, Source]]:
    """Folders of models that were unpacked, with their records."""
    for path in sorted((home() / "models").glob(f"*/{RECORD}")):
        if not path.parent.name.startswith(".") and (found := read_source(path)) is not None:
            yield path.parent, found


def find_unpacked(sha256: str) -> Path | None:
    """Where the GGUF file with this hash has been unpacked."""
    return next((folder for folder, source in unpacked_models() if source.sha256 == sha256), None)


def pulled_path(name: str) -> Path:
    """Where it is noted what was pulled under a name."""
    return home() / "models" / "pulled" / f"{name.replace('/', '--')}.json"


def pulled_notes() -> Iterator[tuple[Path, Source]]:
    """The notes of what was pulled."""
    for path in sorted((home() / "models" / "pulled").glob("*.json")):
        if (found := read_source(path)) is not None:
            yield path, found
