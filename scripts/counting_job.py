"""A job that computes without torch, for tests of the queue: each step hashes what the step before left.

    python scripts/counting_job.py NAME        as `exec/local` starts it

Arguments: `steps`, `every` (steps between checkpoints), `pause` (seconds a step takes), and how it shall end early:
`fail` (a sentence), `crash` (an exit code) or `hang` at a step. What it makes is `model/result.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import Stopped, TunesmithError
from tunesmith.core.events import Report, to_folder
from tunesmith.core.files import publish_folder, read_json, write_json
from tunesmith.core.manifest import MANIFEST, manifest_of, why_changed
from tunesmith.exec.child import serve


def chain(start: str, steps: int) -> str:
    """What so many steps make of a text."""
    for step in range(steps):
        start = hashlib.sha256(f"{start} {step}".encode()).hexdigest()
    return start


def count(arguments: dict[str, Any], forward: Report, stop: Callable[[], bool]) -> dict[str, Any]:
    folder = Path(arguments["folder"])
    report = to_folder(folder, forward)
    start = Path("inputs/start.txt").read_text() if Path("inputs/start.txt").exists() else "start"
    step, state = 0, start
    whole = [path for path in sorted((folder / "checkpoints").glob("step-*")) if why_changed(path) is None]
    if arguments.get("resume") and whole:
        saved = read_json(whole[-1] / "state.json")
        step, state = saved["step"], saved["state"]
    report(events.Resumed(step))

    def save() -> None:
        target = folder / "checkpoints" / f"step-{step:06d}"
        if target.exists():
            return
        with publish_folder(target) as temporary:
            write_json(temporary / "state.json", {"step": step, "state": state})
            (temporary / "weights.safetensors").write_bytes(state.encode() * 100)
            write_json(temporary / MANIFEST, manifest_of(temporary))
        report(events.Checkpoint(step, str(target)))

    while step < arguments["steps"]:
        if step == arguments.get("at", -1):
            if arguments.get("hang"):
                time.sleep(10_000)
            if arguments.get("crash") is not None:
                os._exit(arguments["crash"])
            raise TunesmithError(arguments["fail"])
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        step += 1
        report(events.Step(step, arguments["steps"], {"loss": 1 / step}, 0.1, 1.0, 1, 1.0, 0.01, 1))
        if step % arguments["every"] == 0:
            save()
        if stop():
            save()
            raise Stopped(f"stopped after step {step}.")
        time.sleep(arguments.get("pause", 0.0))
    with publish_folder(folder / "model") as temporary:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        write_json(temporary / "result.json", {"state": state, "cores": cores})
    report(events.Exported(str(folder / "model"), step))
    return {"folder": str(folder), "state": state}


if __name__ == "__main__":
    assert sys.argv[1] == "count", json.dumps(sys.argv)
    sys.exit(serve(count))
