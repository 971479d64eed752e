"""The tasks whose models predict. A new one is a file of its own, and one line here."""

from __future__ import annotations

from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.infer.predict import answers, classes, fill, rewards, spans, tags, targets
from tunesmith.infer.predict.predictor import Predictor, TaskPredictor
from tunesmith.model.heads import fresh_weights
from tunesmith.model.load import Precision

PREDICTORS: dict[str, TaskPredictor] = {
    "classify": classes.PREDICTOR, "token_classify": tags.PREDICTOR, "extract": answers.PREDICTOR,
    "masked": fill.PREDICTOR, "seq2seq": targets.PREDICTOR, "spans": spans.PREDICTOR,
    "reward": rewards.PREDICTOR,
}  # fmt: skip


def load_predictor(exported: Any, device: str = "auto", precision: Precision = "auto") -> Any:
    """What a run has exported, ready to predict.

    Args:
        exported: an `ExportedModel`.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, `bf16`, or `auto`: fp32 on a CPU.

    Raises:
        ModelError: it is a model that chats, or a base without a head.

    Returns:
        A `Predictor` of its task.
    """
    if exported.task not in PREDICTORS:
        raise ModelError(
            f"{exported.name}: this model writes on from what it has read, so there is nothing to predict. Use "
            "`tunesmith chat`."
        )
    model = exported.load(device, precision)
    if fresh_weights(model):
        raise ModelError(
            f"{exported.name}: comes without the head that says what it has found, so there is nothing to predict. "
            "Train it, and name the run."
        )
    return predictor_of(model, exported)


def predictor_of(model: Any, exported: Any) -> Predictor:
    """A model for the task of one that was exported, such as its base, ready to predict."""
    return PREDICTORS[exported.task].make(model, exported.contract(), exported.card)
