"""A base model's name resolved to a folder on this machine: embedded, a folder, a GGUF file, pulled, or of the hub."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import expanded, home, publish_folder, read_object, sha256_of
from tunesmith.prompt.bases.hub import fetch_folder
from tunesmith.prompt.bases.pull import NAMED, fetch_hub_file, fetch_named, is_hub_file
from tunesmith.prompt.bases.unpacked import unpacked
from tunesmith.prompt.whole import refuse_broken

EMBEDDED = "ember"
# As configs name the longest sequence.
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length", "context_length")
# Families that number positions from the one after their padding token, so that fewer are left for texts.
COUNTED_FROM_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"}

RELATIVE = {"t5", "mt5", "umt5", "longt5"}  # families that know distances alone, whatever their configuration says


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    name: str
    folder: Path
    commit: str | None = None  # of a Hugging Face id

    @property
    def reference(self) -> str:
        """What an adapter writes down to find this model again: a hub id, or a path."""
        return self.name if self.commit else str(self.folder)

    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration and tokenizer: what `base hash` means in every record."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")) + [
            self.folder / name for name in ("config.json", "tokenizer.json") if (self.folder / name).exists()
        ]:
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
        return digest.hexdigest()


def resolve(name: str, revision: str | None = None, report: Report = silent) -> Base:
    """Find the base model called `name`: fetched where it is not here yet, and unpacked where it is a GGUF file.

    Args:
        name: the embedded model's; a folder; a GGUF file, here or in a hub repository; a name of `NAMED`; a hub id.
        revision: of what comes from the hub.
        report: hears what is done, where that takes a while.

    Raises:
        MissingError: no such folder, file, hub id or cached copy; the sentence says what to do.
        ModelError: it is not a model that can be loaded.
    """
    if name == EMBEDDED:
        return Base(name, _unpack_embedded())
    path = expanded(name)
    if path.is_dir():
        is_run = (path / "config.yaml").exists() and (path / "model").is_dir()
        return Base(name, _checked((path / "model" if is_run else path).resolve()))
    if path.is_file():
        return Base(name, _checked(unpacked(path, report=report).resolve()))
    if name in NAMED and revision is not None:
        raise ModelError(
            f"model.revision = {revision!r}: {name} is one model, which has no other revisions. Leave it out, or name "
            f"the hub id {NAMED[name].hub}."
        )
    if name in NAMED or is_hub_file(name):
        found = fetch_named(name, report) if name in NAMED else fetch_hub_file(name, revision, report)
        return Base(found.name, _checked(found.folder), found.commit)
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or name.endswith(".gguf"):
        raise MissingError(
            f"model {name!r}: no such folder or file. Give a folder, a GGUF file, a Hugging Face id such as "
            f"HuggingFaceTB/SmolLM2-135M, {', '.join(map(repr, NAMED))} or {EMBEDDED!r}."
        )
    folder = _checked(fetch_folder(name, revision))
    return Base(name, folder, commit=folder.name)  # snapshots are kept under their commit


def context_length(folder: Path) -> int | None:
    """The longest sequence that the model in `folder` was made for, in tokens, if its config says.

    Raises:
        TunesmithError: its config.json is not one.
    """
    path = folder / "config.json"
    config = read_object(path)
    inner = config.get("text_config") or config
    if not isinstance(inner, dict):
        raise ModelError(f"{path}: text_config = {inner!r}: must be an object.")
    return positions_in(inner, path)


def positions_in(inner: dict[str, Any], path: Path | str = "the model's config") -> int | None:
    """The longest sequence, in tokens, of a model with this configuration, if it says.

    Args:
        inner: the configuration, of texts.
        path: where it stands.

    Raises:
        ModelError: it cannot be understood.
    """
    name = next((name for name in POSITIONS if inner.get(name)), None)
    if name is None or inner.get("model_type") in RELATIVE:
        return None
    if type(inner[name]) is not int or inner[name] < 1:
        raise ModelError(f"{path}: {name} = {inner[name]!r}: must be a whole number of tokens.")
    if inner.get("model_type") in COUNTED_FROM_PADDING:
        return inner[name] - int(inner.get("pad_token_id") or 0) - 1
    return inner[name]


def _unpack_embedded() -> Path:
    """The embedded model in the user's cache, under the hash of its weights, copied there at first use."""
    with as_file(files("tunesmith") / "assets" / "base") as source:
        target = home() / "models" / f"{EMBEDDED}-{sha256_of(source / 'model.safetensors')[:12]}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with publish_folder(target, replace=False) as temporary:
                for file in source.iterdir():
                    shutil.copyfile(file, temporary / file.name)
        return target


def _checked(folder: Path) -> Path:
    """Refuse, with the reason, a folder that cannot be a base model."""
    if not (folder / "config.json").exists():
        hint = (
            " It is an adapter: name the model that it was trained on, and the adapter in method.start."
            if (folder / "adapter_config.json").exists()
            else ""
        )
        raise ModelError(f"{folder}: not a base model, config.json is missing.{hint}")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no *.safetensors weights. Pickled weights are never loaded; convert them first.")
    refuse_broken(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelError(f"{folder}: no tokenizer (tokenizer.json). Copy the tokenizer's files of its base into it.")
    return folder
