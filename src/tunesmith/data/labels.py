"""What people prefer, gathered: pairs of answers, and a file of choices that grows by a line each.

The file holds rows that objectives on pairs read. What decides nothing, a tie or what was skipped, stands in a file
beside it, which no training reads. Both are on the disk before the next pair is shown.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.files import append_line, read_lines, to_disk, write_text
from tunesmith.data.formats.turns import conversation_of
from tunesmith.data.formats.values import Values, text_of
from tunesmith.data.prompts import prompt_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.files import read_rows
from tunesmith.data.source import UNDECIDED, find_files
from tunesmith.prompt.messages import Conversation, plain

ITEM = "item"  # key of what a row is a judgement of
CHOICE, TIE, SKIP, EQUAL = "choice", "tie", "skip", "equal"
BROUGHT = ("first answer", "second answer")  # what the answers of a file are called that does not say whose they are


WARM = 0.8  # temperature of two answers of one model, where nobody says


def marked(name: str, number: int) -> str:
    """The name by which one of two answers of a model is known."""
    return f"{name} [{number}]"


def is_marked(name: str) -> bool:
    """Whether a name tells two answers of one model apart, and no models."""
    return name.endswith((" [1]", " [2]"))


@dataclass(frozen=True)
class Answer:
    """An answer, and whose it is."""

    text: str
    by: str


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt.

    Attributes:
        prompt: the conversation, whose last turn is the user's.
        answers: in the order in which they were made.
        item: names what is judged: the prompt, and whose answers these are.
    """

    prompt: Conversation
    answers: tuple[Answer, Answer]
    item: str

    def shown(self, seed: int) -> tuple[Answer, Answer]:
        """The answers in the order in which people see them: by chance, and the same each time."""
        one, other = self.answers
        return (one, other) if random.Random(f"{seed} {self.item}").random() < 0.5 else (other, one)

    @property
    def equal(self) -> bool:
        """Whether both say the same, so that there is nothing to choose."""
        return self.answers[0].text.strip() == self.answers[1].text.strip()


@dataclass(frozen=True)
class Judgement:
    """What somebody said of a pair.

    Attributes:
        pair: the answers.
        verdict: `choice`, `tie`, `skip` or `equal`.
        shown: the answers as they were seen.
        chosen: which of these was preferred, 0 or 1; None without a choice.
        edited: what was made of it; None where it was left as it was.
        who: said so.
        when: ISO 8601.
        seconds: from the question to the verdict.
    """

    pair: Pair
    verdict: str
    shown: tuple[Answer, Answer]
    who: str
    when: str
    seconds: float
    chosen: int | None = None
    edited: str | None = None

    def to_row(self) -> dict[str, Any]:
        """A line of the file."""
        about = {
            ITEM: self.pair.item, "who": self.who, "when": self.when, "order": [answer.by for answer in self.shown],
            "seconds": round(self.seconds, 1),
        }  # fmt: skip
        prompt = said(self.pair.prompt)
        if self.chosen is None:
            texts = [answer.text for answer in self.shown]
            return {"verdict": self.verdict, "prompt": prompt, "answers": texts, **about}
        better, worse = self.shown[self.chosen], self.shown[1 - self.chosen]
        models = {"chosen": better.by, "rejected": worse.by}
        was = {} if self.edited is None else {"before_edit": better.text}
        chosen = better.text if self.edited is None else self.edited
        return {"prompt": prompt, "chosen": chosen, "rejected": worse.text, "models": models, **was, **about}


def said(prompt: Conversation) -> Any:
    """A prompt as files have it: a text where it is one question, else its turns."""
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return plain(prompt)


@dataclass
class LabelFile:
    """A file of choices, open to grow.

    Attributes:
        path: where it lies.
        done: what has been judged.
        counts: of this call, how often each verdict was given.
    """

    path: Path
    done: set[str] = field(default_factory=set[str])
    counts: Counter[str] = field(default_factory=Counter[str])

    @property
    def undecided(self) -> Path:
        """The file of ties and of what was skipped."""
        return self.path.with_name(f"{self.path.name}{UNDECIDED}")

    def add(self, judgement: Judgement) -> None:
        """Write a judgement down; it is on the disk when this returns.

        Raises:
            TunesmithError: the disk is full.
        """
        target = self._of(judgement)
        append_line(target, judgement.to_row())
        to_disk(target)
        self.done.add(judgement.pair.item)
        self.counts[judgement.verdict] += 1

    def take_back(self, judgement: Judgement) -> None:
        """Leave the last line out that says this."""
        target, row = self._of(judgement), judgement.to_row()
        lines = read_lines(target)
        last = max(place for place, line in enumerate(lines) if line == row)
        write_text(target, "".join(json.dumps(line) + "\n" for place, line in enumerate(lines) if place != last))
        to_disk(target)
        self.done.discard(judgement.pair.item)
        self.counts[judgement.verdict] -= 1

    def _of(self, judgement: Judgement) -> Path:
        return self.undecided if judgement.chosen is None else self.path


def open_labels(path: Path) -> LabelFile:
    """The file of choices at `path`, whether it is there or not; half a line at its end, as a kill leaves it, goes.

    Raises:
        ConfigError: it holds what `tunesmith label` has not written, or is a folder.
        DataError: a line in it is no JSON.
    """
    if path.is_dir():
        raise ConfigError(f"--into {path}: is a folder. Name a file for the choices.")
    labels = LabelFile(path)
    for file in (path, labels.undecided):
        for number, row in enumerate(_whole_lines(file), 1):
            if not isinstance(row.get(ITEM), str):
                raise ConfigError(
                    f"--into {path}: line {number} of {file.name} is not of `tunesmith label`, which adds to its own "
                    "files alone. Choose another file."
                )
            labels.done.add(row[ITEM])
    return labels


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, after its last line was taken away where it was not written to its end."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise DataError(f"{file}, line {number}: is no JSON. Mend the line, or take it out.") from None
            write_text(file, "".join(f"{one}\n" for one in lines[:-1]))
            break
        rows.append(row if isinstance(row, dict) else {})
    return rows


# Answers that are brought along --------------------------------------------------------------------------------------


class Brought:
    """Pairs whose answers somebody has brought along."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs, self.left_out = pairs, list[str]()

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> list[str]:
        """What there is to judge, in order."""
        return [pair.item for pair in self._pairs]

    def but(self, done: set[str]) -> Iterator[Pair]:
        """The pairs that are not judged yet; what is judged meanwhile is left out as well."""
        for pair in self._pairs:
            if pair.item not in done:
                yield pair

    def close(self) -> None:
        """There is nothing to end."""


def read_pairs(name: str, named: Sequence[str]) -> Iterator[Pair]:
    """The pairs of a file with answers: prompts with `answers`, a list of two, and `models`, whose they are.

    Args:
        name: of the file.
        named: whose answers these are, where rows do not say.

    Raises:
        MissingError: there is no such file.
        DataError: a row holds no prompt, or not two answers.
    """
    for file in find_files(name):
        for row in read_rows(file.path, name=file.name):
            try:
                if isinstance(row.value, RowFault):
                    raise row.value
                prompt, answers = prompt_of(row.value), _answers(row.value, named)
            except RowFault as fault:
                raise DataError(f"{row.source}: {fault.found} {fault.advice}") from None
            yield Pair(prompt, answers, item_of(prompt, sorted(answer.text for answer in answers)))


def _answers(row: Values, named: Sequence[str]) -> tuple[Answer, Answer]:
    given, names = row.get("answers"), row.get("models", list(named or BROUGHT))
    if not isinstance(given, list) or len(given) != 2:
        count = f"'answers' holds {len(given)}" if isinstance(given, list) else "there is no list 'answers'"
        raise RowFault("bad_answers", f"{count}.", 'Give two: "answers": ["one", "other"].')
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(one, str) and one for one in names):
        raise RowFault("bad_answers", "'models' is not two names.", 'Give both, "models": ["one", "other"], or none.')
    texts = [_text(one, place) for place, one in enumerate(given)]
    if names[0] == names[1]:
        names = [marked(one, number) for number, one in enumerate(names, 1)]
    return Answer(texts[0], names[0]), Answer(texts[1], names[1])


def _text(value: Any, place: int) -> str:
    """An answer: a text, or turns of which the last one is it."""
    if isinstance(value, list):
        turns = conversation_of({"messages": value}, "messages", lambda fault: None)
        value = turns[-1].content
    text = text_of({"answer": value}, "answer").strip()
    if not text:
        raise RowFault("bad_answers", f"answer {place + 1} is empty.", "Give one, or leave the row out.")
    return text


def item_of(prompt: Conversation, whose: Sequence[str]) -> str:
    """The name of what is judged."""
    return hashlib.sha256(json.dumps([plain(prompt), *whose]).encode()).hexdigest()[:16]


def refuse_options(options: dict[str, Any]) -> None:
    """Refuse what makes no sense before anything is read.

    Raises:
        ConfigError: with what to change.
    """
    names, brought = options["models"], options["answers"]
    if brought and options["prompts"]:
        raise ConfigError(f"{options['prompts']} and --answers {brought}: a file of answers brings its prompts along.")
    if brought:
        given = [one for one in ("samples", "temperature", "system", "max_new_tokens") if options[one] is not None]
        if given:
            name = given[0].replace("_", "-")
            raise ConfigError(f"--{name} is for models that are asked, and --answers brings answers. Leave it out.")
        if names and len(names) != 2:
            raise ConfigError("--models: with --answers, the names of whose the two answers are. Give two, or none.")
        return
    if not options["prompts"]:
        raise ConfigError("nothing to judge: give a file of prompts with --models, or --answers FILE.")
    if len(names) not in (1, 2):
        raise ConfigError(
            f"--models names {len(names)}: answers are compared of two models, or two answers of one. Name one or two."
        )
    if len(names) == 2 and options["samples"]:
        raise ConfigError("--samples 2: two answers of one model, and --models names two. Name one, or leave it out.")
    if len(names) == 1 and options["temperature"] == 0:
        raise ConfigError(
            f"--temperature 0: both answers of {names[0]} would be the same. Give one above 0, such as {WARM}."
        )
