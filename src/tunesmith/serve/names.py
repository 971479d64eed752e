"""Names of models: bases that the operator allows, and `ft:base:project:suffix:id` for what jobs have made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.core.errors import ConfigError
from tunesmith.infer.remote import parse_remote

TUNED = re.compile(
    r"ft:(?P<base>.+):(?P<project>[^:]*):(?P<suffix>[^:]*):(?P<id>[0-9a-f]{8})(:ckpt-step-(?P<step>\d+))?"
)
ID = len("ftjob-")


@dataclass(frozen=True)
class Bases:
    """Base models by the names that clients may ask for.

    Attributes:
        table: name -> what tunesmith resolves: `ember`, a folder, a Hugging Face id.
    """

    table: Mapping[str, str]


def read_bases(given: list[str]) -> Bases:
    """Bases as an operator writes them: `ember`, `owner/model`, or `gpt-3.5-turbo=ember` for another name.

    Raises:
        ConfigError: a name is written twice, or is empty.
    """
    table: dict[str, str] = {}
    for text in given:
        name, _, base = text.partition("=")
        if not name or name in table:
            raise ConfigError(f"--model {text!r}: write NAME or NAME=BASE, each name once.")
        table[name] = base or name
    return Bases(table)


def read_graders(given: list[str]) -> dict[str, str]:
    """Models that may grade as an operator writes them: `judge=https://host/v1#model`.

    Raises:
        ConfigError: a name is written twice, or is empty, or what stands behind it is no address.
    """
    table: dict[str, str] = {}
    for text in given:
        name, _, address = text.partition("=")
        if not name or name in table or parse_remote(address) is None:
            raise ConfigError(f"--grader {text!r}: write NAME=https://host/v1#model, each name once.")
        table[name] = address
    return table


def tuned_name(base: str, project: str, suffix: str | None, job: str, step: int | None = None) -> str:
    """The name of what a job makes; of one of its checkpoints, where a step is given."""
    ending = "" if step is None else f":ckpt-step-{step}"
    return f"ft:{base}:{project}:{suffix or ''}:{job[ID : ID + 8]}{ending}"


def job_of(name: str) -> tuple[str, int | None] | None:
    """The beginning of the job's id, and the checkpoint's step, of a tuned model's name; None if it is no such name."""
    found = TUNED.fullmatch(name)
    return None if found is None else (f"ftjob-{found['id']}", int(found["step"]) if found["step"] else None)
