"""Encoder-decoders: which there are, how rows of a source and a target become batches, and what they make of them.

Rows are padded, several of about one length together. They are not packed: T5 makes its position bias for a whole
sequence at once, square in all rows that would share it, and BART and Marian number positions by themselves.

Axes: B rows, S tokens of a source, T tokens of a target, N target tokens of all rows, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, GenerationConfig

from tunesmith.core.errors import ModelError
from tunesmith.model.layers import inside
from tunesmith.model.packed import padded_inputs
from tunesmith.prompt.base import RELATIVE

NO_TARGET = -100  # as transformers marks positions of labels that are none
NAMES_LANGUAGES = {"mbart", "m2m_100", "nllb-moe", "plbart", "seamless_m4t", "seamless_m4t_v2"}
# What a family needs of its generation settings to write at all; all else is greedy, and as long as is asked.
KEPT_SETTINGS = (
    "decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id", "forced_bos_token_id", "bad_words_ids",
    "suppress_tokens",
)  # fmt: skip
PADDED_TOGETHER = 4096  # tokens of sources and targets that are computed in one pass, padding included


def refuse_no_seq2seq(folder: Path, config: Any) -> None:
    """Refuse a model that is no encoder with a decoder of texts, or one that is told languages by tokens.

    Raises:
        ModelError: it says what the model is.
    """
    what = ", ".join(config.architectures or [type(config).__name__])
    if config.model_type in NAMES_LANGUAGES:
        reason = "told by tokens of their own from which language into which it shall go, which is not supported yet"
    elif type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING or not config.is_encoder_decoder:
        reason = "no encoder with a decoder"
    else:
        return
    raise ModelError(
        f"{folder}: cannot be loaded to make texts of texts (objective.type=seq2seq): {what} is {reason}. Take T5, "
        "mT5, FLAN-T5, BART, Pegasus or Marian; or, for a model that writes on, objective.type=sft."
    )


def refuse_no_spans(folder: Path, config: Any) -> None:
    """Refuse an encoder with a decoder that was not pretrained by filling in stretches of text.

    Raises:
        ModelError: it is no T5.
    """
    if config.model_type not in RELATIVE:
        what = ", ".join(config.architectures or [type(config).__name__])
        raise ModelError(
            f"{folder}: {what} cannot learn plain text here: of encoders with a decoder, T5 and its kin do, which fill "
            "in stretches that were taken out. Take one, or give sources with targets (objective.type=seq2seq)."
        )


@dataclass(frozen=True)
class Pairs:
    """Sources with their targets, padded.

    Attributes:
        inputs: arguments of the model's forward pass, but for what its decoder reads.
        labels_BT: the targets, `NO_TARGET` where there is none.
    """

    inputs: dict[str, Any]
    labels_BT: torch.Tensor

    @property
    def picked_N(self) -> torch.Tensor:  # noqa: N802
        """Where target tokens stand among all positions, rows one after another."""
        return (self.labels_BT != NO_TARGET).flatten().nonzero()[:, 0]

    @property
    def target_N(self) -> torch.Tensor:  # noqa: N802
        """The target tokens of all rows."""
        return self.labels_BT[self.labels_BT != NO_TARGET]

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel() + self.labels_BT.numel()


def pairs_of(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], device: str) -> Pairs:
    """The ids of sources and targets, padded on the right."""
    labels_BT = torch.full((len(targets), max(map(len, targets))), NO_TARGET, dtype=torch.long)
    for place, one in enumerate(targets):
        labels_BT[place, : len(one)] = torch.from_numpy(one.astype(np.int64))
    return Pairs(padded_inputs(sources, device), labels_BT.to(device))


def _arguments(model: Any, pairs: Pairs) -> dict[str, Any]:
    """What the forward pass is given: the decoder reads the targets as the library shifts them."""
    own, inputs = inside(model), dict(pairs.inputs)
    if (padding := own.config.pad_token_id) is not None:
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, padding)
    return {**inputs, "decoder_input_ids": own.prepare_decoder_input_ids_from_labels(labels=pairs.labels_BT)}


def target_logits(model: Any, pairs: Pairs) -> torch.Tensor:
    """The logits at the target tokens of all rows, (N, V)."""
    return model(**_arguments(model, pairs)).logits.flatten(0, 1)[pairs.picked_N]


def read_by_head(model: Any, pairs: Pairs) -> torch.Tensor:
    """What the output layer would read at the target tokens, (N, D): the model runs with nothing in its place.

    Where it adds something to the logits, as BART does, this is asked of its body.
    """
    own = inside(model)
    if own.base_model is not own:
        return own.base_model(**_arguments(model, pairs)).last_hidden_state.flatten(0, 1)[pairs.picked_N]
    with _without_head(own):
        return own(**_arguments(model, pairs)).logits.flatten(0, 1)[pairs.picked_N]


@contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """While the block lasts, the model's logits are what its output layer would read."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(torch.nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)


@dataclass(frozen=True)
class TargetScore:
    """How a model predicts one target: the summed loss in nats, its tokens, and how many were the first choice."""

    loss: float
    tokens: int
    correct: int


@torch.inference_mode()
def score_targets(model: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[TargetScore]:
    """How a model in evaluation mode predicts each target of a source, in the order of the rows."""
    found: dict[int, TargetScore] = {}
    for places in _of_one_length([len(source) + len(target) for source, target in rows]):
        sources, targets = ([rows[place][side] for place in places] for side in (0, 1))
        pairs = pairs_of(sources, targets, str(model.device))
        logits_NV = target_logits(model, pairs).float()
        loss_N = cross_entropy(logits_NV, pairs.target_N, reduction="none")
        right_N = logits_NV.argmax(-1) == pairs.target_N
        lengths = [len(rows[place][1]) for place in places]
        for place, loss, right in zip(places, loss_N.split(lengths), right_N.split(lengths), strict=True):
            found[place] = TargetScore(float(loss.sum()), len(loss), int(right.sum()))
    return [found[place] for place in range(len(rows))]


@dataclass(frozen=True)
class Written:
    """What a model wrote: the ids, without what it began with and what ended it, and whether it ended by itself."""

    ids: list[int]
    ended: bool


@torch.inference_mode()
def write(model: Any, sources: Sequence[np.ndarray], stop_ids: Sequence[int], longest: int) -> list[Written]:
    """What a model in evaluation mode makes of each source, greedily, in the order of the sources.

    Args:
        model: of transformers, with whatever a method has put around it.
        sources: ids, as the contract renders sources.
        stop_ids: that end an answer.
        longest: most tokens of an answer.
    """
    settings, found = generation_settings(model, stop_ids), dict[int, Written]()
    for places in _of_one_length([len(source) + longest for source in sources]):
        inputs = padded_inputs([sources[place] for place in places], str(model.device), settings.pad_token_id or 0)
        inputs.pop("use_cache")
        told_BT = model.generate(**inputs, generation_config=settings, max_new_tokens=longest)
        for place, told in zip(places, told_BT.tolist(), strict=True):
            found[place] = _written(told[1:], stop_ids)  # the first is what decoders begin with
    return [found[place] for place in range(len(sources))]


def generation_settings(model: Any, stop_ids: Sequence[int]) -> GenerationConfig:
    """Greedy, with what this family needs of its own settings; whatever else its base was fitted to is left out."""
    own, config = inside(model).generation_config, inside(model).config
    kept = {name: getattr(own, name, None) for name in KEPT_SETTINGS}
    start = kept["decoder_start_token_id"]
    kept["decoder_start_token_id"] = getattr(config, "decoder_start_token_id", None) if start is None else start
    kept["pad_token_id"] = config.pad_token_id if kept["pad_token_id"] is None else kept["pad_token_id"]
    kept["eos_token_id"] = list(stop_ids)
    return GenerationConfig(**{name: value for name, value in kept.items() if value is not None}, do_sample=False)


def _written(told: Sequence[int], stop_ids: Sequence[int]) -> Written:
    ends = [place for place, token in enumerate(told) if token in stop_ids]
    return Written(list(told[: ends[0]] if ends else told), bool(ends))


def _of_one_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of rows that are computed together: of about one length, as many as `PADDED_TOGETHER` allows."""
    some: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if some and (len(some) + 1) * lengths[place] > PADDED_TOGETHER:
            yield some
            some = []
        some.append(place)
    if some:
        yield some
