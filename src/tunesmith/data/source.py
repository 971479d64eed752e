"""Where rows come from: names become files on this machine, each with its weight."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.core.files import expanded, home, read_json, write_json
from tunesmith.core.names import counted
from tunesmith.data.read.files import JSONS, PACKED, TABLES, TAGGED, TEXTS

EMBEDDED = {
    "hotel": "hotel/train.jsonl",
    "hotel-test": "hotel/test.jsonl",
    "hotel-preferences": "hotel_pairs/train.jsonl",
    "hotel-preferences-test": "hotel_pairs/test.jsonl",
    "general-questions": "general_ability/questions.jsonl",
    "general-texts": "general_ability/texts.jsonl",
    "ember-general": "replay/ember.jsonl",
    "general-prompts": "replay/prompts.txt",
    "held-out-prompts": "replay/held_out_prompts.txt",
}
UNDECIDED = ".undecided.jsonl"  # what is added to the name of a file of preferences, for those that decide nothing
SUFFIXES = (*JSONS, *TABLES, ".parquet", ".arrow", ".xlsx", *TAGGED, *TEXTS)
BESIDE = re.compile(
    r"(readme|licen[sc]e|changelog|citation|notice|contributing)(\..*)?|dataset_infos?\.json|state\.json|.*\.lock"
    r"|.*\.ledger\.json|.*" + re.escape(UNDECIDED),
    re.I,
)
LOCK = re.compile(r"~\$.*\.(xls|doc|ppt|od)\w*|\.~lock\..*#", re.I)  # of Office, of LibreOffice
NAMES_SHOWN = 5  # of files that are not read
LARGEST_DOWNLOAD = 8 << 30  # bytes
TRAIN_SPLIT = "train"  # of a data set of the hub, where none is named


@dataclass(frozen=True)
class SourceFile:
    """A file of rows.

    Attributes:
        name: what messages and ledgers call it.
        path: where it lies.
        weight: how often its rows are seen in an epoch.
        notes: for its ledger, on how it was found.
    """

    name: str
    path: Path
    weight: float = 1.0
    notes: tuple[str, ...] = ()


def find_files(names: str | Sequence[str] | Mapping[str, float]) -> list[SourceFile]:
    """The files that `names` stand for, in order.

    Args:
        names: one or several of: a file, a folder, a pattern, `hf:owner/name[:config[:split]]`, an embedded
            name, or an http(s) address; a mapping gives each its weight. What is there as a file is that file, whatever
            its name looks like.

    Raises:
        MissingError: nothing is there.
        DataError: it is what a program leaves beside an open file.
        ConfigError: a weight that is no positive number, or a file named twice.
    """
    given = names.items() if isinstance(names, Mapping) else [(n, 1.0) for n in _as_list(names)]
    found: list[SourceFile] = []
    for name, weight in given:
        if not 0 < weight < 1000:
            raise ConfigError(f"data.train: {name!r} has weight {weight}. Give a number above 0, such as 0.5 or 2.")
        found += [replace(file, weight=weight) for file in _find(name)]
    if not found:
        raise ConfigError("data.train names no file.")
    _refuse_twins(found)
    return found


def is_here(name: str) -> bool:
    """Whether a name stands for files of this machine: it is neither embedded, nor an address, nor of the hub."""
    if name in EMBEDDED or name.startswith(("http://", "https://")):
        return False
    return not name.startswith("hf:") or _exists(_as_spelt(expanded(name)))


def _as_list(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _refuse_twins(found: list[SourceFile]) -> None:
    first: dict[Path, str] = {}
    for file in found:
        path = file.path.resolve()
        if path in first:
            name = first[path]
            same = "is named twice" if name == file.name else f"is the same file as {name!r}, and so named twice"
            raise ConfigError(f"data: {file.name!r} {same}. Name it once; a weight makes its rows count for more.")
        first[path] = file.name


def _find(name: str) -> list[SourceFile]:
    path = _as_spelt(expanded(name))
    there = _exists(path)
    if name in EMBEDDED:
        notes = (f"the embedded example; write ./{name} for what is here under this name",) if there else ()
        with as_file(files("tunesmith") / "assets" / EMBEDDED[name]) as inside:
            return [SourceFile(name, inside, notes=notes)]
    if name.startswith(("http://", "https://")):
        return [SourceFile(name, download(name))]
    if name.startswith("hf:") and not there:
        return [from_hub(name)]
    if there and path.is_dir():
        return _in_folder(name, path)
    if not there and any(mark in name for mark in "*?["):
        return _matching(name, path)
    if not there:
        raise MissingError(_not_there(name, path))
    if _is_lock(path):
        raise DataError(
            f"{name}: what Excel or LibreOffice leaves beside a workbook that is open; it holds no rows. Name the "
            f"workbook itself: {path.name.removeprefix('~$').removeprefix('.~lock.').removesuffix('#')}."
        )
    return [SourceFile(name, path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is longer than names may be
        return False


def _as_spelt(path: Path) -> Path:
    """The path as the disk spells it: an accent may be a letter's part there, and a character of its own here."""
    if str(path).isascii() or _exists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor) :]:
        inside = list(found.iterdir()) if found.is_dir() else []
        same = [entry for entry in inside if _composed(entry.name) == _composed(part)]
        found = same[0] if len(same) == 1 else found / part
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _not_there(name: str, path: Path) -> str:
    try:
        if path.is_symlink():
            return f"{name}: a link to {path.readlink()}, which is not there."
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        beside = []
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return f"{name}: no such file." + (f" Did you mean {close[0]!r}?" if close else "")


def _in_folder(name: str, path: Path) -> list[SourceFile]:
    """The data files of a folder; what else is there is told with the first."""
    entries = sorted(path.iterdir())
    inside = [entry for entry in entries if entry.is_file() and _is_data(entry)]
    if not inside:
        folders = [entry.name for entry in entries if entry.is_dir() and any(map(_is_data, entry.iterdir()))]
        advice = f" Its folder {folders[0]!r} holds some: name that." if folders else f" Known: {', '.join(SUFFIXES)}."
        raise MissingError(f"{name}: no data file in this folder.{advice}")
    return _with_left_out([SourceFile(str(entry), entry) for entry in inside], set(entries) - set(inside))


def _matching(name: str, path: Path) -> list[SourceFile]:
    """The files that match a pattern; parts of it that are there as they are written are no pattern."""
    root, parts = Path(path.anchor), list(path.parts[bool(path.anchor) :])
    while len(parts) > 1 and (root / parts[0]).is_dir():
        root /= parts.pop(0)
    matched = sorted(root.glob(str(Path(*parts))))
    found = [entry for entry in matched if entry.is_file() and not _is_beside(entry)]
    if not found:
        beside = f" ({counted(len(matched), 'other')}: {_shown(matched)})" if matched else ""
        raise MissingError(f"{name}: no file matches this pattern{beside}.")
    return _with_left_out([SourceFile(str(entry), entry) for entry in found], set(matched) - set(found))


def _with_left_out(found: list[SourceFile], left_out: set[Path]) -> list[SourceFile]:
    told = sorted(entry for entry in left_out if not entry.name.startswith(".") or entry.suffix.lower() in SUFFIXES)
    if told:
        found[0] = replace(found[0], notes=(f"beside it {counted(len(told), 'other')} not read: {_shown(told)}",))
    return found


def _shown(entries: Sequence[Path]) -> str:
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    return ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    )


def _is_data(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    return bool(suffixes) and suffixes[-1] in SUFFIXES and not _is_beside(path)


def _is_beside(path: Path) -> bool:
    """Whether the file only accompanies data: hidden, a lock, or what hubs put beside it."""
    return path.name.startswith(".") or _is_lock(path) or BESIDE.fullmatch(path.name) is not None


def _is_lock(path: Path) -> bool:
    return LOCK.fullmatch(path.name) is not None


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


def from_hub(name: str) -> SourceFile:
    """A data set of the Hugging Face hub, `hf:owner/name[:config[:split]]`, as a Parquet file in the cache.

    The split is `train` if none is named, and a note says which others there are. A local folder may stand in the place
    of owner/name.

    Raises:
        DataError: the `datasets` extra is not installed.
        MissingError: there is no such data set, config or split, or the hub cannot be reached.
    """
    if find_spec("datasets") is None:
        raise DataError(f"{name}: the hub's data sets need an extra: pip install 'tunesmith[hub]'.")
    id, _, rest = name.removeprefix("hf:").partition(":")
    config, _, split = rest.partition(":")
    target = home() / "downloads" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.parquet"
    splits = target.with_suffix(".splits.json")  # of the data set, where none was named
    if not target.exists() or Path(id).exists():
        _fetch_from_hub(name, id, config, split, target, splits)
    others = [other for other in read_json(splits) if other != TRAIN_SPLIT] if splits.exists() else []
    told = f"its split {TRAIN_SPLIT!r}; not read: {', '.join(others)}. {name.rstrip(':')}"
    notes = (f"{told}{':' * (1 if config else 2)}SPLIT names one",) if others else ()
    return SourceFile(name, target, notes=notes)


def _fetch_from_hub(name: str, id: str, config: str, split: str, target: Path, splits: Path) -> None:
    import datasets

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        loaded = datasets.load_dataset(id, config or None, split=split or TRAIN_SPLIT)
        if not split:
            write_json(splits, sorted(loaded.info.splits or {}))  # pyright: ignore[reportAttributeAccessIssue]
        loaded.to_parquet(str(temporary))  # pyright: ignore[reportAttributeAccessIssue]
        temporary.replace(target)
    except Exception as error:  # noqa: BLE001  the library raises a hundred kinds; all mean that it is not there
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingError(f"{name}: cannot be loaded ({reason}). Write hf:owner/name[:config[:split]].") from None
    finally:
        temporary.unlink(missing_ok=True)
