"""The rows that a model was trained on and the prompt around them, found again by its card and recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.config import validate
from tunesmith.core.errors import DataError, MissingError, ModelError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.data.formats.columns import Columns
from tunesmith.data.kinds.row import Row
from tunesmith.data.prepare import Prepared
from tunesmith.data.prompting.around import Around, put_around
from tunesmith.data.prompting.version import version_of
from tunesmith.data.read.files import read_rows
from tunesmith.data.source import find_files
from tunesmith.data.split import Splits, examples_of, load_splits
from tunesmith.model.export import ExportedModel
from tunesmith.model.layout import CARD
from tunesmith.model.load import read_config
from tunesmith.prompt.base import Base, resolve
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.recipe import Recipe, longest_row


def recipe_of(exported: ExportedModel) -> Recipe | None:
    """The recipe that a model was made by, if its card holds one."""
    card = exported.card
    return validate(Recipe, card["recipe"], f"{exported.folder / CARD}: recipe") if "recipe" in card else None


def reads_of(recipe: Recipe, exported: ExportedModel) -> frozenset[str]:
    """The kinds of rows that a model was trained on."""
    config = read_config(exported.base.folder if exported.base else exported.folder)
    return objective_for(recipe.objective, config).reads


def base_of(exported: ExportedModel) -> Base | None:
    """What a model was made from; None where that is not known, or not there any more."""
    recipe = recipe_of(exported)
    if exported.base is not None or recipe is None:
        return exported.base
    where = exported.card["directory"] if Path(exported.card["directory"]).is_dir() else "."
    try:
        with contextlib.chdir(where):
            return resolve(recipe.model.base, recipe.model.revision)
    except TunesmithError:
        return None


def reading_of(exported: ExportedModel, file: str) -> dict[str, Any]:
    """How the files of a model's run were read: what they called labels, the format that was named, and columns.

    Args:
        exported: the model.
        file: to be read in the same way; its own names count where it has none of those columns.
    """
    recipe = recipe_of(exported)
    if recipe is None:
        return {}
    names = recipe.data.label_names
    if isinstance(names, str) and not Path(names).is_absolute():
        names = str(Path(exported.card["directory"]) / names)
    data = recipe.data
    columns = _columns_there(dict(data.columns), file)
    return {"columns": columns, "format": data.format, "label_names": names, "documents": data.documents}


def _columns_there(named: dict[str, str], data: str) -> dict[str, str]:
    """Names of columns; nothing where a file has none of these."""
    if not named:
        return {}
    file = find_files(data)[0]
    first = next(read_rows(file.path, name=file.name, known=set(named.values())), None)
    there = Columns(named).lifted(first.value) if first is not None and isinstance(first.value, dict) else {}
    return named if any(given in there for given in named.values()) else {}


def training_rows(exported: ExportedModel, report: Report) -> Sequence[Prepared]:
    """The rows that a model was trained on."""
    return splits_of_run(exported, report).train


def splits_of_run(exported: ExportedModel, report: Report) -> Splits:
    """The rows of a model's run, with the prompt around them that its card holds, whatever became of the prompt's file.

    Raises:
        DataError: they are not there any more.
    """
    recipe = recipe_of(exported)
    if recipe is None:
        raise DataError(f"{exported.folder}: its {CARD} holds no recipe to find rows by. Name a file with --data.")
    longest = longest_row(recipe, exported.base or Base(exported.name, exported.folder))
    words = (exported.card.get("asked_with") or {}).get("own_words")
    around = prompt_of_model(exported, report) if recipe.data.prompt is not None and words else None
    contract, reads = exported.contract(), reads_of(recipe, exported)  # before: its folder may be named from here
    with _there(exported):
        splits = load_splits(recipe.data, contract, longest, reads, around)
    if splits.train.dataset.id != exported.card["data"]["id"]:
        sentence = "the run's files have changed, so rows that are held out now may have been trained on."
        report(events.Warning(sentence))
    return splits


@contextlib.contextmanager
def _there(exported: ExportedModel) -> Generator[None]:
    """The folder that a run was started in, as the current one, where rows are read.

    Raises:
        DataError: they are not there any more.
    """
    where = exported.card["directory"] if Path(exported.card["directory"]).is_dir() else "."
    try:
        with contextlib.chdir(where):
            yield
    except (MissingError, DataError) as error:
        raise DataError(f"the run's rows cannot be read again: {error} Name others with --data.") from None


def prompt_of_model(exported: ExportedModel, report: Report) -> Around:
    """The prompt that a model was trained with, by what its card holds of it.

    Args:
        exported: the model.
        report: hears that examples are others, since the rows are that they come from.

    Raises:
        ModelError: the model's card does not hold the prompt's words.
        DataError: its examples are training rows, and these are gone.
    """
    record = exported.card["asked_with"]
    if (words := record.get("own_words")) is None:
        raise ModelError(
            f"{exported.folder}: was trained with a prompt, and its {CARD} does not hold its words. Ask it without, by "
            "--bare, or measure the model that it is a copy of."
        )
    where = f"the prompt of {exported.name}"
    prompt = {**words, **{name: record[name] for name in ("shots", "examples", "seed")}}
    version = version_of({"prompt": prompt, "schema": words["schema"]}, where)
    around = put_around(version, where, record["kind"], words["labels"], _learned_from(exported))
    if around.bank and around.id != record["id"]:
        report(events.Warning(
            f"{where} takes its examples from the training rows, and these have changed: rows are asked with others."
        ))  # fmt: skip
    return around


def _learned_from(exported: ExportedModel) -> Iterator[Row]:
    """The training rows as they are without a prompt; read only if somebody asks for them."""
    recipe = recipe_of(exported)
    if recipe is None:
        raise DataError(f"{exported.folder}: its {CARD} holds no recipe to find the rows of its examples by.")
    contract, reads = exported.contract(), reads_of(recipe, exported)
    with _there(exported):
        rows = examples_of(recipe.data, contract, reads)[1]
    yield from rows
