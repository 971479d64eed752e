"""What a model finds in passages: `predict([{"question": "Who built it?", "context": "..."}])`.

A long passage is read in the windows that the model was trained with. The best answer is that of the highest sum of two
logits, for its first token and for its last, over all windows; where the model has learned that there may be none, it
must be above the lowest sum that a window gives to its own first token.

Axes: S windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.data.fit import STRIDE
from tunesmith.data.formats.values import text_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.classes import Read
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.infer.predict.tokens import TokenReader, logits_of
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract, Rendered
from tunesmith.prompt.passages import Layout, draft_passage, in_windows, layout_of

LONGEST_ANSWER = 30  # tokens, where the card does not say
LONGEST = 2048  # tokens of a window, where neither card nor model says less: as rows are prepared


@dataclass(frozen=True)
class Found:
    """An answer.

    Attributes:
        answer: its text; empty where there is none.
        start, end: of its characters in the context; None where there is none.
        score: the probability of its first token times that of its last, among all that could be.
        no_answer: whether the context holds none.
    """

    answer: str
    start: int | None
    end: int | None
    score: float
    no_answer: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self)


@dataclass(frozen=True)
class PassageRead:
    """A question and a context as the model reads them.

    Attributes:
        context: the text.
        starts: where each of its tokens starts.
        windows: ids and border of each.
        firsts: of each, the first token of the context in it.
        layouts: of each.
    """

    context: str
    starts: Sequence[int]
    windows: Sequence[Read]
    firsts: Sequence[int]
    layouts: Sequence[Layout]


class AnswerFinder:
    """A model that finds answers in passages: a `Predictor`.

    Attributes:
        keys: names of columns that a row has.
        contract: how texts become tokens.
        longest: tokens of a window.
        stride: tokens that neighbours share.
        most: tokens of the longest answer.
        may_be_none: whether the model has learned that there may be no answer.
    """

    keys = frozenset({"question", "context"})

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `extract`.
            contract: of the same folder.
            card: of the same folder, with the recipe.
        """
        self.reader, self.contract = TokenReader(model), contract
        data = card.get("recipe", {}).get("data", {})
        takes = positions_in(model.config.get_text_config().to_dict()) or LONGEST
        self.longest = min(data.get("max_length") or LONGEST, takes)
        self.stride = int(data.get("stride", STRIDE))
        self.most = int(card.get("recipe", {}).get("objective", {}).get("max_answer_tokens", LONGEST_ANSWER))
        self.may_be_none = bool(card.get("facts", {}).get("unanswered"))

    def predict(self, texts: Iterable[Mapping[str, str]]) -> list[Found]:
        """The answer to each question.

        Args:
            texts: mappings with `question` and `context`.

        Raises:
            DataError: one lacks them, or its question is too long.
        """
        return [found for _, found in stream(self, texts)]

    def given(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Question and context of a row.

        Raises:
            RowFault: one of them is missing.
        """
        return {key: text_of(values, key) for key in ("question", "context")}

    def read(self, given: Mapping[str, str]) -> PassageRead:
        """The token ids of a question and its context.

        Raises:
            DataError: they cannot be read.
        """
        question, context = given.get("question"), given.get("context")
        if not isinstance(question, str) or not isinstance(context, str):
            raise DataError(f"{str(given)[:60]!r}: give a question and a context.")
        [rendered] = self.contract.render_many([draft_passage(question, context, None)])
        if not isinstance(rendered, Rendered):
            raise DataError(str(rendered))
        windows = list(in_windows(rendered.ids, rendered.spans, self.longest, self.stride))
        if not windows:
            raise DataError(f"{question[:60]!r}: a question so long leaves no room for the context. Shorten it.")
        layouts = [layout_of(one.spans) for one in windows]
        reads = [
            (np.array(one.ids, np.int32), len(one.ids) if layout.border is None else layout.border)
            for one, layout in zip(windows, layouts, strict=True)
        ]
        starts = self.contract.encode(context)[1]
        return PassageRead(context, starts, reads, [one.first for one in windows], layouts)

    def answers(self, reads: Sequence[PassageRead]) -> list[Found]:
        """The answer to each of some questions that were read."""
        found = iter(self.reader.logits([one for read in reads for one in read.windows]))
        return [self._best(read, [next(found) for _ in read.windows]) for read in reads]

    def _best(self, read: PassageRead, logits: Sequence[np.ndarray]) -> Found:
        """The best answer over all windows."""
        none = min(float(logits_T2[0].sum()) for logits_T2 in logits)
        best, begin, end = max(
            (self._of_window(logits_T2, layout, first) for logits_T2, layout, first in
             zip(logits, read.layouts, read.firsts, strict=True)),
        )  # fmt: skip
        if not read.starts or (self.may_be_none and none > best):
            return Found("", None, None, self._share(read, logits, none), True)
        ends = [*read.starts, len(read.context)]
        start = read.starts[begin]
        stop = next((place for place in ends[end + 1 :] if place > read.starts[end]), len(read.context))
        text = read.context[start:stop]
        start += len(text) - len(text.lstrip())
        return Found(text.strip(), start, start + len(text.strip()), self._share(read, logits, best), False)

    def _of_window(self, logits_T2: np.ndarray, layout: Layout, first: int) -> tuple[float, int, int]:
        """The best sum of a window, and its first and last token in the context."""
        begin, end = layout.passage
        if begin == end:
            return -np.inf, 0, 0
        own = logits_T2[begin:end]
        sums_TT = own[:, 0][:, None] + own[:, 1][None]
        allowed_TT = np.triu(np.tril(np.ones_like(sums_TT, dtype=bool), self.most - 1))
        place = int(np.where(allowed_TT, sums_TT, -np.inf).argmax())
        one, other = divmod(place, len(own))
        return float(sums_TT[one, other]), first + one, first + other

    def _share(self, read: PassageRead, logits: Sequence[np.ndarray], total: float) -> float:
        """The probability of a sum of two logits: of a first token times a last one, among all of all windows."""
        pools = [logits_T2[slice(*layout.passage)] for logits_T2, layout in zip(logits, read.layouts, strict=True)]
        if self.may_be_none:
            pools.append(min((logits_T2[:1] for logits_T2 in logits), key=lambda one: float(one.sum())))
        all_P2 = np.concatenate(pools).astype(np.float64)
        most_2 = all_P2.max(0)
        return float(np.exp(total - (most_2 + np.log(np.exp(all_P2 - most_2).sum(0))).sum()))


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits of each row's tokens, (T, 2)."""
    reads: list[Read] = []
    for row in rows:
        for one in row.sequences:
            border = layout_of(one.spans).border
            reads.append((one.ids, len(one.ids) if border is None else border))
    flat = iter(logits_of(model.eval(), reads))
    return [np.concatenate([next(flat) for _ in row.sequences]) for row in rows]


PREDICTOR = TaskPredictor(AnswerFinder, outputs)
