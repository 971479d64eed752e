"""A classifier that begins to read the mean of all tokens, in an architecture that reads the first one.

Encoders for sentences (MiniLM, bge and their kin) say what a text means in the mean of their last states; the first
token's state, which BERT's classifier reads, knows little of it. So one layer more is put on top, whose attention
begins as the mean: queries are zero, so that every token sees all alike; values and output are the identity, `GAIN`
times; what follows them begins as nothing. The head's own product, where it has one, begins as the identity too. From
there all of it is trained. What comes out is the library's own architecture, with one layer more in its configuration.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from tunesmith.core.errors import ModelError

GAIN = 5.0  # of the mean over a token's own state, which is added to it: their directions agree to 0.98
BEGINS = 0.5  # of a product before a tanh, whose inputs are of size one
SEED = 0
HEADS = {  # by model type, the product between the state and the classes: in the body, or in the head
    "bert": "bert.pooler.dense",
    "roberta": "classifier.dense",
    "xlm-roberta": "classifier.dense",
    "camembert": "classifier.dense",
    "electra": None,  # before a GELU, which an identity is not made for
}


def refuse_pooling(config: Any) -> None:
    """Refuse an architecture whose layers are not those of BERT, one after another.

    Raises:
        ModelError: it says which are.
    """
    if config.model_type not in HEADS:
        raise ModelError(
            f"objective.pool = mean: {config.model_type} has no layer that can begin as a mean. Take "
            f"objective.pool=own, or a model of one of these types: {', '.join(HEADS)}."
        )


@torch.no_grad()
def with_mean_layer(model: Any) -> Any:
    """A classifier, changed: with one layer more, which begins as the mean of all tokens.

    Raises:
        ModelError: its architecture has no such layers.
    """
    refuse_pooling(model.config)
    layers = model.base_model.encoder.layer
    configs = {id(part.config): part.config for part in layers[-1].modules() if hasattr(part, "config")}
    layer, width = copy.deepcopy(layers[-1], configs), model.config.hidden_size  # which decides on attention for all
    reads, writes = layer.attention.self, layer.attention.output
    generator = torch.Generator().manual_seed(SEED)
    reads.key.weight.copy_(torch.empty(reads.key.weight.shape).normal_(0, 0.02, generator=generator))
    for product, gain in ((reads.query, 0.0), (reads.value, 1.0), (writes.dense, GAIN)):
        product.weight.copy_(gain * torch.eye(width))
    layer.output.dense.weight.zero_()
    for product in (reads.query, reads.key, reads.value, writes.dense, layer.output.dense):
        product.bias.zero_()
    for norm in (writes.LayerNorm, layer.output.LayerNorm):
        norm.weight.fill_(1)
        norm.bias.zero_()
    layers.append(layer)
    model.config.num_hidden_layers += 1
    if (name := HEADS[model.config.model_type]) is not None:
        product = model.get_submodule(name)
        product.weight.copy_(BEGINS * torch.eye(width))
        product.bias.zero_()
    return model
