"""Whether what lies in a base model's folder is whole: files that were fetched and not cut short, seen without torch.

Only beginnings of files are read. What the weights are worth is seen when they are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core import files
from tunesmith.core.errors import ModelError, TunesmithError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has put in the place of a large one
LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file
AGAIN = "Fetch it again."


def refuse_broken(folder: Path) -> None:
    """Refuse a model whose files are not all there.

    Raises:
        ModelError: with the file and what to do.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and _begins(path, len(POINTER)) == POINTER:
            raise ModelError(
                f"{path}: a Git LFS pointer of {path.stat().st_size} bytes stands in the place of the file. Install "
                "git-lfs and run `git lfs pull` in that folder, or fetch the model with `hf download`."
            )
    read_object(folder / "config.json")
    if (folder / "tokenizer_config.json").exists():
        read_object(folder / "tokenizer_config.json")
    for path in weight_files(folder):
        refuse_cut_short(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        ModelError: it is not one.
    """
    try:
        return files.read_object(path)
    except TunesmithError as error:
        raise ModelError(f"{error} {AGAIN}") from None


def weight_files(folder: Path) -> list[Path]:
    """The files that the model's weights are read from, each of which is there.

    Raises:
        ModelError: one is missing, or nothing says which they are.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        some = min(path.name for path in folder.glob("*.safetensors"))
        raise ModelError(
            f"{folder}: neither {WEIGHTS} nor {INDEX} is there, and nothing says what {some} is. Fetch the index too, "
            f"or name the file {WEIGHTS} if all weights are in it."
        )
    named = read_object(folder / INDEX).get("weight_map")
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{folder / INDEX}: has no weight_map of tensors to files. {AGAIN}")
    files = sorted(set(named.values()))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(files)} weight files that {INDEX} names are missing (first: "
            f"{missing[0]}). Fetch what is missing."
        )
    return [folder / name for name in files]


def refuse_cut_short(path: Path) -> None:
    """Refuse a safetensors file whose header cannot be read, or whose length is another than its header says.

    Raises:
        ModelError: it is damaged.
    """
    size = path.stat().st_size
    length = int.from_bytes(_begins(path, 8), "little")
    if size < 8 or length > min(LARGEST_HEADER, size - 8):
        raise ModelError(f"{path}: {size:,} bytes that are no safetensors file, or one that was cut short. {AGAIN}")
    try:
        header = json.loads(_begins(path, 8 + length)[8:])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise ModelError(f"{path}: its header cannot be read; the file is damaged. {AGAIN}") from None
    if size != wanted:
        raise ModelError(f"{path}: has {size:,} bytes where its header speaks of {wanted:,}. {AGAIN}")


def _begins(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
