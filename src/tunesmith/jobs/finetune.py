"""The main road, in nine steps: from a recipe to a measured model. Runs in a child process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import ConfigError, DataError, TrainingError
from tunesmith.core.events import Report, to_folder
from tunesmith.core.files import read_lines, write_json, write_text
from tunesmith.data.ledger import total
from tunesmith.data.prepare import Prepared, dataset_id, spread
from tunesmith.data.seal import Rows
from tunesmith.data.split import Splits, load_splits
from tunesmith.evaluate.compare import EvalReport, compare
from tunesmith.evaluate.report import Story, pick_samples, render_page
from tunesmith.evaluate.suite import measure
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.recipe import Recipe, read_recipe
from tunesmith.jobs.resume import find_resumed, made_from
from tunesmith.model.attention import PACKED
from tunesmith.model.load import answering, load_model
from tunesmith.model.methods import method_for, trainable
from tunesmith.model.publish import find_published, merged, publish
from tunesmith.prompt.base import Base, context_length, resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract
from tunesmith.train.checkpoint import refuse_small_disk, restore, save_checkpoint
from tunesmith.train.loop import Course, train
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.plan import Plan, make_plan
from tunesmith.train.policy import Policy
from tunesmith.train.probe import why_not_packed

LONGEST = 2048  # tokens of a row, when neither recipe nor model says less


def finetune(arguments: dict[str, Any], forward: Report, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Do the whole run in `arguments["folder"]`, which holds config.yaml.

    Args:
        arguments: `folder`; and, to go on with a run that ended early, `resume`, with `accept_change` and
            `allow_inexact` where a difference is wanted.
        forward: hears every event.
        stop: whether the run shall end after this step, to be resumed later.

    Returns:
        `folder` and, where rows were held out, `scores`.
    """
    folder = Path(arguments["folder"])
    report = to_folder(folder, forward)

    # 1. The recipe, complete and resolved.
    recipe = read_recipe(folder / "config.yaml")
    torch.manual_seed(recipe.seed)

    # 2. The base model's prompt contract.
    base = resolve(recipe.model.base, recipe.model.revision)
    contract = load_contract(base.folder, recipe.model.template, recipe.data.train_on)

    # 3. Rows, checked, as token ids and masks, on disk.
    report({"kind": "phase", "name": "preparing data"})
    splits = load_splits(recipe.data, contract, longest_row(recipe, base))

    # 4. What is trained on, what is watched, what is kept for the end.
    rows, watched_rows, test_rows = splits.train, splits.validation, splits.test
    refuse_nothing_to_learn(rows)
    write_json(folder / "ledger.json", [ledger.to_json() for ledger in splits.ledgers])
    report({"kind": "data", **describe(splits)})
    for sentence in doubts(recipe, splits):
        report({"kind": "warning", "sentence": sentence})

    # 5. The plan: every automatic decision, once; and where an earlier attempt left off.
    plan = make_plan(recipe.precision, recipe.data.packing, recipe.micro_tokens)
    bound = made_from(recipe, base, contract, splits)
    resumed = find_resumed(folder, bound, plan, arguments, report) if arguments.get("resume") else None
    plan = plan if resumed is None else resumed.plan
    torch.set_num_threads(plan.threads)  # exactness is promised per plan

    # 6. The model and the way it is changed.
    report({"kind": "phase", "name": "loading the model"})
    method = method_for(recipe.method)
    dtype = plan.dtype if method.freezes_base else torch.float32
    model = load_model(base.folder, dtype, plan.device, recipe.model.dropout)
    if resumed is None:
        plan = settle_packing(plan, model, rows, report)
        write_json(folder / "plan.json", plan.to_json())
    elif plan.packing:
        model.set_attn_implementation(PACKED)
    torch.manual_seed(recipe.seed)
    model = method.apply(model, recipe.method)
    weights = trainable(model)
    rate = recipe.optim.learning_rate or method.learning_rate
    count = sum(weight.numel() for weight in weights.values())
    report({"kind": "plan", **plan.to_json(), "trainable": count, "learning_rate": rate})

    # 7. Training.
    objective = Sft(rows, recipe.optim.batch_size, recipe.optim.accumulation, recipe.seed, plan)
    course = plan_course(recipe, objective)
    policy = Policy(model, recipe.optim, rate, course.steps, plan)
    before = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    refuse_small_disk(policy, folder, recipe.output.keep_last)
    if resumed is not None:
        restore(policy, resumed.checkpoint)
    watched = objective.batches(watched_rows) if watched_rows else []
    save = saver(folder, recipe.output.keep_last, bound, report)
    train(objective, policy, course, watched, save, report, stop)
    refuse_unchanged(before, weights)

    # 8. The model, published.
    report({"kind": "phase", "name": "publishing"})
    card = make_card(recipe, base, contract, rows, plan)
    target = folder / ("adapter" if recipe.output.merge and method.freezes_base else "model")
    publish(model, base, contract, target, card)
    del model, policy, objective, weights, before
    if target.name == "adapter":
        publish(merged(target, base), base, contract, folder / "model", card)
    report({"kind": "published", "folder": str(folder / "model")})

    # 9. Base and tuned model, loaded from their folders, on rows that neither has seen.
    result = evaluate_both(recipe, folder, base, contract, test_rows, report) if test_rows else None
    write_report(folder, recipe, splits, plan, result)
    report({"kind": "finished"})
    return {"folder": str(folder), "scores": result.to_json()["scores"] if result else []}


def longest_row(recipe: Recipe, base: Base) -> int:
    """Tokens that a row may have: what the recipe says, within what the model takes."""
    takes = context_length(base.folder)
    wanted = recipe.data.max_length or min(LONGEST, takes or LONGEST)
    if takes is not None and wanted > takes:
        raise ConfigError(f"data.max_length = {wanted}: {recipe.model.base} takes at most {takes} tokens.")
    return wanted


def refuse_nothing_to_learn(rows: Rows) -> None:
    """A row whose mask is empty teaches nothing: an error, before the first step."""
    empty = (rows.trained == 0).nonzero()[0]
    if len(empty):
        raise DataError(
            f"{len(empty)} rows have no trained token (first: {rows[int(empty[0])].source}). "
            "Look at data.train_on and at the turns' weights."
        )


def describe(splits: Splits) -> dict[str, Any]:
    """What the data is, in numbers."""
    return {
        "format": splits.format,
        "ledgers": [{"file": ledger.file, "sentence": ledger.sentence()} for ledger in splits.ledgers],
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "tokens": asdict(spread(splits.train.lengths)),
        "trained_tokens": int(splits.train.trained.sum()),
        "id": splits.train.shelf.id,
    }


def doubts(recipe: Recipe, splits: Splits) -> list[str]:
    """What a user should know about rows and split before believing a score."""
    sentences = [
        f"{count} rows of {ledger.file} hold {code.replace('_', ' ')} (`tunesmith check` shows them)."
        for ledger in splits.ledgers
        for code, count in ledger.by_code("warning").items()
    ]
    if leaked := splits.leaked():
        sentences.append(f"{leaked} of {len(splits.test)} test rows ask what training rows ask.")
    if recipe.data.test and not splits.test:
        sentences.append(
            "no row fell into the test part, so base and tuned model are not compared. Name a file with data.test."
        )
    return sentences


def settle_packing(plan: Plan, model: Any, rows: Rows, report: Report) -> Plan:
    """The plan with packing off if this model computes something else when packed."""
    reason = why_not_packed(model, rows) if plan.packing else None
    if reason is None:
        return plan
    report({"kind": "warning", "sentence": reason})
    return replace(plan, packing=False, reasons={**plan.reasons, "packing": reason})


def plan_course(recipe: Recipe, objective: Sft) -> Course:
    """How many steps, and how often to look and save."""
    steps = recipe.optim.steps or max(1, math.ceil(recipe.optim.epochs * objective.steps_per_epoch))
    return Course(
        steps,
        validate_every=recipe.evaluate.every or max(1, math.ceil(steps / 10)),
        checkpoint_every=recipe.output.checkpoint_every or max(objective.steps_per_epoch, math.ceil(steps / 10)),
    )


def saver(folder: Path, keep_last: int, bound: dict[str, Any], report: Report) -> Callable[[Policy], None]:
    """What the loop calls to save a checkpoint."""

    def save(policy: Policy) -> None:
        written = save_checkpoint(policy, folder / "checkpoints", keep_last, bound)
        report({"kind": "checkpoint", "step": policy.step_number, "folder": str(written)})

    return save


def refuse_unchanged(before: dict[str, torch.Tensor], after: dict[str, torch.nn.Parameter]) -> None:
    """A run that changed nothing, or left weights that are not finite, has not succeeded."""
    if all(torch.equal(weight, after[name].detach().cpu()) for name, weight in before.items()):
        raise TrainingError("training changed no weight. Raise optim.learning_rate.")
    if not all(torch.isfinite(weight).all() for weight in after.values()):
        raise TrainingError("training left weights that are not finite. Lower optim.learning_rate.")


def make_card(recipe: Recipe, base: Base, contract: Contract, rows: Rows, plan: Plan) -> dict[str, Any]:
    """What `tunesmith.json` says: enough to trace the model to its base, rows and code."""
    return {
        "base": {"name": recipe.model.base, "commit": base.commit, "sha256": base.fingerprint()},
        "method": recipe.method.model_dump(mode="json"),
        "contract": {"id": contract.id, "train_on": contract.train_on, "stop_ids": list(contract.stop_ids)},
        "data": {"id": rows.shelf.id, "rows": len(rows)},
        "seed": recipe.seed,
        "versions": plan.versions,
    }


def evaluate_both(
    recipe: Recipe, folder: Path, base: Base, contract: Contract, rows: Sequence[Prepared], report: Report
) -> EvalReport:
    """Measure the base and the published model on the same rows."""
    report({"kind": "phase", "name": "evaluating"})
    rows = rows[: recipe.evaluate.rows]
    measured = []
    for label in ("base", "tuned"):
        model = (
            load_model(base.folder, *answering()) if label == "base" else find_published(str(folder / "model")).load()
        )
        engine = LocalEngine(model, contract.stop_ids)
        measured.append(measure(engine, contract, rows, recipe.evaluate.max_new_tokens, report, label))
    result = compare(measured[1], measured[0], ("tuned", recipe.model.base), dataset_id(rows), rows)
    report({"kind": "scores", "rows": result.rows, "against": result.against, "scores": result.to_json()["scores"]})
    samples = [asdict(sample) for sample in pick_samples(result, recipe.evaluate.samples)]
    report({"kind": "samples", "samples": samples})
    return result


def write_report(folder: Path, recipe: Recipe, splits: Splits, plan: Plan, result: EvalReport | None) -> None:
    """report/report.html and report/report.json."""
    target = folder / "report"
    target.mkdir(exist_ok=True)
    method = recipe.method.type
    names = ", ".join(Path(ledger.file).name for ledger in splits.ledgers[:3])
    story = Story(
        title=folder.name,
        lead=f"{recipe.model.base}, {method}, {len(splits.train)} rows of {names}",
        steps=read_lines(folder / "metrics.jsonl"),
        validations=[event for event in read_lines(folder / "events.jsonl") if event["kind"] == "validation"],
        lengths=splits.train.lengths.tolist(),
        trained=splits.train.trained.tolist(),
        ledger=total(splits.ledgers, "all files").sentence(),
        recipe=(folder / "config.yaml").read_text(encoding="utf-8"),
        plan=plan.to_json(),
        report=result,
        samples=recipe.evaluate.samples,
    )
    write_text(target / "report.html", render_page(story))
    if result is not None:
        write_json(target / "report.json", result.to_json())
