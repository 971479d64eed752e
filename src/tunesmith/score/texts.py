"""What an answer has in common with its reference: counts for each metric that compares two texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.score import metrics
from tunesmith.score.metrics import Counts, bleu_counts

WORD = re.compile(r"\w+")


def text_counts(answers: Sequence[str], references: Sequence[str]) -> dict[str, Counts]:
    """For each metric over texts, by name, one row of counts for each answer."""
    pairs = list(zip(answers, references, strict=True))
    rouge = _rouge(pairs)
    return {
        metrics.BLEU_SCORE.name: bleu_counts(answers, references),
        metrics.CHRF_SCORE.name: _chrf_counts(answers, references),
        **{metric.name: _with_ones(rouge[key]) for key, metric in ROUGES.items()},
        metrics.EXACT_MATCH.name: _with_ones([_same(*pair) for pair in pairs]),
        metrics.TOKEN_F1.name: _with_ones([token_f1(*pair) for pair in pairs]),
        metrics.LENGTH.name: _with_ones([len(answer) for answer in answers]),
    }


ROUGES = {"rouge1": metrics.ROUGE_1, "rouge2": metrics.ROUGE_2, "rougeL": metrics.ROUGE_L}


def _with_ones(values: Sequence[float]) -> Counts:
    return np.array([[value, 1.0] for value in values], dtype=np.float64)


def _chrf_counts(answers: Sequence[str], references: Sequence[str]) -> Counts:
    """What chrF2 (Popovic, 2015) counts; sacrebleu sums the same rows for its corpus score."""
    statistics: Any = metrics.CORPUS_CHRF._extract_corpus_statistics(list(answers), [list(references)])
    return np.array(statistics, dtype=np.float64)


def _same(answer: str, reference: str) -> float:
    return float(answer.split() == reference.split())


def token_f1(answer: str, reference: str) -> float:
    """F1 over the words of two texts, lower case, punctuation aside, each as often as it occurs; 0 to 1."""
    said, wanted = Counter(WORD.findall(answer.lower())), Counter(WORD.findall(reference.lower()))
    if not said or not wanted:
        return float(said == wanted)
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total())


class Words:
    """How ROUGE reads words: as the library does where a text is ASCII; else any letters, since it knows no others."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return self._ascii.tokenize(text) if text.isascii() else WORD.findall(text.lower())


def _rouge(pairs: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """ROUGE (Lin, 2004) F1 of each answer, with Porter's stemmer for English."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(list(ROUGES), tokenizer=Words())
    scores = [scorer.score(reference, answer) for answer, reference in pairs]
    return {key: [score[key].fmeasure for score in scores] for key in ROUGES}
