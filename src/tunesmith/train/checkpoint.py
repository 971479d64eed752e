"""Checkpoints: raw trainable tensors, optimizer state and counters, whole and verified, or absent.

A checkpoint is written under another name, brought to the disk, and renamed. Its manifest holds the
SHA-256 of every file and is the last to be written. Whoever reads one compares all of it first; one
that was damaged is put aside, and the one before it is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TrainingError, TunesmithError
from tunesmith.core.files import publish_folder, read_json, write_json
from tunesmith.core.manifest import MANIFEST, manifest_of, why_changed
from tunesmith.train.learner import Learner
from tunesmith.train.source import Source
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.fitted import fitted
from tunesmith.train.weights.shards import like, whole

WEIGHTS, MOMENTS, AVERAGE = "trainable.safetensors", "optimizer.safetensors", "average.safetensors"
METHOD, SOURCE = "method.safetensors", "source-{rank}.safetensors"  # where method and source have tensors
SPARE = 64 << 20  # bytes beside checkpoints that a disk should have room for: logs, reports


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        folder: where it is.
        state: what state.json says: `step`, the random numbers' state, and `made_from`.
    """

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.state["step"]


def save_checkpoint(
    learner: Learner,
    trainer_state: TrainerState,
    source: Source,
    folder: Path,
    keep_last: int,
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder/step-000040` and delete all but the last `keep_last` checkpoints and the best one.

    Where several processes train, all must call this: they give their parts, and the first one writes; what a source
    holds in tensors each writes itself.

    Args:
        learner: what to save.
        trainer_state: what the loop remembers.
        source: where it stands.
        folder: the run's `checkpoints/`.
        keep_last: how many to keep, this one included.
        made_from: what must be the same when the run goes on from here.

    Raises:
        TrainingError: the disk is full; earlier checkpoints are as they were.
    """
    target = folder / f"step-{learner.step_number:06d}"
    if target.exists():  # the run was resumed from it
        return target
    files = tensors_of(learner)
    tensors, stands = source.state()
    method_tensors, method_values = learner.method.state(learner.model) if learner.method is not None else ({}, {})
    if method_tensors:
        files[METHOD] = _plain(method_tensors, learner.ranks.leads)
    state: dict[str, Any] = {
        "step": learner.step_number,
        "trainer": trainer_state.to_json(),
        "sources": learner.ranks.gather(stands),
        "method": method_values,
        "optimizer": learner.counted(),
        "random": learner.ranks.gather(random_state()),
        "made_from": dict(made_from or {}),
    }
    handed = _hand_over(tensors, learner, folder)
    if learner.ranks.leads:
        _write(target, files, state, learner, handed)
        if why_damaged(target) is None:  # the earlier ones stay until this one is proven
            _delete_old(folder, keep_last, {trainer_state.best_step, trainer_state.last_checkpoint})
    learner.ranks.wait()
    return target


def _hand_over(tensors: Mapping[str, torch.Tensor], learner: Learner, folder: Path) -> list[Path]:
    """Write what each rank's source holds beside the checkpoint that is to come; the first rank takes them in."""
    ranks = learner.ranks
    mine = folder / f".{SOURCE.format(rank=ranks.rank)}"
    if tensors:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, mine)
        except OSError as error:
            raise TrainingError(
                f"{mine}: what the source of batches holds cannot be written ({error}). Earlier checkpoints are "
                "intact: make room and resume."
            ) from None
    return [Path(name) for name in ranks.gather(str(mine) if tensors else "") if name]


def _write(
    target: Path, files: Mapping[str, dict[str, torch.Tensor]], state: dict[str, Any], learner: Learner,
    handed: Sequence[Path],
) -> None:  # fmt: skip
    try:
        with publish_folder(target) as temporary:
            for name, tensors in files.items():
                _save(tensors, temporary / name)
            for path in handed:
                path.replace(temporary / path.name.removeprefix("."))
            write_json(temporary / "state.json", state)
            write_json(temporary / MANIFEST, manifest_of(temporary))
    except OSError as error:
        raise TrainingError(
            f"{target}: the checkpoint cannot be written ({error.strerror or error}); it needs "
            f"{bytes_needed(learner):,} bytes. Earlier checkpoints are intact: make room and resume."
        ) from None


def _delete_old(folder: Path, keep_last: int, kept: set[int | None]) -> None:
    names = {f"step-{step:06d}" for step in kept if step is not None}
    for old in all_checkpoints(folder)[:-keep_last]:
        if old.name not in names:
            _delete(old)


def delete_later(folder: Path, step: int) -> None:
    """Take away checkpoints of later steps, which a run that goes back will reach on another way."""
    for later in all_checkpoints(folder):
        if later.name > f"step-{step:06d}":
            _delete(later)


def _delete(checkpoint: Path) -> None:
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  safetensors wraps the system's error in one of its own
        raise OSError(str(error)) from None


def tensors_of(learner: Learner) -> dict[str, dict[str, torch.Tensor]]:
    """The files of a checkpoint: weights; what the optimizer keeps of each, as `<weight>/exp_avg`; the average, if any.

    Where several processes train, all must call this, and the first one alone gets the tensors.
    """
    moments = {
        f"{name}/{key}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, weight in learner.weights.items()
        for key, value in learner.optimizer_of(weight).state[weight].items()
        if value is not None
    }
    files: dict[str, Mapping[str, torch.Tensor]] = {WEIGHTS: learner.weights, MOMENTS: moments}
    if learner.average is not None:
        files[AVERAGE] = learner.average.tensors()
    return {name: _plain(tensors, learner.ranks.leads) for name, tensors in files.items()}


def _plain(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """The tensors whole, without gradient, as they can be written; one after another, and none where none is kept."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        put_together = whole(tensor.detach())
        if keep:
            found[name] = put_together.cpu().contiguous()
    return found


def random_state() -> dict[str, list[int]]:
    """Where this process's random numbers stand."""
    state = {"torch": torch.get_rng_state().tolist()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def bytes_needed(learner: Learner) -> int:
    """Bytes of one checkpoint, but for what method and source hold: each weight, its state and its average."""
    state = learner.kind.bytes_a_weight - 4  # but for the gradient
    copies = 1 if learner.average is None else 2
    return sum((copies * weight.element_size() + state) * weight.numel() for weight in learner.weights.values())


def refuse_small_disk(learner: Learner, folder: Path, keep_last: int) -> None:
    """Refuse a run whose checkpoints do not fit on the disk, before its first step; those that are there count.

    Raises:
        TrainingError: with the bytes that are needed and those that are free.
    """
    there = sum(file.stat().st_size for path in all_checkpoints(folder / "checkpoints") for file in path.iterdir())
    needed = max(0, bytes_needed(learner) * (keep_last + 1) - there) + SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"{folder}: {keep_last} checkpoints and the next one need {needed:,} bytes, and {free:,} are free. Make "
            "room, lower output.keep_last, or set output.folder to another disk."
        )


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name))


def why_damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if every byte is as it was written."""
    try:
        if (reason := why_changed(folder)) is not None:
            return reason
        if f"step-{read_json(folder / 'state.json')['step']:06d}" != folder.name:
            return "it is of another step than its name says"
    except (OSError, UnicodeDecodeError, TunesmithError, KeyError, TypeError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def find_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint that is whole (None where none was ever written), and a sentence for each damaged one.

    Damaged ones are renamed to `damaged-step-...`, to be looked at.

    Raises:
        TrainingError: there are checkpoints, and none of them is whole.
    """
    for leftover in folder.glob(".step-*"):  # of a save, or of a deletion, that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".source-*"):
        leftover.unlink(missing_ok=True)
    sentences: list[str] = []
    for path in reversed(all_checkpoints(folder)):
        reason = why_damaged(path)
        if reason is None:
            return Checkpoint(path, read_json(path / "state.json")), sentences
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sentences.append(f"{path} is damaged ({reason}) and was put aside as {aside.name}.")
    if sentences or any(folder.glob("damaged-step-*")):
        raise TrainingError(
            f"{folder}: none of its checkpoints is whole. {' '.join(sentences)} Bring one back from a copy, or start "
            "the run anew with its config.yaml."
        )
    return None, []


def find_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step.

    Raises:
        TrainingError: it is not there, or damaged.
    """
    path = folder / f"step-{step:06d}"
    reason = why_damaged(path)
    if reason is not None:
        raise TrainingError(f"{path} is damaged ({reason}).")
    return Checkpoint(path, read_json(path / "state.json"))


def restore(learner: Learner, checkpoint: Checkpoint, source: Source | None = None) -> TrainerState:
    """Put weights, moments, schedule, method, source and random numbers back, and return what the loop knew.

    Args:
        learner: made as the one that was saved.
        checkpoint: of it.
        source: stands where it stood then; left as it is if None.

    Raises:
        TrainingError: the checkpoint is of other weights, or of another number of processes.
    """
    ranks, states = learner.ranks, checkpoint.state["random"]
    if len(states) != ranks.count:
        raise TrainingError(
            f"{checkpoint.folder}: it was written by {len(states)} processes, and here are {ranks.count}. "
            f"Set processes={len(states)}."
        )
    kept, where = method_tensors(checkpoint), checkpoint.folder
    put_weights(learner.weights, fitted(learner, kept, saved_tensors(checkpoint), where), where)
    learner.placed.weights_were_set()
    _restore_optimizer(learner, checkpoint)
    if learner.average is not None:
        averages = _tensors(checkpoint, AVERAGE)
        averages = fitted(learner, kept, averages, where) if averages else learner.weights
        learner.average.restore({name: like(each.detach(), learner.weights[name]) for name, each in averages.items()})
    if learner.method is not None:
        learner.method.restore(learner.model, kept, checkpoint.state["method"])
    if source is not None:
        tensors = _tensors(checkpoint, SOURCE.format(rank=ranks.rank))
        source.restore(tensors, checkpoint.state["sources"][ranks.rank])
    learner.go_on_from(checkpoint.step)
    state = states[ranks.rank]
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
    return TrainerState(**checkpoint.state["trainer"])


def same_optimizer(learner: Learner, checkpoint: Checkpoint) -> bool:
    """Whether what a checkpoint has of the optimizer is of the learner's."""
    return checkpoint.state["optimizer"]["type"] == learner.optimizer_type


def _restore_optimizer(learner: Learner, checkpoint: Checkpoint) -> None:
    """Moments and counters as they were; those of another optimizer mean nothing to this one, which begins anew.

    So it does with a weight that has other rows now: other words are in use.
    """
    if not same_optimizer(learner, checkpoint):
        return
    before = saved_tensors(checkpoint)
    for path, value in load_file(checkpoint.folder / MOMENTS).items():
        name, _, key = path.rpartition("/")
        weight = learner.weights[name]
        if before[name].shape != weight.shape:
            continue
        optimizer = learner.optimizer_of(weight)
        optimizer.state[weight][key] = _as_kept(value, key, weight, bool(optimizer.defaults.get("fused")))
    learner.go_on_counting(checkpoint.state["optimizer"]["counted"])


def _as_kept(value: torch.Tensor, key: str, weight: torch.Tensor, fused: bool) -> Any:
    """What an optimizer keeps of a weight, from a checkpoint: as the optimizer has it."""
    if value.dtype == torch.int64:  # a plain number
        return value.item()
    if key == "step":  # fused optimizers count where the weights are
        return value.to(weight.device, copy=True) if fused else value.clone()
    return like(value, weight)


def _tensors(checkpoint: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that not every checkpoint has."""
    path = checkpoint.folder / name
    return load_file(path) if path.exists() else {}


def saved_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The trained weights of a checkpoint."""
    return load_file(checkpoint.folder / WEIGHTS)


def tensors_to_export(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The average of the trained weights where there is one, else these."""
    return _tensors(checkpoint, AVERAGE) or saved_tensors(checkpoint)


def method_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors that the method has kept there."""
    return _tensors(checkpoint, METHOD)


def put_weights(
    weights: Mapping[str, torch.nn.Parameter], saved: Mapping[str, torch.Tensor], where: str | Path
) -> bool:
    """Give weights the values of a checkpoint; whether any of them is another now.

    Args:
        weights: of a model, by name.
        saved: of the same names and shapes.
        where: they come from.

    Raises:
        TrainingError: the checkpoint is of other weights.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in saved.items()}:
        raise TrainingError(f"{where}: its weights are not those that this recipe trains. Start anew.")
    changed = False
    with torch.no_grad():
        for name, weight in weights.items():
            value = like(saved[name], weight)
            changed = changed or not torch.equal(value, weight)
            weight.copy_(value)
    return changed
