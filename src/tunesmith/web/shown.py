"""What the pages show of jobs, files and models, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.exec.queue.control import JobRecord, read_said
from tunesmith.serve.fine_tuning import describe
from tunesmith.serve.results import ALL, steps_of
from tunesmith.serve.server import Server
from tunesmith.serve.tuned import tuned
from tunesmith.store.records import now

ACTIONS = {"queued": ("cancel",), "running": ("pause", "cancel"), "paused": ("resume", "cancel")}
WORDS = {"validating_files": "reading files", "queued": "waiting"}
SPARK_POINTS = 60


def in_words(seconds: float) -> str:
    """A stretch of time, as in "3 min"."""
    for least, size, unit in ((172_800, 86_400, "days"), (3600, 3600, "h"), (60, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size or unit != "h" else f"{seconds / size:.1f} h"
    return f"{max(0.0, seconds):.0f} s"


def in_bytes(size: int) -> str:
    """A size, as in "3.2 MB"."""
    for least, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"


def state_of(job: JobRecord, described: Mapping[str, Any]) -> str:
    """Of a job, as people see it: `paused` is a state here, and not to OpenAI's clients."""
    return job.state if job.state in ("paused", "queued") else str(described["status"])


def wanted_words(job: JobRecord, state: str) -> str:
    """The state in words, with what the job was asked for and has not done yet."""
    asked = {"pause": ", is to pause", "cancel": ", is to end"}.get(job.wanted, "") if job.state == "running" else ""
    return WORDS.get(state, state) + asked


def spark(losses: list[float]) -> str:
    """A small curve, as the path of an SVG that is 100 wide and 24 high; "" for fewer than two points."""
    every = max(1, len(losses) // SPARK_POINTS)
    points = [sum(losses[i : i + every]) / len(losses[i : i + every]) for i in range(0, len(losses), every)]
    if len(points) < 2:
        return ""
    low, high = min(points), max(points)
    high += (high - low) * 0.02 or 1
    places = [
        f"{100 * i / (len(points) - 1):.1f},{23 - 22 * (value - low) / (high - low):.1f}"
        for i, value in enumerate(points)
    ]
    return "M" + " L".join(places)


def job_of(here: Server, job: JobRecord, names: Mapping[str, str]) -> dict[str, Any]:
    """A job for the list.

    Args:
        here: the server.
        job: as it stands.
        names: of files, by id.
    """
    said = read_said(here.stores.records, job.id, most=ALL)
    described = describe(here, job, said)
    state = state_of(job, described)
    steps = steps_of(said)
    last = steps[max(steps)] if steps else {}
    losses = [steps[n]["train_loss"] for n in sorted(steps) if steps[n]["train_loss"] is not None]
    finish = described["estimated_finish"]
    return {
        "id": job.id, "name": tuned(job), "root": job.details["root"], "model": described["model"], "state": state,
        "state_words": wanted_words(job, state), "training_file": described["training_file"],
        "file": names.get(described["training_file"], "a file that was deleted"),
        "step": last.get("step", 0), "steps": last.get("total_steps", 0), "left": finish and in_words(finish - now()),
        "spark": spark(losses), "loss": f"{losses[-1]:.2f}" if losses else "",
        "first_loss": f"{losses[0]:.2f}" if losses else "", "created": int(job.created),
        "took": in_words((job.ended or now()) - job.started) if job.started else "", "sentence": job.sentence,
        "asked": _asked(described),
    }  # fmt: skip


def _asked(described: Mapping[str, Any]) -> list[tuple[str, Any]]:
    names = ("model", "training_file", "validation_file", "seed", "user_provided_suffix", "metadata", "trained_tokens")
    values = {**described["hyperparameters"], **{name: described[name] for name in names}}
    return [(name.replace("_", " "), value) for name, value in values.items() if value is not None]


def summary(found: Mapping[str, Any]) -> str:
    """What `check` found in a file, in half a line."""
    if "error" in found:
        return "cannot be read"
    counts = found["files"][0]["counts"] if found["files"] else {}
    tiles = {tile["name"]: tile["value"] for tile in found["tiles"]}
    lost = counts.get("dropped", 0)
    ending = f", {lost:,} cannot be used" if lost else ""
    return f"{tiles['rows to use']} rows, {tiles['tokens']} tokens{ending}"
