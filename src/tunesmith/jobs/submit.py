"""A recipe as a queued job: what it names on this machine goes along, so that any worker can do it; and back again.

A worker gives the job a folder with `config.yaml` and `inputs/`. The recipe names its files there, the same on each
machine, so that a run may go on elsewhere without having been changed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tunesmith.core.config import to_yaml
from tunesmith.core.errors import MissingError
from tunesmith.core.files import read_object, write_json
from tunesmith.data.config import OwnAnswers
from tunesmith.data.prompting.version import find_version
from tunesmith.data.source import find_files, is_here
from tunesmith.exec.queue.control import JobRecord, find_job, read_model
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.exec.snapshot import bring
from tunesmith.jobs.brought_rewards import with_rewards
from tunesmith.jobs.start import INPUTS, finetuning, free_folder, refuse_missing, refuse_unknown_end
from tunesmith.model.layout import ADAPTER, CARD, NEW_TOKENS, WEIGHTS, adapter_folder
from tunesmith.prompt.base import EMBEDDED, resolve
from tunesmith.prompt.bases.hub import WANTED
from tunesmith.store.stores import Files, Stores, keep
from tunesmith.train.recipe import Recipe


def submit_recipe(stores: Stores, recipe: Recipe, wanted: Submission, until: str = "evaluated") -> str:
    """Put a fine-tuning into the queue; returns the job's id once it is on the disk.

    Args:
        stores: where its files and its record go.
        recipe: what to do.
        wanted: project, priority, key and so on; job, inputs and label come from the recipe.
        until: as `finetune` takes it.

    Raises:
        TunesmithError: a file or the base model is not there, or `submit` refuses it.
    """
    refuse_unknown_end(until)
    refuse_missing(recipe)
    recipe, paths = gather(recipe)
    inputs = keep(stores, paths) | config_input(stores, recipe)
    job = finetuning(recipe, {"until": until})
    return submit(stores.records, replace(wanted, job=job, inputs=inputs, label=recipe.output.name or "run"))


def config_input(stores: Stores, recipe: Recipe) -> Files:
    """The recipe as the file of a job's folder, in the store."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(to_yaml(recipe), encoding="utf-8")
        return keep(stores, {config.name: config})


def gather(recipe: Recipe) -> tuple[Recipe, dict[str, Path]]:
    """The recipe as it reads in a job's folder, and the files that it needs there, by their paths in it."""
    paths: dict[str, Path] = {}
    data, evaluate, method, model = recipe.data, recipe.evaluate, recipe.method, recipe.model
    changes: dict[str, Any] = {
        part: _moved(getattr(data, part), part, paths)
        for part in ("train", "validation", "test")
        if not isinstance(getattr(data, part), int | float)
    }
    if isinstance(data.replay, OwnAnswers):
        changes["replay"] = OwnAnswers(prompts=str(_moved(data.replay.prompts, "replay", paths)))
    elif data.replay not in ("auto", "off"):
        changes["replay"] = str(_moved(data.replay, "replay", paths))
    if data.prompt is not None:
        prompt = find_version(data.prompt, f"data.prompt = {data.prompt}")
        changes["prompt"] = f"{INPUTS}/prompt/{prompt.name}"
        paths[changes["prompt"]] = prompt
    data = data.model_copy(update=changes)
    if not isinstance(evaluate.general_ability, str):
        general = _moved(evaluate.general_ability, "general", paths)
        evaluate = evaluate.model_copy(update={"general_ability": general})
    base = resolve(model.base, model.revision)
    if base.commit is not None:  # the same for each attempt
        model = model.model_copy(update={"base": base.name, "revision": base.commit})
    elif model.base != EMBEDDED:  # a folder, or what a GGUF file has been unpacked to
        wanted = [path for path in base.folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in WANTED)]
        paths |= {f"{INPUTS}/base/{path.name}": path for path in wanted}
        model = model.model_copy(update={"base": f"{INPUTS}/base"})
    if (start := getattr(method, "continue_from", None)) is not None:
        folder = adapter_folder(start)
        there = [name for name in (ADAPTER, WEIGHTS, CARD, NEW_TOKENS) if (folder / name).exists()]
        paths |= {f"{INPUTS}/adapter/{name}": folder / name for name in there}
        method = method.model_copy(update={"continue_from": f"{INPUTS}/adapter"})
    output = recipe.output.model_copy(update={"folder": "runs"})
    objective = with_rewards(recipe.objective, f"{INPUTS}/rewards", paths)
    changed = {"data": data, "evaluate": evaluate, "method": method, "model": model, "output": output,
               "objective": objective}  # fmt: skip
    return recipe.model_copy(update=changed), paths


def _moved(names: str | Sequence[str] | Mapping[str, float], part: str, paths: dict[str, Path]) -> Any:
    """Names with those of this machine's files in `inputs/`; what they stand for goes into `paths`."""
    weights = names if isinstance(names, Mapping) else dict.fromkeys(_listed(names), 1.0)
    found: dict[str, float] = {}
    for name, weight in weights.items():
        for file in find_files(name) if is_here(name) else ():
            place, number = f"{INPUTS}/{part}/{file.path.name}", 2
            while place in paths:
                place, number = f"{INPUTS}/{part}-{number}/{file.path.name}", number + 1
            paths[place], found[place] = file.path, weight
        if not is_here(name):
            found[name] = weight
    if isinstance(names, Mapping):
        return found
    return next(iter(found)) if isinstance(names, str) and len(found) == 1 else list(found)


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def fetch_run(stores: Stores, id: str, parent: Path) -> Path:
    """What a job has published as a run folder here, with its inputs; returns the folder.

    Args:
        stores: that have it.
        id: of the job.
        parent: folder of run folders; the run gets the recipe's name, or the next free one.

    Raises:
        MissingError: the job has published nothing.
        StoreError, TunesmithError: a blob cannot be reached, or is damaged.
    """
    record = find_job(stores.records, id)
    found = read_model(stores.records, record.id)
    if found is None:
        raise MissingError(f"{record.id}: it is {record.state}, and has published nothing yet.")
    folder = free_folder(parent, record.label)
    try:
        bring_run(stores, record, found[1], folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def bring_run(stores: Stores, record: JobRecord, files: Files, folder: Path) -> None:
    """Write what a job has published into a folder, with its inputs, so that it can be used from there."""
    bring(stores.blobs, {**record.inputs, **files}, folder)
    for model in (folder / "model", folder / "adapter"):
        _at_home(model, folder)


def _at_home(model: Path, run: Path) -> None:
    """Let a model that was made elsewhere name its base, and the folder that its recipe is about, as they are here."""
    if not (model / CARD).exists():
        return
    card = read_object(model / CARD)
    write_json(model / CARD, {**card, "directory": str(run.absolute())})
    if (model / ADAPTER).exists() and card["base"]["commit"] is None:
        config, own = read_object(model / ADAPTER), run / card["base"]["name"]
        base = resolve(str(own) if own.is_dir() else card["base"]["name"])
        write_json(model / ADAPTER, {**config, "base_model_name_or_path": base.reference})
