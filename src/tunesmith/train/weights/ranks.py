"""Several processes that train one model together, each on its share of every step's rows.

Gradients are SUMMED over ranks, since the loss is divided by the units of the whole step before any backward
pass (see `loop`); so two processes compute what one would. Where every rank holds all weights, the gradients of
a step are summed in one go; where each holds a part of them, see `shards`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0. Rank 0 speaks and writes for all.
        count: how many there are.
        device: `cpu` or `cuda`.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over the ranks; every rank must give the same names."""
        if self.count == 1:
            return dict(values)
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def sum_vectors(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Each number or vector summed over the ranks; every rank must give the same names and shapes."""
        if self.count == 1:
            return dict(values)
        names = sorted(values)
        sums = torch.from_numpy(np.concatenate([values[name].ravel() for name in names])).to(self.device)
        distributed.all_reduce(sums)
        parts = np.split(sums.cpu().numpy(), np.cumsum([values[name].size for name in names])[:-1])
        return {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return self.sum({"any": float(here)})["any"] > 0

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.count > 1:
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """A plain JSON value of every rank, in order, on every rank."""
        if self.count == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([len(text)], device=self.device))
        longest = max(int(size) for size in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in range(self.count)]
        distributed.all_gather(texts, torch.cat([text, text.new_zeros(longest - len(text))]))
        return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]

    def leave(self) -> None:
        """Part from the others, when all have come here."""
        if self.count > 1:
            distributed.barrier()
            distributed.destroy_process_group()

    def sum_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks, all together in one message."""
        if self.count == 1:
            return
        weights = list(weights)
        gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)


ALONE = Ranks()


def join_ranks(arguments: Mapping[str, Any], device: str) -> Ranks:
    """Meet the other processes of this job, if there are any.

    Args:
        arguments: of the job: `rank`, `ranks` and `meeting` (a file), where several work on it.
        device: `cpu` or `cuda`; on the latter each rank takes a GPU of its own.
    """
    if arguments.get("ranks", 1) == 1:
        return Ranks(device=device)
    rank, count = arguments["rank"], arguments["ranks"]
    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=distributed.FileStore(arguments["meeting"], count),
        rank=rank,
        world_size=count,
    )
    return Ranks(rank, count, device)
