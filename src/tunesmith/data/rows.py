"""What a row can be: one frozen class for each kind of example, whatever format it was written in.

Each kind can be written as plain JSON (`to_plain`) in the format that names it, and `formats` reads
that back: the form of `--fix` and of the prepared data on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from tunesmith.data.ledger import Source
from tunesmith.prompt.messages import Conversation, Tools, plain

to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each row


@dataclass(frozen=True)
class Chat:
    """A conversation whose assistant turns are learned."""

    kind: ClassVar[str] = "chat"
    messages: Conversation
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's chat format."""
        return {"messages": openai_turns(self.messages), **_with_tools(self.tools)}

    def texts(self) -> Iterable[str]:
        """All that is said."""
        return said(self.messages)

    def asked(self) -> str:
        """What stands before the last answer: rows with the same belong to the same split."""
        last = max(i for i, message in enumerate(self.messages) if message.role == "assistant")
        return repr(plain(self.messages[:last]))


@dataclass(frozen=True)
class Text:
    """Plain text, all of which is learned."""

    kind: ClassVar[str] = "text"
    text: str

    def to_plain(self) -> dict[str, Any]:
        """One key, `text`."""
        return {"text": self.text}

    def texts(self) -> Iterable[str]:
        """The text."""
        return (self.text,)

    def asked(self) -> str:
        """The text itself."""
        return self.text


@dataclass(frozen=True)
class Preference:
    """Two continuations of a prompt, one of which people prefer."""

    kind: ClassVar[str] = "preference"
    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's format for direct preference optimisation."""
        return {
            "input": {"messages": openai_turns(self.prompt), **_with_tools(self.tools)},
            "preferred_output": openai_turns(self.chosen),
            "non_preferred_output": openai_turns(self.rejected),
        }

    def texts(self) -> Iterable[str]:
        """Prompt and both continuations."""
        return (*said(self.prompt), *said(self.chosen), *said(self.rejected))

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


@dataclass(frozen=True)
class Verdict:
    """A continuation of a prompt that people found good or not (KTO; Ethayarajh et al., 2024)."""

    kind: ClassVar[str] = "verdict"
    prompt: Conversation
    completion: Conversation
    good: bool

    def to_plain(self) -> dict[str, Any]:
        """TRL's format for KTO."""
        return {
            "prompt": openai_turns(self.prompt),
            "completion": openai_turns(self.completion),
            "label": self.good,
        }

    def texts(self) -> Iterable[str]:
        """Prompt and continuation."""
        return (*said(self.prompt), *said(self.completion))

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


@dataclass(frozen=True)
class Task:
    """A prompt whose answers a grader will judge, with the fields that it needs (reinforcement)."""

    kind: ClassVar[str] = "reinforcement"
    prompt: Conversation
    item: Mapping[str, Any]
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's format for reinforcement fine-tuning: messages and any other keys."""
        return {"messages": openai_turns(self.prompt), **_with_tools(self.tools), **self.item}

    def texts(self) -> Iterable[str]:
        """The prompt."""
        return said(self.prompt)

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


@dataclass(frozen=True)
class Labelled:
    """Text with its class, its classes, or a number."""

    kind: ClassVar[str] = "labelled"
    text: str
    label: str | int | float | tuple[str, ...]
    second: str | None = None  # of a pair of texts

    def to_plain(self) -> dict[str, Any]:
        """`text` with `label`, or with `labels` where a text has several."""
        second = {} if self.second is None else {"text_pair": self.second}
        label = {"labels": list(self.label)} if isinstance(self.label, tuple) else {"label": self.label}
        return {"text": self.text, **second, **label}

    def texts(self) -> Iterable[str]:
        """The text, or both."""
        return (self.text,) if self.second is None else (self.text, self.second)

    def asked(self) -> str:
        """The text."""
        return repr((self.text, self.second))


@dataclass(frozen=True)
class Tagged:
    """Words, each with its tag."""

    kind: ClassVar[str] = "tagged"
    tokens: tuple[str, ...]
    tags: tuple[str | int, ...]

    def to_plain(self) -> dict[str, Any]:
        """Two lists of equal length."""
        return {"tokens": list(self.tokens), "tags": list(self.tags)}

    def texts(self) -> Iterable[str]:
        """The words as one text."""
        return (" ".join(self.tokens),)

    def asked(self) -> str:
        """The words."""
        return repr(self.tokens)


@dataclass(frozen=True)
class Pair:
    """A source and what it becomes: translation, summary, correction."""

    kind: ClassVar[str] = "source-target"
    source: str
    target: str

    def to_plain(self) -> dict[str, Any]:
        """`source` and `target`."""
        return {"source": self.source, "target": self.target}

    def texts(self) -> Iterable[str]:
        """Both."""
        return (self.source, self.target)

    def asked(self) -> str:
        """The source."""
        return self.source


@dataclass(frozen=True)
class Passage:
    """A question, a context, and the stretches of the context that answer it (none: it has no answer)."""

    kind: ClassVar[str] = "passage"
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]  # text, and the character at which it begins

    def to_plain(self) -> dict[str, Any]:
        """SQuAD's format."""
        texts, starts = [text for text, _ in self.answers], [start for _, start in self.answers]
        answers = {"text": texts, "answer_start": starts}
        return {"question": self.question, "context": self.context, "answers": answers}

    def texts(self) -> Iterable[str]:
        """Question and context."""
        return (self.question, self.context)

    def asked(self) -> str:
        """Question and context."""
        return repr((self.question, self.context))


Content = Chat | Text | Preference | Verdict | Task | Labelled | Tagged | Pair | Passage


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
    """

    content: Content
    source: Source
    labels: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "kept"
    whole: Row | None = None

    @property
    def loss(self) -> str:
        """What the row becomes when this is lost: a row of which other parts go on is cut, not dropped."""
        return "cut" if self.whole else "dropped"

    @property
    def conversation(self) -> Conversation:
        """The turns of a chat."""
        assert isinstance(self.content, Chat)
        return self.content.messages

    @property
    def tools(self) -> Tools:
        """The tools of a chat."""
        assert isinstance(self.content, Chat)
        return self.content.tools

    @property
    def prompt(self) -> Conversation:
        """Everything before the last assistant turn of a chat: what the model is asked."""
        last = max(i for i, message in enumerate(self.conversation) if message.role == "assistant")
        return self.conversation[:last]

    @property
    def answer(self) -> str:
        """The last assistant turn of a chat: what a good model says."""
        return self.conversation[len(self.prompt)].content

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
        """A hash of what is asked, 64 bits."""
        text = self.content.asked().encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def said(messages: Conversation) -> list[str]:
    """The contents of the turns, arguments of tool calls among them."""
    texts = [message.content for message in messages]
    for message in messages:
        if message.reasoning:
            texts.append(message.reasoning)
        texts += [json.dumps(dict(call.arguments), ensure_ascii=False) for call in message.tool_calls]
    return texts


def openai_turns(messages: Conversation) -> list[dict[str, Any]]:
    """Turns as OpenAI's files have them: arguments as JSON text, weights where they are 0."""
    turns = plain(messages)
    for turn, message in zip(turns, messages, strict=True):
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(dict(call["function"]["arguments"]), ensure_ascii=False)
        if message.role == "assistant" and not message.weight:
            turn["weight"] = 0
    return turns


def _with_tools(tools: Tools) -> dict[str, Any]:
    return {"tools": [dict(tool) for tool in tools]} if tools else {}


def without_weight(messages: Conversation) -> Conversation:
    """The turns as context only: no assistant turn among them is trained on."""
    return tuple(replace(m, weight=0) if m.role == "assistant" else m for m in messages)
