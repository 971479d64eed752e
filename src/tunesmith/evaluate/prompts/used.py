"""How often the test rows were looked at, and for which prompts: the more often, the less they say of new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.files import append_line, read_lines
from tunesmith.core.names import counted
from tunesmith.evaluate.prompts.cache import key_of, prompts_folder


def note_use(test_id: str, model: str, prompt: list[Any]) -> str:
    """Note that a model was asked about test rows with a prompt.

    Args:
        test_id: stands for the rows.
        model: its name.
        prompt: plain values that stand for the prompt.

    Returns:
        What is to be known of it: that it was asked with other prompts before. Empty if it was not.
    """
    path, line = _path(test_id), {"model": model, "prompt": key_of(*prompt)}
    before = read_lines(path)
    others = {one.get("prompt") for one in before if one.get("model") == model} - {line["prompt"]}
    if line not in before:
        append_line(path, line)
    if not others:
        return ""
    return (
        f"{model}: these test rows were used {counted(len(others), 'time')} before, for other prompts. The more often "
        "they are looked at, the less they say of new rows: choose with --validate-only, and look at them once."
    )


def uses(test_id: str) -> int:
    """With how many prompts, of whatever models, test rows were looked at."""
    return len(read_lines(_path(test_id)))


def _path(test_id: str) -> Path:
    return prompts_folder() / f"used-{test_id}.jsonl"
