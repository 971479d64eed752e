"""What a reward model says of chats: `tunesmith.load("runs/reward").predict([[{"role": "user", ...}, ...]])`.

Axes: S sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.data.formats.tools import tools_of
from tunesmith.data.formats.turns import conversation_of
from tunesmith.data.formats.values import text_of
from tunesmith.data.kinds.chat import KIND, TURN_KEYS, Chat
from tunesmith.data.prepare import Prepared
from tunesmith.data.quality.ledger import RowFault
from tunesmith.infer.predict.classes import Read, row_logits
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract, Draft, Rendered
from tunesmith.prompt.messages import Conversation

ASKED = ("prompt", "question", "query", "instruction")
ONE_ANSWER = "Give one answer a row: at the end of 'messages', or as 'completion' beside 'prompt'."


@dataclass(frozen=True)
class Reward:
    """What a chat is worth: only how much more or less than another one means something."""

    reward: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"reward": self.reward}


class RewardModel:
    """A model that says how much people would like an answer: a `Predictor`.

    Attributes:
        keys: names of columns with chats, or with prompts beside answers.
        model: of transformers, with its adapter.
        contract: how chats become tokens.
        takes: tokens that the model takes; None if its configuration does not say.
    """

    keys = frozenset({*TURN_KEYS, *ASKED, "input", "text"})

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `reward`.
            contract: of the same folder.
            card: of the same folder.
        """
        self.model, self.contract = model.eval(), contract
        self.takes = positions_in(model.config.get_text_config().to_dict())

    def predict(self, texts: Iterable[Any]) -> list[Reward]:
        """The reward of each chat.

        Args:
            texts: lists of turns, mappings as rows of files are, or texts that are read as they are.

        Raises:
            DataError: one is none of these, or longer than the model takes.
        """
        return [reward for _, reward in stream(self, texts)]

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The turns of a row, or its text.

        Raises:
            RowFault: there are none, or no answer at their end.
        """
        fits = {entry: fit for entry in KIND.formats if (fit := entry.fit(values))}
        if fits:
            chat = max(fits, key=lambda entry: fits[entry]).convert(values, lambda fault: None)
            return _answered(chat).to_plain()
        if (asked := next((key for key in ASKED if values.get(key) is not None), None)) is not None:
            raise RowFault("no_assistant", "a prompt without an answer.", ONE_ANSWER, (asked,))
        return {"text": text_of(values, "text")}

    def read(self, given: Any) -> Read:
        """The token ids of a chat, as they were in training, or of a text as it is.

        Raises:
            DataError: it is neither, or too long.
        """
        return self._read_draft(self._draft(given), given)

    def read_turns(self, turns: Conversation) -> Read:
        """The token ids of a chat that is turns already.

        Raises:
            TunesmithError: the chat template refuses it, or it is too long.
        """
        return self._read_draft(self.contract.draft(turns), turns[-1].content)

    def _read_draft(self, draft: Draft, given: Any) -> Read:
        [rendered] = self.contract.render_many([draft])
        if not isinstance(rendered, Rendered):
            raise DataError(f"{str(given)[:60]!r}: {rendered}")
        if self.takes is not None and len(rendered.ids) > self.takes:
            raise DataError(f"{str(given)[:60]!r}: {len(rendered.ids)} tokens, and the model takes {self.takes}.")
        return np.frombuffer(rendered.ids, np.int32), len(rendered.ids)

    def _draft(self, given: Any) -> Draft:
        key = {list: "messages", str: "text"}.get(type(given))
        values = given if key is None else {key: given}
        if not isinstance(values, Mapping):
            raise DataError(f"{str(given)[:60]!r}: give a list of turns, or a text.")
        try:
            found = self.given(values)
            if "text" in found:
                return self.contract.draft_read(found["text"])
            return self.contract.draft(conversation_of(found, "messages", lambda fault: None), tools_of(found))
        except RowFault as fault:
            raise DataError(f"{str(given)[:60]!r}: {fault.found} {fault.advice}") from None

    def answers(self, reads: Sequence[Read]) -> list[Reward]:
        """The reward of each of some chats that were read."""
        return [Reward(float(one)) for one in self.rewards(reads)]

    def rewards(self, reads: Sequence[Read]) -> np.ndarray:
        """The same as numbers, (S,)."""
        return row_logits(self.model, reads)[:, 0].astype(np.float64) if reads else np.zeros(0)


def _answered(chat: Chat) -> Chat:
    """A chat that ends with an answer.

    Raises:
        RowFault: it does not.
    """
    if not chat.messages or chat.messages[-1].role != "assistant":
        raise RowFault("no_assistant", "the last turn is not the assistant's.", ONE_ANSWER)
    return chat


def reads_of(rows: Iterable[Prepared]) -> list[Read]:
    """The sequences of prepared rows, as they are read."""
    return [(one.ids, len(one.ids)) for row in rows for one in row.sequences]


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The rewards of each row's sequences, (sequences, 1)."""
    rewards_S1 = row_logits(model.eval(), reads_of(rows))
    return np.split(rewards_S1, np.cumsum([len(row.sequences) for row in rows])[:-1])


PREDICTOR = TaskPredictor(RewardModel, outputs)
