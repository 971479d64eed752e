"""Log probabilities of tokens without their logits: what losses are made of that look at whole answers.

As in `loss`, a piece of the positions at a time goes through the output layer. But what each token will weigh is known
only when answers have been compared. Where the output layer is frozen, the gradient of each log probability by what
went in is kept, and weighed on the way back, and no more than one piece of logits is ever there. Where it is trained,
the share of each word is kept if it takes little memory; else the logits of a piece are computed again on the way back.

Axes: N positions, D width, V vocabulary, R rows of the output layer that are trained apart from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tunesmith.model import shares
from tunesmith.model.layers import inside
from tunesmith.train.batch import TokenBatch
from tunesmith.train.loss import (
    at_targets,
    fused,
    hidden_at_trained,
    logits_at_trained,
    output_layer,
    piece_length,
    plus_product,
    put_at_targets,
    table_of,
)
from tunesmith.train.objective import Models

MOST_KEPT = 2**28  # bytes of shares, which save a third of the products of the output layer on the way back


def token_logprobs(
    hidden_ND: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor, compiled: bool = False
) -> torch.Tensor:
    """The log probability of each target, (N,) in fp32, of what the output layer makes of `hidden_ND`.

    Args:
        hidden_ND: what goes into the output layer.
        head: the output layer, as `output_layer` gives it; products are in its precision.
        target_N: the words in question.
        compiled: whether what lies between the products is compiled.
    """
    weight_VD, rows, first = table_of(head)
    learns = torch.is_grad_enabled()
    return _TokenLogprobs.apply(hidden_ND, weight_VD, target_N, rows, first, learns, compiled)  # pyright: ignore


def logprobs_at_trained(models: Models, batch: TokenBatch, temperature: float = 1.0) -> torch.Tensor:
    """The log probability of each trained token of a batch, (N,) in fp32; all logits are built unless it is chunked.

    Args:
        models: whose policy, a causal language model, is asked, as the plan says.
        batch: of the tokens.
        temperature: of the distribution in question.
    """
    if models.plan.chunked is True:
        return of_hidden(models, hidden_at_trained(models.policy, batch), batch.target_N, temperature)
    return of_logits(logits_at_trained(models.policy, batch), batch.target_N, temperature)


def logprobs_and_hidden(
    models: Models, batch: TokenBatch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and what the output layer reads at each of these tokens, (N, D)."""
    if models.plan.chunked is True:
        hidden_ND = hidden_at_trained(models.policy, batch)
        return of_hidden(models, hidden_ND, batch.target_N, temperature), hidden_ND
    read: list[torch.Tensor] = []
    layer = inside(models.policy).get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, args: read.append(args[0].flatten(0, 1)))
    try:
        logits_NV = logits_at_trained(models.policy, batch)
    finally:
        hook.remove()
    hidden_ND = read[0] if batch.picked_N is None else read[0][batch.picked_N]
    return of_logits(logits_NV, batch.target_N, temperature), hidden_ND


def of_hidden(models: Models, hidden_ND: torch.Tensor, target_N: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log probabilities of what the output layer makes of `hidden_ND`, whose logits are in proportion to it."""
    head = output_layer(models.policy)
    assert head is not None
    hidden_ND = hidden_ND if temperature == 1 else hidden_ND / temperature
    return token_logprobs(hidden_ND, head, target_N, models.plan.compiled is True)


def of_logits(logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log probabilities of the targets, (N,) in fp32."""
    logits_NV = logits_NV.float() / temperature
    return at_targets(logits_NV, target_N)[:, 0] - logits_NV.logsumexp(-1)


def _pieces(count: int, length: int) -> Iterator[slice]:
    return (slice(start, start + length) for start in range(0, count, length))


class _TokenLogprobs(torch.autograd.Function):
    """Log probabilities of a piece at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor,
        rows_RD: torch.Tensor | None, first: int, learns: bool, compiled: bool,
    ) -> torch.Tensor:  # fmt: skip
        by_hidden, by_weight = (learns and needed for needed in ctx.needs_input_grad[:2])
        read_ND = hidden_ND.to(weight_VD.dtype)
        kept_ND = torch.empty_like(hidden_ND) if by_hidden and not by_weight else None
        few = len(hidden_ND) * len(weight_VD) * weight_VD.element_size() <= MOST_KEPT
        share_NV = read_ND.new_empty(len(read_ND), len(weight_VD)) if by_weight and few else None
        logprob_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        log_sum_N, in_cpp = torch.empty_like(logprob_N), shares.can_write(weight_VD)
        spread_out = spread_in_cpp if in_cpp else fused(spread) if compiled else spread
        for piece in _pieces(len(hidden_ND), piece_length(weight_VD, by_weight)):
            into_NV = None if share_NV is None else share_NV[piece]
            logits_NV = torch.mm(read_ND[piece], weight_VD.T, out=into_NV)
            found = spread_out(logits_NV, at_targets(logits_NV, target_N[piece]))
            log_sum_N[piece], logprob_N[piece] = (column_N1[:, 0] for column_N1 in found)
            if kept_ND is not None:
                slope_NV = slopes(logits_NV.neg_(), logprob_N[piece], target_N[piece])
                kept_ND[piece] = slope_NV @ weight_VD
        again = by_weight or (learns and rows_RD is not None)
        ctx.save_for_backward(kept_ND, logprob_N, log_sum_N, target_N, hidden_ND if again else None,
                              weight_VD if by_weight else None, rows_RD)  # fmt: skip
        ctx.share_NV, ctx.first, ctx.by_hidden, ctx.by_weight, ctx.in_cpp = (
            share_NV,
            first,
            by_hidden,
            by_weight,
            in_cpp,
        )
        ctx.weigh = shares.weigh if in_cpp else fused(weigh) if compiled else weigh
        return logprob_N

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        kept_ND, logprob_N, log_sum_N, target_N, hidden_ND, weight_VD, rows_RD = ctx.saved_tensors
        by_hidden = by_weight = by_rows = None
        if kept_ND is not None:
            by_hidden = (kept_ND * gradient_N[:, None]).to(kept_ND.dtype)
        if ctx.by_weight:
            by_hidden = torch.empty_like(hidden_ND) if ctx.by_hidden else None
            by_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
            for piece in _pieces(len(hidden_ND), piece_length(weight_VD, True)):
                hidden = hidden_ND[piece].to(weight_VD.dtype)
                if ctx.share_NV is None:
                    share_NV = hidden @ weight_VD.T
                    if ctx.in_cpp:
                        shares.write_shares(share_NV)
                    else:
                        share_NV.copy_(share_NV.float().sub_(log_sum_N[piece, None]).exp_())
                else:
                    share_NV = ctx.share_NV[piece]
                ctx.weigh(share_NV, -gradient_N[piece, None])
                slope_NV = slopes(share_NV, logprob_N[piece], target_N[piece], gradient_N[piece])
                if by_hidden is not None:
                    by_hidden[piece] = slope_NV @ weight_VD
                by_weight = plus_product(by_weight, slope_NV.T, hidden)
            ctx.share_NV = None  # they were written over
            by_weight = by_weight.to(weight_VD.dtype)
        if rows_RD is not None and hidden_ND is not None:  # few words: their logits alone are computed again
            hidden = hidden_ND.to(rows_RD.dtype)
            share_NR = ((hidden @ rows_RD.T).float() - log_sum_N[:, None]).exp()
            own_NR = target_N[:, None] == ctx.first + torch.arange(len(rows_RD), device=target_N.device)
            slope_NR = ((own_NR.float() - share_NR) * gradient_N[:, None]).to(hidden.dtype)
            by_rows = slope_NR.T @ hidden
        return by_hidden, by_weight, None, by_rows, None, None, None


def spread(logits_NV: torch.Tensor, at_target_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithm of the summed weights of all words, and of each target's share, (N, 1) in fp32.

    The shares of all words are written over the logits.
    """
    score_NV = logits_NV.float()
    top_N1 = score_NV.amax(-1, keepdim=True)
    log_sum_N1 = top_N1 + (score_NV - top_N1).exp_().sum(-1, keepdim=True).log()
    logits_NV.copy_((score_NV - log_sum_N1).exp_())
    return log_sum_N1, at_target_N1 - log_sum_N1


def spread_in_cpp(logits_NV: torch.Tensor, at_target_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on a CPU in bf16."""
    log_sum_N1, _ = shares.write_shares(logits_NV)
    return log_sum_N1, at_target_N1 - log_sum_N1


def weigh(share_NV: torch.Tensor, factor_N1: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each position's shares times a number of its own, in their place."""
    share_NV.copy_(share_NV.float() * factor_N1)
    return ()


def slopes(
    taken_NV: torch.Tensor, logprob_N: torch.Tensor, target_N: torch.Tensor, gradient_N: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient of each target's log probability by all logits, of which those of other words are given."""
    at_target_N = -logprob_N.expm1()  # 1 - p, exact where p is nearly 1
    if gradient_N is not None:
        at_target_N = at_target_N * gradient_N
    return put_at_targets(taken_NV, target_N, at_target_N)
