"""Fold a run's adapter into its base: a full model with a verification, or nothing. Runs in a child process.

The model is written to a folder beside its place, read back from there, compared with the adapter
(`jobs/verify_merge`), and gets its name only when that went well.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from tunesmith.core import events
from tunesmith.core.errors import JobError, MissingError, ModelError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.files import expanded, make_folder, read_object, sha256_of, to_disk, write_json
from tunesmith.data.load import load_rows, require_rows
from tunesmith.data.prepare import Prepared, dataset_id, prepare
from tunesmith.data.split import Splits
from tunesmith.evaluate.general_ability import READS
from tunesmith.jobs.run_rows import reading_of, reads_of, recipe_of, splits_of_run
from tunesmith.jobs.verify_merge import Trial, verify_merge
from tunesmith.model.export import ExportedModel, export, find_model, merged
from tunesmith.model.layout import CARD
from tunesmith.model.load import LoadSpec, read_config
from tunesmith.model.memory import weight_bytes
from tunesmith.prompt.base import Base, context_length
from tunesmith.registry.runs import is_run
from tunesmith.train.planning.planner import make_plan
from tunesmith.train.recipe import LONGEST

VERIFICATION = "verification.json"
SPARE = 64 << 20  # bytes that a disk should have room for beside what is written


def merge(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Merge the adapter of `run` and export the full model in `output`.

    Args:
        arguments: `run`; `output` and `data`, or None; `replace`; `prompts`, `limit`, `max_new_tokens` and `device`.
        report: hears phases, pulses, scores and where the model is.

    Returns:
        `folder` and `verification`.
    """
    adapter = find_adapter(expanded(arguments["run"]))
    output = arguments["output"]
    target = expanded(output).resolve() if output else beside(adapter)
    refuse_taken(target, arguments["replace"])
    exported = find_model(str(adapter))
    report(events.Phase("finding rows to compare on"))
    rows = rows_of_file(arguments["data"], exported) if arguments["data"] else rows_of_run(exported, report)
    device = arguments.get("device", "auto")
    trial = Trial(arguments["prompts"], arguments["limit"], arguments["max_new_tokens"], device)
    verification = export_merged(adapter, target, rows, report, trial)
    report(events.Exported(str(target)))
    if verification["scores"]:
        count = verification["rows"]["count"]
        report(events.Scores("merged", count, "adapter", verification["scores"]))
    return {"folder": str(target), "verification": verification}


def find_adapter(run: Path) -> Path:
    """The adapter that a run has exported, or that lies in the folder itself.

    Raises:
        MissingError: there is no run, or nothing exported in it.
        ModelError: what it has exported is no adapter.
    """
    for folder in (run / "adapter", run / "model", run):
        if (folder / "adapter_config.json").exists():
            return folder
    if not run.is_dir():
        raise MissingError(f"{run}: no such run. `tunesmith runs` lists the runs.")
    if is_run(run) and not (run / "model").exists():
        raise MissingError(f"{run}: this run has no model yet. `tunesmith show {run}` says how it stands.")
    if is_run(run) or (run / CARD).exists():
        raise ModelError(f"{run}: its model is a full one already, so there is no adapter to merge. Use it as it is.")
    raise MissingError(f"{run}: neither a run nor an adapter. `tunesmith runs` lists the runs.")


def beside(adapter: Path) -> Path:
    """Where a merged model goes if nobody says where: `merged` in the run, or beside an adapter without one."""
    adapter = adapter.resolve()
    return adapter.parent / "merged" if is_run(adapter.parent) else adapter.with_name(f"{adapter.name}-merged")


def refuse_taken(target: Path, replace: bool) -> None:
    """Refuse to write where something is, unless it is a merged model and may be replaced.

    Raises:
        ModelError: it says what is there.
    """
    if not target.exists():
        return
    try:
        merge = read_object(target / CARD).get("merge")
    except (TunesmithError, OSError, AttributeError):
        merge = None
    if not merge:
        raise ModelError(f"{target}: exists and is no merged model of tunesmith. Choose another --output.")
    if not replace:
        raise ModelError(f"{target}: is a merged model already, made {merge['made']}. --replace makes it anew.")


def rows_to_compare(splits: Splits) -> tuple[Sequence[Prepared], str]:
    """The rows that say most about a model, and what they are: held out, else validated on, else trained on."""
    if splits.test:
        return splits.test, "held-out test rows"
    if splits.validation:
        return splits.validation, "validation rows (no test rows were held out)"
    return splits.train, "training rows (no others were held out)"


def rows_of_run(exported: ExportedModel, report: Report) -> tuple[Sequence[Prepared], str]:
    """The rows that the run of a model kept for the end, found again through its recipe."""
    return rows_to_compare(splits_of_run(exported, report))


def rows_of_file(name: str, exported: ExportedModel) -> tuple[Sequence[Prepared], str]:
    """The rows of a file, prepared as the model is prompted; those that are too long are left out."""
    recipe = recipe_of(exported)
    reads = READS if recipe is None else reads_of(recipe, exported)
    dataset = load_rows(name, reads, **({} if exported.chats else reading_of(exported, name)))
    ledgers = dataset.reading.ledgers
    require_rows(ledgers, "fail")
    takes = context_length(exported.base.folder if exported.base else exported.folder) or LONGEST
    rows = list(prepare(dataset.rows, ledgers, exported.contract(), takes, reads, over_long="drop"))
    return rows, f"rows of {name}"


def export_merged(
    adapter: Path, target: Path, rows: tuple[Sequence[Prepared], str], report: Report, trial: Trial | None = None
) -> dict[str, Any]:
    """Export the full model that the adapter and its base make, with its verification, whole or not at all.

    Args:
        adapter: an exported adapter's folder.
        target: replaced if it exists.
        rows: what to compare on, prepared with the adapter's contract, and what they are.
        report: hears phases, pulses and warnings.
        trial: how much is compared and what is demanded.

    Returns:
        The verification, which is also in verification.json, and under `merge` in tunesmith.json.

    Raises:
        ModelError: the base has changed, the disk is too small, or a logit is further off than the limit.
    """
    trial = trial or Trial()
    exported, chosen = find_model(str(adapter)), rows[0][: trial.prompts]
    base = exported.base
    assert base is not None
    refuse_changed_base(exported, base)
    make_folder(target.parent, "the merged model")
    refuse_small_disk(base, chosen, target)
    with _workplace(target) as place:
        report(events.Phase("folding the adapter into its base"))
        whole = _fold(exported, base, place / "model")
        found = verify_merge(exported, whole, chosen, place, trial, report)
        plan = make_plan("fp32", "off", 0, device=trial.device)
        verification = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "adapter": {"folder": str(adapter.resolve()), "sha256": sha256_of(adapter / "adapter_model.safetensors")},
            "rows": {"count": len(chosen), "what": rows[1], "id": dataset_id(chosen)},
            **found,
            "precision": "fp32",
            **{name: getattr(plan, name) for name in ("device", "machine", "versions")},
        }
        write_json(place / "model" / VERIFICATION, verification)
        write_json(place / "model" / CARD, {**exported.card, "merge": verification})
        _take_place(place, target)
    if verification["answers"] and (different := verification["answers"]["different"]):
        sentence = f"{different} greedy answers differ, and not because of a near tie: see {target / VERIFICATION}."
        report(events.Warning(sentence))
    return verification


def refuse_changed_base(exported: ExportedModel, base: Base) -> None:
    """Refuse an adapter whose base is not what it was trained on.

    Raises:
        ModelError: it has changed.
    """
    if not base.commit and base.fingerprint() != exported.card["base"]["sha256"]:
        raise ModelError(f"{base.folder}: it has changed since {exported.folder} was trained on it. Restore it.")


def refuse_small_disk(base: Base, rows: Sequence[Prepared], target: Path) -> None:
    """Refuse what does not fit: the weights in fp32, and for each token of the rows a logit of each word.

    Raises:
        ModelError: with the bytes that are needed and those that are free.
    """
    logits = 4 * sum(len(row.ids) for row in rows) * read_config(base.folder).get_text_config().vocab_size
    needed, free = weight_bytes(base.folder, torch.float32) + logits + SPARE, shutil.disk_usage(target.parent).free
    if free < needed:
        raise ModelError(
            f"{target}: the merged model and its comparison need {needed:,} bytes ({logits:,} of them only while they "
            f"are compared), and {free:,} are free. Make room, or give --output on another disk or fewer --prompts."
        )


def _fold(exported: ExportedModel, base: Base, folder: Path) -> ExportedModel:
    """Merge and export, and find the result as others would; it leaves memory before it is loaded again."""
    try:
        whole = merged(exported.folder, base, exported.spec(LoadSpec()))
        export(whole, base, exported.contract(), folder, exported.card)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{exported.folder}: cannot be folded into {base.folder} ({reason}).") from error
    gc.collect()
    return find_model(str(folder))


@contextlib.contextmanager
def _workplace(target: Path) -> Generator[Path]:
    """A folder beside the target, with nobody else in it, empty at the beginning and gone at the end."""
    place = target.with_name(f".{target.name}.merging")
    lock = FileLock(place.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobError(f"{target}: another process is making it. Wait for it, or choose another --output.") from None
    try:
        shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
        place.mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def _take_place(place: Path, target: Path) -> None:
    """Give the model in `place` its name; a model that had it before goes only then."""
    for path in (place / "model" / VERIFICATION, place / "model" / CARD, place / "model"):
        to_disk(path)
    if target.exists():
        target.rename(place / "before")
    try:
        (place / "model").rename(target)
    except OSError:
        if (place / "before").exists():
            (place / "before").rename(target)
        raise
    to_disk(target.parent)
