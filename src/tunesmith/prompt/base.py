"""A base model's name resolved to a folder on this machine: embedded, local, or from the Hugging Face hub.

Only configuration, tokenizer and safetensors files are ever fetched: nothing that could run code.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.core.files import expanded, home, publish_folder, read_object, sha256_of
from tunesmith.prompt.whole import refuse_broken

EMBEDDED = "ember"
WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")
# As configs name the longest sequence.
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length", "context_length")
UNWANTED = ("onnx/*", "original/*", "*.msgpack", "*.bin", "runs/*", "coreml/*", "consolidated*")


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


def resolve(name: str, revision: str | None = None) -> Base:
    """Find the base model called `name`, downloading it when it is a hub id that is not cached.

    Raises:
        MissingError: no such folder, hub id or cached copy; the sentence says what to do.
        ModelError: the folder is not a model that can be loaded.
    """
    if name == EMBEDDED:
        return Base(name, _unpack_embedded())
    if (folder := expanded(name)).is_dir():
        is_run = (folder / "config.yaml").exists() and (folder / "model").is_dir()
        return Base(name, _checked((folder / "model" if is_run else folder).resolve()))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise MissingError(
            f"model {name!r}: no such folder. Give a folder, a Hugging Face id such as "
            f"HuggingFaceTB/SmolLM2-135M, or {EMBEDDED!r}."
        )
    folder = _checked(_download(name, revision))
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
    name = next((name for name in POSITIONS if inner.get(name)), None)
    if name is None:
        return None
    if type(inner[name]) is not int or inner[name] < 1:
        raise ModelError(f"{path}: {name} = {inner[name]!r}: must be a whole number of tokens.")
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


def _download(name: str, revision: str | None) -> Path:
    """A snapshot of a hub model; `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` count."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        )
    except GatedRepoError:
        raise MissingError(
            f"model {name!r}: gated. Accept its licence on its hub page, then set HF_TOKEN to a token of yours."
        ) from None
    except RevisionNotFoundError:
        raise MissingError(f"model.revision = {revision!r}: {name} has no such branch, tag or commit.") from None
    except RepositoryNotFoundError:
        raise MissingError(
            f"model {name!r}: no such folder here and no such model on the hub "
            "(a private one needs HF_TOKEN). Check the spelling."
        ) from None
    except HFValidationError:
        raise MissingError(f"model {name!r}: neither a folder nor a possible Hugging Face id.") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise MissingError(
            f"model {name!r}: no such folder or run here; not in the cache, and the hub cannot be reached. "
            f"Check the spelling (`tunesmith runs` lists runs), connect, or use {EMBEDDED!r}."
        ) from None
