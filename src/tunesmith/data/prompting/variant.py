"""A prompt and its variants: how many worked examples, how they are chosen, with an instruction or without.

Examples are earlier turns of the conversation, unless a template of the user's writes all into one.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import expanded
from tunesmith.core.names import did_you_mean
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.schema import as_answer
from tunesmith.prompt.messages import Conversation, Message

CHOICES = ("random", "balanced", "nearest")
OF_CLASSES = ("text", "text_pair", "labels", "instruction", "examples")  # fields of a template, for rows with classes
OF_CHATS = ("text", "instruction", "examples")
LABELS = "{labels}"  # in a kept instruction
NOTHING = "N/A"  # a text that says nothing (Zhao et al., 2021, arXiv 2102.09690)
DEFAULT_INSTRUCTION = "Say which label fits the text. The labels are: {labels}. Answer with the label alone."
JSON_INSTRUCTION = (
    'Say which label fits the text. The labels are: {labels}. Answer with JSON alone, such as {{"label": "{first}"}}.'
)


@dataclass(frozen=True)
class Variant:
    """One way to ask.

    Attributes:
        shots: worked examples before the question.
        choice: how they are chosen: one of `CHOICES`; empty where there are none.
        instructed: whether an instruction stands at the beginning.
        json: whether the answer is to be JSON that fits a schema.
    """

    shots: int
    choice: str
    instructed: bool
    json: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        examples = f"{self.shots} {self.choice}" if self.shots else "zero-shot"
        return f"{examples}{', instruction' * self.instructed}{', JSON' * self.json}"


@dataclass(frozen=True)
class Template:
    """A text with fields in braces.

    Attributes:
        text: as `str.format` takes it.
        fields: those that it has.
    """

    text: str
    fields: frozenset[str]

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with its fields filled in."""
        return self.text.format(**{name: values[name] for name in self.fields})


@dataclass(frozen=True)
class Prompting:
    """All that variants share.

    Attributes:
        kind: of the rows, `labelled` or `chat`.
        labels: the classes, in order; none of chats.
        instruction: the filled-in instruction; empty where there is none.
        template: of the user's turn; the text alone if None.
        json: whether worked examples answer with their class as JSON.
    """

    kind: str
    labels: Sequence[str]
    instruction: str
    template: Template | None = None
    json: bool = False

    def conversation(self, row: Row, examples: Sequence[Row], instructed: bool) -> Conversation:
        """What the model is asked about a row, after worked examples."""
        *before, last = turns_of(row)
        system = tuple(turn for turn in row_prompt(row) if turn.role == "system")
        instruction = self.instruction if instructed else ""
        if self.template is not None:
            texts = "\n\n".join(self._written(example) for example in examples)
            values = {"text": last.content, "labels": ", ".join(self.labels), "instruction": instruction}
            values |= {"examples": texts, "text_pair": (getattr(row.content, "second", None) or "")}
            return (*system, *before, replace(last, content=self.template.filled(values)))
        turns = [turn for example in examples for turn in (*turns_of(example), self._answered(example))]
        turns += [*before, last]
        if instruction:
            turns[0] = replace(turns[0], content=f"{instruction}\n\n{turns[0].content}")
        return (*system, *turns)

    def shown(self, example: Row) -> str:
        """The answer of a worked example, as it is written."""
        return as_answer(answer_of(example)) if self.json else answer_of(example)

    def _answered(self, example: Row) -> Message:
        return Message("assistant", self.shown(example), weight=0)

    def _written(self, example: Row) -> str:
        """A worked example as text, for a template."""
        asked, answered = ("Question", "Answer") if self.kind == "chat" else ("Text", "Label")
        return f"{asked}: {question_of(example)}\n{answered}: {self.shown(example)}"


def variants(
    shots: Sequence[int], choices: Sequence[str], instruction: bool, bare: bool, answers: Sequence[bool] = (False,)
) -> list[Variant]:  # fmt: skip
    """Every combination, once.

    Args:
        shots: numbers of examples.
        choices: how they are chosen.
        instruction: whether there is an instruction to begin with.
        bare: whether to ask without one too, where there is.
        answers: whether answers are to be JSON.
    """
    instructed = ([False] if bare or not instruction else []) + ([True] if instruction else [])
    examples = [(0, "")] if 0 in shots else []
    examples += [(count, choice) for count in sorted(set(shots)) if count for choice in choices]
    return [Variant(count, choice, one, json) for count, choice in examples for one in instructed for json in answers]


def without_words(row: Row) -> Row:
    """A row with classes whose text says nothing."""
    content: Any = row.content
    second = None if content.second is None else NOTHING
    return replace(row, content=replace(content, text=NOTHING, second=second))


def row_prompt(row: Row) -> Conversation:
    """What a row asks, as turns."""
    content: Any = row.content
    return row.prompt if content.kind == "chat" else (Message("user", "\n".join(content.texts())),)


def turns_of(row: Row) -> Conversation:
    """The same without what the system says."""
    return tuple(turn for turn in row_prompt(row) if turn.role != "system")


def answer_of(row: Row) -> str:
    """What is true of a row: its class, or its reference answer."""
    content: Any = row.content
    return row.answer if content.kind == "chat" else str(content.label)


def question_of(row: Row) -> str:
    """What is asked last, by which like rows are found."""
    return turns_of(row)[-1].content


def choices_of(given: Sequence[str], kind: str) -> list[str]:
    """The ways to choose examples: all that rows of a kind allow, where nobody says.

    Raises:
        ConfigError: there is no such way, or not for these rows.
    """
    known = [choice for choice in CHOICES if kind == "labelled" or choice != "balanced"]
    for choice in given:
        if choice == "balanced" and kind == "chat":
            raise ConfigError("--examples balanced takes the classes in turn, and chats have none. Leave it out.")
        if choice not in known:
            raise ConfigError(f"--examples {choice}: {did_you_mean(choice, known)}")
    return list(dict.fromkeys(given)) or known


def instruction_of(given: str | None, labels: Sequence[str], json: bool = False) -> str:
    """The instruction as versions keep it: all of it is text but `{labels}`, which `with_labels` fills in.

    The one that was given, or one that names the labels; none for chats.

    Args:
        given: by the user.
        labels: the classes.
        json: whether the one that names the labels asks for JSON.

    Raises:
        ConfigError: it has a field that there is not.
    """
    if given is None and not labels:
        return ""
    if given is None and json:
        return read_template(JSON_INSTRUCTION, ["labels", "first"], "").filled({"labels": LABELS, "first": labels[0]})
    return read_instruction(DEFAULT_INSTRUCTION if given is None else given, bool(labels), "--instruction")


def read_instruction(text: str, classes: bool, where: str) -> str:
    """An instruction as versions keep it, from one in which braces that are text are written twice.

    Args:
        text: of it.
        classes: whether there are labels to name.
        where: what a sentence calls it.

    Raises:
        ConfigError: it has a field that there is not.
    """
    return read_template(text, ["labels"] if classes else [], where).filled({"labels": LABELS})


def with_labels(instruction: str, labels: Sequence[str]) -> str:
    """A kept instruction with the classes in it."""
    return instruction.replace(LABELS, ", ".join(labels)) if labels else instruction


def as_written(instruction: str) -> str:
    """A kept instruction as a user writes it: braces that are text twice."""
    return instruction.replace("{", "{{").replace("}", "}}").replace(f"{{{LABELS}}}", LABELS)


def read_template(text: str, known: Sequence[str], where: str) -> Template:
    """A template, checked.

    Args:
        text: of it.
        known: fields that it may have.
        where: what a sentence calls it.

    Raises:
        ConfigError: it has another field, or a brace that opens none.
    """
    try:
        parts = [(field, spec, turned) for _, field, spec, turned in string.Formatter().parse(text)]
    except ValueError as error:
        raise ConfigError(
            f"{where}: a brace stands alone ({error}). Write {{{{ and }}}} for braces that are text."
        ) from None
    for field, spec, turned in parts:
        if field is None:
            continue
        if field not in known:
            raise ConfigError(
                f"{where}: unknown field {{{field}}}: {did_you_mean(field, known)} Write {{{{ and }}}} for braces that "
                "are text."
            )
        if spec or turned:
            raise ConfigError(f"{where}: the field {{{field}}} has a format. Write {{{field}}} alone.")
    return Template(text, frozenset(field for field, _, _ in parts if field is not None))


def template_from(name: str, kind: str, pairs: bool, shots: Sequence[int], instruction: str | None) -> Template:
    """The template in a file of the user's.

    Args:
        name: of the file.
        kind: of the rows.
        pairs: whether rows are pairs of texts.
        shots: numbers of examples that are wanted.
        instruction: that the user gave.

    Raises:
        MissingError: there is no such file.
        ConfigError: it lacks a field that is needed, or has one that is not known.
    """
    path = expanded(name)
    try:
        text = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        raise MissingError(f"--template {name}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template {name}: cannot be read as text ({error}).") from None
    template = checked_template(text, kind, pairs, any(shots), f"--template {name}")
    if instruction is not None and "instruction" not in template.fields:
        raise ConfigError(
            f"--template {name}: has no {{instruction}}, and --instruction gives one. Put it in, or write what you "
            "mean into the template."
        )
    return template


def fields_of(kind: str, pairs: bool) -> list[str]:
    """The fields that a template may have.

    Args:
        kind: of the rows.
        pairs: whether rows are pairs of texts.
    """
    return [field for field in (OF_CHATS if kind == "chat" else OF_CLASSES) if pairs or field != "text_pair"]


def checked_template(text: str, kind: str, pairs: bool, examples: bool, where: str) -> Template:
    """A template, with what it needs.

    Args:
        text: of it.
        kind: of the rows.
        pairs: whether rows are pairs of texts.
        examples: whether there are any.
        where: what a sentence calls it.

    Raises:
        ConfigError: it lacks a field that is needed, or has one that is not known.
    """
    template = read_template(text, fields_of(kind, pairs), where)
    if "text" not in template.fields:
        raise ConfigError(f"{where}: has no {{text}}, so every row would be asked the same. Put it in.")
    if examples and "examples" not in template.fields:
        raise ConfigError(f"{where}: has no {{examples}}, and --shots asks for some. Put it in, or ask for --shots 0.")
    return template
