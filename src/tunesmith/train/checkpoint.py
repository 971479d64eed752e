"""Checkpoints: raw trainable tensors, optimizer state and counters, whole and verified, or absent.

A checkpoint is written under another name, brought to the disk, and renamed. Its manifest holds the
SHA-256 of every file and is the last to be written. Whoever reads one compares all of it first; one
that was damaged is put aside, and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TrainingError, TunesmithError
from tunesmith.core.files import publish_folder, read_json, sha256_of, write_json
from tunesmith.model.methods import trainable
from tunesmith.train.policy import Policy

MANIFEST = "MANIFEST.json"
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


def save_checkpoint(policy: Policy, folder: Path, keep_last: int, made_from: Mapping[str, Any] | None = None) -> Path:
    """Write `folder/step-000040` and delete all but the last `keep_last` checkpoints.

    Args:
        policy: what to save.
        folder: the run's `checkpoints/`.
        keep_last: how many to keep, this one included.
        made_from: what must be the same when the run goes on from here.

    Raises:
        TrainingError: the disk is full; earlier checkpoints are as they were.
    """
    target = folder / f"step-{policy.step_number:06d}"
    if target.exists():  # the run was resumed from it
        return target
    weights = trainable(policy.model)
    try:
        with publish_folder(target) as temporary:
            _save({name: w.detach().contiguous() for name, w in weights.items()}, temporary / "trainable.safetensors")
            _save(_optimizer_tensors(policy, list(weights)), temporary / "optimizer.safetensors")
            state: dict[str, Any] = {"step": policy.step_number, "torch_rng": torch.get_rng_state().tolist()}
            if torch.cuda.is_available():
                state["cuda_rng"] = torch.cuda.get_rng_state().tolist()
            write_json(temporary / "state.json", {**state, "made_from": dict(made_from or {})})
            write_json(temporary / MANIFEST, manifest_of(temporary))
    except OSError as error:
        raise TrainingError(
            f"{target}: the checkpoint cannot be written ({error.strerror or error}); it needs "
            f"{bytes_needed(policy):,} bytes. Earlier checkpoints are intact: make room and resume."
        ) from None
    if why_damaged(target) is None:  # the earlier ones stay until this one is proven
        for old in all_checkpoints(folder)[:-keep_last]:
            gone = old.with_name(f".{old.name}.gone")
            old.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    return target


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  safetensors wraps the system's error in one of its own
        raise OSError(str(error)) from None


def _optimizer_tensors(policy: Policy, names: list[str]) -> dict[str, torch.Tensor]:
    """AdamW's moments under the names of their weights: `<weight>/exp_avg`."""
    weights = trainable(policy.model)
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        state: dict[str, Any] = policy.optimizer.state[weights[name]]
        tensors |= {f"{name}/{key}": value.detach().contiguous() for key, value in state.items()}
    return tensors


def bytes_needed(policy: Policy) -> int:
    """Bytes of one checkpoint: each trained weight and its two moments."""
    return sum(3 * weight.numel() * weight.element_size() for weight in trainable(policy.model).values())


def refuse_small_disk(policy: Policy, folder: Path, keep_last: int) -> None:
    """Refuse a run whose checkpoints do not fit on the disk, before its first step.

    Raises:
        TrainingError: with the bytes that are needed and those that are free.
    """
    needed = bytes_needed(policy) * (keep_last + 1) + SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"{folder}: {keep_last} checkpoints and the next one need {needed:,} bytes, and {free:,} are free. Make "
            "room, lower output.keep_last, or set output.folder to another disk."
        )


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name))


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the manifest of the files in `folder` has to say."""
    return {"sha256": {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}}


def why_damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if every byte is as it was written."""
    try:
        written = (folder / MANIFEST).read_text(encoding="utf-8")
        if written != json.dumps(manifest_of(folder), indent=2) + "\n":
            return "its files are not those that its manifest names"
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


def restore(policy: Policy, checkpoint: Checkpoint) -> None:
    """Put weights, moments, schedule and random numbers back as they were.

    Raises:
        TrainingError: the checkpoint is of other weights.
    """
    weights, saved = trainable(policy.model), load_file(checkpoint.folder / "trainable.safetensors")
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in saved.items()}:
        raise TrainingError(f"{checkpoint.folder}: its weights are not those that this recipe trains. Start anew.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
    for path, value in load_file(checkpoint.folder / "optimizer.safetensors").items():
        name, _, key = path.rpartition("/")
        policy.optimizer.state[weights[name]][key] = (
            value.clone() if key == "step" else value.to(weights[name].device, copy=True)
        )
    policy.go_on_from(checkpoint.step)
    torch.set_rng_state(torch.tensor(checkpoint.state["torch_rng"], dtype=torch.uint8))
    if "cuda_rng" in checkpoint.state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(checkpoint.state["cuda_rng"], dtype=torch.uint8))
