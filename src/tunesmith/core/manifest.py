"""A folder that says what it holds: its `MANIFEST.json`, written last, has the SHA-256 of every other file."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.core.files import sha256_of

MANIFEST = "MANIFEST.json"


def manifest_of(folder: Path) -> dict[str, dict[str, str]]:
    """What the manifest of the files in `folder` has to say."""
    return {"sha256": {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}}


def why_changed(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest; None if every byte is as it was written.

    Raises:
        OSError: it cannot be read.
        ValueError: its manifest is no text.
    """
    written = (folder / MANIFEST).read_text(encoding="utf-8")
    if written != json.dumps(manifest_of(folder), indent=2) + "\n":
        return "its files are not those that its manifest names"
    return None
