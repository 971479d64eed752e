"""A text that the user changes in the editor that $VISUAL or $EDITOR names."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tunesmith.core.errors import ConfigError, MissingError


def editor_named() -> str:
    """What the user wants to write with; empty if nobody says."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""


def open_editor(file: Path) -> int:
    """Let the user change a file, and return how the editor ended.

    Raises:
        MissingError: no editor is named.
        ConfigError: it cannot be started.
    """
    editor = editor_named()
    if not editor:
        raise MissingError("no editor is named. Set VISUAL or EDITOR, such as EDITOR=nano")
    try:
        return subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise ConfigError(f"{editor!r} cannot be started ({error}). Set VISUAL or EDITOR to another.") from None
