"""Start a job from Python or the command line: `tunesmith.finetune("recipe.yaml")`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tunesmith.core import events
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, JobError, MissingError, Stopped, TunesmithError
from tunesmith.core.events import Report, silent, to_attempts
from tunesmith.core.files import expanded, make_folder, read_json, write_text
from tunesmith.core.names import did_you_mean
from tunesmith.data.config import OwnAnswers
from tunesmith.data.prompting.version import read_version
from tunesmith.data.read.files import read_rows
from tunesmith.data.source import find_files
from tunesmith.exec.alone import run_alone
from tunesmith.exec.executor import Executor, Job
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.supervise import result_of, supervise
from tunesmith.prompt.base import resolve
from tunesmith.registry.runs import UNTIL, read_run
from tunesmith.train.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from tunesmith.model.load import Precision

INPUTS = "inputs"  # folder in a run's that holds what its recipe names, where that goes along with it
TRAINING = "training"  # the phase in which smaller micro-batches help where there is no room
EXECUTOR: Executor = LocalExecutor()


@dataclass(frozen=True)
class Run:
    """A finished run: a folder and what it holds."""

    folder: Path

    @property
    def model(self) -> Path:
        """The exported model, for `tunesmith.load`, transformers or peft."""
        return self.folder / "model"

    @property
    def page(self) -> Path:
        """The report, to open in a browser."""
        return self.folder / "report" / "report.html"

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The comparison with the base model, one entry a metric; empty when no rows were held out."""
        path = self.folder / "report" / "report.json"
        return read_json(path)["scores"] if path.exists() else []


def finetune(
    recipe: str | Path, report: Report = silent, until: str = "evaluated", allow_functions: Sequence[str | Path] = (),
    **overrides: Any,
) -> Run:  # fmt: skip
    """Fine-tune as a recipe says and return the run.

    Args:
        recipe: path of a YAML recipe.
        report: hears every event; the command line draws its progress bar from these.
        until: `trained` ends the run with its last checkpoint, `exported` with its model, `evaluated` with its
            report. `resume` takes it further.
        allow_functions: Python files that rewards may run functions of; a recipe alone never may.
        **overrides: sections with fields to set otherwise, such as `optim={"epochs": 1}`.

    Raises:
        TunesmithError: anything that the user can mend, as one sentence.
    """
    return start_run(read_recipe(Path(recipe), overrides), report, until, allow_functions)


def start_run(
    recipe: Recipe, report: Report = silent, until: str = "evaluated", allow_functions: Sequence[str | Path] = ()
) -> Run:
    """Make the run's folder, run the child in it, and note how it ended.

    Raises:
        Stopped: it was interrupted and has a checkpoint; `resume` goes on.
    """
    refuse_unknown_end(until)
    allowed = _allowed(allow_functions)
    refuse_missing(recipe, report)
    folder = claim_folder(recipe)
    write_text(folder / "config.yaml", to_yaml(recipe))
    return _run(folder, {"until": until, **allowed}, report)


def resume(
    folder: str | Path, report: Report = silent, *, accept_change: bool = False, allow_inexact: bool = False,
    until: str = "evaluated", allow_functions: Sequence[str | Path] = (),
) -> Run:  # fmt: skip
    """Go on with a run that ended early, from its last whole checkpoint.

    Args:
        folder: the run's.
        report: hears every event.
        accept_change: go on although recipe, rows, tokenizer or base model are not what they were.
        allow_inexact: go on although machine or library versions are not what they were.
        until: as `finetune` takes it.
        allow_functions: as `finetune` takes them; what was allowed when the run began is not any more.

    Raises:
        MissingError: it is no run folder.
        TunesmithError: it is finished already, another process works on it, or something is not what it was.
    """
    refuse_unknown_end(until)
    folder = Path(folder)
    if read_run(folder).status == "succeeded":
        raise ConfigError(f"{folder}: this run is finished. To train further, start a run from its model.")
    recipe = read_recipe(folder / "config.yaml")
    with contextlib.chdir(folder) if brings_inputs(folder) else contextlib.nullcontext():
        refuse_missing(recipe, report)
    wanted = {"accept_change": accept_change, "allow_inexact": allow_inexact, "until": until}
    return _run(folder, {"resume": True, **wanted, **_allowed(allow_functions)}, report)


def _allowed(files: Sequence[str | Path]) -> dict[str, Any]:
    """What a job is told of Python files that may be run: their whole paths, where there are any.

    Raises:
        MissingError: one is not there.
    """
    for one in files:
        if not expanded(one).is_file():
            raise MissingError(f"--allow-function {one}: no such file.")
    return {"allow_functions": [str(expanded(one).resolve()) for one in files]} if files else {}


def _run(folder: Path, options: dict[str, Any], report: Report) -> Run:
    """Run the job in `folder`, alone, and note how it ended; with smaller micro-batches where there is no room."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobError(f"{folder}: another process works on this run. Wait for it, or stop it first.") from None
    report(events.Folder(str(folder)))
    job = finetuning(read_recipe(folder / "config.yaml"), {"folder": str(folder.absolute()), **options})
    job = replace(job, inside=brings_inputs(folder))
    note = to_attempts(folder)
    try:
        outcome = supervise(EXECUTOR, job, folder, report, note)
        if not isinstance(outcome, events.Done):
            with contextlib.suppress(TunesmithError):  # on a full disk
                note(outcome)
        result_of(outcome)
    except Stopped as end:
        raise Stopped(f"{end} Go on with: tunesmith train --resume {folder}") from None
    except KeyboardInterrupt:
        note(events.Interrupted())
        raise
    finally:
        lock.release()
    return Run(folder)


def brings_inputs(folder: Path) -> bool:
    """Whether what a run's recipe names lies in its own folder, as in one that was queued and fetched."""
    return (folder / INPUTS).is_dir()


def finetuning(recipe: Recipe, arguments: dict[str, Any]) -> Job:
    """The job that fine-tunes as a recipe says."""
    smaller = {"resume": True, "smaller": True}
    return Job("finetune", arguments, recipe.processes, stoppable=True, smaller=smaller, shrinks=TRAINING)


def refuse_unknown_end(until: str) -> None:
    """A run that shall go on until nobody knows what is not begun."""
    if until not in UNTIL:
        raise ConfigError(f"a run cannot go until {until!r}: {did_you_mean(until, UNTIL)}")


def refuse_missing(recipe: Recipe, report: Report = silent) -> None:
    """Find what the recipe names before anything is written: files, and the base model (fetched and unpacked here)."""
    general, replay = recipe.evaluate.general_ability, recipe.data.replay
    replay = replay.prompts if isinstance(replay, OwnAnswers) else [] if replay in ("auto", "off") else replay
    general = [] if isinstance(general, str) else general
    for names in (recipe.data.train, recipe.data.validation, recipe.data.test, general, replay):
        if names and not isinstance(names, int | float):
            for file in find_files(names):
                read_rows(file.path, name=file.name)
    if recipe.data.prompt is not None:
        read_version(recipe.data.prompt, f"data.prompt = {recipe.data.prompt}")
    resolve(recipe.model.base, recipe.model.revision, report)


def claim_folder(recipe: Recipe) -> Path:
    """The run's folder, made here: the recipe's name, or the next free one with a number."""
    return free_folder(expanded(recipe.output.folder), recipe.output.name or "run")


def free_folder(parent: Path, name: str) -> Path:
    """A new folder called `name`, or by the next free name with a number."""
    make_folder(parent, "runs")
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def evaluate_file(options: Mapping[str, Any], report: Report = silent) -> dict[str, Any]:
    """Run an evaluation in a child process and return its report as plain values."""
    return run_alone(EXECUTOR, Job("evaluate", dict(options)), report)["report"]


def try_prompts(options: Mapping[str, Any], report: Report = silent, job: str = "prompts") -> dict[str, Any]:
    """Try prompts in a child process and return what was found as plain values.

    Args:
        options: what `jobs.prompts.try_prompts` takes, or another job of prompts.
        report: hears every event.
        job: `prompts`, `score-prompt`, `measure-prompt` or `lint-prompt`.

    Raises:
        Stopped: it was interrupted; what was answered is kept.
    """
    try:
        return run_alone(EXECUTOR, Job(job, dict(options), stoppable=True), report)["report"]
    except Stopped as end:
        raise Stopped(f"{end} The same command goes on from there.") from None


def distill_rows(options: Mapping[str, Any], report: Report = silent) -> dict[str, Any]:
    """Write a prompted model's answers as training rows in a child process, and return the ledger of that.

    Args:
        options: what `jobs.distill.distill` takes.
        report: hears every event.

    Raises:
        Stopped: it was interrupted; what was answered is kept.
    """
    try:
        return run_alone(EXECUTOR, Job("distill", dict(options), stoppable=True), report)["report"]
    except Stopped as end:
        raise Stopped(f"{end} The same command goes on from there.") from None


def load(
    name: str | Path,
    template: str | None = None,
    device: str = "auto",
    report: Report = silent,
    precision: Precision = "auto",
) -> Any:
    """A model ready to answer: `tunesmith.load("runs/demo").generate("What time is breakfast?")`.

    Args:
        name: a run folder, an exported model's folder, or a base model.
        template: name of a chat template, for a base model that has none.
        device: `auto` (a CUDA device if there is one), `cpu` or `cuda`.
        report: hears what is done where the base model has to be fetched or unpacked first.
        precision: `fp32`, `bf16`, or `auto`: bf16 on a GPU.

    Raises:
        TunesmithError: there is no such model or device, or it cannot be used.

    Returns:
        A `tunesmith.infer.chat.Chat`; of a run that has learned another task what predicts: its `predict` takes a list.
        torch is imported here, not before.
    """
    from tunesmith.infer.chat import Chat
    from tunesmith.infer.local import LocalEngine
    from tunesmith.infer.predict.table import load_predictor
    from tunesmith.model.export import find_model

    exported = find_model(str(name), report)
    if not exported.chats:
        return load_predictor(exported, device, precision)
    contract = exported.contract(template)
    return Chat(LocalEngine(exported.load(device, precision), contract))


def merge_run(options: Mapping[str, Any], report: Report = silent) -> dict[str, Any]:
    """Fold a run's adapter into its base in a child process.

    Args:
        options: what `jobs.merge.merge` takes.
        report: hears every event.

    Returns:
        `folder` of the full model, and its `verification`.
    """
    try:
        done = run_alone(EXECUTOR, Job("merge", dict(options), stoppable=True), report)
    except Stopped:  # it had time to take away what it had written; there is nothing to resume
        raise KeyboardInterrupt from None
    return {"folder": done["folder"], "verification": done["verification"]}
