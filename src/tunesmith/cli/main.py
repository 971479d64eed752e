"""`tunesmith`: the commands, and how errors reach the terminal."""

from __future__ import annotations

import signal
import sys

import typer

from tunesmith.cli.chat import chat
from tunesmith.cli.check import check
from tunesmith.cli.compare import compare
from tunesmith.cli.compare_methods import compare_methods
from tunesmith.cli.demo import demo
from tunesmith.cli.distill import distill
from tunesmith.cli.evaluate import evaluate
from tunesmith.cli.explain import explain
from tunesmith.cli.inspect import inspect
from tunesmith.cli.keys import audit, keys
from tunesmith.cli.label import label
from tunesmith.cli.lineage import lineage
from tunesmith.cli.merge import merge
from tunesmith.cli.methods import methods
from tunesmith.cli.models import models, rm
from tunesmith.cli.predict import predict
from tunesmith.cli.prompts import prompts
from tunesmith.cli.pull import pull
from tunesmith.cli.push import push
from tunesmith.cli.queue.jobs import cancel, delete, fetch, jobs, logs, pause, resume, submit
from tunesmith.cli.queue.keeping import backup, gc, limits, restore
from tunesmith.cli.queue.worker import worker
from tunesmith.cli.runs import runs, show
from tunesmith.cli.serve import serve
from tunesmith.cli.train import train
from tunesmith.core.errors import Stopped, TunesmithError
from tunesmith.core.quiet import hush_libraries

STOPPED = 75  # exit code of a run that was interrupted and can be resumed (EX_TEMPFAIL)

app = typer.Typer(
    help="From a file of examples to a measured, better language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ON_FILES = (
    demo, check, prompts, distill, label, train, evaluate, predict, chat, runs, show, compare, merge, lineage, push,
    methods, compare_methods, explain, inspect, models, pull, rm,
)  # fmt: skip
ON_JOBS = (submit, worker, jobs, logs, fetch, cancel, pause, resume, delete, limits, gc, backup, restore)
for command in (*ON_FILES, *ON_JOBS, serve, audit):
    app.command()(command)
app.add_typer(keys, name="keys")


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """From a file of examples to a measured, better language model."""
    if version:
        from tunesmith import __version__

        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the command line; a user's mistake is one sentence on standard error and exit code 1."""
    if sys.platform == "win32":
        sys.exit("tunesmith runs on Linux and macOS. On Windows, use it inside WSL 2.")
    hush_libraries()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # systems that stop us are heard as people are
    try:
        app()
    except Stopped as end:
        typer.echo(str(end), err=True)
        sys.exit(STOPPED)
    except TunesmithError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `tunesmith runs | head`
        sys.exit(0)
