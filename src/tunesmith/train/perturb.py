"""Training on perturbed embeddings: small changes of what words mean to the model, at random or where they hurt most.

Each sequence that the model reads is perturbed for itself, packed or not, and whatever the objective does with it:

- NEFTune: uniform noise whose size is alpha / sqrt(L C) (Jain et al., 2023, arXiv 2310.05914).
- FGM: one step of length epsilon along the loss's gradient (Miyato et al., 2017, arXiv 1605.07725).
- PGD: several such steps, each brought back into the ball of epsilon (Madry et al., 2018, arXiv 1706.06083).
- FreeLB: the same from a random start, learning on the way (Zhu et al., 2020, arXiv 1909.11764).

FGM and PGD learn from half the loss as it is and half the perturbed one; FreeLB from the mean of all its steps. So a
learning rate means what it means without. What is reported is the loss of the first pass: as it is, for FGM and PGD.

Left out: Miyato's normalised embeddings (epsilon is absolute here), and dropout masks held alike over FreeLB's steps.

Axes: B rows of a batch, T tokens, C width; S sequences, L tokens of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.model.layers import inside
from tunesmith.train.config import Fgm, FreeLb, Neftune, NoPerturb, PerturbConfig, Pgd
from tunesmith.train.objective import Loss, Models, Objective, Perturb, perturb_nothing

Noise = Callable[["Reading", torch.Tensor], torch.Tensor]
Ask = Callable[..., Loss]  # the loss of a batch, given what changes its embeddings


@dataclass(frozen=True)
class Reading:
    """What the model reads in one forward pass.

    Attributes:
        number_BT: of the sequence that each token is of, from 0; -1 for padding.
        lengths_S: tokens of each.
        ids: token ids of each.
    """

    number_BT: torch.Tensor
    lengths_S: torch.Tensor
    ids: list[bytes]


def reading(inputs: Mapping[str, Any]) -> Reading:
    """The sequences among a forward pass's arguments: as `cu_seq_lens_q` parts them, or one in each row."""
    ids_BT: torch.Tensor = inputs["input_ids"]
    offsets = inputs.get("cu_seq_lens_q")
    if offsets is not None:
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        number_BT = (torch.searchsorted(offsets.long(), places, right=True) - 1)[None]
    else:
        number_BT = torch.arange(len(ids_BT), device=ids_BT.device)[:, None].expand_as(ids_BT)
        if (seen_BT := inputs.get("attention_mask")) is not None:
            number_BT = torch.where(seen_BT.bool(), number_BT, -1)
    lengths_S = torch.bincount(number_BT[number_BT >= 0].flatten())
    read = ids_BT[number_BT >= 0].cpu().split(lengths_S.tolist())
    return Reading(number_BT, lengths_S, [one.numpy().tobytes() for one in read])


class Embeddings:
    """The embeddings of a model, whose output can be changed in each forward pass in training.

    A loss may read several times (a chosen and a rejected answer): the n-th pass gets the n-th change.
    """

    def __init__(self, model: Any) -> None:
        """Hook on whatever of the model may be asked to read, and on its embedding."""
        self.readings: list[Reading] = []
        self.deltas: list[torch.Tensor] = []
        self._make: Noise | None = None
        self._given: list[torch.Tensor] = []
        whole = inside(model)
        embedding = whole.get_input_embeddings()
        # A body, or a decoder within it, may be asked by itself: then it is the one that is told where rows end.
        readers = [whole, whole.base_model, *(part for part in whole.modules() if embedding in part.children())]
        self._pass: tuple[Any, Reading | None] | None = None  # what reads, and where its rows end, until that is used
        self._hooks = [embedding.register_forward_hook(self._change)]
        for part in dict.fromkeys(readers):
            self._hooks.append(part.register_forward_pre_hook(self._begin, with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._end, always_call=True))

    def remove(self) -> None:
        """Let the model be as it was."""
        for hook in self._hooks:
            hook.remove()

    def change_by(self, make: Noise | None, given: Iterable[torch.Tensor] = ()) -> None:
        """What the next passes are changed by.

        Args:
            make: gives the first change of a pass, of the shape of what it is added to; nothing is changed if None.
            given: changes of the first passes that are known already.
        """
        self.readings, self.deltas, self._make, self._given, self._pass = [], [], make, list(given), None

    def _begin(self, part: Any, args: Any, kwargs: dict[str, Any]) -> None:
        inputs = {"input_ids": args[0], **kwargs} if args else kwargs
        if self._make is not None and part.training and self._pass is None and inputs.get("input_ids") is not None:
            self._pass = part, reading(inputs)

    def _end(self, part: Any, args: Any, output: Any) -> None:
        if self._pass is not None and self._pass[0] is part:  # a head may be asked for itself, and read no words
            self._pass = None

    def _change(self, embedding: Any, args: Any, output_BTC: torch.Tensor) -> torch.Tensor:
        if self._make is None or self._pass is None or self._pass[1] is None:
            return output_BTC
        self.readings.append(self._pass[1])
        self._pass = self._pass[0], None
        place = len(self.deltas)
        if place < len(self._given):
            delta_BTC = self._given[place]
        else:
            delta_BTC = self._make(self.readings[-1], output_BTC.detach())
        self.deltas.append(delta_BTC.detach().requires_grad_())
        return output_BTC + self.deltas[-1].to(output_BTC.dtype)


def passes_of(config: PerturbConfig) -> int:
    """How often a step goes over its rows, forward and back."""
    match config:
        case Fgm():
            return 2
        case Pgd():
            return config.steps + 1
        case FreeLb():
            return config.steps
        case _:
            return 1


def make_perturb(config: PerturbConfig, model: Any, seed: int, step: Callable[[], int]) -> Perturb:
    """What the loop takes as `perturb`.

    Args:
        config: the recipe's section.
        model: the policy; its embeddings get a hook.
        seed: of the run.
        step: the optimizer steps taken so far: with the words that are read, all that chance depends on.
    """
    if isinstance(config, NoPerturb):
        return perturb_nothing
    embeddings = Embeddings(model)

    def perturb(
        objective: Objective, models: Models, batch: Any, whole: Any, scale: Mapping[str, float]
    ) -> Iterator[tuple[Loss, float]]:
        def loss(make: Noise, given: Iterable[torch.Tensor] = ()) -> Loss:
            embeddings.change_by(make, given)
            found = objective.loss(models, batch, whole)
            if models.policy.training and not embeddings.deltas:
                raise TrainingError(f"perturb.type = {config.type}: this model reads words in a way that cannot be "
                                    "perturbed. Set perturb=none.")  # fmt: skip
            return found

        def noise(size: float, norm: str) -> Noise:
            return lambda read, x_BTC: start_in_ball(read, x_BTC, seed, step(), norm, size)

        try:
            match config:
                case Neftune():
                    yield loss(noise(config.alpha, "l2")), 1.0
                case Fgm():
                    yield from fgm(config, embeddings, loss)
                case Pgd():
                    yield from pgd(config, embeddings, loss, scale)
                case FreeLb():
                    yield from freelb(config, embeddings, loss, noise(config.epsilon, config.norm))
        finally:
            embeddings.change_by(None)

    return perturb


def fgm(config: Fgm, embeddings: Embeddings, loss: Ask) -> Iterator[tuple[Loss, float]]:
    """The loss as it is, and where one step along its gradient leads; the caller goes backward on each in turn."""
    yield loss(nothing), 0.5
    yield loss(nothing, moved(embeddings, config.epsilon, config.epsilon, config.norm)), 0.5


def pgd(
    config: Pgd, embeddings: Embeddings, loss: Ask, scale: Mapping[str, float]
) -> Iterator[tuple[Loss, float]]:  # fmt: skip
    """The loss as it is, and where several steps lead; those between leave no gradient in the weights."""
    yield loss(nothing), 0.5
    deltas = moved(embeddings, config.step_size, config.epsilon, config.norm)
    for _ in range(config.steps - 1):
        terms = loss(nothing, deltas).terms
        total = torch.stack([term.total / scale[term.unit] for term in terms if scale[term.unit]]).sum()
        gradients = torch.autograd.grad(total, embeddings.deltas, allow_unused=True)
        for delta_BTC, gradient_BTC in zip(embeddings.deltas, gradients, strict=True):
            delta_BTC.grad = gradient_BTC
        deltas = moved(embeddings, config.step_size, config.epsilon, config.norm)
    yield loss(nothing, deltas), 0.5


def freelb(config: FreeLb, embeddings: Embeddings, loss: Ask, start: Noise) -> Iterator[tuple[Loss, float]]:
    """The losses along a walk from a random start."""
    yield loss(start), 1 / config.steps
    for _ in range(config.steps - 1):
        yield loss(nothing, moved(embeddings, config.step_size, config.epsilon, config.norm)), 1 / config.steps


def nothing(read: Reading, x_BTC: torch.Tensor) -> torch.Tensor:
    """No change yet, in fp32."""
    return torch.zeros(x_BTC.shape, device=x_BTC.device)


def moved(embeddings: Embeddings, size: float, epsilon: float, norm: str) -> list[torch.Tensor]:
    """The changes of the last passes, a step along their gradients on, and brought back into the ball of `epsilon`."""
    found: list[torch.Tensor] = []
    for read, delta_BTC in zip(embeddings.readings, embeddings.deltas, strict=True):
        if delta_BTC.grad is None:
            found.append(delta_BTC.detach())
            continue
        step_BTC = direction(delta_BTC.grad, read, norm) * size
        found.append(into_ball(delta_BTC.detach() + step_BTC, read, epsilon, norm))
    return found


def direction(gradient_BTC: torch.Tensor, read: Reading, norm: str) -> torch.Tensor:
    """Along a gradient, of length 1 in each sequence: by its Euclidean norm, or by its largest entry."""
    if norm == "linf":
        return gradient_BTC.sign() * (read.number_BT >= 0)[..., None]
    return gradient_BTC / norms_of(gradient_BTC, read).clamp(min=1e-30)


def into_ball(delta_BTC: torch.Tensor, read: Reading, epsilon: float, norm: str) -> torch.Tensor:
    """The nearest change that is no longer than `epsilon` in any sequence."""
    if norm == "linf":
        return delta_BTC.clamp(-epsilon, epsilon)
    return delta_BTC * (epsilon / norms_of(delta_BTC, read).clamp(min=1e-30)).clamp(max=1.0)


def norms_of(tensor_BTC: torch.Tensor, read: Reading) -> torch.Tensor:
    """The Euclidean norm of each sequence, at each of its tokens: (B, T, 1)."""
    squares_BT = tensor_BTC.float().square().sum(-1)
    kept = read.number_BT >= 0
    sums_S = torch.zeros(len(read.lengths_S), device=squares_BT.device)
    sums_S.index_add_(0, read.number_BT[kept], squares_BT[kept])
    return sums_S.sqrt()[read.number_BT.clamp(min=0)][..., None]


def start_in_ball(read: Reading, x_BTC: torch.Tensor, seed: int, step: int, norm: str, size: float) -> torch.Tensor:
    """Uniform noise whose length is at most `size` in each sequence: entries within size / sqrt(L C), or `size`."""
    noise_BTC = uniform(read, x_BTC, seed, step)
    if norm == "linf":
        return noise_BTC * size
    sizes_S = size / (read.lengths_S.clamp(min=1).float() * x_BTC.shape[-1]).sqrt()
    return noise_BTC * sizes_S[read.number_BT.clamp(min=0)][..., None]


def uniform(read: Reading, x_BTC: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Noise between -1 and 1, zero at padding; that of a sequence depends on its words, the seed and the step alone."""
    noise_BTC = torch.zeros(x_BTC.shape, device=x_BTC.device)
    lengths = read.lengths_S.tolist()
    parts = [_uniform(ids, n, x_BTC.shape[-1], seed, step) for ids, n in zip(read.ids, lengths, strict=True)]
    noise_BTC[read.number_BT >= 0] = torch.cat(parts).to(x_BTC.device)
    return noise_BTC


def _uniform(ids: bytes, length: int, width: int, seed: int, step: int) -> torch.Tensor:
    digest = hashlib.blake2b(ids, digest_size=8, key=f"{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(length, width, generator=generator) * 2 - 1
