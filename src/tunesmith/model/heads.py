"""Heads beside a body: which model has one, how it is made, and how it reads packed rows.

A library's head takes its state from a place of its own in each row: the first token (BERT and its kin) or the last
(decoders). Called on packed rows it would return one answer for all of them, in silence. So the body runs on the packed
rows, the state at each row's place is gathered, and the library's own head runs on these as on rows of one token. A
head that says something of each token (tags, where an answer begins and ends) runs on all of them as they are.

Axes: R rows, T tokens, D width, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from tunesmith.core.errors import ModelError
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.labelled import shape_of
from tunesmith.data.kinds.schemes import tag_names
from tunesmith.model.layers import inside
from tunesmith.model.packed import packed_inputs, padded_inputs
from tunesmith.model.read_at import last_layer_at

PROBLEMS = {"one": "single_label_classification", "several": "multi_label_classification", "number": "regression"}
TASK_TYPES: dict[str, str | None] = {  # of peft, by what a class of transformers is called
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForMaskedLM": None,  # for which it has no name: AutoPeftModel finds the class by the adapter's own note
}  # fmt: skip
SPLIT = "token_type_ids"
READ_AT_END = {
    "t5",
    "mt5",
    "umt5",
    "bart",
}  # encoder-decoders: the decoder's state at a row's last end token


def refuse_no_classifier(folder: Path, config: Any) -> None:
    """Refuse a model that transformers builds no classifier of, or of whose kind none is supported.

    Raises:
        ModelError: it says what the model is.
    """
    if config.is_encoder_decoder and config.model_type in READ_AT_END:
        return
    refuse_without(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "a classifier", folder, config, both=" (T5 and BART are)")


def refuse_no_tagger(folder: Path, config: Any) -> None:
    """Refuse a model that transformers builds no tagger of words of, or of whose kind none is supported.

    Raises:
        ModelError: it says what the model is.
    """
    refuse_without(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, "a tagger of words", folder, config)


def refuse_no_reader(folder: Path, config: Any) -> None:
    """Refuse a model that cannot find answers in passages: it must read each token with what stands behind it.

    Raises:
        ModelError: it says what the model is.
    """
    refuse_without(MODEL_FOR_QUESTION_ANSWERING_MAPPING, "a finder of answers", folder, config, decoders=False)


def refuse_without(mapping: Any, what: str, folder: Path, config: Any, decoders: bool = True, both: str = "") -> None:
    """Refuse a model that has no head of the wanted sort.

    Raises:
        ModelError: it says what the model is.
    """
    name = ", ".join(config.architectures or [type(config).__name__])
    if config.is_encoder_decoder:
        reason = f"an encoder with a decoder, of a family that is not supported here{both}"
    elif not decoders and reads_last(config):
        reason = "a decoder, which reads no token with what stands behind it"
    elif type(config) not in mapping:
        reason = f"of a kind that transformers has no {what.partition(' ')[2]} for"
    else:
        return
    raise ModelError(
        f"{folder}: cannot be loaded as {what}: {name} is {reason}. Take an encoder such as BERT, RoBERTa or "
        f"DistilBERT{', or a decoder such as Llama or GPT-2' if decoders else ''}."
    )


def class_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a classifier's configuration, from what is known of its rows."""
    shape, names = shape_of(dict(facts)), label_names(dict(facts))
    if shape == "number":
        names = ["number"]
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
        "problem_type": PROBLEMS[shape],
    }


def reward_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a reward model's configuration: a classifier with a single number."""
    names = {"id2label": {0: "reward"}, "label2id": {"reward": 0}}
    return {"num_labels": 1, **names, "problem_type": PROBLEMS["number"]}


def tag_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a tagger's configuration, from what is known of its rows."""
    names = tag_names(facts["labels"])
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
    }


def end_token(config: Any) -> int | None:
    """The token at which such a model's head reads a row's state; None where it is the first, or whatever is last."""
    return config.eos_token_id if config.is_encoder_decoder else None


def task_type(model: Any) -> str | None:
    """What peft calls the task of a model; None if it has no name for it."""
    name = type(inside(model)).__name__
    writes = "SEQ_2_SEQ_LM" if inside(model).config.is_encoder_decoder else "CAUSAL_LM"
    return next((kind for end, kind in TASK_TYPES.items() if name.endswith(end)), writes)


def head_weights(model: Any) -> set[str]:
    """Names of weights that stand outside of the library's own body: a head that a base may come without."""
    body = getattr(model, "base_model_prefix", "")
    if not body or getattr(model, body, None) is None:
        return set()
    pooler = f"{body}.pooler."  # which BERT's masked language model is without
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {name for name in names if not name.startswith(f"{body}.") or name.startswith(pooler)}


def with_fresh(model: Any, names: Sequence[str]) -> Any:
    """The model, which knows from now on which of its weights its files did not hold."""
    model.fresh_weights = tuple(names)
    return model


def fresh_weights(model: Any) -> tuple[str, ...]:
    """Names of weights that began at random when the model was loaded, since its files did not hold them."""
    return getattr(inside(model), "fresh_weights", ())


def head_modules(model: Any) -> list[str]:
    """Names of the modules of a head that are always trained, and saved, whole.

    Of a head for classes, those with weights beside the library's body, and the body's pooler: few bases come with
    them. Of one that fills in words, those that the base came without; but never the product that makes the logits,
    whose weights are those of the embeddings.
    """
    if task_type(model) in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return []
    own = inside(model)
    body = own.base_model_prefix
    beside = [name for name, part in own.named_children() if name != body and any(True for _ in part.parameters())]
    if (last := own.get_output_embeddings()) is not None:
        fresh = fresh_weights(model)
        parts = [name for one in beside for name in _without(own, one, last)]
        return [name for name in parts if any(weight.startswith(f"{name}.") for weight in fresh)]
    return [*([f"{body}.pooler"] if getattr(own.base_model, "pooler", None) is not None else []), *beside]


def _without(model: Any, name: str, last: Any) -> list[str]:
    """The largest modules within the one of this name that do not hold `last`."""
    part = model.get_submodule(name)
    if part is last:
        return []
    if not any(one is last for one in part.modules()):
        return [name]
    return [inner for child, _ in part.named_children() for inner in _without(model, f"{name}.{child}", last)]


def train_head(model: Any) -> Any:
    """The model, with the weights of its head among those that are trained, whatever a method has frozen."""
    for name in head_modules(model):
        part = inside(model).get_submodule(name)
        if not hasattr(part, "modules_to_save"):  # where peft keeps a copy, which is trained
            part.requires_grad_(True)
    return model


def reads_last(config: Any) -> bool:
    """Whether such a model's head reads a row's last token, as decoders do, and not its first."""
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not encoder


def inputs_of(ids: Sequence[np.ndarray], borders: Sequence[int], packed: bool, device: str) -> dict[str, Any]:
    """Rows of one text, or of a pair, as arguments for `class_logits`.

    Args:
        ids: of each row.
        borders: where in each row the second text begins; its length where there is none.
        packed: whether they share a sequence; else each has one of its own.
        device: where they go.
    """
    inputs = (packed_inputs if packed else padded_inputs)(ids, device)
    if any(border < len(one) for one, border in zip(ids, borders, strict=True)):
        types = torch.zeros_like(inputs["input_ids"])
        start = 0
        for place, (one, border) in enumerate(zip(ids, borders, strict=True)):
            row, first = (0, start) if packed else (place, 0)
            types[row, first + border : first + len(one)] = 1
            start += len(one)
        inputs[SPLIT] = types
    return inputs


def class_logits(model: Any, inputs: Mapping[str, Any], rows: int) -> torch.Tensor:
    """The logits of each row, (R, C): the library's own, whether rows are packed or padded.

    Args:
        model: a classifier, with whatever a method has put around it.
        inputs: what `inputs_of` gives.
        rows: how many there are: what fills up a packed sequence is none.
    """
    own = inside(model)
    given = fitted(own, inputs)
    if "cu_seq_lens_q" not in inputs:
        return own(**given).logits
    offsets = inputs["cu_seq_lens_q"].long()
    places_R = offsets[1 : rows + 1] - 1 if reads_last(own.config) else offsets[:rows]
    with last_layer_at(own, places_R) as alone:
        found = own.base_model(**given)
    state_RD = found.last_hidden_state[0] if alone else found.last_hidden_state[0, places_R]
    state_R1D = state_RD[:, None]
    with body_gives(own, found, state_R1D):
        ids_R1 = torch.full((rows, 1), unpadded(own.config), device=state_R1D.device)
        return own(input_ids=ids_R1).logits


def token_logits(model: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[torch.Tensor]:
    """The logits of each token of each sequence, (T, C): the library's own, whether sequences are packed or padded.

    Of a model that finds answers they are two: how much a token begins one, and how much it ends one.

    Args:
        model: with a head that says something of each token, and whatever a method has put around it.
        inputs: what `inputs_of` gives.
        lengths: tokens of each sequence.
    """
    own = inside(model)
    given = fitted(own, inputs)
    if "cu_seq_lens_q" not in inputs:
        found_BTC = _of_tokens(own(**given))
        return [found_BTC[place, :length] for place, length in enumerate(lengths)]
    found = own.base_model(**given)
    with body_gives(own, found, found.last_hidden_state):
        found_TC = _of_tokens(own(input_ids=given["input_ids"]))[0]
    return list(found_TC[: sum(lengths)].split(list(lengths)))


def _of_tokens(found: Any) -> torch.Tensor:
    """The logits in what a model returns."""
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], -1)
    return found.logits


def mean_states(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The mean of the states that a model's body gives a row's tokens, scaled to length 1, (R, D) in fp32.

    Args:
        model: a classifier.
        inputs: what `inputs_of` gives of rows that are padded.
    """
    own = inside(model)
    body = own.get_encoder() if own.config.is_encoder_decoder else own.base_model
    state_RTD = body(**fitted(own, inputs)).last_hidden_state.float()
    seen_RT1 = inputs["attention_mask"][:, :, None].to(state_RTD.dtype)
    mean_RD = (state_RTD * seen_RT1).sum(1) / seen_RT1.sum(1)
    return torch.nn.functional.normalize(mean_RD, dim=-1)


def fitted(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as this architecture takes them: its padding, its first position, its types of tokens."""
    body, given = model.base_model, dict(inputs)
    known = inspect.signature(body.forward).parameters
    if "use_cache" not in known:
        given.pop("use_cache", None)
    if getattr(model.config, "type_vocab_size", 0) < 2 or SPLIT not in known:
        given.pop(SPLIT, None)
    padding = getattr(model.config, "pad_token_id", None)
    if "attention_mask" in given and padding is not None:
        given["input_ids"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, padding)
    counted_from = getattr(getattr(body, "embeddings", None), "padding_idx", None)  # RoBERTa and its kin
    if "position_ids" in given and counted_from is not None:
        given["position_ids"] = given["position_ids"] + counted_from + 1
    return given


def unpadded(config: Any) -> int:
    """A token that is not the one for padding."""
    return 1 if getattr(config, "pad_token_id", None) != 1 else 0


class _Body(torch.nn.Module):
    """What stands in for a body that has run: it gives what was found."""

    def __init__(self, found: Any, body: Any) -> None:
        super().__init__()
        self.found = found
        self.__dict__["body"] = body  # not as a part of this one

    def __getattr__(self, name: str) -> Any:
        """What a head looks at beside: the embeddings whose weights it shares."""
        return getattr(self.__dict__["body"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What was found, whatever is asked."""
        return self.found


@contextmanager
def body_gives(model: Any, found: Any, state_R1D: torch.Tensor) -> Iterator[None]:
    """While the block lasts, the model's head reads these states, and what a pooler of the body makes of them.

    Args:
        model: of transformers.
        found: what its body has given.
        state_R1D: the state that the head reads of each row; or those of some positions, (1, N, D).
    """
    name, body = model.base_model_prefix, model.base_model
    pooler = getattr(body, "pooler", None)
    pooled = {} if pooler is None else {"pooler_output": pooler(state_R1D)}
    setattr(model, name, _Body(type(found)(last_hidden_state=state_R1D, **pooled), body))
    try:
        yield
    finally:
        setattr(model, name, body)
