"""The Hugging Face hub: a model's folder, one GGUF file, its licence, and what of it is in the cache.

Only configuration, tokenizer and safetensors files are ever fetched: nothing that could run code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tunesmith.core.errors import MissingError

WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")
UNWANTED = ("onnx/*", "original/*", "*.msgpack", "*.bin", "runs/*", "coreml/*", "consolidated*")
SHORT = 2.0  # seconds within which a hub answers that is worth asking first
Value = TypeVar("Value")


@dataclass(frozen=True)
class Cached:
    """A model in the hub's cache, at one commit."""

    id: str
    commit: str
    folder: Path
    bytes: int


def fetch_folder(name: str, revision: str | None) -> Path:
    """A snapshot of a hub model; `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` count.

    Raises:
        MissingError: it cannot be had; the sentence says why.
    """
    from huggingface_hub import snapshot_download

    return Path(
        _asked(
            name,
            revision,
            lambda: snapshot_download(
                name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            ),
        )
    )


def fetch_file(name: str, file: str, revision: str | None) -> Path:
    """One file of a hub model.

    Raises:
        MissingError: it cannot be had; the sentence says why.
    """
    from huggingface_hub import hf_hub_download

    return Path(_asked(name, revision, lambda: hf_hub_download(name, file, revision=revision), file))


def _asked(name: str, revision: str | None, ask: Callable[[], Value], file: str = "") -> Value:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return ask()
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
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise _unreachable(f"{name}/{file}" if file else name) from None
    except EntryNotFoundError:
        raise MissingError(f"model {name!r}: has no file {file!r}. Look at the files on its hub page.") from None
    except (HfHubHTTPError, OSError):
        raise _unreachable(name) from None


def _unreachable(name: str) -> MissingError:
    return MissingError(
        f"model {name!r}: no such folder or run here; not in the cache, and the hub cannot be reached. "
        "Check the spelling (`tunesmith runs` lists runs, `tunesmith models` models), connect, or use 'ember'."
    )


def answers(name: str) -> bool:
    """Whether a hub has this model and answers at once, or the cache has it: then it is to be had from there."""
    import httpx
    from huggingface_hub import constants, try_to_load_from_cache

    if all(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "model.safetensors")):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return httpx.get(f"{constants.ENDPOINT}/api/models/{name}", timeout=SHORT, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


def licence_of(name: str, revision: str | None) -> str:
    """The licence on a hub model's card; empty where there is none or nobody can be asked."""
    from huggingface_hub import HfApi, constants

    try:
        card = HfApi(endpoint=constants.ENDPOINT).model_info(name, revision=revision, timeout=10).card_data
    except Exception:  # noqa: BLE001  offline, refused or unreadable: then nobody says
        return ""
    found = card.get("license") if card is not None else None
    return found if isinstance(found, str) else ", ".join(found) if isinstance(found, list) else ""


def cached_models() -> Iterator[Cached]:
    """Models in the cache whose weights are safetensors."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        for revision in repository.revisions:
            names = {file.file_name for file in revision.files}
            if repository.repo_type == "model" and "config.json" in names and any(map(_is_weights, names)):
                size = revision.size_on_disk
                yield Cached(repository.repo_id, revision.commit_hash, revision.snapshot_path, size)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def forget(cached: Cached) -> int:
    """Take a model out of the cache; returns the bytes that were freed."""
    from huggingface_hub import scan_cache_dir

    strategy = scan_cache_dir().delete_revisions(cached.commit)
    strategy.execute()
    return strategy.expected_freed_size
