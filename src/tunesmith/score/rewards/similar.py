"""How alike two texts are, 0 to 1: the metrics of reports, of one answer each, and more that OpenAI's graders know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tunesmith.score.texts import Words, token_f1

Similarity = Callable[[str, str], float]  # of an answer and its reference

_bleu, _chrf = BLEU(effective_order=True), CHRF()


def bleu(answer: str, reference: str) -> float:
    """BLEU (Papineni et al., 2002) of one sentence as sacrebleu has it, with as many orders as there are words."""
    return min(1.0, _bleu.sentence_score(answer, [reference]).score / 100)  # which rounding may take above


def chrf(answer: str, reference: str) -> float:
    """The chrF2 (Popovic, 2015) of sacrebleu."""
    return min(1.0, _chrf.sentence_score(answer, [reference]).score / 100)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=Words())


def rouge(kind: str, answer: str, reference: str) -> float:
    """ROUGE (Lin, 2004) F1, with Porter's stemmer for English.

    Args:
        kind: as rouge-score calls it: rouge1, ..., rougeL.
        answer: what was said.
        reference: what should have been.
    """
    return float(_rouge_scorer(kind).score(reference, answer)[kind].fmeasure)


def gleu(answer: str, reference: str) -> float:
    """GLEU (Wu et al., 2016, arXiv 1609.08144) of nltk, over words between white space."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([reference.split()], answer.split()))


class _NoSynonyms:
    """Stands for WordNet, which is a file of its own."""

    def synsets(self, word: str) -> list[Any]:
        """No word is another's synonym."""
        return []


def meteor(answer: str, reference: str) -> float:
    """METEOR (Banerjee and Lavie, 2005) of nltk with words that are equal or have one stem; synonyms are left out."""
    from nltk.translate.meteor_score import meteor_score

    words: Any = _NoSynonyms()
    return float(meteor_score([reference.split()], answer.split(), wordnet=words)) if answer.strip() else 0.0


def fuzzy(answer: str, reference: str) -> float:
    """Twice the characters of the longest common subsequence over those of both (`fuzz.ratio` of rapidfuzz)."""
    both = len(answer) + len(reference)
    return 2 * common_subsequence(answer, reference) / both if both else 1.0


def common_subsequence(one: str, other: str) -> int:
    """Length of the longest common subsequence, a row of the table at once as bits (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for number, letter in enumerate(one):
        places[letter] = places.get(letter, 0) | 1 << number
    whole = (1 << len(one)) - 1
    row = whole  # a zero where the length grows
    for letter in other:
        kept = row & places.get(letter, 0)
        row = (row + kept | row - kept) & whole
    return len(one) - row.bit_count()


SIMILARITIES: Mapping[str, Similarity] = {
    "bleu": bleu, "gleu": gleu, "chrf": chrf, "meteor": meteor, "token_f1": token_f1, "fuzzy": fuzzy,
    **{f"rouge_{order}": partial(rouge, f"rouge{order}") for order in range(1, 6)},
    "rouge_l": partial(rouge, "rougeL"),
}  # fmt: skip
