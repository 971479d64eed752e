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


def _mean_of_some(sums: Counts) -> Counts:
    """Counts are (value, 1), or (0, 0) where there is none."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _of_classes(sums: Counts) -> tuple[Counts, Counts, Counts, Counts]:
    """Of each class how often it was right, said and true, shape (..., C), and whether it was any of them."""
    right, said, true = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    return right, said, true, (said + true) > 0


def _mean_over_classes(values: Counts, present: Counts) -> Counts:
    """The mean over classes that come or are said, as scikit-learn takes it."""
    return 100 * (values * present).sum(-1) / np.maximum(present.sum(-1), 1)


def _macro_precision(sums: Counts) -> Counts:
    """Counts are (right, said, true) of each class, one class after another."""
    right, said, _, present = _of_classes(sums)
    return _mean_over_classes(right / np.maximum(said, 1), present)


def _macro_recall(sums: Counts) -> Counts:
    """The same counts."""
    right, _, true, present = _of_classes(sums)
    return _mean_over_classes(right / np.maximum(true, 1), present)


def _macro_f1(sums: Counts) -> Counts:
    """The same counts."""
    right, said, true, present = _of_classes(sums)
    return _mean_over_classes(2 * right / np.maximum(said + true, 1), present)


def _micro_f1(sums: Counts) -> Counts:
    """Counts are (right, said, true) of all classes together."""
    right, said, true = np.moveaxis(sums, -1, 0)
    return 100 * 2 * right / np.maximum(said + true, 1)


def _precision(sums: Counts) -> Counts:
    """Counts are (right, said, true) of all together."""
    return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)


def _recall(sums: Counts) -> Counts:
    """The same counts."""
    return 100 * sums[..., 0] / np.maximum(sums[..., 2], 1)


def _calibration(sums: Counts) -> Counts:
    """Counts are (probability, right, 1) of each bin of probabilities (Guo et al., 2017, arXiv 1706.04599)."""
    sure, right, rows = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    return 100 * np.abs(sure - right).sum(-1) / rows.sum(-1)


def _correlation(sums: Counts) -> Counts:
    """Pearson's; counts are (1, x, y, x x, y y, x y)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 0, (n * xy - x * y) / np.where(spread > 0, spread, 1), 0.0)


PERPLEXITY = Metric("perplexity", "exp of loss per token of the reference answer", False, _perplexity)
TOKEN_ACCURACY = Metric("token accuracy", "% of reference tokens that were the first choice", True, _percentage)
MASKED_PERPLEXITY = Metric("perplexity of masked tokens", "exp of loss per masked token, at fixed masks", False,
                           _perplexity)  # fmt: skip
MASKED_ACCURACY = Metric("accuracy of masked tokens", "% of masked tokens that were the first choice", True,
                         _percentage)  # fmt: skip
BLEU_SCORE = Metric("BLEU", "sacrebleu, 0 to 100", True, _bleu)
CHRF_SCORE = Metric("chrF", "sacrebleu, 0 to 100", True, _chrf)
ROUGE_1 = Metric("ROUGE-1", "F1 over words, mean, 0 to 100", True, _percentage)
ROUGE_2 = Metric("ROUGE-2", "F1 over pairs of words, mean, 0 to 100", True, _percentage)
ROUGE_L = Metric("ROUGE-L", "F1 of the longest common subsequence, mean, 0 to 100", True, _percentage)
EXACT_MATCH = Metric("exact match", "% of answers, white space aside", True, _percentage)
TOKEN_F1 = Metric("token F1", "F1 over words, case and punctuation aside, mean, 0 to 100", True, _percentage)
STOP_RATE = Metric("ends by itself", "% of answers", True, _percentage)
LENGTH = Metric("answer length", "characters, mean", None, _mean)

ACCURACY = Metric("accuracy", "% of rows that are wholly right", True, _percentage)
MACRO_F1 = Metric("macro F1", "mean over classes, 0 to 100", True, _macro_f1)
MICRO_F1 = Metric("micro F1", "over all rows and classes, 0 to 100", True, _micro_f1)
MACRO_PRECISION = Metric("macro precision", "mean over classes, 0 to 100", True, _macro_precision)
MACRO_RECALL = Metric("macro recall", "mean over classes, 0 to 100", True, _macro_recall)
CALIBRATION = Metric("calibration error", "ECE, 15 bins: probability and accuracy are so far apart, 0 to 100", False,
                     _calibration)  # fmt: skip
UNMATCHED = Metric("unmatched answers", "% of written answers that name no label, which count as wrong", False,
                   _percentage)  # fmt: skip
VALID = Metric("valid answers", "% of answers that are JSON and fit the schema", True, _percentage)
EQUAL_FIELDS = Metric("equal fields", "% of the fields of answer and reference that are in both and equal", True,
                      _percentage)  # fmt: skip
SQUARED_ERROR = Metric("squared error", "mean (MSE)", False, _mean)
ABSOLUTE_ERROR = Metric("absolute error", "mean (MAE)", False, _mean)
PEARSON = Metric("Pearson", "correlation, -1 to 1", True, _correlation)
SPEARMAN = Metric("Spearman", "correlation of ranks among all rows, -1 to 1", True, _correlation)

ENTITY_F1 = Metric("entity F1", "of stretches with the right words and label, 0 to 100", True, _micro_f1)
ENTITY_PRECISION = Metric("entity precision", "% of what was said", True, _precision)
ENTITY_RECALL = Metric("entity recall", "% of what is there", True, _recall)
MACRO_ENTITY_F1 = Metric("macro entity F1", "mean over labels, 0 to 100", True, _macro_f1)
WORD_ACCURACY = Metric("word accuracy", "% of words with the right tag", True, _percentage)
ANSWER_EXACT = Metric("answer exact match", "% of rows, as SQuAD normalises answers", True, _percentage)
ANSWER_F1 = Metric("answer F1", "over words, as SQuAD normalises answers, mean, 0 to 100", True, _percentage)
ANSWERED = Metric("answerable", "% of rows where it is right that there is an answer, or none", True, _percentage)

REWARD_ACCURACY = Metric("reward accuracy", "% of pairs whose chosen answer has the higher reward, half of ties", True,
                         _percentage)  # fmt: skip
REWARD_MARGIN = Metric("reward margin", "reward of the chosen answer above the rejected one's, mean", True, _mean)
CHOSEN_LIKELIER = Metric("chosen likelier", "% of pairs whose chosen answer is the likelier one", True, _percentage)
LOGP_MARGIN = Metric("log probability margin", "nats by which the chosen answer is likelier, mean", True, _mean)

REWARD = Metric("reward", "mean of what answers are worth, those without a score left out", True, _mean_of_some)

PAIR_METRICS: tuple[Metric, ...] = (  # of models that learned from preferences
    REWARD_ACCURACY, REWARD_MARGIN, CHOSEN_LIKELIER, LOGP_MARGIN,
)  # fmt: skip
ANSWER_METRICS: tuple[Metric, ...] = (ANSWER_EXACT, ANSWER_F1, ANSWERED)  # of models that find answers in passages
TAG_METRICS: tuple[Metric, ...] = (  # of models that tag words
    ENTITY_F1, ENTITY_PRECISION, ENTITY_RECALL, MACRO_ENTITY_F1, WORD_ACCURACY,
)  # fmt: skip
CLASS_METRICS: tuple[Metric, ...] = (  # of models that say what a text is
    ACCURACY, MACRO_F1, MICRO_F1, MACRO_PRECISION, MACRO_RECALL, CALIBRATION,
    SQUARED_ERROR, ABSOLUTE_ERROR, PEARSON, SPEARMAN,
)  # fmt: skip
METRICS: tuple[Metric, ...] = (  # of models that write
    PERPLEXITY, BLEU_SCORE, CHRF_SCORE, ROUGE_1, ROUGE_2, ROUGE_L, EXACT_MATCH, TOKEN_F1, TOKEN_ACCURACY, STOP_RATE,
    LENGTH,
)  # fmt: skip
MASKED_METRICS: tuple[Metric, ...] = (MASKED_PERPLEXITY, MASKED_ACCURACY)  # of models that fill in words
ALL_METRICS = (REWARD, *PAIR_METRICS, *ANSWER_METRICS, *TAG_METRICS, *CLASS_METRICS, *MASKED_METRICS, *METRICS)

_sentence_bleu = BLEU(effective_order=True)
CORPUS_CHRF = CHRF()


def bleu_counts(answers: Sequence[str], references: Sequence[str]) -> Counts:
    """What BLEU (Papineni et al., 2002) counts in each answer against its reference; shape (rows, 10).

    Tokenised by sacrebleu's default, 13a.
    """
    scores = [_sentence_bleu.sentence_score(a, [r]) for a, r in zip(answers, references, strict=True)]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.float64)
