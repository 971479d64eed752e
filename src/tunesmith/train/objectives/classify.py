"""Classes of whole texts, or of pairs: one class, any number of them, or a number.

The losses are those of transformers: cross-entropy; binary cross-entropy, the mean over classes; the squared error.

Axes: R rows, T tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tunesmith.core.errors import DataError
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.labelled import Shape, border_of, names_of, shape_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.classes import best_threshold, reads_of, row_logits
from tunesmith.model.heads import class_logits, inputs_of
from tunesmith.train.config import ClassifyConfig
from tunesmith.train.objective import PADDED, Check, Columns, Draw, Loss, Models, Objective, Term, refuse_nothing
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.shards import within


@dataclass(frozen=True)
class ClassBatch:
    """One micro-batch of rows with what is to be said of each.

    Attributes:
        inputs: arguments of the forward pass.
        target: of each row its class (R,), which classes it has (R, C), or its number (R,).
        rows: the rows inside, for errors.
        tokens: tokens read, padding left out.
    """

    inputs: dict[str, Any]
    target: torch.Tensor
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Rows."""
        return {"rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel()


@dataclass(frozen=True)
class Classes:
    """What is known of the rows' classes.

    Attributes:
        shape: what a row has.
        places: the id of each class.
        weights: how much a row of each counts; none where all count alike.
    """

    shape: Shape
    places: Mapping[str, int]
    weights: torch.Tensor | None = None


def classes_of(facts: Mapping[str, Any], balanced: bool = False) -> Classes:
    """The classes of a file, by its facts."""
    names, counts = label_names(dict(facts)), facts.get("labels", {})
    places = {name: place for place, name in enumerate(names)}
    weights = None
    if balanced and names:
        weights = torch.tensor([sum(counts.values()) / (len(names) * counts[name]) for name in names])
    return Classes(shape_of(dict(facts)), places, weights)


def targets_of(rows: Sequence[Prepared], classes: Classes) -> torch.Tensor:
    """What is to be said of each row."""
    contents: list[Any] = [row.row.content for row in rows]
    if classes.shape == "number":
        return torch.tensor([float(content.label) for content in contents])
    if classes.shape == "one":
        return torch.tensor([classes.places[name] for content in contents for name in names_of(content)])
    target_RC = torch.zeros(len(rows), len(classes.places))
    for place, content in enumerate(contents):
        target_RC[place, [classes.places[name] for name in names_of(content)]] = 1.0
    return target_RC


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns, classes: Classes) -> ClassBatch:
    """Rows in one sequence where the plan packs, else padded to the longest."""
    ids = [row.ids for row in rows]
    borders = [border_of(row) for row in rows]
    inputs = inputs_of(ids, borders, plan.packing, plan.device)
    return ClassBatch(inputs, targets_of(rows, classes).to(plan.device), rows, sum(map(len, ids)))


def logits_of(models: Models, batch: ClassBatch) -> torch.Tensor:
    """The logits of each row in fp32, (R, C)."""
    model = models.policy
    return within(model, lambda: class_logits(model, batch.inputs, len(batch.rows))).float()


def row_losses(logits_RC: torch.Tensor, target: torch.Tensor, classes: Classes, smoothing: float = 0.0) -> torch.Tensor:
    """The loss of each row, (R,)."""
    weights = None if classes.weights is None else classes.weights.to(logits_RC.device)
    if classes.shape == "number":
        return (logits_RC[:, 0] - target).square()
    if classes.shape == "several":
        return binary_cross_entropy_with_logits(logits_RC, target, weights, reduction="none").mean(-1)
    return cross_entropy(logits_RC, target, weights, reduction="none", label_smoothing=smoothing)


def loss(models: Models, batch: ClassBatch, whole: None, classes: Classes, smoothing: float = 0.0) -> Loss:
    """The summed loss of the rows, and how many are wholly right: with several classes, by a threshold of a half.

    With `smoothing` a share of each target is spread over all classes while the model is trained.
    """
    logits_RC = logits_of(models, batch)
    smoothing = smoothing if models.policy.training else 0.0
    term = Term("loss", row_losses(logits_RC, batch.target, classes, smoothing).sum(), "rows")
    if classes.shape == "number":
        return Loss([term])
    found = logits_RC.detach()
    right_R = ((found > 0) == batch.target.bool()).all(-1) if classes.shape == "several" else (
        found.argmax(-1) == batch.target)  # fmt: skip
    return Loss([term], {"correct": right_R.sum()})


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per row, and the share of rows that are right, where rows have classes."""
    accuracy = {"accuracy": float(sums["correct"]) / scale["rows"]} if "correct" in sums else {}
    return {"loss": float(sums["loss"]), **accuracy}


def choose(model: Any, rows: Sequence[Prepared], classes: Classes) -> dict[str, Any]:
    """Of rows with several classes the probability from which one is said, by micro F1 on validation rows."""
    if classes.shape != "several" or not len(rows):
        return {}
    logits_RC = row_logits(model.eval(), reads_of(rows))
    return {
        "threshold": best_threshold(torch.from_numpy(logits_RC).sigmoid().numpy(), targets_of(rows, classes).numpy())
    }


def refuse_other_ends(rows: Sequence[Prepared], end: int) -> None:
    """Refuse rows without the token at which the head reads them, or with more of it than others have.

    Raises:
        DataError: with the first.
    """
    wanted = 0
    for row in rows:
        count = int((row.ids == end).sum())
        wanted = wanted or count
        if not count or count != wanted:
            raise DataError(
                f"{row.source}: the row has {count} of the tokens that end texts, at the last of which this model's "
                f"head reads it, and all rows must have as many, at least one (the first has {wanted}). Give texts "
                "alone or pairs alone, leave out data.over_long=truncate, and take a tokenizer that ends texts."
            )


def make_classify(
    config: ClassifyConfig, facts: Mapping[str, Any] | None = None, end: int | None = None
) -> Objective:  # fmt: skip
    """The objective; it can be learned once the facts of the rows are known.

    Args:
        config: the recipe's section.
        facts: of the training rows.
        end: the token at which an encoder with a decoder reads a row, whose rows are padded.
    """
    classes = classes_of(facts or {}, config.class_weights == "balanced")

    def outputs(models: Models, batch: ClassBatch) -> list[torch.Tensor]:
        return list(logits_of(models, batch).split(1))

    def losses(models: Models, batch: ClassBatch) -> torch.Tensor:
        return row_losses(logits_of(models, batch), batch.target, classes)

    return Objective(
        name="classify",
        reads=frozenset({"labelled"}),
        collate=partial(collate, classes=classes),
        loss=partial(loss, classes=classes, smoothing=config.label_smoothing),
        curves=curves,
        task="classify",
        metrics=("loss", "accuracy"),
        higher=frozenset({"accuracy"}),
        check=Check(outputs, losses),
        informed=lambda facts, contract: make_classify(config, facts, end),
        padded="" if end is None else PADDED,
        refuse=refuse_nothing if end is None else partial(refuse_other_ends, end=end),
        choose=partial(choose, classes=classes),
    )
