"""The base models that are on this machine: the embedded one, those unpacked from GGUF, those of the hub's cache.

What a user keeps in a folder of their own is none of them: it is neither listed nor removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from tunesmith.core.errors import MissingError, ModelError, TunesmithError
from tunesmith.core.files import home, make_folder, read_object
from tunesmith.core.names import did_you_mean
from tunesmith.prompt.base import EMBEDDED, resolve
from tunesmith.prompt.bases.hub import Cached, cached_models, forget, licence_of
from tunesmith.prompt.bases.record import Source, pulled_notes, pulled_path, read_source, unpacked_models
from tunesmith.prompt.whole import weight_files


@dataclass(frozen=True)
class Model:
    """A base model on this machine.

    Attributes:
        name: to name it by; `names` are others.
        bytes: on the disk.
        source: where it came from, and its hash or commit.
        uses: what it can be used for; empty if for nothing.
        why: it cannot be trained, or with what it can.
        cached: in the hub's cache; None for one that tunesmith has unpacked.
    """

    name: str
    folder: Path
    bytes: int
    source: Source
    uses: tuple[str, ...] = ()
    why: str = ""
    names: tuple[str, ...] = ()
    cached: Cached | None = None


def list_models() -> list[Model]:
    """All of them, the embedded one first."""
    embedded = resolve(EMBEDDED).folder
    source = Source(EMBEDDED, "comes with tunesmith", sha256="", licence="apache-2.0")
    found = [Model(EMBEDDED, embedded, size_of(embedded), source)]
    pulled = {source.sha256: source.name for _, source in pulled_notes() if source.sha256}
    for folder, source in unpacked_models():
        name = pulled.get(source.sha256, source.name)
        found.append(Model(name, folder, size_of(folder), source, names=(source.name, folder.name, str(folder))))
    notes = {(source.hub, source.commit): source for _, source in pulled_notes() if source.hub}
    for cached in cached_models():
        source = notes.get((cached.id, cached.commit), Source(cached.id, "hub", hub=cached.id, commit=cached.commit))
        found.append(Model(source.name, cached.folder, cached.bytes, source, names=(cached.id,), cached=cached))
    return [_looked_at(model) for model in found]


def find_listed(name: str) -> Model:
    """The model of that name.

    Raises:
        MissingError: there is none.
    """
    models = list_models()
    for model in models:
        if name in (model.name, *model.names):
            return model
    raise MissingError(
        f"no model {name!r} is here: {did_you_mean(name, [model.name for model in models])} "
        "`tunesmith models` lists them."
    )


def remove(name: str) -> tuple[Model, int]:
    """Take a model away that was unpacked or pulled; returns it, and the bytes that were freed.

    Raises:
        MissingError: there is none of that name.
        ModelError: it comes with tunesmith.
    """
    model = find_listed(name)
    if model.name == EMBEDDED:
        raise ModelError(f"{EMBEDDED} comes with tunesmith, and cannot be removed.")
    if model.cached is not None:
        freed = forget(model.cached)
    else:
        assert model.folder.parent == home() / "models", model.folder
        shutil.rmtree(model.folder)
        freed = model.bytes
    of_hub = (model.cached.id, model.cached.commit) if model.cached else None
    for path, source in pulled_notes():
        if path == pulled_path(model.name) or (source.hub, source.commit) == of_hub:
            path.unlink(missing_ok=True)
    return model, freed


def note_licence(name: str, hub: str, commit: str) -> None:
    """Keep what a pulled hub model's card says of its licence, for when nobody can be asked."""
    path = pulled_path(name)
    before = read_source(path)
    licence = (before.licence if before else "") or licence_of(hub, commit)
    make_folder(path.parent, "notes of what was pulled")
    Source(name, f"hub {hub}", licence=licence, hub=hub, commit=commit).save(path)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def numbers_of(folder: Path) -> int:
    """How many numbers a model's weights are, from the beginnings of their files.

    Raises:
        ModelError: they cannot be read.
    """
    return sum(prod(shape) for path in weight_files(folder) for shape in _shapes(path))


def _shapes(path: Path) -> Iterator[list[int]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(min(length, 100_000_000)))
    return (entry["shape"] for name, entry in header.items() if name != "__metadata__")


def _looked_at(model: Model) -> Model:
    """With what it can be used for, as its folder says."""
    try:
        config = read_object(model.folder / "config.json")
        numbers = numbers_of(model.folder)
        has_template = _has_template(model.folder)
    except (TunesmithError, ValueError, OSError, KeyError, TypeError) as error:
        return replace(model, why=f"damaged: {str(error)[:60]}")
    source = replace(model.source, numbers=numbers, template="its own" if has_template else "none")
    model = replace(model, source=source)
    if not any(str(one).endswith("ForCausalLM") or "LMHead" in str(one) for one in config.get("architectures") or []):
        return replace(model, why="not for a model of this kind")
    if "quantization_config" in config:
        return replace(model, uses=("chat",), why="its weights are quantised")
    return replace(model, uses=("train", "chat"), why="" if has_template else "with a model.template")


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    path = folder / "tokenizer_config.json"
    return path.exists() and bool(read_object(path).get("chat_template"))
