"""The prompt that models were trained with, so that they are measured as they were trained."""

from __future__ import annotations

from collections.abc import Iterable

from tunesmith.core import events
from tunesmith.core.events import Report
from tunesmith.data.prompting.around import Around
from tunesmith.jobs.run_rows import prompt_of_model
from tunesmith.model.export import ExportedModel


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
