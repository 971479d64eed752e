"""The shell commands that make a model again, from its lineage."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tunesmith.core.difference import in_words
from tunesmith.core.errors import ModelError
from tunesmith.core.files import expanded
from tunesmith.registry.lineage import Generation

DECIDED = {  # what a plan decided where the recipe left it open, or where memory forbade what it said
    "precision": "precision",
    "device": "device",
    "micro_tokens": "micro_tokens",
    "accumulation": "optim.accumulation",
    "compiled": "compile",
}
SAID = {True: "on", False: "off"}  # of what a plan knows as true or false


def rerun(model: Generation) -> str:
    """Shell commands that train the model again, with what would make the result differ as comments.

    Where an origin that tunesmith made is gone, its commands come first.

    Raises:
        ModelError: it is a base model, which tunesmith did not make, or its card is of no use.
    """
    if model.card is None:
        raise ModelError(f"{model.name}: a base model without a card, so nothing says how it was made.")
    lines: list[str] = []
    for origin in model.origins:
        if origin.card and origin.facts[0].state == "missing":
            lines += [f"# {plain(origin.name)} is not here and is made again first.", rerun(origin)]
    lines += [f"# {sentence}" for sentence in would_differ(model)]
    try:
        return "\n".join([*lines, _command(model, model.card)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # somebody has edited it
        raise ModelError(f"{model.name}: its card cannot be understood ({error!r}). Restore it.") from error


def would_differ(model: Generation) -> list[str]:
    """What would make the result differ, in sentences.

    Raises:
        ModelError: its card is of no use.
    """
    sentences = [f"{fact.label} ({fact.text}): {fact.finding}" for fact in model.doubts()]
    try:
        for again in (model.card or {}).get("resumed", ()):
            found = in_words([*again["changes"], *again["inexact"]])
            sentences.append(f"changed on the way, after step {again['step']}: {'; '.join(found)}")
    except (KeyError, TypeError) as error:  # somebody has edited it
        raise ModelError(f"{model.name}: its card cannot be understood ({error!r}). Restore it.") from error
    return [plain(sentence) for sentence in sentences]


def plain(text: str) -> str:
    """Text of a card on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _command(model: Generation, card: dict[str, Any]) -> str:
    """Train with the run's own config.yaml if it still says the same, else with a recipe written by a here-document."""
    there = Path(card["directory"])
    inside = there if there.is_dir() else Path.cwd()
    settings = "".join(f" --set {shlex.quote(setting)}" for setting in _settings(card))
    config = next((path for path in _configs(model, card, inside) if _says(path, card["recipe"])), None)
    before = ""
    if config is None:
        text = yaml.safe_dump(card["recipe"], sort_keys=False, allow_unicode=True)
        config, mark = _free_name(inside, card["recipe"]), "RECIPE"
        while mark in text.splitlines():
            mark += "_"
        before = f"cat > {config} <<'{mark}' &&\n{text}{mark}\n"
    shown = config.relative_to(inside) if config.is_absolute() and config.is_relative_to(inside) else config
    train = f"OMP_NUM_THREADS={int(card['plan']['threads'])} tunesmith train {shlex.quote(str(shown))}{settings}"
    if inside.resolve() == Path.cwd():
        return before + train
    return f"(\ncd {shlex.quote(str(inside))} &&\n{before}{train}\n)"


def _settings(card: dict[str, Any]) -> Iterator[str]:
    """What the recipe left open and this run decided, as `section.field=value`."""
    recipe, plan = card["recipe"], card["plan"]
    for name, key in DECIDED.items():
        section, _, field = key.rpartition(".")
        wanted = (recipe[section] if section else recipe).get(field)
        decided = plan.get(name)
        decided = SAID[decided] if isinstance(decided, bool) else decided
        if name in plan and wanted != decided:
            yield f"{key}={json.dumps(decided)}"
    if card["base"]["commit"] and recipe["model"]["base"] != card["base"]["name"]:  # a short name, of the hub then
        yield f"model.base={json.dumps(card['base']['name'])}"
    if (commit := card["base"]["commit"]) and recipe["model"]["revision"] != commit:
        yield f"model.revision={json.dumps(commit)}"
    if card.get("merge") and not recipe["output"]["merge"]:
        yield "output.merge=true"


def _configs(model: Generation, card: dict[str, Any], inside: Path) -> Iterator[Path]:
    """Where the run's config.yaml may be: beside the model, or where the recipe says."""
    if model.folder is not None:
        yield model.folder.resolve().parent / "config.yaml"
    output = card["recipe"]["output"]
    yield inside / expanded(output["folder"]) / output["name"] / "config.yaml"


def _says(path: Path, recipe: Any) -> bool:
    """Whether a file holds just this recipe."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) == recipe
    except (OSError, ValueError, yaml.YAMLError):
        return False


def _free_name(folder: Path, recipe: dict[str, Any]) -> Path:
    """A name for a recipe that no file in the folder has."""
    name, number = re.sub(r"[^A-Za-z0-9._-]+", "-", str(recipe["output"]["name"])).strip("-."), 1
    while (folder / f"{name}-again-{number}.yaml").exists():
        number += 1
    return Path(f"{name}-again-{number}.yaml")
