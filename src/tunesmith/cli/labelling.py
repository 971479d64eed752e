"""Where people judge: a prompt and two answers on the screen, a key for each verdict."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tunesmith.cli.editor import editor_named, open_editor
from tunesmith.cli.screen import console
from tunesmith.core.errors import TunesmithError
from tunesmith.core.names import counted
from tunesmith.data.labels import CHOICE, EQUAL, SKIP, TIE, Answer, Judgement, LabelFile, Pair, is_marked

WIDEST = 100  # columns of text that are read with ease
KEYS = "[1] [2] is better   [e]dit   [t]ie   [s]kip   [u]ndo   [q]uit"
WAYS = {"1": "the first", "2": "the second", "t": "a tie", "s": "skipped"}
COLOURS = ("cyan", "magenta")
ESCAPE = {27: "\N{SYMBOL FOR ESCAPE}"}  # of models that would steer the terminal


class Source(Protocol):
    """What there is to judge; see `jobs.labelling`."""

    left_out: list[str]

    def items(self) -> list[str]:
        """What there is to judge, in order."""
        ...

    def but(self, done: set[str]) -> Iterator[Pair]:
        """The pairs that are not judged yet."""
        ...


class Desk:
    """One person's judgements, from the first pair that is not judged yet to the last."""

    def __init__(self, labels: LabelFile, source: Source, who: str, seed: int, keyboard: bool) -> None:
        """Show nothing yet.

        Args:
            labels: where judgements are written.
            source: of the pairs.
            who: judges.
            seed: of the order of two answers.
            keyboard: whether keys come from a terminal, one by one, or from lines.
        """
        self._labels, self._source, self._who, self._seed = labels, source, who, seed
        self._keyboard = keyboard
        self._made: list[Judgement] = []
        items = source.items()
        self._total, self._before = len(items), len(labels.done.intersection(items))

    def judge_all(self) -> None:
        """Ask about one pair after the other, until there are no more or the person has had enough."""
        if self._before:
            self._say(f"{self._before} of {self._total} are judged already, in {self._labels.path}.")
        waiting = iter(self._source.but(self._labels.done))
        again: list[Pair] = []
        while (pair := again.pop() if again else next(waiting, None)) is not None:
            if pair.item in self._labels.done:
                continue
            if pair.equal:
                self._note(Judgement(pair, EQUAL, pair.shown(self._seed), self._who, now(), 0.0))
                continue
            key = self._judge(pair)
            if key == "q":
                return
            if key == "u":
                again += [pair, self._take_back()]

    def _judge(self, pair: Pair) -> str:
        """Show a pair and note what is said of it; the key that ended it."""
        shown = pair.shown(self._seed)
        self._show(pair, shown)
        started = time.monotonic()
        while True:
            key = self._key(KEYS)
            if key == "u" and not any(one.verdict != EQUAL for one in self._made):
                self._say("There is nothing to take back in this call.")
                continue
            if key in ("q", "u"):
                return key
            edited = None
            if key[:1] == "e":
                key = key[1:] or self._key("Which one is to be edited? [1] [2]   any other key: none")
                if key not in ("1", "2") or (edited := self._edited(shown, int(key) - 1)) is None:
                    continue
            if key not in WAYS:
                self._say(f"{key!r} is no key for this.")
                continue
            seconds = time.monotonic() - started
            chosen = int(key) - 1 if key in ("1", "2") else None
            verdict = CHOICE if chosen is not None else {"t": TIE, "s": SKIP}[key]
            self._note(Judgement(pair, verdict, shown, self._who, now(), seconds, chosen, edited))
            self._say(f"{WAYS[key]}{'' if edited is None else ', as you have changed it'}", "green")
            return key

    def _note(self, judgement: Judgement) -> None:
        self._labels.add(judgement)
        self._made.append(judgement)

    def _take_back(self) -> Pair:
        """Take the last judgement back that a person has made."""
        place = max(place for place, one in enumerate(self._made) if one.verdict != EQUAL)
        judgement = self._made.pop(place)
        self._labels.take_back(judgement)
        self._say("The last one is taken back.", "yellow")
        return judgement.pair

    def _edited(self, shown: tuple[Answer, Answer], place: int) -> str | None:
        """What the person makes of an answer; None, which is told, where nothing comes of it."""
        text = self._typed(shown[place].text)
        if text is None:
            return None
        if text == shown[place].text.strip():
            self._say(f"Nothing was changed: {place + 1} takes it as it is.")
            return None
        if text == shown[1 - place].text.strip():
            self._say("That is what the other one says now, so that there would be nothing to choose.")
            return None
        if not text:
            self._say("Nothing is left of it.")
            return None
        return text

    def _typed(self, text: str) -> str | None:
        """The text after an editor was closed; None, which is told, where that was not possible."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answer.txt"
            file.write_text(f"{text}\n", encoding="utf-8")
            try:
                code = open_editor(file)
                if code:
                    self._say(f"{editor_named()!r} ended with {code}: nothing is taken over.")
                return None if code else file.read_text(encoding="utf-8").strip()
            except (TunesmithError, OSError, UnicodeDecodeError) as error:
                self._say(f"{error}".rstrip(".") + ".")
                return None

    # What is seen --------------------------------------------------------------------------------------------------

    def _show(self, pair: Pair, shown: tuple[Answer, Answer]) -> None:
        """The prompt and both answers."""
        width = min(console.width, WIDEST)
        done = self._before + sum(one.pair.item in self._labels.done for one in self._made)
        console.print()
        console.rule(f"[dim]{done + 1} of {self._total}[/dim]", style="dim", align="left")
        turns = Table.grid(padding=(0, 2))
        turns.add_column(style="dim", no_wrap=True)
        turns.add_column(overflow="fold")
        for turn in pair.prompt[:-1]:
            turns.add_row(turn.role, Text(safe(turn.content), "dim"))
        turns.add_row("prompt" if len(pair.prompt) == 1 else "user", Text(safe(pair.prompt[-1].content), "bold"))
        console.print(turns, width=width)
        for number, (answer, colour) in enumerate(zip(shown, COLOURS, strict=True), 1):
            text = Text(safe(answer.text))
            title = f"[bold]{number}[/bold]"
            console.print(
                Panel(text, title=title, title_align="left", border_style=colour, box=box.ROUNDED), width=width
            )

    def _key(self, asked: str) -> str:
        """The next key, or the next line that says something; `q` where there are no more."""
        console.print(Text(asked, "dim"), end="  " if self._keyboard else "\n", soft_wrap=True)
        if self._keyboard:
            return pressed()
        for line in sys.stdin:
            if key := line.strip().lower():
                return key
        return "q"

    def _say(self, sentence: str, style: str = "dim") -> None:
        console.print(Text(sentence, style), soft_wrap=True)

    def say_end(self) -> None:
        """What was judged, and what to type next."""
        for line in end_of(self._labels, self._made, self._source, self._total):
            console.print(line, soft_wrap=True, markup=False)


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def safe(text: str) -> str:
    """A text that does nothing to the terminal."""
    return text.translate(ESCAPE)


def pressed() -> str:
    """The key that somebody presses from now on, not what was typed before; `q` at the end of input."""
    import click

    try:
        key = click.getchar()
    except EOFError:
        key = "q"
    console.print(key if key.isprintable() else "")
    return "q" if key in ("\x04", "") else key.lower()


def end_of(labels: LabelFile, made: Iterable[Judgement], source: Source, total: int) -> Iterator[str]:
    """What was judged in this call, how that fell out, and what to type next."""
    made, done = list(made), len(labels.done.intersection(source.items()))
    counts = Counter(one.verdict for one in made)
    choices = [one for one in made if one.chosen is not None]
    edited = sum(one.edited is not None for one in choices)
    parts = [f"{counted(counts[CHOICE], 'choice')}" + (f" ({edited} edited)" if edited else "")]
    parts += [counted(counts[TIE], "tie")] if counts[TIE] else []
    parts += [f"{counts[SKIP]} skipped"] if counts[SKIP] else []
    parts += [f"{counts[EQUAL]} left out whose answers are equal"] if counts[EQUAL] else []
    yield ""
    yield f"{', '.join(parts)} in this call; {done} of {counted(total, 'prompt')} done."
    if source.left_out:
        yield f"{counted(len(source.left_out), 'prompt')} could not be answered. First: {source.left_out[0]}"
    if choices:
        better = Counter(one.shown[one.chosen].by for one in choices if one.chosen is not None)
        names = [answer.by for answer in sorted(choices[0].pair.answers, key=lambda answer: answer.by)]
        if better.keys() <= set(names) and not any(map(is_marked, names)):
            yield f"preferred: {', '.join(f'{name} {better[name]}' for name in names)}"
        yield f"of the choices, {sum(one.chosen == 0 for one in choices)} fell on what was shown first"
    if labels.path.exists():
        yield f"check   tunesmith check {labels.path}"
        yield f"train   tunesmith train recipes/dpo.yaml --set data.train={labels.path}"
