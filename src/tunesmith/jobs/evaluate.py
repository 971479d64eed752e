"""Evaluate a model on a file, alone or beside another, or on tasks of lm_eval. Runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, DataError, ModelError
from tunesmith.core.events import Report
from tunesmith.core.files import write_text
from tunesmith.core.names import counted
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.load import load_rows, require_rows
from tunesmith.data.prepare import Prepared, dataset_id, prepare
from tunesmith.data.prompting.around import READS as PROMPTED
from tunesmith.data.prompting.around import Around
from tunesmith.evaluate.compare import compare, rows_of
from tunesmith.evaluate.general_ability import READS, general_files, load_general
from tunesmith.evaluate.pairs import PREFERRED, as_chats, with_rewards
from tunesmith.evaluate.report import render_evaluation
from tunesmith.evaluate.suite import RowResults, evaluate_rows
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.remote import RemoteModel, parse_remote
from tunesmith.jobs.asked_with import prompt_of_models
from tunesmith.jobs.final_evaluation import Found, say
from tunesmith.jobs.run_rows import base_of, reading_of, training_rows
from tunesmith.jobs.tasks.evaluate import beside_baselines, evaluate_alone, refuse_strange
from tunesmith.jobs.tasks.table import EVALUATIONS
from tunesmith.jobs.tasks.task import NO_BASELINE, baselines_of
from tunesmith.model.adapter import soft_places
from tunesmith.model.export import ExportedModel, find_model
from tunesmith.model.quantize import Quantize
from tunesmith.prompt.base import EMBEDDED, context_length, resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract, load_tokenizer
from tunesmith.train.recipe import LONGEST


def evaluate_model(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Evaluate `model` on `data`, and `against` on the same rows where it is given.

    Two local models are both prompted by the contract of `model`, so that they answer the same questions; a
    remote one prompts itself.

    Returns:
        `report`: plain values, with every row's answers.
    """
    if arguments.get("harness"):
        return {"report": evaluate_harness(arguments, report)}
    model, other = _find(arguments["model"]), _find(arguments["against"]) if arguments["against"] else None
    if any(isinstance(one, ExportedModel) and not one.chats for one in (model, other)):
        return {"report": evaluate_task(model, other, arguments, report)}
    if arguments.get("baseline", "none") != "none":
        raise ConfigError("--baseline is for models that do not chat, such as classifiers. Leave it out.")
    contract, takes = _reader([model, other], arguments["template"])
    asked = None if arguments.get("bare") else prompt_of_models([model, other], report)
    reading = {} if asked is None else reading_of(asked[1], arguments["data"])
    around = asked[0] if asked else None
    rows, said = as_chats(_rows(arguments, contract, takes, report, READS | PREFERRED, reading, around=around))
    if said:
        report(events.Warning(said))
    if not rows:
        raise DataError(f"{arguments['data']}: no answer in it was found good, so there is nothing to compare with.")
    files = general_files(arguments.get("general") or "off", "")
    general = {what: load_general(name, contract, takes) for what, name in files.items()}
    if any(isinstance(one, RemoteModel) for one in (model, other)) and rows[0].row.content.kind == "text":
        raise ConfigError(f"{arguments['data']}: plain texts ask nothing that a remote model could answer. Give chats.")
    if general and any(isinstance(one, RemoteModel) for one in (model, other)):
        raise ConfigError(
            "--general measures how texts are predicted, which a remote model does not show. Leave it out."
        )
    most, device = arguments["max_new_tokens"], arguments.get("device", "auto")
    if device != "auto" and not any(isinstance(one, ExportedModel) for one in (model, other)):
        raise ConfigError(f"--device {device}: {arguments['model']} is not on this machine. Leave it out.")

    def run(one: ExportedModel | RemoteModel) -> tuple[RowResults, dict[str, RowResults]]:
        local = None if isinstance(one, RemoteModel) else one.load(device, beside=kept_beside([model, other]))
        generator = one if isinstance(one, RemoteModel) else LocalEngine(local, contract)
        asked = {
            what: evaluate_rows(generator, rows_of_it, most, report, f"{one.name} on {what}")
            for what, rows_of_it in general.items()
        }
        return evaluate_rows(generator, rows, most, report, one.name), asked

    names = (arguments["model"], arguments["against"])
    results, known = run(model)
    against, known_other = run(other) if other is not None else (None, {})
    if against is not None:
        results, against = with_rewards(results, against)
    found = Found(
        compare(results, against, names, dataset_id(rows), rows),
        {
            what: compare(known[what], known_other.get(what), names, dataset_id(rows_of_it), rows_of_it)
            for what, rows_of_it in general.items()
        },
        rows_of(results, rows),
    )
    return {"report": _told(found, arguments, report)}


def kept_beside(models: Sequence[Any]) -> Quantize | None:
    """How the base of one of some models was kept in training, if it was quantised: what all of them answer beside."""
    kinds: list[Quantize] = [one.trained_beside for one in models if isinstance(one, ExportedModel)]
    return next((kind for kind in kinds if kind != "none"), None)


def _told(found: Found, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Tell of what was found, write the page where one is wanted, and return plain values."""
    assert found.report is not None
    say(found, arguments["samples"], report)
    if arguments.get("html"):
        page = render_evaluation(found.report, found.general, arguments["samples"], found.beside, found.pictures)
        write_text(Path(arguments["html"]), page)
    return found.to_json()


def evaluate_task(
    model: ExportedModel | RemoteModel, other: ExportedModel | RemoteModel | None, arguments: dict[str, Any],
    report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a model that does not chat on rows of its task, beside another or beside baselines.

    Raises:
        ConfigError: something is asked for that such models have not.
    """
    if not isinstance(model, ExportedModel) or isinstance(other, RemoteModel) or model.chats or (other and other.chats):
        raise ConfigError(
            f"{arguments['model']} and {arguments['against']}: a model that does not chat is compared with another of "
            "its task alone."
        )
    if arguments.get("general"):
        raise ConfigError("--general is for models that chat. Leave it out.")
    task, baseline, device = EVALUATIONS[model.task], arguments.get("baseline", "none"), arguments.get("device", "auto")
    baselines_of(task, baseline)
    takes = context_length(model.base.folder if model.base else model.folder) or LONGEST
    reading = reading_of(model, arguments["data"])
    rows = _rows(arguments, model.contract(), takes, report, task.reads, reading, arguments["rows"] or 1 << 60)
    refuse_strange(rows, model)
    if other is not None or baseline == NO_BASELINE:
        return _told(evaluate_alone(model, other, rows, device, report), arguments, report)
    training = training_rows(model, report)
    return _told(
        beside_baselines(model, model.name, base_of(model), rows, training, baseline, device, report), arguments, report
    )


def evaluate_harness(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run tasks of lm_eval over a model of this machine."""
    from tunesmith.evaluate.harness import run_harness

    model = _find(arguments["model"])
    if isinstance(model, RemoteModel):
        raise ConfigError(f"{arguments['model']}: tasks of lm_eval need a model on this machine.")
    contract = model.contract(arguments["template"])
    report(events.Phase("loading the model"))
    found = run_harness(
        LocalEngine(model.load(arguments.get("device", "auto")), contract),
        contract,
        arguments["harness"],
        include=Path(arguments["harness_files"]) if arguments["harness_files"] else None,
        limit=arguments["rows"],
        few_shot=arguments["few_shot"],
        chat=arguments["chat"],
        report=report,
    )
    report(events.Harness(found))
    return found


def _find(name: str) -> ExportedModel | RemoteModel:
    """The model called `name`: on this machine, or behind a URL."""
    remote = parse_remote(name)
    return find_model(name) if remote is None else RemoteModel(*remote)


def _reader(models: Sequence[ExportedModel | RemoteModel | None], template: str | None) -> tuple[Contract, int]:
    """How the rows are read: by the first local model's contract, and how many tokens it takes.

    Rows for remote models alone are read with the embedded tokenizer: only their texts are used.

    Raises:
        ModelError: two local models read text differently.
    """
    local = [model for model in models if isinstance(model, ExportedModel)]
    if not local:
        return load_contract(resolve(EMBEDDED).folder), 1 << 30
    first = local[0]
    if any(not same_tokenizer(first, other) for other in local[1:]):
        raise ModelError(
            f"{first.name} and {local[1].name} have different tokenizers, so their scores cannot be compared token by "
            "token. Evaluate each alone."
        )
    takes = context_length(first.base.folder if first.base else first.folder) or LONGEST
    return first.contract(template), takes - max(soft_places(model.folder) for model in local)


def same_tokenizer(one: ExportedModel, other: ExportedModel) -> bool:
    """Whether two models read text as the same ids."""
    return load_tokenizer(one.folder).get_vocab() == load_tokenizer(other.folder).get_vocab()


def _rows(
    arguments: dict[str, Any], contract: Contract, takes: int, report: Report, reads: frozenset[str] = READS,
    reading: Mapping[str, Any] = MappingProxyType({}), most: int = 0, around: Around | None = None,
) -> list[Prepared]:  # fmt: skip
    """The file's rows, prepared; a note says how many are left out because they are too long.

    Args:
        arguments: what was asked for.
        contract: how rows are rendered.
        takes: tokens that the model takes.
        report: hears the note.
        reads: kinds of rows.
        reading: how files are read where nothing else is asked for.
        most: rows, where no number is asked for.
        around: the prompt that they are asked with.
    """
    said = {"format": arguments["format"], "columns": arguments["columns"]}
    options = {**reading, **{name: value for name, value in said.items() if value}}
    dataset = load_rows(arguments["data"], reads if around is None else reads | PROMPTED, **options)
    ledgers = dataset.reading.ledgers
    require_rows(ledgers, arguments["bad_rows"])
    wanted = dataset.rows[: most or arguments["rows"] or 200]
    over_long = "drop" if kind_of(wanted[0]).split is None else "split"
    bad_rows = arguments["bad_rows"]
    rows = list(prepare(wanted, ledgers, contract, takes, reads, over_long, bad_rows, around=around))
    if len(rows) < len(wanted):
        sentence = f"longer than {takes} tokens, and left out: {counted(len(wanted) - len(rows), 'row')}."
        report(events.Warning(sentence))
    return rows
