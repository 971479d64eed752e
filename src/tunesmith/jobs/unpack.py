"""The job that unpacks a GGUF file: into a folder as of any base model, whole or not at all."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tunesmith.core.errors import ModelError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.files import full_disk, publish_folder, write_json
from tunesmith.model.gguf import write_tokenizer, write_weights
from tunesmith.prompt.bases.endings import find_endings
from tunesmith.prompt.bases.gguf import checked
from tunesmith.prompt.bases.header import Header
from tunesmith.prompt.bases.record import RECORD, Source
from tunesmith.prompt.whole import refuse_broken

BYTES = 4  # of a number, at most
VERSIONS = ("transformers", "tokenizers", "gguf")


def unpack(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Unpack `file` into `folder`.

    Args:
        arguments: `file`; `folder`, which must not exist; `sha256` of the file; `source`, as `Source` has it.
        report: hears nothing yet.

    Returns:
        `notes`: what a user should know.

    Raises:
        ModelError: the model in the file cannot be used.
        TunesmithError: the disk has no room for it.
    """
    header, folder = checked(Path(arguments["file"])), Path(arguments["folder"])
    _refuse_small_disk(header, folder)
    try:
        with publish_folder(folder, replace=False) as temporary:
            write_weights(header, temporary)
            notes = write_tokenizer(header, temporary)
            ends, more = find_endings(temporary, header.values.get("tokenizer.ggml.add_bos_token") is True)
            write_json(temporary / "generation_config.json", {"eos_token_id": ends})
            source = _source(header, arguments, (*notes, *more))
            source.save(temporary / RECORD)
            refuse_broken(temporary)
    except (OSError, SafetensorError) as error:
        if isinstance(error, TunesmithError):
            raise
        raise full_disk(folder, header.numbers * BYTES, error) from None
    return {"notes": list(source.notes)}


def _source(header: Header, arguments: dict[str, Any], notes: tuple[str, ...]) -> Source:
    given = arguments["source"]
    licence = given["licence"] or header.values.get("general.license") or ""
    return Source(
        name=given["name"],
        source=given["source"],
        sha256=arguments["sha256"],
        licence=licence if isinstance(licence, str) else "",
        kinds=header.kinds,
        numbers=header.numbers,
        template="its own" if header.values.get("tokenizer.chat_template") else "none",
        notes=notes,
        commit=given["commit"],
        versions={name: version(name) for name in VERSIONS},
    )


def _refuse_small_disk(header: Header, folder: Path) -> None:
    needed, free = header.numbers * BYTES, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ModelError(
            f"{header.path}: unpacked it takes up to {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free in "
            f"{folder.parent}. Make room, or set TUNESMITH_HOME to a folder on a larger disk."
        )
