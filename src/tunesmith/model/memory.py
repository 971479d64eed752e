"""Whether a base fits into the memory of the device where it shall answer, and how it does where it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tunesmith.core.errors import ModelError
from tunesmith.model.device import total_bytes
from tunesmith.model.load import LoadSpec
from tunesmith.model.quantize import Quantize

SHARE = 0.8  # of a device's memory that weights may take: what is computed with them needs the rest


def to_answer(folder: Path, spec: LoadSpec, trained_beside: Quantize) -> LoadSpec:
    """How a base answers: as `spec` says, or quantised as it was in training where it is too large for the device.

    What decides is all of the device's memory, not what is free of it: base and tuned model shall be loaded alike, and
    the same tomorrow.

    Args:
        folder: the base.
        spec: device and precision.
        trained_beside: how the base was kept while something was trained beside it.
    """
    if trained_beside == "none" or fits(folder, spec):
        return spec
    return replace(spec, quantize=trained_beside)


def to_compare(folder: Path, spec: LoadSpec) -> LoadSpec:
    """The same precision, computed on the CPU where the device has no room for it."""
    return spec if fits(folder, spec) else replace(spec, device="cpu")


def fits(folder: Path, spec: LoadSpec) -> bool:
    """Whether the weights in `folder`, in the precision of `spec`, leave room on its device to compute with them."""
    return weight_bytes(folder, spec.dtype) <= SHARE * total_bytes(spec.device)


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """What the tensors in a folder's *.safetensors take in this precision, by the files' headers.

    Raises:
        ModelError: a file is broken.
    """
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read ({error}).") from error
    return count * dtype.itemsize
