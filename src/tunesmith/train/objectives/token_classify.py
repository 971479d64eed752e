"""Tags of words: the first token of each word says what the word is.

The loss is that of transformers: cross-entropy, the mean over words; all other tokens count nothing.

Axes: W words, C tags, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.kinds.schemes import scheme_of, tag_names
from tunesmith.data.prepare import Prepared
from tunesmith.model.heads import inputs_of, token_logits
from tunesmith.score.tags import stretch_counts
from tunesmith.train.config import TokenClassifyConfig
from tunesmith.train.objective import Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.shards import within


@dataclass(frozen=True)
class TagBatch:
    """One micro-batch of rows with the tags of their words.

    Attributes:
        inputs: arguments of the forward pass.
        lengths: tokens of each sequence; a row may have several.
        place_W: of each word with a token its first, among the tokens of all sequences one behind the other.
        target_W: its tag.
        words: of each row, how many of these are its own.
        rows: the rows inside.
        tokens: tokens read, padding left out.
    """

    inputs: dict[str, Any]
    lengths: Sequence[int]
    place_W: torch.Tensor
    target_W: torch.Tensor
    words: Sequence[int]
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Words, and rows."""
        return {"words": len(self.target_W), "rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel()


@dataclass(frozen=True)
class Tags:
    """What is known of the rows' tags.

    Attributes:
        names: by their ids.
        scheme: how they are read.
    """

    names: Sequence[str]
    scheme: str

    @property
    def places(self) -> dict[str, int]:
        """The id of each tag."""
        return {name: place for place, name in enumerate(self.names)}


def tags_in(facts: Mapping[str, Any]) -> Tags:
    """The tags of a file, by its facts."""
    names = facts.get("labels", {})
    return Tags(tag_names(names), scheme_of(names).name)


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns, tags: Tags) -> TagBatch:
    """Sequences in one where the plan packs, else padded to the longest."""
    ids = [one.ids for row in rows for one in row.sequences]
    lengths = list(map(len, ids))
    starts = iter(accumulate(lengths, initial=0))
    places: list[int] = []
    target: list[int] = []
    words: list[int] = []
    of = tags.places
    for row in rows:
        content: Any = row.row.content
        spans = [(begin + start, end > begin) for one, start in _with_starts(row, starts) for begin, end in one.spans]
        read = [(place, of[name]) for (place, there), name in zip(spans, content.names, strict=False) if there]
        places += [place for place, _ in read]
        target += [tag for _, tag in read]
        words.append(len(read))
    inputs = inputs_of(ids, lengths, plan.packing, plan.device)
    return TagBatch(
        inputs,
        lengths,
        torch.tensor(places, dtype=torch.long, device=plan.device),
        torch.tensor(target, dtype=torch.long, device=plan.device),
        words,
        rows,
        sum(lengths),
    )


def _with_starts(row: Prepared, starts: Any) -> list[tuple[Any, int]]:
    """The sequences of a row, each with where it begins among all of a batch."""
    return [(one, next(starts)) for one in row.sequences]


def word_logits(models: Models, batch: TagBatch) -> torch.Tensor:
    """The logits of each word in fp32, (W, C)."""
    model = models.policy
    found = within(model, lambda: token_logits(model, batch.inputs, batch.lengths))
    return torch.cat(found)[batch.place_W].float()


def loss(models: Models, batch: TagBatch, whole: None, tags: Tags, smoothing: float = 0.0) -> Loss:
    """The summed loss of the words, how many have the right tag, and in validation the counts of stretches.

    With `smoothing` a share of each target is spread over all tags while the model is trained.
    """
    training = models.policy.training
    logits_WC = word_logits(models, batch)
    total = cross_entropy(logits_WC, batch.target_W, reduction="sum", label_smoothing=smoothing if training else 0.0)
    said_W = logits_WC.detach().argmax(-1)
    counts: dict[str, Any] = {"correct": (said_W == batch.target_W).sum()}
    if not training and tags.scheme != "none":
        counts["stretches"] = _stretches_of(said_W, batch, tags)
    return Loss([Term("loss", total, "words")], counts)


def _stretches_of(said_W: torch.Tensor, batch: TagBatch, tags: Tags) -> np.ndarray:
    """How many stretches are right, were said, and are there, (3,)."""
    found = np.zeros(3)
    true = [tags.names[tag] for tag in _plain(batch.target_W)]
    said = [tags.names[tag] for tag in _plain(said_W)]
    begin = 0
    for words in batch.words:
        found += stretch_counts(true[begin : begin + words], said[begin : begin + words], tags.scheme)
        begin += words
    return found


def _plain(tags_W: torch.Tensor) -> list[int]:
    return tags_W.tolist()


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per word, the share of words with the right tag, and of validations the F1 of stretches."""
    f1 = {}
    if "stretches" in sums:
        right, said, true = sums["stretches"].tolist()
        f1 = {"f1": 2 * right / max(said + true, 1.0)}
    return {"loss": float(sums["loss"]), "token_accuracy": float(sums["correct"]) / scale["words"], **f1}


def make_token_classify(config: TokenClassifyConfig, facts: Mapping[str, Any] | None = None) -> Objective:
    """The objective; it can be learned once the facts of the rows are known."""
    tags = tags_in(facts or {})

    def outputs(models: Models, batch: TagBatch) -> list[torch.Tensor]:
        return list(word_logits(models, batch).split(list(batch.words)))

    def losses(models: Models, batch: TagBatch) -> torch.Tensor:
        return cross_entropy(word_logits(models, batch), batch.target_W, reduction="none")

    return Objective(
        name="token_classify",
        reads=frozenset({"tagged"}),
        collate=partial(collate, tags=tags),
        loss=partial(loss, tags=tags, smoothing=config.label_smoothing),
        curves=curves,
        task="token_classify",
        metrics=("loss", "token_accuracy", "f1"),
        higher=frozenset({"token_accuracy", "f1"}),
        check=Check(outputs, losses),
        informed=lambda facts, contract: make_token_classify(config, facts),
    )
