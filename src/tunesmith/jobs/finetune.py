"""The main road, in nine steps: from a recipe to a measured model. Runs in a child process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.core import events
from tunesmith.core.errors import TrainingError
from tunesmith.core.events import METRICS, Report, silent, to_folder
from tunesmith.core.files import read_lines, write_json
from tunesmith.data.split import Splits, Subset, load_splits
from tunesmith.jobs.card import make_card
from tunesmith.jobs.final_evaluation import evaluate_both
from tunesmith.jobs.merge import export_merged, rows_to_compare
from tunesmith.jobs.own_rewards import answering_source, planned_rows, rewards_of, sources_of
from tunesmith.jobs.preflight import (
    REWARDED,
    doubts,
    refuse_measures,
    refuse_too_few,
    refuse_unknown_tokens,
    refuse_what_cannot_teach,
    refuse_what_does_not_fit,
)
from tunesmith.jobs.ready import contract_of, informed, say_fresh, spec_of
from tunesmith.jobs.replay import with_replay
from tunesmith.jobs.resume import begin_plan, go_back, made_from
from tunesmith.jobs.run_report import describe, ledgers_of, write_report
from tunesmith.jobs.start import TRAINING
from tunesmith.jobs.tasks.evaluate import evaluate_run
from tunesmith.jobs.trained import changed_model, trained_model
from tunesmith.jobs.verify_export import (
    losses_of,
    refuse_unchanged,
    said_of_quantizing,
    verify_export,
    what_was_trained,
)
from tunesmith.jobs.verify_merge import Trial
from tunesmith.jobs.words import with_used_words
from tunesmith.model.device import choose_device, keep_freed_memory, let_go
from tunesmith.model.export import export
from tunesmith.model.kernels import KERNELS, OWN, put_in_place
from tunesmith.model.load import TASKS, load, read_config, refuse_not_finite, refuse_untrainable
from tunesmith.model.methods.continue_from import starting_adapter
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import method_for
from tunesmith.model.quantize import is_quantized
from tunesmith.model.soft import soft_tokens
from tunesmith.model.value_head import add_value_head
from tunesmith.prompt.base import Base, context_length, resolve
from tunesmith.track.trackers import TrackConfig, open_trackers
from tunesmith.train.checkpoint import (
    Checkpoint,
    find_step,
    refuse_small_disk,
    restore,
    same_optimizer,
    save_checkpoint,
)
from tunesmith.train.learner import Learner
from tunesmith.train.loop import Crowded, LoopSettings, Spike, train
from tunesmith.train.objective import Draw, Models, Objective
from tunesmith.train.objectives.ppo import needs_value
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.optimizers import kind_of, usual_rate
from tunesmith.train.perturb import make_perturb, passes_of
from tunesmith.train.planning.packing_check import refuse_looking_ahead
from tunesmith.train.planning.plan import Plan, with_threads
from tunesmith.train.planning.planner import Wishes, complete_plan, shortest
from tunesmith.train.planning.validation import ValidationPlan, plan_validation
from tunesmith.train.precompute import precomputed
from tunesmith.train.prefixed import prefixed
from tunesmith.train.rates import as_table, refuse_unmatched
from tunesmith.train.recipe import Recipe, longest_row, read_recipe
from tunesmith.train.source import Source
from tunesmith.train.sources.rows import RowSource, steps_per_epoch
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import Ranks, join_ranks


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
    keep_freed_memory()
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
    refuse_what_does_not_fit(recipe)
    torch.manual_seed(recipe.seed)
    ranks = join_ranks(arguments, choose_device(recipe.device)[0])
    report = to_folder(folder, forward) if ranks.leads else silent

    # 2. The base model's prompt contract.
    base = resolve(recipe.model.base, recipe.model.revision)
    objective = objective_for(recipe.objective, read_config(base.folder))
    refuse_measures(recipe, objective)
    refuse_untrainable(base.folder, objective.task)
    contract = contract_of(recipe, base, objective.task)

    # 3. Rows, checked, as token ids and masks, on disk.
    report(events.Phase("preparing data"))
    splits = load_splits(recipe.data, contract, longest_row(recipe, base), objective.reads)

    # 4. What is trained on, what is validated on, what is kept for the end.
    refuse_too_few(splits, arguments.get("least_rows", 0))
    refuse_what_cannot_teach(recipe, splits, contract)
    added = contract.tokenizer.convert_tokens_to_ids(list(recipe.model.add_tokens))
    words = max(read_config(base.folder).get_text_config().vocab_size, *(id + 1 for id in added), 0)
    refuse_unknown_tokens(splits, contract, words)
    splits = with_replay(recipe, folder, base, contract, splits, ranks, report)
    rows = splits.mixture
    if ranks.leads:
        write_json(folder / "ledger.json", ledgers_of(splits))
    report(events.Data(**describe(splits)))
    rewards = rewards_of(recipe, objective, splits.train, arguments.get("allow_functions", ()))
    for sentence in doubts(recipe, splits, base):
        report(events.Warning(sentence))

    # 5. What the machine says of the plan, or an earlier attempt has decided; and where that left off.
    method = method_for(recipe.method)
    before = starting_adapter(getattr(recipe.method, "continue_from", None))
    bound = made_from(recipe, base, contract, splits, before)
    bound |= {"rewards": made_of} if (made_of := sources_of(rewards)) else {}
    plan, checkpoint, changed = begin_plan(recipe, folder, bound, splits, arguments, ranks, report)
    torch.set_num_threads(plan.threads)  # exactness is promised per plan

    # 6. The model, the way it is changed, and the whole plan, decided on the model as it will be trained.
    report(events.Phase("loading the model"))
    task, facts = objective.task, splits.train.dataset.facts
    objective = informed(objective, splits, contract)
    loaded = load(base.folder, spec_of(recipe, plan, task, facts))
    say_fresh(loaded.model, task, report)
    batch_size, an_epoch = recipe.optim.batch_size, steps_per_epoch(rows, recipe.optim.batch_size)
    steps = recipe.optim.steps or max(1, math.ceil(recipe.optim.epochs * an_epoch)) * objective.updates
    shown = planned_rows(rows, objective, contract, context_length(base.folder))
    model = changed_model(loaded.model, recipe, shown, steps)
    if needs_value(objective):
        add_value_head(model)
    plan = with_used_words(plan, model, recipe, objective, rows.words, checkpoint)
    attention = model.config._attn_implementation
    torch.manual_seed(recipe.seed + ranks.rank)  # or dropout would leave out the same in every process
    placed = Placed(model, plan, ranks, loaded.sources)
    del model, loaded
    refuse_unmatched(recipe.optim.groups, list(placed.weights))
    objective = prefixed(objective, soft_tokens(placed.model))
    refuse_not_finite(base.folder, placed.model)
    if TASKS[task].causal:
        refuse_looking_ahead(base.folder, placed.model, shortest(shown)[-1])
    kind = kind_of(recipe.optim.optimizer)
    passes = steps * passes_of(recipe.perturb)
    plain = recipe.perturb.type == "none" and recipe.model.quantize == "none"
    wishes = Wishes(recipe.compile, recipe.checkpointing, objective.rows_a_step(batch_size), passes,
                    kind.bytes_a_weight, recipe.micro_tokens, plain)  # fmt: skip
    validation = choose_validation(recipe, splits, steps, steps * objective.rows_a_step(batch_size), report)
    plan = complete_plan(plan, wishes, placed, objective, shown, report)
    if ranks.leads:
        write_json(folder / "plan.json", plan.to_json())
    start = start_of(recipe, base, before)
    objective = with_values(objective, Models(placed.model, plan), splits, folder, start, ranks, report)
    rate = recipe.optim.learning_rate or usual_rate(recipe.optim.optimizer, method.learning_rate * objective.rate)
    report(events.Plan(plan.to_json(), sum(weight.numel() for weight in trainable(placed.model).values()), rate))

    # 7. Training.
    report(events.Phase(TRAINING))
    settings = loop_settings(recipe, an_epoch * objective.updates, steps, validation.every)
    learner = Learner(placed, recipe.optim, rate, steps, method, lambda name: method.rate(recipe.method, name))
    models = Models(placed.model, plan)
    perturb = make_perturb(recipe.perturb, placed.model, recipe.seed, partial(getattr, learner, "step_number"))
    source: Any = RowSource(rows, objective, plan, batch_size, steps, recipe.seed, ranks)
    if rewards is not None:
        source = answering_source(source, models, contract, rewards, attention, report)
    state = TrainerState() if checkpoint is None else restore(learner, checkpoint, source)
    state.early = state.early and not changed
    say_rates(learner, checkpoint, report)
    refuse_small_disk(learner, folder, recipe.output.keep_last)
    asked = objective.arrange(splits.validation.at(validation.places), Draw()) if splits.validation else []
    watched = source.watched(asked) if len(asked) else []
    while not state.early and learner.step_number < settings.steps:
        try:
            train(
                objective, models, learner, source, settings, state, watched,
                saver(learner, state, source, folder, recipe.output.keep_last, bound, report), report, stop, perturb,
            )  # fmt: skip
        except Spike:
            state = go_back(folder, learner, state, report)
        except Crowded as crowd:
            plan = on_free_threads(plan, folder, crowd)
    put_in_place(KERNELS[OWN])  # for all that comes after
    steps = learner.step_number
    beside = losses_in_training(recipe, placed, learner, splits.train, task, attention) if ranks.leads else None
    del learner, models, placed, source, watched, perturb
    let_go(plan.device)
    ranks.leave()
    if not ranks.leads:
        return {}
    if arguments.get("until") == "trained":
        return ended("trained", folder, report)

    # 8. The model, exported from a checkpoint that was read back, and proven to answer.
    report(events.Phase("exporting"))
    wanted_step = state.best_step if recipe.evaluate.export == "best" else None
    chosen = exported_step(folder / "checkpoints", wanted_step, steps, report)
    model, is_changed = trained_model(base.folder, recipe, chosen, task, facts)
    refuse_unchanged(model, is_changed)
    card = make_card(recipe, base, contract, splits, plan, chosen.step, folder)
    target = folder / ("adapter" if recipe.output.merge and "merge" in method.can else "model")
    export(model, base, contract, target, {**card, "chosen": objective.choose(model, splits.validation)})
    trained = what_was_trained(model, shown, recipe.device, task)
    if beside is not None and (is_quantized(model) or chosen.step == steps):
        report(events.Warning(said_of_quantizing(recipe.model.quantize, model, beside, trained.losses)))
    del model
    verify_export(target, contract, shown, trained, recipe.device)
    if target.name == "adapter":
        export_merged(target, folder / "model", rows_to_compare(splits), report, Trial(device=recipe.device))
        verify_export(folder / "model", contract, shown, None, recipe.device)
    report(events.Exported(str(folder / "model"), chosen.step))
    if arguments.get("until") == "exported":
        return ended("exported", folder, report)

    # 9. Base and tuned model, loaded from their folders, on rows that neither has seen.
    training = sum(step["seconds"] for step in read_lines(folder / METRICS))
    if TASKS[task].causal:
        found = evaluate_both(recipe, folder, base, contract, splits.test, training, report, rewards)
    else:
        found = evaluate_run(recipe, folder, base, splits, report)
    write_report(folder, recipe, splits, plan, found)
    report(events.Finished())
    return {"folder": str(folder), "scores": found.report.to_json()["scores"] if found.report else []}


def on_free_threads(plan: Plan, folder: Path, crowd: Crowded) -> Plan:
    """The plan with as many threads as others leave, as the run is computed and recorded from here on."""
    plan = with_threads(plan, crowd.threads, crowd.sentence)
    write_json(folder / "plan.json", plan.to_json())
    torch.set_num_threads(plan.threads)
    return plan


def losses_in_training(
    recipe: Recipe, placed: Placed, learner: Learner, rows: Subset, task: str, attention: str
) -> list[Any] | None:  # fmt: skip
    """The losses of a few rows beside a quantised base, in whose stead the model may answer beside the base as it was.

    Args:
        recipe: of the run.
        placed: the model as it was trained.
        learner: has its averaged weights, if they are averaged.
        rows: that it was trained on.
        task: that it was trained for.
        attention: of rows that are not packed.
    """
    if recipe.model.quantize == "none":
        return None
    placed.model.set_attn_implementation(attention)
    with learner.with_average():
        return losses_of(placed.model, rows, task)


def with_values(
    objective: Objective, models: Models, splits: Splits, folder: Path, start: str, ranks: Ranks, report: Report
) -> Objective:  # fmt: skip
    """The objective with what it computes of all rows beforehand, if it does."""
    if objective.precompute is None and objective.beside is None:
        return objective
    report(events.Phase("computing what rows need beforehand"))
    asked = [*splits.train, *(splits.replay.rows if splits.replay else ()), *splits.validation]
    return precomputed(objective, models, asked, folder, start, ranks)


def start_of(recipe: Recipe, base: Base, before: str | None) -> str:
    """What training starts from: the base, and what the method puts on it, maybe as an adapter has it."""
    return "\n".join([base.fingerprint(), repr(recipe.method), str(recipe.seed), before or ""])


def say_rates(learner: Learner, checkpoint: Checkpoint | None, report: Report) -> None:
    """Say which weights learn how fast, and what might not be expected of the optimizer."""
    report(events.Rates(as_table(learner.groups, learner.weights)))
    for sentence in said_of_optimizer(learner, checkpoint):
        report(events.Warning(sentence))


def said_of_optimizer(learner: Learner, checkpoint: Checkpoint | None) -> Iterator[str]:
    """What somebody who has asked for this optimizer might not expect."""
    if checkpoint is not None and not same_optimizer(learner, checkpoint):
        yield f"{checkpoint.folder.name} is of another optimizer: {learner.optimizer_type} begins with no moments."
    if learner.optimizer_type == "muon" and not any(group.matrix for group in learner.groups):
        yield "optim.optimizer = muon: none of the trained weights is a matrix of a layer, so all of it is AdamW."


def ended(until: str, folder: Path, report: Report) -> dict[str, Any]:
    """A run that was to go no further than this, and can be resumed."""
    report(events.Ended(until))
    return {"folder": str(folder), "scores": []}


def exported_step(folder: Path, best: int | None, last: int, report: Report) -> Checkpoint:
    """The checkpoint to export: of the best validation where it is wanted and whole, else of the last step."""
    if best is not None and best != last:
        try:
            return find_step(folder, best)
        except TrainingError as error:
            report(events.Warning(f"{error} The weights of the last step are exported instead."))
    return find_step(folder, last)


def choose_validation(recipe: Recipe, splits: Splits, steps: int, rows: int, report: Report) -> ValidationPlan:
    """When the run is validated, and on which rows; what that takes is said."""
    lengths, wanted = splits.validation.lengths, recipe.evaluate
    if not len(lengths):
        return ValidationPlan(steps, np.arange(0), 0.0)
    trained = rows * float(splits.mixture.lengths.mean())
    validation = plan_validation(steps, trained, lengths, wanted.every, wanted.validation_rows)
    report(events.ValidationPlan(validation.every, len(validation.places), len(lengths), validation.share))
    return validation


def loop_settings(recipe: Recipe, an_epoch: int, steps: int, validate_every: int) -> LoopSettings:
    """How many steps, how often to validate and save, and what to do on the way."""
    return LoopSettings(
        steps,
        validate_every=validate_every,
        checkpoint_every=recipe.output.checkpoint_every or max(an_epoch, math.ceil(steps / 10)),
        metric=recipe.evaluate.metric,
        patience=recipe.evaluate.patience,
        keep_best=recipe.evaluate.export == "best",
        spikes="off" if recipe.objective.type in REWARDED else recipe.optim.spikes,
    )


def saver(
    learner: Learner, state: TrainerState, source: Source, folder: Path, keep_last: int, bound: dict[str, Any],
    report: Report,
) -> Callable[[], None]:  # fmt: skip
    """What the loop calls to save a checkpoint."""

    def save() -> None:
        written = save_checkpoint(learner, state, source, folder / "checkpoints", keep_last, bound)
        report(events.Checkpoint(learner.step_number, str(written)))

    return save
