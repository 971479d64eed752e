"""Whether a network that decodes computes what its model computes.

Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.infer.engine.library import cache_argument
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.model.soft import soft_tokens

MOST_ROUNDING = 0.25  # how far logits of 16-bit models may be off where their own decoding is nearly as far off


def why_logits_differ(network: Network, model: Any, adapter: int) -> str | None:
    """Compare both passes of a network with the model's own forward pass, on a few tokens.

    Where a step in one call computes something else, the network computes layer by layer from now on.

    Args:
        network: made from `model`.
        model: as it came.
        adapter: index of the adapter that it uses, -1 for none.

    Returns:
        None if the logits agree; otherwise what is wrong, for people.
    """
    try:
        reason = _why_logits_differ(network, model, adapter)
    except Exception:
        if network.whole is None:
            raise
        reason = "a step in one call failed"
    if reason is not None and network.whole is not None:
        network.whole = None
        reason = _why_logits_differ(network, model, adapter)
    return reason


@torch.inference_mode()
def _why_logits_differ(network: Network, model: Any, adapter: int) -> str | None:
    words = model.config.get_text_config().vocab_size
    long, short = [(7919 * i + 11) % words for i in range(1, 12)], [(104729 * i + 5) % words for i in range(1, 9)]
    own, soft = [adapter, adapter], soft_tokens(model)
    more = len(soft)
    try:
        cache = SlotCache()
        cache.ensure(2, more + len(long))
        prompts = torch.tensor([[*soft, *long[:8]], [*soft, *short[:5], 0, 0, 0]], device=network.device)
        got = [network.prefill(cache, 0, 0, prompts, [more + 7, more + 4], own)]
        for i in range(3):
            got.append(network.decode(cache, [long[8 + i], short[5 + i]], [more + 8 + i, more + 5 + i], own))
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        return f"{type(error).__name__} in the batched pass: {str(error).splitlines()[0][:200] if str(error) else ''}"
    network.bytes_per_position = cache.bytes_per_position
    for row, (ids, begin) in enumerate(((long, 8), (short, 5))):
        whole = torch.tensor([[*soft, *ids]], device=network.device)
        want_TV = model(input_ids=whole, use_cache=False).logits[0, more + begin - 1 :]
        have_TV = torch.stack([logits_BV[row] for logits_BV in got])
        off, limit = distance(have_TV, want_TV), tolerance(want_TV.dtype)
        if off > limit and want_TV.dtype in (torch.bfloat16, torch.float16):
            limit = max(limit, min(2 * own_distance(model, whole, want_TV), MOST_ROUNDING))
        if off > limit:
            return f"the batched pass computes other logits than the model ({off:.1g} relative)"
    return None


def own_distance(model: Any, whole_1T: torch.Tensor, want_TV: torch.Tensor) -> float:
    """How far the model's own decoding, token by token, is from what it says of the whole: both are rounded.

    Args:
        model: decodes with a cache of its own.
        whole_1T: tokens.
        want_TV: logits of the last ones.
    """
    argument, length = cache_argument(model), whole_1T.shape[1]
    begin = length - len(want_TV) + 1
    output = model(input_ids=whole_1T[:, :begin], use_cache=True)
    have = [output.logits[0, -1]]
    for place in range(begin, length):
        token_11, kept = whole_1T[:, place : place + 1], {argument: getattr(output, argument)}
        output = model(input_ids=token_11, use_cache=True, **kept)
        have.append(output.logits[0, -1])
    return distance(torch.stack(have), want_TV)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far logits are from others, relative to their spread; infinite where one is no number."""
    spread = (other.float() - other.float().mean(-1, keepdim=True)).norm()
    off = float((one.float() - other.float()).norm() / spread.clamp(min=1e-9))
    return off if off == off else float("inf")


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may be off, as `distance` measures, when only the order of sums differs."""
    return {torch.float64: 1e-6, torch.float32: 1e-3}.get(dtype, 0.05)
