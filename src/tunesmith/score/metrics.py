"""Metrics as sums over rows: each row gives a vector of counts, and a metric is a function of their sum.

That one shape makes a corpus score and its bootstrap the same computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score of a whole data set.

    Attributes:
        name: as reports print it.
        unit: what the number means.
        higher_is_better: the direction of good; None where there is none.
        of_sums: maps summed counts, shape (..., C), to the score, shape (...).
    """

    name: str
    unit: str
    higher_is_better: bool | None
    of_sums: Callable[[Counts], Counts]


def _perplexity(sums: Counts) -> Counts:
    """exp(loss per token); counts are (loss in nats, tokens)."""
    return np.exp(sums[..., 0] / sums[..., 1])


def _percentage(sums: Counts) -> Counts:
    """100 hits / tries; counts are (hits, tries)."""
    return 100 * sums[..., 0] / sums[..., 1]


def _bleu(sums: Counts) -> Counts:
    """Corpus BLEU from summed n-gram matches (4), n-gram totals (4), answer and reference lengths."""

    def one(row: Counts) -> float:
        correct, total = row[:4].astype(int).tolist(), row[4:8].astype(int).tolist()
        return BLEU.compute_bleu(correct, total, int(row[8]), int(row[9]), smooth_method="exp").score

    return np.apply_along_axis(one, -1, sums)


def _chrf(sums: Counts) -> Counts:
    """Corpus chrF2 from summed n-gram counts of answer, reference and both, for each order."""
    return np.apply_along_axis(
        lambda row: CORPUS_CHRF._compute_score_from_stats(row.astype(int).tolist()).score, -1, sums
    )


def _mean(sums: Counts) -> Counts:
    """Counts are (value, 1)."""
    return sums[..., 0] / sums[..., 1]


PERPLEXITY = Metric("perplexity", "exp of loss per token of the reference answer", False, _perplexity)
TOKEN_ACCURACY = Metric("token accuracy", "% of reference tokens that were the first choice", True, _percentage)
BLEU_SCORE = Metric("BLEU", "sacrebleu, 0 to 100", True, _bleu)
CHRF_SCORE = Metric("chrF", "sacrebleu, 0 to 100", True, _chrf)
ROUGE_1 = Metric("ROUGE-1", "F1 over words, mean, 0 to 100", True, _percentage)
ROUGE_2 = Metric("ROUGE-2", "F1 over pairs of words, mean, 0 to 100", True, _percentage)
ROUGE_L = Metric("ROUGE-L", "F1 of the longest common subsequence, mean, 0 to 100", True, _percentage)
EXACT_MATCH = Metric("exact match", "% of answers, white space aside", True, _percentage)
TOKEN_F1 = Metric("token F1", "F1 over words, case and punctuation aside, mean, 0 to 100", True, _percentage)
STOP_RATE = Metric("ends by itself", "% of answers", True, _percentage)
LENGTH = Metric("answer length", "characters, mean", None, _mean)

METRICS: tuple[Metric, ...] = (
    PERPLEXITY, BLEU_SCORE, CHRF_SCORE, ROUGE_1, ROUGE_2, ROUGE_L, EXACT_MATCH, TOKEN_F1, TOKEN_ACCURACY, STOP_RATE,
    LENGTH,
)  # fmt: skip

_sentence_bleu = BLEU(effective_order=True)
CORPUS_CHRF = CHRF()


def bleu_counts(answers: Sequence[str], references: Sequence[str]) -> Counts:
    """What BLEU (Papineni et al., 2002) counts in each answer against its reference; shape (rows, 10).

    Tokenised by sacrebleu's default, 13a.
    """
    scores = [_sentence_bleu.sentence_score(a, [r]) for a, r in zip(answers, references, strict=True)]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.float64)
