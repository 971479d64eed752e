"""The main road, in nine steps: from a recipe to a measured model. Runs in a child process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import TrainingError
from tunesmith.core.events import Report, silent, to_folder
from tunesmith.core.files import read_lines, write_json, write_text
from tunesmith.core.names import counted
from tunesmith.data.ledger import total
from tunesmith.data.prepare import spread
from tunesmith.data.split import Splits, load_splits
from tunesmith.evaluate.report import Story, render_page
from tunesmith.jobs.card import make_card
from tunesmith.jobs.certify import Trial
from tunesmith.jobs.judge import Found, evaluate_both
from tunesmith.jobs.learnable import doubts, refuse_unknown_tokens, refuse_what_cannot_teach
from tunesmith.jobs.merge import publish_merged, rows_to_compare
from tunesmith.jobs.prove import prove, refuse_unchanged, what_was_trained
from tunesmith.jobs.recipe import Recipe, longest_row, read_recipe
from tunesmith.jobs.replay import with_replay
from tunesmith.jobs.resume import go_back, made_from
from tunesmith.jobs.settle import (
    refuse_looking_ahead,
    settle_layers,
    settle_loss,
    settle_memory,
    settle_packing,
    settle_plan,
)
from tunesmith.model.load import answering, load_model, read_config, refuse_not_finite, refuse_untrainable
from tunesmith.model.methods import method_for, trainable
from tunesmith.model.outline import load_outline
from tunesmith.model.publish import publish
from tunesmith.model.warm import starting_adapter
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train.checkpoint import (
    AVERAGE,
    WEIGHTS,
    Checkpoint,
    find_step,
    put_weights,
    refuse_small_disk,
    restore,
    save_checkpoint,
)
from tunesmith.train.looks import Looks, plan_looks
from tunesmith.train.loop import Course, Crowded, Spike, train
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.plan import Plan, choose_device, with_threads
from tunesmith.train.policy import Policy
from tunesmith.train.ranks import join_ranks
from tunesmith.train.standing import Standing
from tunesmith.train.track import TrackConfig, open_trackers


def finetune(arguments: dict[str, Any], forward: Report, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Do the whole run in `arguments["folder"]`, which holds config.yaml.

    Args:
        arguments: `folder`; and, to go on with a run that ended early, `resume`, with `accept_change` and
            `allow_inexact` where a difference is wanted; `until` where it shall end before it is evaluated.
        forward: hears every event.
        stop: whether the run shall end after this step, to be resumed later.

    Returns:
        `folder` and, where rows were held out, `scores`.
    """
    folder = Path(arguments["folder"])
    recipe = read_recipe(folder / "config.yaml")
    track = recipe.track if arguments.get("rank", 0) == 0 else TrackConfig()
    with open_trackers(track, folder, recipe.model_dump(mode="json"), to_folder(folder, forward)) as trackers:
        return walk(folder, recipe, arguments, trackers.beside(forward), stop)


def walk(
    folder: Path, recipe: Recipe, arguments: dict[str, Any], forward: Report, stop: Callable[[], bool]
) -> dict[str, Any]:
    """The nine steps."""

    # 1. The recipe is complete and resolved; the processes that work on it meet.
    torch.manual_seed(recipe.seed)
    ranks = join_ranks(arguments, choose_device(recipe.device)[0])
    report = to_folder(folder, forward) if ranks.leads else silent

    # 2. The base model's prompt contract.
    base = resolve(recipe.model.base, recipe.model.revision)
    refuse_untrainable(base.folder)
    contract = load_contract(base.folder, recipe.model.template, recipe.data.train_on)

    # 3. Rows, checked, as token ids and masks, on disk.
    report({"kind": "phase", "name": "preparing data"})
    splits = load_splits(recipe.data, contract, longest_row(recipe, base))

    # 4. What is trained on, what is watched, what is kept for the end.
    refuse_what_cannot_teach(recipe, splits, contract)
    refuse_unknown_tokens(splits, contract, read_config(base.folder).get_text_config().vocab_size)
    splits = with_replay(recipe, folder, base, contract, splits, ranks, report)
    rows = splits.mixture
    if ranks.leads:
        write_json(folder / "ledger.json", ledgers_of(splits))
    report({"kind": "data", **describe(splits)})
    for sentence in doubts(recipe, splits):
        report({"kind": "warning", "sentence": sentence})

    # 5. The plan: every automatic decision, once; and where an earlier attempt left off.
    method = method_for(recipe.method)
    bound = made_from(recipe, base, contract, splits, starting_adapter(recipe.method))
    plan, checkpoint, changed = settle_plan(recipe, folder, bound, splits, arguments, ranks, report)
    torch.set_num_threads(plan.threads)  # exactness is promised per plan

    # 6. The model and the way it is changed.
    report({"kind": "phase", "name": "loading the model"})
    dtype = plan.dtype if method.freezes_base else torch.float32
    if plan.sharding == "full":
        model, sources = load_outline(base.folder, dtype, recipe.model.dropout)
    else:
        model, sources = load_model(base.folder, dtype, plan.device, recipe.model.dropout), None
    model = changed_model(model, recipe)
    torch.manual_seed(recipe.seed + ranks.rank)  # or dropout would leave out the same in every process
    rate = recipe.optim.learning_rate or method.learning_rate
    count = sum(weight.numel() for weight in trainable(model).values())
    objective = Sft(rows, recipe.optim.batch_size, recipe.seed, plan, ranks)
    steps = recipe.optim.steps or max(1, math.ceil(recipe.optim.epochs * objective.steps_per_epoch))
    looks = settle_looks(recipe, splits, steps, report)
    course = plan_course(recipe, objective, steps, looks.every)
    policy = Policy(model, recipe.optim, rate, course.steps, plan, ranks, sources)
    del model, sources
    refuse_not_finite(base.folder, policy.model)
    # From here on the model is what is trained, and is checked as that.
    refuse_looking_ahead(base.folder, policy.model, rows)
    plan = settle_packing(plan, policy.model, rows, report, ranks)
    plan = settle_loss(plan, policy.model, rows, report, ranks)
    objective = replace(objective, plan=plan)
    policy.model.train()  # as in training, or other layers would be measured and compiled
    objective = settle_memory(recipe.checkpointing, policy, objective, rows)
    objective = settle_layers(recipe.compile, policy, objective, rows, course.steps, report)
    plan = objective.plan
    if ranks.leads:
        write_json(folder / "plan.json", plan.to_json())
    report({"kind": "plan", **plan.to_json(), "trainable": count, "learning_rate": rate})

    # 7. Training.
    standing = Standing() if checkpoint is None else restore(policy, checkpoint)
    standing.early = standing.early and not changed
    refuse_small_disk(policy, folder, recipe.output.keep_last)
    watched = objective.lazy_batches(splits.validation.at(looks.places)) if splits.validation else []
    save = saver(folder, recipe.output.keep_last, bound, report)
    while not standing.early and policy.step_number < course.steps:
        try:
            train(objective, policy, course, standing, watched, save, report, stop)
        except Spike:
            standing = go_back(folder, policy, standing, report)
        except Crowded as crowd:
            plan = with_threads(plan, crowd.threads, crowd.sentence)
            write_json(folder / "plan.json", plan.to_json())
            torch.set_num_threads(plan.threads)
    steps = policy.step_number
    del policy, objective, watched
    ranks.leave()
    if not ranks.leads:
        return {}
    if arguments.get("until") == "trained":
        return ended("trained", folder, report)

    # 8. The model, published from a checkpoint that was read back, and proven to answer.
    report({"kind": "phase", "name": "publishing"})
    wanted_step = standing.best_step if recipe.evaluate.publish == "best" else None
    chosen = find_published_step(folder / "checkpoints", wanted_step, steps, report)
    dtype, device = answering(recipe.device) if method.freezes_base else (torch.float32, "cpu")
    model = changed_model(load_model(base.folder, dtype, device), recipe)
    refuse_unchanged(model, put_weights(trainable(model), chosen, AVERAGE if recipe.optim.ema else WEIGHTS))
    card = make_card(recipe, base, contract, splits, plan, chosen.step, folder)
    target = folder / ("adapter" if recipe.output.merge and method.freezes_base else "model")
    publish(model, base, contract, target, card)
    trained = what_was_trained(model, splits.train, recipe.device)
    del model
    prove(target, contract, splits.train, trained, recipe.device)
    if target.name == "adapter":
        publish_merged(target, folder / "model", rows_to_compare(splits), report, Trial(device=recipe.device))
        prove(folder / "model", contract, splits.train, None, recipe.device)
    report({"kind": "published", "folder": str(folder / "model"), "step": chosen.step})
    if arguments.get("until") == "published":
        return ended("published", folder, report)

    # 9. Base and tuned model, loaded from their folders, on rows that neither has seen.
    training = sum(step["seconds"] for step in read_lines(folder / "metrics.jsonl"))
    found = evaluate_both(recipe, folder, base, contract, splits.test, training, report)
    write_report(folder, recipe, splits, plan, found)
    report({"kind": "finished"})
    return {"folder": str(folder), "scores": found.report.to_json()["scores"] if found.report else []}


def ended(until: str, folder: Path, report: Report) -> dict[str, Any]:
    """A run that was to go no further than this, and can be resumed."""
    report({"kind": "ended", "until": until})
    return {"folder": str(folder), "scores": []}


def find_published_step(folder: Path, best: int | None, last: int, report: Report) -> Checkpoint:
    """The checkpoint to publish: of the best look where it is wanted and whole, else of the last step."""
    if best is not None and best != last:
        try:
            return find_step(folder, best)
        except TrainingError as error:
            report({"kind": "warning", "sentence": f"{error} The weights of the last step are published instead."})
    return find_step(folder, last)


def changed_model(model: Any, recipe: Recipe) -> Any:
    """The model with what the method adds to it, the same each time for one recipe."""
    torch.manual_seed(recipe.seed)
    return method_for(recipe.method).apply(model, recipe.method)


def describe(splits: Splits) -> dict[str, Any]:
    """What the data is, in numbers."""
    return {
        "format": splits.format,
        "ledgers": [
            {"file": ledger.file, "sentence": " ".join((ledger.sentence(), *ledger.remarks))}
            for ledger in splits.ledgers
        ],
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "tokens": asdict(spread(splits.train.lengths)),
        "trained_tokens": int(splits.train.trained.sum()),
        "id": splits.train.shelf.id,
        "replay": splits.replay.to_json() if splits.replay else None,
    }


def ledgers_of(splits: Splits) -> list[dict[str, Any]]:
    """The account of every row that was read, for ledger.json; files of replayed rows are marked."""
    replayed = splits.replay.ledgers if splits.replay else []
    return [
        *(ledger.to_json() for ledger in splits.ledgers),
        *({**one.to_json(), "replayed": True} for one in replayed),
    ]


def settle_looks(recipe: Recipe, splits: Splits, steps: int, report: Report) -> Looks:
    """When the run looks at its validation rows, and at which; what that takes is said."""
    lengths, wanted = splits.validation.lengths, recipe.evaluate
    if not len(lengths):
        return Looks(steps, np.arange(0), 0.0)
    trained = steps * recipe.optim.batch_size * float(splits.mixture.lengths.mean())
    looks = plan_looks(steps, trained, lengths, wanted.every, wanted.look_rows)
    report({"kind": "looks", "every": looks.every, "rows": len(looks.places), "of": len(lengths), "share": looks.share})
    return looks


def plan_course(recipe: Recipe, objective: Sft, steps: int, look_every: int) -> Course:
    """How many steps, how often to look and save, and what to do on the way."""
    return Course(
        steps,
        validate_every=look_every,
        checkpoint_every=recipe.output.checkpoint_every or max(objective.steps_per_epoch, math.ceil(steps / 10)),
        metric=recipe.evaluate.metric,
        patience=recipe.evaluate.patience,
        keep_best=recipe.evaluate.publish == "best",
        spikes=recipe.optim.spikes,
    )


def saver(folder: Path, keep_last: int, bound: dict[str, Any], report: Report) -> Callable[[Policy, Standing], None]:
    """What the loop calls to save a checkpoint."""

    def save(policy: Policy, standing: Standing) -> None:
        written = save_checkpoint(policy, standing, folder / "checkpoints", keep_last, bound)
        report({"kind": "checkpoint", "step": policy.step_number, "folder": str(written)})

    return save


def write_report(folder: Path, recipe: Recipe, splits: Splits, plan: Plan, found: Found) -> None:
    """report/report.html and report/report.json, with what is behind its scores in rows.jsonl."""
    target = folder / "report"
    target.mkdir(exist_ok=True)
    method = recipe.method.type
    names = ", ".join(Path(ledger.file).name for ledger in splits.ledgers[:3])
    story = Story(
        title=folder.name,
        lead=f"{recipe.model.base}, {method}, {counted(len(splits.train), f'row of {names}')}",
        steps=read_lines(folder / "metrics.jsonl"),
        validations=[event for event in read_lines(folder / "events.jsonl") if event["kind"] == "validation"],
        lengths=splits.train.lengths.tolist(),
        trained=splits.train.trained.tolist(),
        ledger=total(splits.ledgers, "all files").sentence(),
        replayed=splits.replay.sentence() if splits.replay else "",
        recipe=(folder / "config.yaml").read_text(encoding="utf-8"),
        plan=plan.to_json(),
        report=found.report,
        probes=found.probes,
        samples=recipe.evaluate.samples,
    )
    write_text(target / "report.html", render_page(story))
    if found.report is not None:
        write_json(target / "report.json", {**found.report.to_json(), "probes": found.probes_json()})
        write_text(target / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in found.rows))
