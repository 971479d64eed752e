"""Versions of a prompt: a folder with a readable file for each one that was scored on purpose, and with which parent.

`0001.yaml`, `0002.yaml` and so on, and `best.yaml`, which is a copy of the best one by validation rows. `Version` says
what stands in them; `docs/prompting.md` says it to people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import append_line, expanded, full_disk, make_folder, read_lines, write_text
from tunesmith.data.prompting.version import version_of
from tunesmith.evaluate.prompts.cache import key_of
from tunesmith.score import metrics

FOLDER = Path("runs") / "prompts"  # below the current folder: one of each data file's name
BEST = "best"
DIGITS = 4
NUMBERED = re.compile(r"\d{4,}\.yaml")
UNFINISHED = "unfinished.txt"  # what was typed and is no version yet
TESTED = "tested.jsonl"  # which versions were measured on test rows
Chosen = list[list[str]]  # question and answer of each worked example


@dataclass(frozen=True)
class Prompt:
    """All that a prompt is.

    Attributes:
        template: of the user's turn, with its fields in braces; None where examples are earlier turns.
        instruction: at the beginning of the first turn, or in place of a template's field; empty where there is none.
            `{labels}` stands for the classes, and any other brace is text.
        shots: number of worked examples.
        examples: how they were chosen: `random`, `balanced` or `nearest`; empty where there are none.
        seed: of that choice.
        chosen: question and answer of each, as they are shown; None where each question has its own (`nearest`), or
            where one has several turns: then `examples` and `seed` say which rows they are.
    """

    template: str | None
    instruction: str
    shots: int = 0
    examples: str = ""
    seed: int = 0
    chosen: Chosen | None = None

    def to_plain(self) -> dict[str, Any]:
        """As a file holds it."""
        said = asdict(self)
        return said if self.chosen is not None else {key: one for key, one in said.items() if key != "chosen"}


@dataclass(frozen=True)
class Version:
    """A prompt with what it scored.

    Attributes:
        id: `0001` and so on; empty of one that is not kept yet.
        parent: the version that it was made from; None if none.
        made: when.
        note: of whoever made it.
        prompt: what is asked.
        schema: JSON schema that the answers were asked to fit, if any.
        model: that was asked.
        rows: `file`, `content` (a hash of all its rows), `kind`, `pairs` (of texts), and `validation` and `test`, which
            stand for the rows of these parts.
        metric: that versions are compared by.
        scores: on validation rows: for each metric value, low and high end of its 95% interval, and rows.
        options: of the command that scored it: how rows were read, split and asked.
    """

    id: str
    parent: str | None
    made: str
    note: str
    prompt: Prompt
    schema: dict[str, Any] | None
    model: str
    rows: dict[str, Any]
    metric: str
    scores: dict[str, dict[str, float]]
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def key(self) -> str:
        """Stands for what was asked, of whom, about what: versions with the same say the same."""
        return key_of(self.prompt.to_plain(), self.schema, self.model, self.rows["validation"], self.options)

    @property
    def told(self) -> str:
        """What its prompt is, in a few words."""
        said = self.prompt
        parts = [f"{said.shots} {said.examples}" if said.shots else "zero-shot"]
        parts += ["template"] if said.template is not None else []
        return ", ".join([*parts, *(["instruction"] if said.instruction else []), *(["JSON"] if self.schema else [])])

    @property
    def score(self) -> float | None:
        """By the metric that versions are compared by."""
        return self.scores[self.metric]["value"] if self.metric in self.scores else None

    def to_plain(self) -> dict[str, Any]:
        """As a file holds it."""
        return {**asdict(self), "prompt": self.prompt.to_plain()}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(version: Version) -> str:
    """The text of a version's file."""
    return yaml.dump(version.to_plain(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def read_version(path: Path) -> Version:
    """The version in a file.

    Raises:
        MissingError: there is none.
        ConfigError: it is damaged.
    """
    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such version of a prompt.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: no version of a prompt ({str(error).splitlines()[0]}).") from None
    if isinstance(value, dict):
        version_of(value, str(path))  # what it asks is checked
    try:
        return Version(**{**value, "id": str(value["id"]), "prompt": Prompt(**value["prompt"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no version of a prompt, as `tunesmith prompts` writes them ({error}).") from None


def folder_of(data: str, into: str | None) -> Path:
    """Where versions of prompts for a data file are kept.

    Args:
        data: the file, as the user named it.
        into: the folder, if the user named one.
    """
    if into is not None:
        return Path(into)
    parts = re.split(r"[/\\]", re.sub(r"[?#].*", "", data).rstrip("/\\"))
    name = re.sub(r"[^\w.-]+", "-", parts[-1].split(".")[0]).strip("-.")
    return FOLDER / (name or "rows")


class Versions:
    """A folder of versions."""

    def __init__(self, folder: Path) -> None:
        """Look at `folder`, which need not be there yet.

        Raises:
            ConfigError: a version in it is damaged.
        """
        self.folder = folder
        found = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
        self.all = [read_version(path) for path in found if NUMBERED.fullmatch(path.name)]

    def find(self, name: str) -> Version:
        """The version of an id, such as `3` or `0003`, or the best one.

        Raises:
            MissingError: there is none.
        """
        if not self.all:
            raise MissingError(
                f"{self.folder}: no prompt is kept there yet. `tunesmith prompts FILE` tries some and keeps the best."
            )
        wanted = name.zfill(DIGITS) if name.isdecimal() else name
        found = self.best() if name == BEST else next((one for one in self.all if one.id == wanted), None)
        if found is None:
            known = f"{BEST}, {', '.join(one.id for one in self.all)}"
            raise MissingError(f"{self.folder}: has no version {name}. Known: {known}.")
        return found

    def best(self) -> Version | None:
        """The best by validation rows, of those that were scored on the same ones as the last; of equals the first."""
        known = {metric.name: metric for metric in (*metrics.ALL_METRICS, metrics.VALID, metrics.EQUAL_FIELDS)}
        last = self.all[-1] if self.all else None
        scored = [
            (-one.score if known[one.metric].higher_is_better is False else one.score, one)
            for one in self.all
            if last and comparable(one, last) and one.score is not None and one.metric in known
        ]
        return max(scored, key=lambda pair: pair[0])[1] if scored else last

    def keep(self, version: Version) -> Version:
        """Write a version under the next id, unless one that says the same is there already; and the best anew.

        Returns:
            What is kept: the version with its id, or the one that says the same.

        Raises:
            ConfigError: the folder holds versions for another file of rows.
            TunesmithError: nothing can be written there.
        """
        make_folder(self.folder, "versions of prompts")
        with FileLock(self.folder / ".lock"):
            self.all = Versions(self.folder).all
            self.refuse_others(version.rows["file"])
            same = next((one for one in self.all if one.key == version.key), None)
            if same is None:
                number = max((int(one.id) for one in self.all), default=0) + 1
                same = replace(version, id=f"{number:0{DIGITS}}")
                self._write(same.id, same)
                self.all.append(same)
            best = self.best()
            assert best is not None
            self._write(BEST, best)
        return same

    def _write(self, name: str, version: Version) -> None:
        path, text = self.folder / f"{name}.yaml", as_yaml(version)
        try:
            write_text(path, text)
        except OSError as error:
            raise full_disk(path, len(text), error) from None

    def refuse_others(self, file: str) -> None:
        """Refuse to mix versions for different files of rows.

        Raises:
            ConfigError: there is one for another file.
        """
        other = next((one.rows["file"] for one in self.all if not _same(one.rows["file"], file)), None)
        if other is not None:
            raise ConfigError(
                f"{self.folder}: holds versions of prompts for {other}, not for {file}. Choose another folder with "
                "--into."
            )

    def note_test(self, version: Version, entry: dict[str, Any]) -> None:
        """Note that a version was measured on test rows, with what it scored there."""
        append_line(self.folder / TESTED, {"id": version.id, "made": now(), **entry})

    def tests(self) -> list[dict[str, Any]]:
        """Which versions were measured on test rows, in order."""
        return read_lines(self.folder / TESTED)


def _same(one: str, other: str) -> bool:
    return one == other or expanded(one).resolve() == expanded(other).resolve()


def comparable(one: Version, other: Version) -> bool:
    """Whether scores are of the same rows, by the same metric."""
    return one.rows["validation"] == other.rows["validation"] and one.metric == other.metric


def families(versions: Sequence[Version]) -> dict[str | None, list[Version]]:
    """The versions that were made from each, in order; under None those that have no parent here."""
    known = {one.id for one in versions}
    found: dict[str | None, list[Version]] = {}
    for one in versions:
        found.setdefault(one.parent if one.parent in known else None, []).append(one)
    return found


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
