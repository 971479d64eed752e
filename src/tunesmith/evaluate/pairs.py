"""Rows that say what people prefer, evaluated as chats: what a model answers, and which answer it finds likelier.

Each model is asked alone which answer of a pair is likelier, and by how much. Beside another model the difference of
these margins is what DPO calls the reward margin, over beta; a pair's reward is right where the margin has grown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.core.names import counted
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.prepare import Prepared
from tunesmith.infer.generator import Scorer
from tunesmith.score.metrics import LOGP_MARGIN, REWARD_ACCURACY
from tunesmith.score.pairs import hits, likelihood_counts

PREFERRED = frozenset({"preference", "verdict"})  # kinds of such rows
Results = Any  # of `suite`, which asks here


def as_chats(rows: Sequence[Prepared]) -> tuple[Sequence[Prepared], str]:
    """Rows as chats that end with the answer people prefer, the other one beside it; and what is to be said of that.

    Of single answers those are left that were found good: what was found bad is no reference.
    """
    if not len(rows) or rows[0].row.content.kind not in PREFERRED:
        return rows, ""
    if rows[0].row.content.kind == "preference":
        return [_chat(row) for row in rows], ""
    good = [_chat(row) for row in rows if _content(row).good]
    said = f"answers are compared with those of {counted(len(good), 'row')} that were found good, of {len(rows)}."
    return good, said


def _content(row: Prepared) -> Any:
    return row.row.content


def _chat(row: Prepared) -> Prepared:
    """A row as a chat, with its sequences."""
    whole, content = row.row, _content(row)
    answer = content.chosen if content.kind == "preference" else content.completion
    return replace(row, origin=replace(whole, content=Chat((*content.prompt, *answer), getattr(content, "tools", ()))))


def predict_pairs(scorer: Scorer, rows: Sequence[Prepared]) -> dict[str, np.ndarray]:
    """How much likelier the first sequence of each row is than its second.

    Args:
        scorer: the model.
        rows: pairs; at least one.
    """
    scores = scorer.score([(one.ids.tolist(), one.mask.tolist()) for row in rows for one in row.sequences])
    logprob_R2 = np.array([-score.loss for score in scores]).reshape(-1, 2)
    return likelihood_counts(logprob_R2[:, 0], logprob_R2[:, 1])


def with_rewards(tuned: Results, base: Results) -> tuple[Results, Results]:
    """What both models did on pairs, and how often the margin has grown: of the base itself half, as of all ties."""
    if LOGP_MARGIN.name not in tuned.counts or LOGP_MARGIN.name not in base.counts:
        return tuned, base
    gap_R = tuned.counts[LOGP_MARGIN.name][:, 0] - base.counts[LOGP_MARGIN.name][:, 0]
    return tuple(
        replace(one, counts={REWARD_ACCURACY.name: hits(by_R), **one.counts})
        for one, by_R in ((tuned, gap_R), (base, np.zeros_like(gap_R)))
    )
