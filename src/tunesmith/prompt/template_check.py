"""A chat template of somebody else's is tried once in a child process, with bounds, before it runs in this one.

The sandbox keeps a template from reaching anything; it does not keep it from taking all memory, or for ever. What a
template does with ordinary conversations is found here, once for each template. One that goes wild only on words that
it looks for is not found: of that, `render` bounds what it writes, and nothing bounds its time.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil

from tunesmith.core.errors import ModelError, TunesmithError
from tunesmith.core.files import home, make_folder, read_object, write_json
from tunesmith.prompt.templates import TEMPLATES

RULES = 1  # of the child: another number tries every template again
SECONDS = 5  # of processor time, for all of the child's conversations
MOST_BYTES = 512 << 20  # in use by the child, where the system does not bound what it may have
LONGEST = 120.0  # seconds on the clock, on however busy a machine
EVERY = 0.05  # seconds between two looks at it


def check_template(text: str, tokens: Mapping[str, Any]) -> None:
    """Refuse a template that takes too much time or memory, or writes too much, for an ordinary conversation.

    Args:
        text: of the template.
        tokens: the special tokens that it may name.

    Raises:
        ModelError: it does; the sentence says what.
    """
    if text in known_templates():
        return
    place = home() / "templates" / f"{hashlib.sha256(f'{RULES} {text}'.encode()).hexdigest()}.json"
    reason = _recorded(place)
    if reason is None:
        reason = try_template(text, tokens)
        _record(place, reason)
    if reason:
        raise ModelError(
            f"the model's chat template, tried in a process of its own, {reason}, so it is not used. Name another with "
            f"model.template: {', '.join(sorted(TEMPLATES))}."
        )


@cache
def known_templates() -> frozenset[str]:
    """Our own: those with a name, also after a beginning-of-sequence token, and that of the embedded model."""
    ember = (files("tunesmith") / "assets" / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    return frozenset({ember, *TEMPLATES.values(), *("{{ bos_token }}" + text for text in TEMPLATES.values())})


def try_template(text: str, tokens: Mapping[str, Any], seconds: int = SECONDS, longest: float = LONGEST) -> str:
    """What is wrong with a template, as the rest of a sentence; empty if nothing is.

    Args:
        text: of the template.
        tokens: the special tokens that it may name.
        seconds: of processor time that it may take.
        longest: seconds on the clock that it may take.

    Raises:
        ModelError: it could not be tried to the end, which may be this machine's fault.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "tunesmith.prompt.template_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    asked: str | None = json.dumps({"template": text, "tokens": dict(tokens), "seconds": seconds}, default=str)
    deadline = time.monotonic() + longest
    with child:
        try:
            while True:
                try:
                    said, trouble = child.communicate(asked, timeout=EVERY)
                    break
                except subprocess.TimeoutExpired:
                    asked = None  # it has been given
                if _in_use(child.pid) > MOST_BYTES:
                    return f"takes more than {MOST_BYTES >> 20} MB for a short conversation"
                if time.monotonic() > deadline:
                    raise ModelError(
                        f"the model's chat template could not be tried within {longest:g} seconds. Try again when this "
                        "machine has less to do."
                    )
        finally:
            child.kill()
    if child.returncode == -signal.SIGXCPU:
        return f"takes more than {seconds} seconds for a few short conversations"
    if child.returncode < 0 and child.returncode != -signal.SIGKILL:
        return f"ends the process ({signal.Signals(-child.returncode).name})"
    if child.returncode:
        words = trouble.strip().splitlines() or [f"it ended with {child.returncode}"]
        raise ModelError(f"the model's chat template could not be tried ({words[-1]}).")
    return json.loads(said)["found"] or ""


def _in_use(process: int) -> int:
    try:
        return psutil.Process(process).memory_info().rss
    except psutil.Error:  # it has ended
        return 0


def _recorded(place: Path) -> str | None:
    """What was found before; None where nothing was."""
    try:
        found = read_object(place).get("found")
    except TunesmithError:  # never written, or damaged
        return None
    return found if isinstance(found, str) else None


def _record(place: Path, reason: str) -> None:
    try:
        make_folder(place.parent, "templates that were tried")
        write_json(place, {"found": reason})
    except (TunesmithError, OSError):  # then it is tried again next time, which costs a second
        return
