"""A prompt in a file: a version that `tunesmith prompts` has kept, or a template as plain text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.config import Section, option, read_yaml, validate
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import expanded
from tunesmith.core.names import counted
from tunesmith.data.prompting.schema import refuse_unknown
from tunesmith.data.prompting.variant import OF_CLASSES, read_template

BEST = "best.yaml"  # in a folder of versions, a copy of the best one
YAML = (".yaml", ".yml")


class Version(Section):
    """What a prompt is made of; all else that a file of a version holds is a record of how it did."""

    template: str | None = option(None, "Text of the user's turn, with fields; the question alone if absent.")
    instruction: str | None = option(None, "What stands at the beginning; `{labels}` names the classes.")
    shots: int = option(0, "Worked examples before the question.", ge=0)
    examples: Literal["random", "balanced", "nearest"] | None = option(None, "How they are chosen.")
    seed: int = option(0, "Of what is drawn by chance.", ge=0)
    chosen: list[tuple[str, str]] | None = option(None, "Question and answer of examples that are always the same.")
    answers: dict[str, Any] | None = option(None, "JSON schema of answers; any text if absent.")

    @property
    def id(self) -> str:
        """A hash of all of it: another prompt has another."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def told(self) -> str:
        """What it is made of, in a few words: `an instruction, 4 nearest examples`."""
        examples = f"{self.shots} {self.examples or 'fixed'} example{'' if self.shots == 1 else 's'}"
        parts = {"a template": self.template, "an instruction": self.instruction, examples: self.shots}
        return ", ".join(what for what, there in parts.items() if there) or "nothing but the question"


def find_version(name: str, where: str) -> Path:
    """The file that a prompt's name stands for: itself, the best version in a folder, or that with `.yaml` behind it.

    Args:
        name: as the user gives it.
        where: what a sentence calls it.

    Raises:
        MissingError: there is none.
    """
    path = expanded(name)
    if path.is_dir():
        if (path / BEST).is_file():
            return path / BEST
        raise MissingError(
            f"{where}: this folder has no {BEST}, which `tunesmith prompts` keeps beside its versions. Name a version, "
            "or a template as a text file."
        )
    beside = path.with_name(f"{path.name}{YAML[0]}")
    if path.exists() or beside.exists():
        return path if path.exists() else beside
    raise MissingError(
        f"{where}: no such file. Name a version that `tunesmith prompts` has kept, its folder, or a template as a text "
        "file."
    )


def read_version(name: str, where: str) -> Version:
    """The prompt in a file.

    Args:
        name: a version's file or folder, or a text file that is a template.
        where: what a sentence calls it.

    Raises:
        MissingError: there is no such file.
        ConfigError: it holds no prompt.
    """
    path = find_version(name, where)
    if path.suffix.lower() in YAML:
        return version_of(read_yaml(path), where)
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read as text ({error}).") from None
    if not text.strip():
        raise ConfigError(f"{where}: the file is empty. Write a template with {{text}} into it.")
    fields = read_template(text, OF_CLASSES, where).fields
    if unfilled := sorted(fields & {"examples", "instruction"}):
        raise ConfigError(
            f"{where}: a text file gives nothing to stand for {{{unfilled[0]}}}. Write it into the template, or name a "
            "version that `tunesmith prompts` has kept."
        )
    return Version(template=text)


def version_of(values: Mapping[str, Any], where: str) -> Version:
    """The prompt in the values of a version's file, or of a model's card.

    Raises:
        ConfigError: they hold none, or examples that cannot be found again.
    """
    prompt = values.get("prompt")
    if not isinstance(prompt, Mapping):
        raise ConfigError(f"{where}: has no section `prompt`, as versions of `tunesmith prompts` have. Name another.")
    known = {key: value for key, value in prompt.items() if key in Version.model_fields and value not in ("", None)}
    version = validate(Version, {**known, "answers": values.get("schema")}, f"{where}: prompt.")
    if version.shots and version.examples is None and version.chosen is None:
        raise ConfigError(
            f"{where}: asks for {version.shots} examples, and says neither which (chosen) nor how they are chosen "
            "(examples: random, balanced or nearest). Add one of them, or set shots: 0."
        )
    if version.chosen is not None and len(version.chosen) != version.shots:
        raise ConfigError(
            f"{where}: asks for {counted(version.shots, 'example')}, and names {len(version.chosen)} (chosen). Make "
            "both the same."
        )
    if version.answers is not None:
        refuse_unknown(version.answers, f"{where}: schema")
    return version
