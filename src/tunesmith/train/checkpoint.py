"""Checkpoints: raw trainable tensors, optimizer state and counters, in safetensors, with a manifest.

A checkpoint is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tunesmith.core.files import publish_folder, sha256_of, write_json
from tunesmith.model.methods import trainable
from tunesmith.train.policy import Policy

MANIFEST = "MANIFEST.json"


def save_checkpoint(policy: Policy, folder: Path, keep_last: int) -> Path:
    """Write `folder/step-000040` and delete all but the last `keep_last` checkpoints.

    Args:
        policy: what to save.
        folder: the run's `checkpoints/`.
        keep_last: how many to keep, this one included.
    """
    target = folder / f"step-{policy.step_number:06d}"
    weights = trainable(policy.model)
    with publish_folder(target) as temporary:
        save_file({name: w.detach().contiguous() for name, w in weights.items()}, temporary / "trainable.safetensors")
        save_file(_optimizer_tensors(policy, list(weights)), temporary / "optimizer.safetensors")
        state: dict[str, Any] = {"step": policy.step_number, "torch_rng": torch.get_rng_state().tolist()}
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state().tolist()
        write_json(temporary / "state.json", state)
        hashes = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, {"sha256": hashes})
    for old in sorted(folder.glob("step-*"))[:-keep_last]:
        shutil.rmtree(old)
    return target


def _optimizer_tensors(policy: Policy, names: list[str]) -> dict[str, torch.Tensor]:
    """AdamW's moments under the names of their weights: `<weight>/exp_avg`."""
    weights = trainable(policy.model)
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        state: dict[str, Any] = policy.optimizer.state[weights[name]]
        tensors |= {f"{name}/{key}": value.detach().contiguous() for key, value in state.items()}
    return tensors
