"""Where rows come from: names become files on this machine, each with its weight."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.core.files import home
from tunesmith.data.read import PACKED

EMBEDDED = {
    "hotel": "hotel/train.jsonl",
    "hotel-test": "hotel/test.jsonl",
    "probe-questions": "probe/questions.jsonl",
    "probe-texts": "probe/texts.jsonl",
    "ember-general": "replay/ember.jsonl",
    "general-prompts": "replay/prompts.txt",
    "held-out-prompts": "replay/held_out_prompts.txt",
}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt", ".md")
LARGEST_DOWNLOAD = 8 << 30  # bytes


@dataclass(frozen=True)
class SourceFile:
    """A file of rows.

    Attributes:
        name: what messages and ledgers call it.
        path: where it lies.
        weight: how often its rows are seen in an epoch.
    """

    name: str
    path: Path
    weight: float = 1.0


def find_files(names: str | Sequence[str] | Mapping[str, float]) -> list[SourceFile]:
    """The files that `names` stand for, in order.

    Args:
        names: one or several of: a file, a folder, a pattern, `hf:owner/name[:config[:split]]`, an embedded
            name, or an http(s) address; a mapping gives each its weight.

    Raises:
        MissingError: nothing is there.
        ConfigError: a weight that is no positive number, or a file named twice.
    """
    given = names.items() if isinstance(names, Mapping) else [(n, 1.0) for n in _as_list(names)]
    found: list[SourceFile] = []
    for name, weight in given:
        if not 0 < weight < 1000:
            raise ConfigError(f"data.train: {name!r} has weight {weight}. Give a number above 0, such as 0.5 or 2.")
        found += [SourceFile(shown, path, weight) for shown, path in _find(name)]
    paths = [file.path.resolve() for file in found]
    if twice := [file.name for file, path in zip(found, paths, strict=True) if paths.count(path) > 1]:
        raise ConfigError(f"data: {twice[0]!r} is named twice. Name it once; a weight makes its rows count for more.")
    if not found:
        raise ConfigError("data.train names no file.")
    return found


def _as_list(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _find(name: str) -> list[tuple[str, Path]]:
    if name in EMBEDDED:
        with as_file(files("tunesmith") / "assets" / EMBEDDED[name]) as path:
            return [(name, path)]
    if name.startswith(("http://", "https://")):
        return [(name, download(name))]
    if name.startswith("hf:"):
        return [(name, from_hub(name))]
    path = Path(name).expanduser()
    if path.is_dir():
        inside = [(str(file), file) for file in sorted(path.iterdir()) if file.is_file() and _is_data(file)]
        if not inside:
            raise MissingError(f"{name}: no data file in this folder. Known: {', '.join(SUFFIXES)}.")
        return inside
    if not path.exists() and any(mark in name for mark in "*?["):
        root = Path(path.anchor) if path.is_absolute() else Path()
        matched = sorted(root.glob(str(path.relative_to(path.anchor) if path.is_absolute() else path)))
        if not matched:
            raise MissingError(f"{name}: no file matches this pattern.")
        return [(str(file), file) for file in matched if file.is_file()]
    if not path.exists():
        raise MissingError(f"{name}: no such file.")
    return [(name, path)]


def _is_data(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    return bool(suffixes) and suffixes[-1] in SUFFIXES and not path.name.startswith(".")


def download(url: str, largest: int = LARGEST_DOWNLOAD) -> Path:
    """The file at an http(s) address, fetched once and kept in the cache.

    Raises:
        MissingError: the server does not have it, or cannot be reached.
        DataError: more than `largest` bytes.
    """
    import urllib.error
    import urllib.parse
    import urllib.request

    tail = Path(urllib.parse.urlsplit(url).path).name[-80:] or "rows.jsonl"
    target = home() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{tail}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, temporary.open("wb") as file:
            size = 0
            while chunk := answer.read(1 << 20):
                size += len(chunk)
                if size > largest:
                    raise DataError(f"{url}: more than {largest:,} bytes. Download it by hand if you trust it.")
                file.write(chunk)
        temporary.replace(target)
    except urllib.error.HTTPError as error:
        raise MissingError(f"{url}: the server answers {error.code} {error.reason}. Check the address.") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingError(f"{url}: cannot be fetched ({reason}). Check the address and the connection.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def from_hub(name: str) -> Path:
    """A data set of the Hugging Face hub, `hf:owner/name[:config[:split]]`, as a Parquet file in the cache.

    The split is `train` if none is named. A local folder may stand in the place of owner/name.

    Raises:
        DataError: the `datasets` extra is not installed.
        MissingError: there is no such data set, config or split, or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"{name}: the hub's data sets need an extra: pip install 'tunesmith[hub]'.") from None
    id, _, rest = name.removeprefix("hf:").partition(":")
    config, _, split = rest.partition(":")
    target = home() / "downloads" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.parquet"
    if target.exists() and not Path(id).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        loaded = datasets.load_dataset(id, config or None, split=split or "train")
        loaded.to_parquet(str(temporary))  # pyright: ignore[reportAttributeAccessIssue]
        temporary.replace(target)
    except Exception as error:  # noqa: BLE001  the library raises a hundred kinds; all mean that it is not there
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingError(f"{name}: cannot be loaded ({reason}). Write hf:owner/name[:config[:split]].") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target
