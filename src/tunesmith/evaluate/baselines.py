"""What a classifier must be better than: the most frequent class, and linear models on words or on an encoder's states.

Axes: R rows, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tunesmith.core.errors import ConfigError
from tunesmith.data.kinds.labelled import Shape

MOST_FREQUENT = {"one": "the most frequent class", "several": "the most frequent classes", "number": "the mean"}
TFIDF, FROZEN = "TF-IDF", "the frozen base"
INVERSE_PENALTY = 10.0  # of logistic regression on states of length 1; scikit-learn's 1 fits too little to them


def most_frequent(target: np.ndarray, rows: int, shape: Shape) -> np.ndarray:
    """What somebody says who has not read the rows: the training rows' first class, classes of more than half, mean.

    Args:
        target: of the training rows (R, C); (R,) of numbers.
        rows: how many are asked about.
        shape: what a row has.

    Returns:
        (rows, C), or (rows,) of numbers.
    """
    if shape == "number":
        return np.full(rows, target.mean())
    share_C = target.mean(0)
    said_C = share_C > 0.5 if shape == "several" else np.arange(len(share_C)) == share_C.argmax()
    return np.tile(said_C, (rows, 1)).astype(np.float64)


def linear_on_words(texts: Sequence[str], target: np.ndarray, asked: Sequence[str], shape: Shape) -> np.ndarray:
    """What a linear model says: TF-IDF of words (one and two) and of 2 to 5 characters, and a linear SVM on them.

    Of several classes one against the rest, of numbers ridge regression. All settings are scikit-learn's.

    Args:
        texts: of the training rows.
        target: of these, (R, C); (R,) of numbers.
        asked: texts to say it of.
        shape: what a row has.

    Returns:
        (rows, C), or (rows,) of numbers.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    sklearn: Any = _sklearn("tfidf")
    words = sklearn.text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    pieces = sklearn.text.TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5))
    features = sklearn.pipeline.make_union(words, pieces)
    read, read_asked = features.fit_transform(texts), features.transform(asked)
    return _linear(read, target, read_asked, shape, lambda: sklearn.svm.LinearSVC(random_state=0), sklearn)


def linear_on_states(state_RD: np.ndarray, target: np.ndarray, asked_RD: np.ndarray, shape: Shape) -> np.ndarray:
    """What a linear model says on an encoder's states, which learns nothing itself: logistic regression.

    Of several classes one against the rest, of numbers ridge regression.

    Args:
        state_RD: of the training rows, each of length 1.
        target: of these, (R, C); (R,) of numbers.
        asked_RD: of those to say it of.
        shape: what a row has.

    Returns:
        (rows, C), or (rows,) of numbers.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    sklearn: Any = _sklearn("frozen")
    make = lambda: sklearn.linear.LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)  # noqa: E731
    return _linear(state_RD, target, asked_RD, shape, make, sklearn)


def _linear(
    read: Any, target: np.ndarray, asked: Any, shape: Shape, make: Callable[[], Any], sklearn: Any
) -> np.ndarray:  # fmt: skip
    """What linear models say that were fitted to features: a classifier, one for each of several classes, or ridge."""
    if shape == "number":
        return sklearn.linear.Ridge().fit(read, target).predict(asked)
    if shape == "one":
        return np.eye(target.shape[1])[make().fit(read, target.argmax(-1)).predict(asked)]
    said_RC = np.zeros((asked.shape[0], target.shape[1]))
    for place in range(target.shape[1]):
        own_R = target[:, place]
        if own_R.min() == own_R.max():  # all training rows have it, or none
            said_RC[:, place] = own_R[0]
        else:
            said_RC[:, place] = make().fit(read, own_R).predict(asked)
    return said_RC


def _sklearn(baseline: str) -> Any:
    """The parts of scikit-learn that are used, by short names."""
    from types import SimpleNamespace

    try:
        from sklearn import linear_model, pipeline, svm
        from sklearn.feature_extraction import text
    except ImportError:
        raise ConfigError(
            f"evaluate.baseline = {baseline} needs scikit-learn. Install it: pip install 'tunesmith[baseline]'."
        ) from None
    return SimpleNamespace(linear=linear_model, pipeline=pipeline, svm=svm, text=text)
