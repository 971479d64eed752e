"""What a job has said, as OpenAI's clients read it: events, metrics, and a table of results."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator
from typing import Any

from tunesmith.exec.queue.control import JobRecord, read_said
from tunesmith.exec.queue.lease import Said
from tunesmith.store.records import Records

HEADER = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
ALL = 1_000_000  # events of a job
PACE = 20  # steps that the pace is taken of


def steps_of(said: list[Said]) -> dict[int, dict[str, Any]]:
    """The metrics of each step as it was last taken: steps that were done again after a stop count once."""
    found: dict[int, dict[str, Any]] = {}
    for one in said:
        body = one.body
        if body["kind"] == "step":
            found[body["step"]] = {
                "step": body["step"], "total_steps": body["steps"], "train_loss": body["loss"],
                "train_mean_token_accuracy": body.get("token_accuracy"), "tokens": body["trained_tokens"],
                "seconds": body["seconds"],
            }  # fmt: skip
        elif body["kind"] == "validation" and body["step"] in found:
            accuracy = body.get("token_accuracy")
            found[body["step"]] |= {"valid_loss": body["loss"], "valid_mean_token_accuracy": accuracy}
    return found


def finish_of(steps: dict[int, dict[str, Any]]) -> float | None:
    """Seconds of training that are left, at the pace of the last steps; None before there is one."""
    if not steps:
        return None
    last = [steps[number] for number in sorted(steps)[-PACE:]]
    return (last[-1]["total_steps"] - last[-1]["step"]) * statistics.median(step["seconds"] for step in last)


def csv_of(records: Records, job: str) -> str:
    """The results of a job as a table: one line a step, valid cells empty where nothing was validated."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for _, step in sorted(steps_of(read_said(records, job, most=ALL)).items()):
        names = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")
        writer.writerow(["" if step.get(name) is None else step[name] for name in names])
    return text.getvalue()


def events_of(job: JobRecord, training_file: str, said: list[Said], tuned: str | None) -> list[dict[str, Any]]:
    """The events of a job in OpenAI's words, the last one first."""
    found = [_event(job, 0, job.created, "info", f"Created fine-tuning job: {job.id}")]
    found += [_event(job, one.number, one.time, *words) for one in said for words in _words(one.body, training_file)]
    last, ended = (said[-1].number if said else 0) + 1, job.ended or job.created
    if job.state == "succeeded":
        found.append(_event(job, last, ended, "info", f"New fine-tuned model created: {tuned}"))
        found.append(_event(job, last + 1, ended, "info", "The job has successfully completed"))
    if job.state == "failed":
        found.append(_event(job, last, ended, "error", f"The job failed: {job.sentence}"))
    if job.state == "cancelled":
        found.append(_event(job, last, ended, "info", "The job was cancelled"))
    return found[::-1]


def _words(body: dict[str, Any], training_file: str) -> Iterator[tuple[Any, ...]]:
    """Level, message, type and data of what an event is in OpenAI's words, if it is anything there."""
    match body["kind"]:
        case "phase" if body["name"] == "preparing data":
            yield "info", f"Validating training file: {training_file}"
        case "data":
            yield "info", "Files validated, moving job to running state"
        case "phase" if body["name"] == "training":
            yield "info", "Fine-tuning job started"
        case "step":
            loss = "none" if body["loss"] is None else f"{body['loss']:.2f}"
            data = {"step": body["step"], "total_steps": body["steps"], "train_loss": body["loss"]}
            reward, more = _reward(body, "train")
            yield "info", f"Step {body['step']}/{body['steps']}: training loss={loss}{reward}", "metrics", data | more
        case "validation":
            loss = "none" if body["loss"] is None else f"{body['loss']:.2f}"
            data = {"step": body["step"], "valid_loss": body["loss"]}
            reward, more = _reward(body, "valid")
            yield "info", f"Step {body['step']}: validation loss={loss}{reward}", "metrics", data | more
        case "checkpoint":
            yield "info", f"Checkpoint created at step {body['step']}"
        case "warning":
            yield "warn", body["sentence"]
        case _:
            pass


def _reward(body: dict[str, Any], part: str) -> tuple[str, dict[str, float]]:
    """The mean reward of answers, in words and as data; nothing where no rewards are learned from."""
    reward = body.get("reward")
    return ("", {}) if reward is None else (f", mean reward={reward:.2f}", {f"{part}_mean_reward": reward})


def _event(
    job: JobRecord, number: int, at: float, level: str, message: str, kind: str = "message", data: Any = None
) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event", "id": f"ftevent-{job.id.removeprefix('ftjob-')}-{number:06d}",
        "created_at": int(at), "level": level, "message": message, "type": kind, "data": data or {},
    }  # fmt: skip
