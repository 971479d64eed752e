"""The prompt that a model was trained with, found again by its card, so that it is measured as it was trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tunesmith.core import events
from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.around import Around, put_around
from tunesmith.data.prompting.version import version_of
from tunesmith.jobs.merge import training_rows
from tunesmith.model.export import ExportedModel
from tunesmith.model.layout import CARD


def prompt_of_models(models: Iterable[object], report: Report) -> tuple[Around, ExportedModel] | None:
    """The prompt that rows are asked with, and whose it is: that of the first model that was trained with one.

    Args:
        models: that are measured on the same rows.
        report: hears which prompt it is, and where another model was trained with another.

    Raises:
        ModelError: the model's card does not hold the prompt's words.
        DataError: its examples are training rows, and these are gone.
    """
    found = [model for model in models if isinstance(model, ExportedModel) and model.card.get("asked_with")]
    if not found:
        return None
    first, *others = found
    around = prompt_of_model(first, report)
    told = around.version.told()
    report(events.Warning(f"rows are asked with the prompt that {first.name} was trained with: {told}."))
    for other in others:
        if other.card["asked_with"]["version"] != first.card["asked_with"]["version"]:
            report(events.Warning(f"{other.name} was trained with another prompt, and is asked with this one."))
    return around, first


def prompt_of_model(exported: ExportedModel, report: Report) -> Around:
    """The prompt that a model was trained with.

    Raises:
        ModelError, DataError: it cannot be found again.
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
    return put_around(version, where, record["kind"], words["labels"], _learned_from(exported, report))


def _learned_from(exported: ExportedModel, report: Report) -> Iterator[Row]:
    """The rows that a model has learned from, as they are without the prompt; read only if somebody asks for them."""
    seen: set[bytes] = set()
    for prepared in training_rows(exported, report):
        row = prepared.row.unprompted or prepared.row
        if row.key not in seen:
            seen.add(row.key)
            yield row
