"""Answers that were paid for once: kept by the content of what was asked, so that nothing is asked twice.

A file for each model holds a line for each answer, appended when it comes; what a kill leaves half written is passed
over. Questions are kept as hashes alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tunesmith.core.files import append_line, home, make_folder, read_lines, sha256_of
from tunesmith.model.export import ExportedModel
from tunesmith.prompt.base import Base

LAYOUT = 1  # of the lines; another number makes every answer new


def key_of(*parts: Any) -> str:
    """32 digits that stand for plain values."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], sort_keys=True).encode()).hexdigest()[:32]


def prompts_folder() -> Path:
    """Where answers are kept."""
    return make_folder(home() / "prompts", "answers to prompts")


class Answers:
    """What one model has answered."""

    def __init__(self, model: str) -> None:
        """Find what is kept of a model.

        Args:
            model: says which one it is, and changes when its weights do.
        """
        self.path = prompts_folder() / f"{key_of(model)}.jsonl"
        lines = read_lines(self.path)
        self._kept: dict[str, dict[str, Any]] = {
            line["key"]: line["value"] for line in lines if isinstance(line.get("value"), dict) and "key" in line
        }

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key."""
        return self._kept.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep something, at once.

        Raises:
            TunesmithError: the disk is full.
        """
        append_line(self.path, {"key": key, "value": value})
        self._kept[key] = value


def identity_of(exported: ExportedModel, device: str) -> str:
    """What a local model computes with: its weights, its adapter, its prompt contract and the device."""
    parts = [Base(exported.name, exported.folder).fingerprint()]
    if exported.base is not None:
        parts.append(exported.base.fingerprint())
        parts.append(sha256_of(exported.folder / "adapter_config.json"))
    return key_of(*parts, device)
