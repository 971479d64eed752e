"""The answers of a turn, as they are learned from, and as a checkpoint holds them.

Axes: S answers, T tokens of one, N tokens of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith.data.kinds.prepared import Prepared
from tunesmith.train.objective import Columns
from tunesmith.train.source import Tensors

TOKEN, TOLD = "token/", "told/"


@dataclass
class Turn:
    """Answers that teach something.

    Attributes:
        rows: prompt and answer of each.
        places: of their prompts among the rows.
        columns: numbers of each one's tokens, (T,), by name.
        told: numbers of each, for people, (S,), by name.
    """

    rows: list[Prepared]
    places: list[int]
    columns: dict[str, list[np.ndarray]]
    told: dict[str, np.ndarray]

    def part(self, chosen: Sequence[int]) -> Turn:
        """Some of the answers."""
        return Turn(
            [self.rows[i] for i in chosen],
            [self.places[i] for i in chosen],
            {name: [column[i] for i in chosen] for name, column in self.columns.items()},
            {name: values_S[list(chosen)] for name, values_S in self.told.items()},
        )


def answered(row: Prepared, ids: Sequence[int], begin: int) -> Prepared:
    """A row whose prompt was answered: the answer is what is trained on."""
    return Prepared(np.asarray(ids, np.int32), ((begin, len(ids)),), row.source, row.origin)


def columns_of(turn: Turn, places: Sequence[int]) -> Columns:
    """What is known of some answers, as an objective's `collate` takes it: (S, T) of tokens, (S,) of answers."""
    columns: dict[str, torch.Tensor] = {}
    for name, column in turn.columns.items():
        some = [torch.from_numpy(np.asarray(column[place], np.float32)) for place in places]
        columns[name] = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
    return columns | {name: torch.from_numpy(values_S[list(places)]) for name, values_S in turn.told.items()}


def tensors_of(turn: Turn) -> Tensors:
    """A turn as it is written."""
    begins = [row.spans[0][0] for row in turn.rows]
    return {
        "ids": torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *(row.ids for row in turn.rows)])),
        "shape": torch.tensor(list(zip(turn.places, begins, (len(row.ids) for row in turn.rows), strict=True))),
        **{
            TOKEN + name: torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *column]).astype(np.float32))
            for name, column in turn.columns.items()
        },
        **{TOLD + name: torch.from_numpy(values_S.copy()) for name, values_S in turn.told.items()},
    }


def turn_of(tensors: Tensors, rows: Sequence[Prepared]) -> Turn:
    """A turn as it was written, of the same prompts."""
    shape: list[list[int]] = tensors["shape"].tolist()
    ends = np.cumsum([length for _, _, length in shape])[:-1]
    ids = np.split(tensors["ids"].numpy(), ends) if shape else []
    found = [answered(rows[place], one.tolist(), begin) for (place, begin, _), one in zip(shape, ids, strict=True)]
    cuts = np.cumsum([row.trained for row in found])[:-1]
    return Turn(
        found,
        [place for place, _, _ in shape],
        {name: np.split(values_N, cuts) if found else [] for name, values_N in _named(tensors, TOKEN).items()},
        dict(_named(tensors, TOLD)),
    )


def _named(tensors: Tensors, prefix: str) -> Mapping[str, np.ndarray]:
    return {name.removeprefix(prefix): one.numpy() for name, one in tensors.items() if name.startswith(prefix)}
