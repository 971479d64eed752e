"""`tunesmith submit`, `jobs`, `cancel`, `pause`, `resume`, `logs`, `fetch`: jobs in a queue, and what they become."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.queue.stores import Blobs, Records, opened, opened_records

if TYPE_CHECKING:
    from tunesmith.core.events import Json, Report
    from tunesmith.exec.queue.control import JobRecord

Id = Annotated[str, typer.Argument(help="A job's id, or the beginning of one.")]
LOOK = 0.5  # seconds between two looks at what a job has said


def submit(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe; `recipes/` holds examples.")],
    set: Annotated[list[str], typer.Option(help="section.field=value, set over the recipe; repeatable.")] = [],  # noqa: B006
    project: Annotated[str, typer.Option(help="Whose job it is; projects take turns.")] = "default",
    priority: Annotated[int, typer.Option(help="Higher ones go first.", min=-1000, max=1000)] = 0,
    key: Annotated[str | None, typer.Option(help="Sent again with the same key, it is the same job.")] = None,
    attempts: Annotated[
        int,
        typer.Option(help="Attempts in a row that bring it no further, after which it has failed.", min=1, max=1000),
    ] = 3,
    until: Annotated[str, typer.Option(help="How far to go: trained, exported or evaluated.")] = "evaluated",
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Queue a fine-tuning for a worker, with the files that it needs."""
    from tunesmith.cli.screen import console
    from tunesmith.core.config import parse_overrides
    from tunesmith.exec.executor import Job
    from tunesmith.exec.queue.submit import Submission
    from tunesmith.jobs.submit import submit_recipe
    from tunesmith.train.recipe import read_recipe

    read = read_recipe(recipe, parse_overrides(set))
    wanted = Submission(Job("finetune", {}), project=project, priority=priority, most_fruitless=attempts, key=key)
    id = submit_recipe(opened(records, blobs), read, wanted, until)
    console.print(id)
    typer.echo(f"watch it: tunesmith logs {id} --follow; work on it: tunesmith worker", err=True)


def jobs(
    project: Annotated[str | None, typer.Option(help="Of this project alone.")] = None,
    state: Annotated[list[str], typer.Option(help="In this state alone; repeatable.")] = [],  # noqa: B006
    most: Annotated[int, typer.Option(help="The latest so many.", min=1)] = 30,
    records: Records = None,
) -> None:
    """List queued jobs and those that have ended, the latest last."""
    from rich.markup import escape
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.core.errors import ConfigError
    from tunesmith.core.names import did_you_mean
    from tunesmith.exec.queue.control import STATES, list_jobs

    for one in state:
        if one not in STATES:
            raise ConfigError(f"unknown state {one!r}: {did_you_mean(one, STATES)}")
    found = list_jobs(opened_records(records), project, state, most)
    if not found:
        console.print("no jobs. Queue one: tunesmith submit recipes/chat.yaml", soft_wrap=True)
        return
    table = Table(box=None)
    for name in ("job", "name", "project", "state"):
        table.add_column(name, no_wrap=name in ("job", "state"))
    for name in ("step", "tries"):
        table.add_column(name, justify="right")
    table.add_column("for", no_wrap=True)
    table.add_column("", overflow="fold")
    for job in reversed(found):
        step = "" if job.step is None else str(job.step)
        words = [job.id, job.label, job.project, _state(job), step, str(job.attempts), _span(job), job.sentence]
        table.add_row(*map(escape, words))
    console.print(table)


def cancel(id: Id, records: Records = None) -> None:
    """End a job for good."""
    from tunesmith.exec.queue.control import cancel as act

    _say(act(opened_records(records), id))


def pause(id: Id, records: Records = None) -> None:
    """Let a job rest after a checkpoint, until it is resumed."""
    from tunesmith.exec.queue.control import pause as act

    _say(act(opened_records(records), id))


def resume(id: Id, records: Records = None) -> None:
    """Let a paused or failed job go on from its last checkpoint."""
    from tunesmith.exec.queue.control import resume as act

    _say(act(opened_records(records), id))


def logs(
    id: Id,
    follow: Annotated[bool, typer.Option(help="Go on until the job has ended.")] = False,
    records: Records = None,
) -> None:
    """Show what a job has said so far, as `tunesmith train` would have."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.exec.queue.control import ENDED, find_job, read_attempts, read_said

    database, last = opened_records(records), 0
    job = find_job(database, id)
    with live_screen() as screen:
        while True:
            job = find_job(database, job.id)  # before its events, or its last ones might be missed
            while said := read_said(database, job.id, last):
                for one in said:
                    show_event(screen, one.body)
                last = said[-1].number
            if not follow or job.state in ENDED:
                break
            time.sleep(LOOK)
    for attempt in read_attempts(database, job.id):
        sentence = f": {attempt.sentence}" if attempt.sentence else ""
        words = f"attempt {attempt.token} on {attempt.worker}: {attempt.outcome or 'under way'}{sentence}"
        console.print(words, markup=False, soft_wrap=True)
        if attempt.log and attempt.outcome in ("failed", "crashed"):
            console.print(attempt.log.rstrip(), markup=False, style="dim", soft_wrap=True)
    _say(job)


def show_event(screen: Report, body: Json) -> None:
    """Show an event as records have it: numbers that were none are null there; of a newer worker it may be unknown."""
    from tunesmith.core.events import KINDS, from_json

    if body["kind"] in KINDS:
        numbers = body["kind"] in ("step", "validation")
        screen(from_json({name: float("nan") if numbers and value is None else value for name, value in body.items()}))


def delete(id: Id, records: Records = None) -> None:
    """Delete a job that has ended, with what it has published; tunesmith gc then frees the room."""
    from tunesmith.exec.queue.retention import delete_job

    delete_job(opened_records(records), id)
    typer.echo(f"{id}: deleted")


def fetch(
    id: Id,
    folder: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Bring what a job has made here, as a run folder."""
    from tunesmith.cli.train import say_next
    from tunesmith.jobs.submit import fetch_run

    run = fetch_run(opened(records, blobs), id, folder)
    report = (run / "report" / "report.html").exists()
    say_next(str(run), "evaluated" if report else "exported" if (run / "model").exists() else "trained", False)


def _state(job: JobRecord) -> str:
    return f"{job.state}, to {job.wanted}" if job.wanted != "run" and job.state == "running" else job.state


def _span(job: JobRecord) -> str:
    """How long it has worked, or waited."""
    seconds = int((job.ended or time.time()) - (job.started or job.created))
    hours, minutes = divmod(max(0, seconds) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{max(0, seconds)} s"


def _say(job: JobRecord) -> None:
    from tunesmith.cli.screen import console

    sentence = f": {job.sentence}" if job.sentence else ""
    console.print(f"{job.id}: {_state(job)}{sentence}", markup=False, soft_wrap=True)
