"""A checked row: what it teaches, where it stands, and its labels. What kind it is, its content knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast

from tunesmith.data.quality.ledger import Source
from tunesmith.prompt.messages import Conversation, Tools

to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each row


class Content(Protocol):
    """What a row teaches: a frozen dataclass of a kind's own."""

    kind: ClassVar[str]

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON, in the format that names its kind: what `--fix` and datasets write, and read back."""
        ...

    def texts(self) -> Iterable[str]:
        """All that is said."""
        ...

    def asked(self) -> str:
        """What is asked: rows with the same belong to the same split."""
        ...


@dataclass(frozen=True)
class Row:
    """A checked row.

    Attributes:
        content: what it teaches.
        source: where it stands.
        labels: the row's other keys, such as `intent`.
        outcome: `kept`, or `repaired` where a cleaning changed it.
        whole: the row that this is a part of: a turn with what came before, where the template rewrites turns; or a
            piece of a long text.
        unprompted: the row as its file has it, where a prompt has been put around it.
    """

    content: Content
    source: Source
    labels: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "kept"
    whole: Row | None = None
    unprompted: Row | None = None

    @property
    def loss(self) -> str:
        """What the row becomes when this is lost: a row of which other parts go on is cut, not dropped."""
        return "cut" if self.whole else "dropped"

    @property
    def conversation(self) -> Conversation:
        """The turns of a chat."""
        return self._chat.messages

    @property
    def tools(self) -> Tools:
        """The tools of a chat."""
        return self._chat.tools

    @property
    def prompt(self) -> Conversation:
        """Everything before the last assistant turn of a chat: what the model is asked."""
        last = max(i for i, message in enumerate(self.conversation) if message.role == "assistant")
        return self.conversation[:last]

    @property
    def answer(self) -> str:
        """The last assistant turn of a chat: what a good model says."""
        return self.conversation[len(self.prompt)].content

    @property
    def _chat(self) -> Any:
        assert self.content.kind == "chat"
        return cast(Any, self.content)

    @cached_property
    def json(self) -> str:
        """The content as JSON, in the canonical format of its kind."""
        return to_json(self.content.to_plain())

    @cached_property
    def key(self) -> bytes:
        """A hash of the content, 16 bytes; equal rows have equal keys."""
        return hashlib.blake2b(self.json.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    @cached_property
    def asked(self) -> int:
        """A hash of what is asked, 64 bits; a prompt around it changes nothing."""
        if self.unprompted is not None:
            return self.unprompted.asked
        text = self.content.asked().encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@dataclass(frozen=True)
class Edit:
    """A change to what rows say; each kind applies to its parts what is meant for them.

    Attributes:
        text: of every text that is no turn.
        turns: of every list of turns.
        asked: of turns that ask: a whole chat, or the prompt of a preference.
        learned: of turns that are learned: a whole chat, or the chosen side of a preference.
    """

    text: Callable[[str], str] = same
    turns: Callable[[Conversation], Conversation] = same
    asked: Callable[[Conversation], Conversation] = same
    learned: Callable[[Conversation], Conversation] = same
