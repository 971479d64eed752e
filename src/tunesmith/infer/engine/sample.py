"""The next token of each row from its logits.

Greedy rows take numpy's argmax on a CPU: on 8 rows of 49,152 logits torch's takes 0.7 ms, a tenth of what the model
takes. A sampled row uses one number of its own generator (inverse of the cumulated distribution), so that its answer
depends on no other row. Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.infer.engine.draw import draw_rows
from tunesmith.infer.engine.request import Request
from tunesmith.infer.engine.scheduler import Next
from tunesmith.infer.generator import Options, Tops


def choose(rows: Sequence[Request], logits_BV: torch.Tensor, likeliest_B: torch.Tensor | None = None) -> list[Next]:
    """The next token of each row. A row for which none can be drawn is ended with the error, and left out.

    Args:
        rows: in the order of the logits.
        logits_BV: any precision.
        likeliest_B: the token of each row's largest logit, if that is known.
    """
    draws = [0.0 if request.options.temperature == 0 else request.draw() for request in rows]
    options = [request.options for request in rows]
    kept = list(range(len(rows)))
    try:
        steered_BV = steered(rows, logits_BV)
        greedy = None if likeliest_B is None or steered_BV is not logits_BV else likeliest_B.tolist()
        tokens = pick(steered_BV, options, draws, greedy)
    except Exception:  # noqa: BLE001  whose fault it is shows when each is tried alone
        kept, tokens = [], []
        for row, request in enumerate(rows):
            one_1V = logits_BV[row : row + 1]
            try:
                tokens += pick(steered([request], one_1V), options[row : row + 1], draws[row : row + 1])
                kept.append(row)
            except Exception as error:  # noqa: BLE001  it is this row's
                request.end(error=error)
    asked = [(row, token) for row, token in zip(kept, tokens, strict=True) if options[row].logprobs]
    logprobs = dict(zip([row for row, _ in asked], log_probabilities(logits_BV, asked), strict=True))
    tops = {row: likeliest_of(logits_BV[row], options[row].top_logprobs) for row, _ in asked}
    return [
        Next(rows[row], token, logprobs.get(row), tops.get(row, [])) for row, token in zip(kept, tokens, strict=True)
    ]


def steered(rows: Sequence[Request], logits_BV: torch.Tensor) -> torch.Tensor:
    """The logits with what rows change in theirs; the same tensor where none does."""
    if all(request.steer is None for request in rows):
        return logits_BV
    changed_BV = logits_BV.float() if logits_BV.dtype != torch.float32 else logits_BV.clone()
    for row, request in enumerate(rows):
        if request.steer is not None:
            request.steer.change(changed_BV[row])
    return changed_BV


def likeliest_of(logits_V: torch.Tensor, count: int) -> Tops:
    """The likeliest tokens of a row, with their log probabilities at temperature 1."""
    if not count:
        return []
    logits_V = logits_V.float()
    value_N, token_N = logits_V.topk(min(count, len(logits_V)))
    return list(zip(token_N.tolist(), (value_N - logits_V.logsumexp(-1)).tolist(), strict=True))


def log_probabilities(logits_BV: torch.Tensor, chosen: Sequence[tuple[int, int]]) -> list[float]:
    """The log probability of a token of each of some rows, under the whole distribution at temperature 1.

    Args:
        logits_BV: any precision.
        chosen: row and token.
    """
    if not chosen:
        return []
    row_N, token_N = torch.tensor(chosen, device=logits_BV.device).T
    logits_NV = logits_BV if len(chosen) == len(logits_BV) else logits_BV[row_N]  # rows come in order
    logprob_NV = logits_NV.log_softmax(-1, dtype=torch.float32)
    return logprob_NV.gather(1, token_N[:, None])[:, 0].tolist()


def pick(
    logits_BV: torch.Tensor, options: Sequence[Options], draws: Sequence[float], greedy: list[int] | None = None
) -> list[int]:
    """The next token of each row.

    Args:
        logits_BV: any precision.
        options: of each row.
        draws: for each row a number in [0, 1); not used where the row is greedy.
        greedy: the likeliest token of each row, if they are known.
    """
    if greedy is None:
        greedy = likeliest(logits_BV) if any(one.temperature == 0 for one in options) else [0] * len(options)
    sampled = [row for row, one in enumerate(options) if one.temperature]
    if not sampled:
        return greedy
    logits_NV = logits_BV if len(sampled) == len(options) else logits_BV[sampled]
    found = draw_rows(logits_NV, [options[row] for row in sampled], [draws[row] for row in sampled])
    drawn = dict(zip(sampled, found, strict=True))
    return [drawn.get(row, token) for row, token in enumerate(greedy)]


def likeliest(logits_BV: torch.Tensor) -> list[int]:
    """The most likely token of each row; the first of equals."""
    if logits_BV.device.type == "cpu":
        return logits_BV.float().numpy().argmax(-1).tolist()
    return logits_BV.argmax(-1).tolist()
