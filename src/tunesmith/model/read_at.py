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

from tunesmith.model.prefix import place_in_rows, prefix_of, replaced, row_of_tokens

PRODUCTS = {  # by model type, the list of layers and the products that make keys and values, without positions
    "bert": ("encoder.layer", "key", "value"),
    "roberta": ("encoder.layer", "key", "value"),
    "xlm-roberta": ("encoder.layer", "key", "value"),
    "camembert": ("encoder.layer", "key", "value"),
    "electra": ("encoder.layer", "key", "value"),
    "distilbert": ("transformer.layer", "k_lin", "v_lin"),
}
MOST = 2**24  # places times tokens at once: a product as large says which token is of which row


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
def last_layer_at(model: Any, places_N: torch.Tensor, tokens: int) -> Iterator[bool]:
    """While the block lasts, what the model's body gives are the states at some places of a packed sequence.

    Args:
        model: of transformers, whose attention is the packed one.
        places_N: of one token of each row, of which no other's states are wanted.
        tokens: of the sequence.

    Yields:
        Whether it is so: other architectures, and very many places at once, are computed as a whole.
    """
    config = model.config
    if config.model_type not in PRODUCTS or getattr(config, "is_decoder", False):
        yield False
        return
    if len(places_N) * tokens > MOST:
        yield False
        return
    layers = model.base_model.get_submodule(PRODUCTS[config.model_type][0])
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

    Sums over rows, and copies for each token of a row, are matrix products with ones at a row's tokens.

    Args:
        module: the attention layer, which makes keys and values.
        query: (1, H, N, D).
        read_at: the states of all tokens (1, T, E), and the places.
        offsets: R + 1, of the rows.
        dropout: probability.
        scale: factor on the scores.
    """
    state_1TE, places_N = read_at
    _, *names = PRODUCTS[module.config.model_type]
    key, value = (getattr(module, name)(state_1TE).unflatten(-1, query.shape[1::2]).transpose(1, 2) for name in names)
    row_T = row_of_tokens(offsets, state_1TE.shape[1])
    if (prefix := prefix_of(module)) is not None:
        key, value = replaced(prefix, key, value, place_in_rows(offsets, row_T))
    row_N = row_T[places_N]
    is_in_TN = row_T[:, None] == row_N
    query_TE = is_in_TN.to(value.dtype) @ query[0].to(value.dtype).transpose(0, 1).flatten(1)
    score_TH = (query_TE.view(-1, *query.shape[1::2]).float() * key[0].transpose(0, 1)).sum(-1) * scale
    most_RH = score_TH.new_full((len(offsets) - 1, query.shape[1]), -torch.inf)
    most_RH.scatter_reduce_(0, row_T[:, None].expand_as(score_TH), score_TH.detach(), "amax")
    share_TH = (score_TH - most_RH[row_T]).exp()
    sum_NH = is_in_TN.T.float() @ share_TH
    share_TH = torch.nn.functional.dropout(share_TH, dropout, training=dropout > 0)
    found_NE = is_in_TN.T.float() @ (share_TH[..., None] * value[0].transpose(0, 1)).flatten(1)
    return (found_NE.view(-1, *query.shape[1::2]) / sum_NH[..., None]).to(value.dtype)[None]
