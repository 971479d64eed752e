"""Before a run is a success: weights finite and changed, and the exported folder, read back, is what was trained.

Like is compared with like: tensors to the last bit, and losses of both models in the precision and on the device that
answer. Against a model in bf16, in which small updates are rounded away, a sound one in fp32 would look wrong.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from tunesmith.core.errors import TrainingError
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.table import PREDICTORS
from tunesmith.model.export import find_model
from tunesmith.model.load import answering
from tunesmith.model.methods.method import trainable
from tunesmith.model.quantize import is_quantized
from tunesmith.prompt.contract import Contract

ROWS = 4  # training rows that are scored before and after exporting
# Largest relative difference of their losses, with the same tensors in the same precision on the same device: none is
# expected, but memory that lies otherwise may be summed in another order.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.02}


def refuse_unchanged(model: torch.nn.Module, changed: bool) -> None:
    """A run that changed nothing, or left weights that are not finite, has not succeeded.

    Raises:
        TrainingError: it has not.
    """
    if not changed:
        raise TrainingError("training changed no weight. Raise optim.learning_rate.")
    for name, weight in trainable(model).items():
        if not torch.isfinite(weight).all():
            raise TrainingError(
                f"training left weights that are not finite ({name}). Lower optim.learning_rate or set precision=fp32."
            )


@dataclass(frozen=True)
class Trained:
    """What an exported model must be again when it is read back.

    Attributes:
        tensors: the SHA-256 of each trained tensor, and the factor of each adapter, by name.
        losses: the summed loss of each of a few rows, in the precision and on the device that answer; of a model that
            does not chat what it computes of each row.
        task: that it was trained for.
    """

    tensors: dict[str, str]
    losses: list[Any]
    task: str = "causal"


def what_was_trained(
    model: Any, rows: Sequence[Prepared], device: str = "auto", task: str = "causal"
) -> Trained:  # fmt: skip
    """What `verify_export` compares with: the model is moved to where it would answer, its trained weights rounded so.

    Args:
        model: in fp32 if all of it was trained, else its base as it answers.
        rows: some that it was trained on.
        device: where it answers.
        task: that it was trained for.
    """
    spec = answering(device)
    if not hasattr(model, "peft_config"):  # peft keeps what it adds in fp32
        for weight in model.parameters():
            if weight.is_floating_point():  # what is quantised stays so
                weight.data = weight.data.to(spec.dtype)
    model.to(spec.device)
    names = set(trainable(model))
    return Trained(tensors_of(model, names), losses_of(model, rows, task), task)


def tensors_of(model: torch.nn.Module, names: Container[str]) -> dict[str, str]:
    """The SHA-256 of each parameter of these names, and the factor of each adapter."""
    found = {
        name: hashlib.sha256(weight.detach().float().cpu().contiguous().numpy().data).hexdigest()
        for name, weight in model.named_parameters()
        if name in names
    }
    adapters = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    return found | {f"scaling of {name}": str(part.scaling) for name, part in adapters.items()}


def losses_of(model: Any, rows: Sequence[Prepared], task: str) -> list[Any]:
    """The summed loss of each of the first few rows; of a model that does not chat what it computes of them."""
    if task in PREDICTORS and (asked := PREDICTORS[task].losses) is not None:
        return list(asked(model, list(islice(rows, ROWS))))
    if task in PREDICTORS:
        return [found_PV.flatten().tolist() for found_PV in PREDICTORS[task].outputs(model, list(islice(rows, ROWS)))]
    scores = LocalEngine(model.eval(), None).score(
        [(row.ids.tolist(), row.mask.tolist()) for row in islice(rows, ROWS)]
    )
    return [score.loss for score in scores]


def said_of_quantizing(kind: str, model: Any, beside: Sequence[Any], exported: Sequence[Any]) -> str:
    """What it changes that a model goes with its base as it was, and not with the quantised one.

    Args:
        kind: how the base was kept.
        model: as it answers here.
        beside: losses of some rows as the model was trained; of a model that does not chat what it computes of them.
        exported: of the same rows, as it is exported.
    """
    if is_quantized(model):
        return (
            f"this device is too small for the base as it was: here base and model answer, and are compared, with the "
            f"base in {kind}, as the model was trained beside it."
        )
    if isinstance(beside[0], list):
        off = max(float(np.abs(np.subtract(one, other)).max()) for one, other in zip(beside, exported, strict=True))
        return (
            f"the model was trained beside its base in {kind}, and is exported with the base as it was: on "
            f"{len(beside)} training rows its outputs differ by up to {off:.3g} from those in training."
        )
    change = sum(exported) / sum(beside) - 1 if sum(beside) else 0.0
    return (
        f"the model was trained beside its base in {kind}, and is exported with the base as it was: on "
        f"{len(beside)} training rows its loss is {sum(exported):.4g} there and was {sum(beside):.4g} ({change:+.1%})."
    )


def verify_export(
    folder: Path, contract: Contract, rows: Sequence[Prepared], trained: Trained | None, device: str = "auto"
) -> None:
    """Load what was exported as anybody would, and let it compute and answer.

    Args:
        folder: the exported model.
        contract: how it is prompted.
        rows: some that it was trained on.
        trained: what it must be again; None for a merged model, which was compared with its adapter.
        device: where it answers.

    Raises:
        TrainingError: it is something else, or cannot answer.
    """
    exported = find_model(str(folder))
    model = exported.load(device)
    if trained is not None:
        refuse_another(folder, model, rows, trained)
    if exported.chats and kind_of(rows[0].row).chat:
        prompts = [row.ids[: max(1, int(row.mask.argmax()))].tolist() for row in islice(rows, ROWS)]
        asked = [(prompt, Options(max_new_tokens=8)) for prompt in prompts]
        answers = answer_all(LocalEngine(model, contract), asked)
        if all(answer.choice.ids[0] in contract.stop_ids for answer in answers):
            raise TrainingError(
                f"{folder}: read back, the model says nothing to any of {len(prompts)} training rows. Look at the "
                "answers that it was trained on, and at optim.learning_rate."
            )


def refuse_another(folder: Path, model: Any, rows: Sequence[Prepared], trained: Trained) -> None:
    """Compare what was read back with what was trained: each tensor to the last bit, then what they compute.

    Raises:
        TrainingError: it is something else.
    """
    found = tensors_of(model, trained.tensors)
    if others := [name for name in {**trained.tensors, **found} if trained.tensors.get(name) != found.get(name)]:
        raise TrainingError(
            f"{folder}: read back, {len(others)} of {len(trained.tensors)} tensors and factors are not what was "
            f"trained (first: {others[0]}). Please report this."
        )
    for row, before, after in zip(rows, trained.losses, losses_of(model, rows, trained.task), strict=False):
        if isinstance(before, list) or isinstance(after, list):
            if not np.allclose(after, before, rtol=CLOSE[model.dtype], atol=CLOSE[model.dtype]):
                raise TrainingError(
                    f"{folder}: read back, the model gives other logits on {row.source} than the trained one. It is "
                    "not what was trained; please report this."
                )
        elif not math.isclose(before, after, rel_tol=CLOSE[model.dtype], abs_tol=CLOSE[model.dtype] * row.trained):
            raise TrainingError(
                f"{folder}: read back, the model has a loss of {after:.6g} on {row.source} where the trained one had "
                f"{before:.6g}. It is not what was trained; please report this."
            )
