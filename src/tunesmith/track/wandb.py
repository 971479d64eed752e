"""Weights & Biases: one run in a project, or, offline, a file in the run's folder to be sent later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.track.sink import Ending, Note, reason

ALWAYS = {"WANDB_ERROR_REPORTING": "false"}  # or the library reports its use and its faults to its makers
SETTINGS = {
    "console": "off",  # what libraries print may hold anything
    "silent": True,
    "host": "",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_save_requirements": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "init_timeout": 20.0,
    "finish_timeout": 10.0,
    "finish_timeout_raises": True,
    "x_graphql_retry_max": 1,  # else a server that is not there is asked for minutes
    "x_graphql_timeout_seconds": 5.0,
}


class WandbSink:
    """Writes history and config of one run through the library, which has a process of its own for the network."""

    name = "Weights & Biases"

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._reached: int = handle.starting_step
        self.run: str = handle.id

    def send(self, notes: list[Note]) -> None:
        """Write the notes. A step that the run has already is passed over: W&B only counts upwards."""
        for note in notes:
            if note.values and note.step >= self._reached:
                self._handle.log(dict(note.values), step=note.step)
                self._reached = note.step
            if note.facts:
                self._handle.config.update(dict(note.facts), allow_val_change=True)

    def close(self, ending: Ending) -> None:
        """Send what is left, and the status: a stopped run is shown as preempted, to be gone on with."""
        if ending == "stopped":
            self._handle.mark_preempting()
        try:
            self._handle.finish(exit_code=0 if ending == "finished" else 1)
        except Exception as error:  # noqa: BLE001  the library raises many kinds
            raise RuntimeError(f"{reason(error)} (what is missing there can be sent with `wandb sync`)") from None


def open_wandb(
    project: str, group: str | None, name: str, folder: Path, facts: Mapping[str, Any], run: str | None,
    tags: Sequence[str] = (),
) -> WandbSink:  # fmt: skip
    """The run in the project, new or gone on with.

    Args:
        project: made if it is not there; ENTITY/PROJECT for that of a team.
        group: under which runs are shown together, if any.
        name: of the run.
        folder: the run's; the library's files go into `wandb/` there.
        facts: its config.
        run: id of the run to go on with, if there is one.
        tags: of the run.

    Raises:
        TunesmithError: the package is not installed, nobody is logged in, or the server does not take the run.
    """
    try:
        import wandb
    except ImportError:
        raise TunesmithError("track.wandb: the package is not installed. Run: pip install 'tunesmith[wandb]'") from None
    entity, _, plain = project.rpartition("/")
    try:
        handle = wandb.init(
            entity=entity or None,
            project=plain,
            tags=list(tags),
            group=group,
            name=name,
            id=run or uuid.uuid4().hex[:12],
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(**SETTINGS),
        )
        handle.config.update(dict(facts), allow_val_change=True)
    except Exception as error:  # noqa: BLE001  the library raises many kinds
        raise TunesmithError(
            f"track.wandb = {project}: Weights & Biases does not take the run ({reason(error)}). Run `wandb login` "
            "or set WANDB_API_KEY; or set WANDB_MODE=offline and send the run later with `wandb sync`."
        ) from None
    return WandbSink(handle)
