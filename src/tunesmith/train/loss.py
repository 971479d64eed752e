"""The loss of a large vocabulary without its logits: the last matrix product and cross-entropy, piece by piece.

A vocabulary of 49,152 words makes 384 MiB of fp32 logits from 2048 tokens, and as much again for their gradient. Here
a piece of the positions at a time goes through the output layer, gives its loss and, in the same pass, the gradient of
what went in (as in Wijmans et al., 2024, arXiv 2411.09009, without their kernel). So no more than one piece of logits
is ever there. What it gains: docs/speed.md.

Axes: N trained positions, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tunesmith.model.device import total_bytes
from tunesmith.model.layers import inside
from tunesmith.model.new_tokens import MoreOutputs
from tunesmith.model.shares import can_write, write_shares
from tunesmith.train.batch import TokenBatch
from tunesmith.train.weights.shards import within

# Of a CPU they stay in its cache; four times as many where the output layer is trained, whose gradient is summed up. A
# GPU is left idle by small products, and each piece goes over the whole sum of that gradient.
LOGITS_PER_PIECE = {"cpu": 2**24, "cuda": 2**28}
BYTES_A_LOGIT = 14  # while torch grades it uncompiled: in bf16, and three times in fp32
PIECE_SHARE = 1 / 16  # of a GPU's memory that they may take

Grade = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    head: torch.nn.Linear,
    target_N: torch.Tensor,
    compiled: bool = False,
    smoothing: float = 0.0,
    weight_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of what the output layer makes of `hidden_ND`, and how many first choices were right.

    Args:
        hidden_ND: what goes into the output layer.
        head: the output layer, as `output_layer` gives it; products are in its precision.
        target_N: the right words.
        compiled: whether what lies between the products is compiled.
        smoothing: share of each target that is spread over all words.
        weight_N: 1 of positions that count, 0 of those that fill up; all count if absent. Not with smoothing.

    Returns:
        Two scalars: the sum in fp32, and a whole number. Words that tie for the first choice are all right.
    """
    weight_VD, rows, first = table_of(head)
    if not torch.is_grad_enabled():
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()  # or their gradients would be made all the same
    run = grade_in_cpp if weight_N is None and can_write(weight_VD) else fused(grade) if compiled else grade
    return _LinearCrossEntropy.apply(  # pyright: ignore
        hidden_ND, weight_VD, target_N, run, rows, first, smoothing, weight_N
    )


def table_of(head: torch.nn.Linear) -> tuple[torch.Tensor, torch.nn.Parameter | None, int]:
    """The weight of an output layer (V, D); where all but some new rows are frozen, these (R, D) and their place."""
    if not isinstance(head, MoreOutputs):
        return head.weight, None, 0
    return (head.whole(), None, 0) if head.weight.requires_grad else (head.put_in_place(), head.rows, head.first)


def at_targets(logits_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """The logits of the targets, (N, 1) in fp32.

    They are read before `grade` writes over them: torch 2.11 compiled it to read them afterwards.
    """
    return logits_NV.gather(1, target_N[:, None]).float()


def put_at_targets(into_NV: torch.Tensor, target_N: torch.Tensor, value_N: torch.Tensor) -> torch.Tensor:
    """The same tensor with these numbers at the targets.

    `scatter_` does so too, but of bf16 on a CPU it copies all that is there twice, which takes as long as a product.
    """
    return into_NV.index_put_(
        (torch.arange(len(target_N), device=target_N.device), target_N), value_N.to(into_NV.dtype)
    )


def grade(
    logits_NV: torch.Tensor, at_target_N1: torch.Tensor, weight_N1: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed loss, right first choices, and the loss's gradient at the targets: (N, 1).

    Everywhere else its gradient by the logits is their softmax, which is written in their place.
    """
    score_NV = logits_NV.float()
    top_N1 = score_NV.amax(-1, keepdim=True)
    log_sum_N1 = top_N1 + (score_NV - top_N1).exp().sum(-1, keepdim=True).log()
    share_NV = (score_NV - log_sum_N1).exp()
    loss_N1 = log_sum_N1 - at_target_N1
    right_N1, by_target_N1 = at_target_N1 >= top_N1, (-loss_N1).expm1()
    if weight_N1 is not None:
        share_NV, loss_N1, by_target_N1 = share_NV * weight_N1, loss_N1 * weight_N1, by_target_N1 * weight_N1
        right_N1 = right_N1 & (weight_N1 > 0)
    logits_NV.copy_(share_NV)
    return loss_N1.sum(), right_N1.sum(), by_target_N1.to(logits_NV.dtype)


def grade_in_cpp(logits_NV: torch.Tensor, at_target_N1: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same on a CPU in bf16, where no number travels to memory and back in between."""
    log_sum_N1, top_N1 = write_shares(logits_NV)
    loss_N1 = log_sum_N1 - at_target_N1
    return loss_N1.sum(), (at_target_N1 >= top_N1).sum(), (-loss_N1).expm1_().to(logits_NV.dtype)


COMPILED: dict[Callable[..., tuple[torch.Tensor, ...]], Callable[..., Any]] = {}  # what lies between products


def fused(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function of logits and a column (N, 1), which may write over them, as one pass over memory."""
    if plain not in COMPILED:
        COMPILED[plain] = torch.compile(plain, dynamic=True, fullgraph=True)
    return COMPILED[plain]


def piece_length(weight_VD: torch.Tensor, trained: bool) -> int:
    """Positions that go through the output layer at once."""
    logits = LOGITS_PER_PIECE[weight_VD.device.type] * (4 if trained and weight_VD.device.type == "cpu" else 1)
    if weight_VD.is_cuda:
        logits = min(logits, int(_memory() * PIECE_SHARE / BYTES_A_LOGIT))
    return max(1, logits // weight_VD.shape[0])


def piece_bytes(head: torch.nn.Linear, positions: int) -> int:
    """What the loss of so many positions takes beside what it is given: a piece, and the sum of the head's gradient."""
    weight_VD, trained = head.weight, head.weight.requires_grad
    words, width = weight_VD.shape
    length = min(piece_length(weight_VD, trained), positions)
    a_logit = weight_VD.element_size() if can_write(weight_VD) else BYTES_A_LOGIT
    return length * words * a_logit + (4 * words * width if trained else 0)


@functools.cache
def _memory() -> int:
    return total_bytes("cuda")


def plus_product(sum_MN: torch.Tensor, left_MK: torch.Tensor, right_KN: torch.Tensor) -> torch.Tensor:
    """A sum in fp32 and a product, which on a GPU adds itself and is never rounded; the sum given is used up."""
    if not left_MK.is_cuda or left_MK.dtype == torch.float32:
        return sum_MN.add_(left_MK @ right_KN)
    if _adds_in_place():
        return torch.addmm(sum_MN, left_MK, right_KN, out_dtype=torch.float32, out=sum_MN)
    return torch.addmm(sum_MN, left_MK, right_KN, out_dtype=torch.float32)


@functools.cache
def _adds_in_place() -> bool:
    """Whether a product of bf16 can add itself to a sum in fp32 where that lies: this torch's, on this GPU."""
    sum_MN = torch.ones(16, 16, device="cuda")
    left = torch.full((16, 32), 0.5, device="cuda", dtype=torch.bfloat16)
    try:
        torch.addmm(sum_MN, left, left.T, out_dtype=torch.float32, out=sum_MN)
    except (RuntimeError, TypeError):
        return False
    return bool((sum_MN == 9).all())


def scaled_to(sum_MN: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A sum times a factor as the gradient of a weight of this precision; the sum is used up."""
    if sum_MN.is_cuda and dtype != torch.float32:  # in one pass over memory
        return torch.mul(sum_MN, factor, out=torch.empty_like(sum_MN, dtype=dtype))
    return sum_MN.mul_(factor)


def why_loss_differs(dtype: torch.dtype, device: str) -> str | None:
    """None if what is compiled of the loss gives of random logits what it gives uncompiled, else the reason."""
    for plain, run in list(COMPILED.items()):
        reason = _why_differs(plain, run, dtype, device)
        if reason:
            return reason
    return None


def _why_differs(plain: Callable[..., Any], run: Callable[..., Any], dtype: torch.dtype, device: str) -> str | None:
    generator = torch.Generator(device).manual_seed(0)
    logits_NV = torch.randn(64, 1000, generator=generator, device=device).mul(5).to(dtype)
    target_N = logits_NV[:, ::2].argmax(-1)
    weights: list[tuple[torch.Tensor, ...]] = [()]
    if device == "cuda" and plain is grade:  # where positions may be filled up
        weights.append(((torch.arange(64, device=device) % 3 > 0).float()[:, None],))
    for weight in weights:
        copies = logits_NV.clone(), logits_NV.clone()
        found = [
            (*function(copy, at_targets(copy, target_N), *weight), copy)
            for function, copy in zip((plain, run), copies, strict=True)
        ]
        for own, other in zip(*found, strict=True):
            off = ((other.double() - own.double()).norm() / own.double().norm().clamp(min=1e-30)).item()
            if not off <= max(1e-5, torch.finfo(dtype).eps):
                return f"the compiled loss is {off:.2g} off, relative"
    return None


class _LinearCrossEntropy(torch.autograd.Function):
    """The sum, with its gradient computed on the way there."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor, grade: Grade,
        rows_RD: torch.Tensor | None, first: int, smoothing: float, weight_N: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        by_hidden, by_weight = ctx.needs_input_grad[:2]
        new = None if rows_RD is None else slice(first, first + len(rows_RD))  # the only ones that are trained
        length = piece_length(weight_VD, by_weight)
        hidden_gradient_ND = torch.empty_like(hidden_ND) if by_hidden else None
        weight_gradient_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if by_weight else None
        rows_gradient_RD = None if rows_RD is None else torch.zeros_like(rows_RD, dtype=torch.float32)
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        correct = target_N.new_zeros(())
        for start in range(0, len(hidden_ND), length):
            piece = slice(start, start + length)
            hidden = hidden_ND[piece].to(weight_VD.dtype)
            gradient_NV = hidden @ weight_VD.T
            at_target_N1 = at_targets(gradient_NV, target_N[piece])
            above_mean = (at_target_N1 - gradient_NV.mean(-1, keepdim=True, dtype=torch.float32)) if smoothing else None
            weight = () if weight_N is None else (weight_N[piece, None],)
            loss, right, at_target_N1 = grade(gradient_NV, at_target_N1, *weight)
            if above_mean is not None:  # of each word the mean takes its part
                loss = loss + smoothing * above_mean.sum()
                gradient_NV.sub_(smoothing / weight_VD.shape[0])
                at_target_N1 = at_target_N1 + smoothing * (1 - 1 / weight_VD.shape[0])
            put_at_targets(gradient_NV, target_N[piece], at_target_N1[:, 0])
            total += loss
            correct += right
            if hidden_gradient_ND is not None:
                hidden_gradient_ND[piece] = gradient_NV @ weight_VD
            if weight_gradient_VD is not None:
                weight_gradient_VD = plus_product(weight_gradient_VD, gradient_NV.T, hidden)
            if rows_gradient_RD is not None:
                rows_gradient_RD += gradient_NV[:, new].T @ hidden
        ctx.save_for_backward(hidden_gradient_ND, weight_gradient_VD, rows_gradient_RD)
        ctx.mark_non_differentiable(correct)
        ctx.dtype = weight_VD.dtype
        return total, correct

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        hidden_gradient_ND, weight_gradient_VD, rows_gradient_RD = ctx.saved_tensors
        by_hidden = None if hidden_gradient_ND is None else hidden_gradient_ND * gradient
        by_weight = None if weight_gradient_VD is None else scaled_to(weight_gradient_VD, gradient, ctx.dtype)
        by_rows = None if rows_gradient_RD is None else rows_gradient_RD.mul_(gradient)
        return by_hidden, by_weight, None, None, by_rows, None, None, None


def logits_at_trained(model: Any, batch: TokenBatch) -> torch.Tensor:
    """Logits of shape (N, V) at the positions that are trained; others are not built when packed."""
    logits = model(**batch.inputs).logits.flatten(0, 1)
    return logits if batch.picked_N is None else logits[batch.picked_N]


def hidden_at_trained(model: Any, batch: TokenBatch) -> torch.Tensor:
    """What the output layer would read, of shape (N, D), at the positions that are trained."""
    inputs = {name: value for name, value in batch.inputs.items() if name != "logits_to_keep"}
    kept_N: Any = batch.inputs["logits_to_keep"] if batch.picked_N is None else batch.picked_N
    return within(model, lambda: inside(model).base_model(**inputs).last_hidden_state.flatten(0, 1)[kept_N])


def output_layer(model: Any) -> torch.nn.Linear | None:
    """The layer that makes logits, if it is a plain matrix product, with new rows beside the others or without."""
    layer = inside(model).get_output_embeddings()
    return layer if type(layer) in (torch.nn.Linear, MoreOutputs) and layer.bias is None else None
