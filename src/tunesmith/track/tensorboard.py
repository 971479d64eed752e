"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.track.sink import Ending, Note


class TensorBoardSink:
    """Writes scalars, and recipe and plan as text.

    An event file is begun with the first value or plan after a start or return: its head says from which step on
    what earlier files hold is void.
    """

    name = "TensorBoard"

    def __init__(self, begin: Callable[..., Any], folder: Path, facts: Mapping[str, Any]) -> None:
        self._begin = begin
        self._folder = folder
        self._facts = facts
        self._start: int | None = None  # the step from which the run goes on
        self._writer: Any = None

    def send(self, notes: list[Note]) -> None:
        """Write the notes."""
        for note in notes:
            if note.resumed:
                self.close("stopped")
                self._start = note.step
                continue
            writer = self._open()
            for name, value in note.values.items():
                writer.add_scalar(name, value, note.step, note.time)
            if note.facts:
                writer.add_text("plan", listing(note.facts), note.step, note.time)
        if self._writer is not None:
            self._writer.flush()

    def close(self, ending: Ending) -> None:
        """Close the event file; TensorBoard keeps no ending."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            void = None if self._start is None else self._start + 1  # the first step that is done again
            self._writer = self._begin(str(self._folder), purge_step=void)
            self._writer.add_text("recipe", listing(self._facts), self._start or 0)
        return self._writer


def open_tensorboard(folder: Path, facts: Mapping[str, Any]) -> TensorBoardSink:
    """The sink that writes into `folder`.

    Raises:
        TunesmithError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TunesmithError(
            "track.tensorboard: the package is not installed. Run: pip install 'tunesmith[tensorboard]'"
        ) from None
    return TensorBoardSink(SummaryWriter, folder, facts)


def listing(facts: Mapping[str, Any]) -> str:
    """Facts as a Markdown code block."""
    return "\n".join(f"    {name}: {value}" for name, value in facts.items())
