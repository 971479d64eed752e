"""A table of words of which only the rows that training texts use are trained.

In full fine-tuning the input table often is most of a model: 192 of the 278 million weights of XLM-RoBERTa, 12 of the
23 of MiniLM. A text file uses a few thousand of its rows. The others have no gradient, so Adam's moments of them stay
zero and they stay where they are; but a plain table has its optimizer look at each of them in every step, with a
gradient, two moments and an fp32 master of each. Here they are frozen, and the rows in use are a weight of their own:
the same training, with the state of what is trained alone. Weight decay, where it is asked for, leaves them alone too.

That holds for a table that nothing else shares: where it is the output layer too, the loss reaches all of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tunesmith.model.layers import inside

STATE = "used_words"  # the ids, among what a method keeps in checkpoints
WORTH = 0.9  # share of a table beyond which parting it gains too little


class UsedWords(torch.nn.Module):
    """A table of words, its rows in use trained apart from all others.

    Attributes:
        weight: the rows in use, (U, C).
        table: all rows as the base has them, frozen, (V, C).
        ids: the words in use, ascending, (U,).
        place: of each word, its row in `weight`, or U where it is not in use, (V,).
    """

    ids: torch.Tensor
    place: torch.Tensor

    def __init__(self, embedding: torch.nn.Embedding, ids_U: torch.Tensor) -> None:
        """Take over a table.

        Args:
            embedding: as the base has it.
            ids_U: the words in use, ascending.
        """
        super().__init__()
        place_V = torch.full((len(embedding.weight),), len(ids_U))
        place_V[ids_U] = torch.arange(len(ids_U))
        self.weight = torch.nn.Parameter(embedding.weight.detach()[ids_U])
        self.table = torch.nn.Parameter(embedding.weight.detach(), requires_grad=False)
        self.register_buffer("ids", ids_U, persistent=False)
        self.register_buffer("place", place_V, persistent=False)
        filling = len(ids_U) if embedding.padding_idx is None else int(place_V[embedding.padding_idx])
        self._filling = filling if filling < len(ids_U) else None  # the word that fills rows up learns nothing

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Vectors of words: those in use with a gradient, others as the base has them."""
        place = self.place[input]
        used = place < len(self.weight)
        found = functional.embedding(place.clamp_max(len(self.weight) - 1), self.weight, self._filling)
        return torch.where(used[..., None], found, functional.embedding(input, self.table).to(found.dtype))


def own_table(model: Any) -> torch.nn.Embedding | None:
    """The table of a model's words; None where it is of a kind of its own, or something shares it."""
    table = inside(model).get_input_embeddings()
    if type(table) is not torch.nn.Embedding or table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return None
    holders = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is table.weight]
    return table if len(holders) == 1 else None


def used_words(model: Any) -> UsedWords | None:
    """The parted table of a model; None where it has none."""
    return next((part for part in model.modules() if isinstance(part, UsedWords)), None)


def part_words(model: Any, ids: np.ndarray) -> int:
    """Part the model's table of words by whether they are in use, where that can be done and is worth it.

    Args:
        model: all of whose weights are trained.
        ids: the words in use, ascending.

    Returns:
        Rows of the whole table; 0 if it is left as it is.
    """
    table = own_table(model)
    if table is None or len(ids) > WORTH * len(table.weight) or not table.weight.requires_grad:
        return 0
    parted = UsedWords(table, torch.from_numpy(ids.astype(np.int64)))
    for part in list(model.modules()):  # not all models let their table be set
        for name, child in part.named_children():
            if child is table:
                setattr(part, name, parted)
    return len(table.weight)


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps beside the weights: which words are in use, if the table is parted."""
    parted = used_words(model)
    return {} if parted is None else {STATE: parted.ids}


def fitted(
    model: Any,
    state: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Weights of a checkpoint as this model has them: whole where its table is, with its words where it is parted.

    Args:
        model: that has them.
        state: what the checkpoint keeps beside its weights.
        weights: the checkpoint's, by name.
        base: the model's own, as nothing has trained them: rows that the checkpoint does not have are of these.
    """
    parted, ids_U = used_words(model), state.get(STATE)
    if ids_U is None or (parted is not None and torch.equal(parted.ids.cpu(), ids_U)):
        return dict(weights)
    table = inside(model).get_input_embeddings()
    name = next(name for name, weight in model.named_parameters() if weight is table.weight)
    rows = base[name].detach().cpu().to(weights[name].dtype, copy=True)
    if parted is None:
        rows[ids_U] = weights[name]
    else:
        at_U = parted.place.cpu()[ids_U]
        rows[at_U[at_U < len(rows)]] = weights[name][at_U < len(rows)]
    return {**weights, name: rows}
