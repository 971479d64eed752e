"""Metrics against their libraries; intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from tunesmith.score.interval import difference_interval, score_interval
from tunesmith.score.metrics import BLEU_SCORE, METRICS, PERPLEXITY, STOP_RATE, TOKEN_ACCURACY, bleu_counts
from tunesmith.score.texts import text_counts, token_f1

ANSWERS = ["The pool is open from 7 AM to 9 PM.", "Yes.", "", "Dogs are welcome on the first floor, of course."]
REFERENCES = ["The pool opens at 7 AM and closes at 9 PM.", "Yes, it is free.", "Breakfast is at seven.",
              "Dogs are welcome on the first floor."]  # fmt: skip


def test_bleu_equals_sacrebleu():
    counts = bleu_counts(ANSWERS, REFERENCES)
    want = sacrebleu.corpus_bleu(ANSWERS, [REFERENCES]).score
    assert BLEU_SCORE.of_sums(counts.sum(0)) == pytest.approx(want)
    perfect = bleu_counts(REFERENCES, REFERENCES)
    assert BLEU_SCORE.of_sums(perfect.sum(0)) == pytest.approx(100)


def test_perplexity_and_percentages():
    counts = np.array([[2.0, 4], [6.0, 4]])
    assert PERPLEXITY.of_sums(counts.sum(0)) == pytest.approx(np.exp(1.0))
    assert TOKEN_ACCURACY.of_sums(np.array([3, 4])) == 75


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        counts = np.stack([rng.binomial(20, 0.7, 60), np.full(60, 20)], axis=1).astype(float)
        found = score_interval(TOKEN_ACCURACY, counts, seed=trial)
        covered += found.low <= 70 <= found.high
    assert 180 <= covered <= 199


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(1)
    hardness = rng.normal(2, 1, 100)
    one = np.stack([np.exp(hardness), np.full(100, 10.0)], axis=1)
    other = np.stack([np.exp(hardness) * 1.05, np.full(100, 10.0)], axis=1)
    difference = difference_interval(PERPLEXITY, one, other)
    a, b = score_interval(PERPLEXITY, one), score_interval(PERPLEXITY, other)
    assert difference.excludes_zero
    assert difference.high < 0
    assert a.high > b.low  # the two intervals alone would show nothing
    same = difference_interval(PERPLEXITY, one, one)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert not same.excludes_zero


def test_when_every_row_agrees_the_interval_is_wilsons():
    found = score_interval(STOP_RATE, np.ones((50, 2)))
    assert (found.value, found.high) == pytest.approx((100, 100))
    assert found.low == pytest.approx(92.865, abs=0.01)  # from the formula of Wilson (1927), n = 50
    none = score_interval(STOP_RATE, np.stack([np.zeros(50), np.ones(50)], axis=1))
    assert none.high == pytest.approx(100 - 92.865, abs=0.01)


def scores_of(answers, references):
    counts = text_counts(answers, references)
    return {m.name: float(m.of_sums(counts[m.name].sum(0))) for m in METRICS if m.name in counts}


def test_texts_are_scored_as_the_libraries_do():
    found = scores_of(ANSWERS, REFERENCES)
    assert found["chrF"] == pytest.approx(sacrebleu.corpus_chrf(ANSWERS, [REFERENCES]).score)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    each = [scorer.score(reference, answer) for answer, reference in zip(ANSWERS, REFERENCES, strict=True)]
    for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
        assert found[name] == pytest.approx(100 * np.mean([one[key].fmeasure for one in each]))
    assert found["exact match"] == 0
    assert found["answer length"] == np.mean([len(answer) for answer in ANSWERS])
    same = scores_of(REFERENCES, [f" {reference}\n" for reference in REFERENCES])
    assert all(same[name] == pytest.approx(100) for name in same if name != "answer length")


def test_words_of_any_script_count():
    """The library's own reading of words knows ASCII alone, and would give 0 to a perfect answer in Russian."""
    found = scores_of(["Бассейн открыт до девяти."], ["Бассейн открыт до девяти."])
    assert found["ROUGE-1"] == found["ROUGE-L"] == found["token F1"] == pytest.approx(100)


def test_token_f1():
    assert token_f1("The pool is open.", "the POOL is closed") == pytest.approx(0.75)
    assert token_f1("yes yes", "yes") == pytest.approx(2 / 3)
    assert (token_f1("", ""), token_f1("a", ""), token_f1("...", "!")) == (1, 0, 1)


def test_chrf_of_resamples_is_the_corpus_score_of_the_resampled_rows():
    counts = text_counts(ANSWERS, REFERENCES)["chrF"]
    chrf = next(metric for metric in METRICS if metric.name == "chrF")
    chosen = [3, 0, 0, 1]
    want = sacrebleu.corpus_chrf([ANSWERS[i] for i in chosen], [[REFERENCES[i] for i in chosen]]).score
    assert float(chrf.of_sums(counts[chosen].sum(0))) == pytest.approx(want)
