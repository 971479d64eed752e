"""Which training rows become worked examples: by chance, the classes in turn, or the nearest ones by BM25."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.core.errors import ConfigError
from tunesmith.core.names import counted
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.variant import Variant, answer_of, question_of


class Examples:
    """Training rows to choose worked examples from.

    Of `random` and `balanced` all questions get the same ones, and more examples begin with the fewer: what changes
    between two variants is their number alone.
    """

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        """Choose among `rows`.

        Args:
            rows: of the training part; those that call tools are passed over.
            seed: of what is left to chance.
        """
        self.rows = [row for row in rows if shows_no_tools(row)]
        self._orders: Mapping[str, list[int]] = {
            "random": random_order(len(self.rows), seed),
            "balanced": balanced_order([answer_of(row) for row in self.rows], seed),
        }
        self._nearest: Nearest | None = None

    def refuse_more(self, shots: Sequence[int]) -> None:
        """Refuse more examples than there are rows.

        Raises:
            ConfigError: with how many there are.
        """
        if shots and max(shots) > len(self.rows):
            raise ConfigError(
                f"--shots {max(shots)}: the training part has {counted(len(self.rows), 'row')} to choose examples "
                f"from. Ask for at most {len(self.rows)}."
            )

    def for_rows(self, variant: Variant, asked: Sequence[Row]) -> list[list[Row]]:
        """The examples for each question."""
        if not variant.shots:
            return [[] for _ in asked]
        if variant.choice == "nearest":
            if self._nearest is None:
                self._nearest = Nearest(self.rows)
            return [self._nearest.to(row, variant.shots) for row in asked]
        chosen = [self.rows[place] for place in self._orders[variant.choice][: variant.shots]]
        return [chosen for _ in asked]


class Nearest:
    """Rows to choose from: those most like a question, but none that asks the same, which would give it away."""

    def __init__(self, rows: Sequence[Row], what: str = "--examples nearest") -> None:
        """Choose among `rows`; `what` is what a sentence says that needs it.

        Raises:
            ConfigError: the library is not installed.
        """
        self._rows, self._asking = rows, Counter(row.asked for row in rows)
        self._index = index_of([question_of(row) for row in rows], what)

    def to(self, row: Row, count: int) -> list[Row]:
        """The most alike, the best of them last, next to the question."""
        [places] = nearest(self._index, [question_of(row)], count + self._asking[row.asked])
        others = [self._rows[place] for place in places if self._rows[place].asked != row.asked]
        return list(reversed(others[:count]))


def shows_no_tools(row: Row) -> bool:
    """Whether a row can be shown as question and answer."""
    if row.content.kind != "chat":
        return True
    return not row.tools and all(turn.role != "tool" and not turn.tool_calls for turn in row.conversation)


def random_order(count: int, seed: int) -> list[int]:
    """All places in an order of chance."""
    return np.random.default_rng(seed).permutation(count).tolist()


def balanced_order(labels: Sequence[str], seed: int) -> list[int]:
    """All places, the classes in turn: each comes once before any comes twice, as long as it has rows."""
    waiting: dict[str, list[int]] = {}
    for place in random_order(len(labels), seed):
        waiting.setdefault(labels[place], []).append(place)
    rounds = max(map(len, waiting.values()), default=0)
    return [places[turn] for turn in range(rounds) for places in waiting.values() if turn < len(places)]


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words that BM25 compares: lower case, one letter too, none left out, as no language is known."""
    import bm25s

    return bm25s.tokenize(  # pyright: ignore[reportReturnType]
        list(texts), stopwords=[], token_pattern=r"(?u)\b\w+\b", return_ids=False, show_progress=False
    )


def index_of(texts: Sequence[str], what: str) -> Any:
    """BM25 (Robertson et al., 1994; Lucene's variant, the library's default) over texts.

    Args:
        texts: at least one.
        what: what a sentence says that needs it.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        import bm25s
    except ImportError:
        raise ConfigError(
            f"{what} needs bm25s. Install it: pip install 'tunesmith[prompts]'; or leave nearest out."
        ) from None
    index = bm25s.BM25()
    index.index(words_of(texts), show_progress=False)
    return index


def nearest(index: Any, questions: Sequence[str], count: int) -> list[list[int]]:
    """The places of the texts that are most alike to each question, the best first; of equals the earlier."""
    found: list[list[int]] = []
    for words in words_of(questions):
        scores = index.get_scores(words) if words else np.zeros(index.scores["num_docs"])
        found.append(np.argsort(-scores, kind="stable")[:count].tolist())
    return found
