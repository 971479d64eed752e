"""An encoder's last layer, computed only where a head reads it: a classifier reads one token of each row.

All tokens of a row are there as keys and values; queries, what is made of them and the feed-forward network behind
them are needed at these places alone. Nothing else reads what the last layer says of other tokens, forward or
backward, so logits and gradients stay what they are. Of six layers with rows of sixteen tokens this leaves out an
eighth of all work.

The layer is the library's own: it is called with the states at the places, and with all states beside them, of which
packed attention takes keys and values (`attention.py`).

Axes: H heads, N places, T tokens, D width of a head, E width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tunesmith.model.prefix import row_of_tokens

PRODUCTS = {  # by model type, the list of layers and the products that make keys and values, without positions
    "bert": ("encoder.layer", "key", "value"),
    "roberta": ("encoder.layer", "key", "value"),
    "xlm-roberta": ("encoder.layer", "key", "value"),
    "camembert": ("encoder.layer", "key", "value"),
    "electra": ("encoder.layer", "key", "value"),
    "distilbert": ("transformer.layer", "k_lin", "v_lin"),
}


class _LastLayer(torch.nn.Module):
    """What stands in for a last layer: it gives the states at some places."""

    def __init__(self, layer: torch.nn.Module, places_N: torch.Tensor) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not as a part of this one
        self.places_N = places_N

    def forward(self, state_1TE: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The states (1, N, E)."""
        return self.__dict__["layer"](state_1TE[:, self.places_N], *args, read_at=(state_1TE, self.places_N), **kwargs)


@contextmanager
def last_layer_at(model: Any, places_N: torch.Tensor) -> Iterator[bool]:
    """While the block lasts, what the model's body gives are the states at some places of a packed sequence.

    Args:
        model: of transformers, whose attention is the packed one.
        places_N: one token of each of the first N rows, in order.

    Yields:
        Whether it is so: other architectures, a single row (for which layers would be compiled anew), and GPUs, on
        which the sums over rows would come in any order, compute the whole layer.
    """
    kind, decodes = model.config.model_type, getattr(model.config, "is_decoder", False)
    if kind not in PRODUCTS or decodes or len(places_N) < 2 or places_N.device.type != "cpu":
        yield False
        return
    layers = model.base_model.get_submodule(PRODUCTS[kind][0])
    last = layers[-1]
    layers[-1] = _LastLayer(last, places_N)
    try:
        yield True
    finally:
        layers[-1] = last


def attend_at(
    module: Any, query: torch.Tensor, read_at: tuple[torch.Tensor, torch.Tensor], offsets: torch.Tensor,
    dropout: float, scale: float,
) -> torch.Tensor:  # fmt: skip
    """What one token of each row finds in all of its row, (1, N, H, D).

    Args:
        module: the attention layer, which makes keys and values.
        query: (1, H, N, D).
        read_at: the states of all tokens (1, T, E), and the places (N,).
        offsets: R + 1, of the rows; the first N have a place each.
        dropout: probability.
        scale: factor on the scores.
    """
    state_1TE, places_N = read_at
    _, *names = PRODUCTS[module.config.model_type]
    key_THD, value_THD = (getattr(module, name)(state_1TE)[0].unflatten(-1, query.shape[1::2]) for name in names)
    row_T = row_of_tokens(offsets, state_1TE.shape[1])
    query_NHD = query[0].transpose(0, 1).to(value_THD.dtype).float()
    query_THD = taken(query_NHD, row_T.clamp(max=len(places_N) - 1))  # what fills up reads the last one's
    score_TH = (query_THD * key_THD).sum(-1) * scale
    most_RH = score_TH.new_full((len(offsets) - 1, query.shape[1]), -torch.inf)
    most_RH.scatter_reduce_(0, row_T[:, None].expand_as(score_TH), score_TH.detach(), "amax")
    share_TH = (score_TH - most_RH[row_T]).exp()
    sum_RH = summed(share_TH, row_T, len(most_RH))
    share_TH = torch.nn.functional.dropout(share_TH, dropout, training=dropout > 0)
    found_RHD = summed(share_TH[..., None] * value_THD, row_T, len(most_RH))
    found_NHD = found_RHD[: len(places_N)] / sum_RH[: len(places_N), :, None]
    return found_NHD.to(value_THD.dtype)[None]


# Operators of their own: torch would compile sums that threads add to in any order, and no run would be the same again.


@torch.library.custom_op("tunesmith::summed", mutates_args=())
def summed(numbers: torch.Tensor, row_T: torch.Tensor, rows: int) -> torch.Tensor:
    """Sums over the tokens of each row, (R, ...).

    Args:
        numbers: (T, ...), fp32.
        row_T: the row of each token.
        rows: how many there are.
    """
    return numbers.new_zeros(rows, *numbers.shape[1:]).index_add_(0, row_T, numbers)


@torch.library.custom_op("tunesmith::taken", mutates_args=())
def taken(numbers: torch.Tensor, row_T: torch.Tensor) -> torch.Tensor:
    """What each token's row has, (T, ...), of what rows have, (N, ...), fp32."""
    return numbers.index_select(0, row_T)


@summed.register_fake
def _(numbers: torch.Tensor, row_T: torch.Tensor, rows: int) -> torch.Tensor:
    return numbers.new_empty(rows, *numbers.shape[1:])


@taken.register_fake
def _(numbers: torch.Tensor, row_T: torch.Tensor) -> torch.Tensor:
    return numbers.new_empty(row_T.shape[0], *numbers.shape[1:])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.rows = inputs[0].shape[0]


summed.register_autograd(  # pyright: ignore[reportArgumentType]
    lambda ctx, gradient: (taken(gradient.contiguous(), *ctx.saved_tensors), None, None), setup_context=_keep
)
taken.register_autograd(  # pyright: ignore[reportArgumentType]
    lambda ctx, gradient: (summed(gradient.contiguous(), *ctx.saved_tensors, ctx.rows), None), setup_context=_keep
)
