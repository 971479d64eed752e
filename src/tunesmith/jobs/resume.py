"""Going on with a run that ended early: from its last whole checkpoint, under its plan, with nothing changed unseen.

On one machine with the same libraries and threads a resumed run gives the losses and weights of one that was
never broken, bit by bit: order of rows, learning rate, dropout and moments all stand where they stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.difference import Difference, differences
from tunesmith.core.errors import ConfigError, TrainingError
from tunesmith.core.events import EVENTS, METRICS, Report
from tunesmith.core.files import keep_lines
from tunesmith.data.split import Splits
from tunesmith.exec.machine import version_of
from tunesmith.prompt.base import Base
from tunesmith.prompt.contract import Contract
from tunesmith.train.checkpoint import Checkpoint, delete_later, find_checkpoint, find_step, restore
from tunesmith.train.learner import Learner
from tunesmith.train.planning.plan import Plan, in_smaller_pieces, read_plan
from tunesmith.train.planning.planner import make_plan
from tunesmith.train.recipe import Recipe
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.ranks import Ranks

MOST_ROLLBACKS = 5
# What of a plan is decided anew when the user accepts another value of a setting: that and what was decided by it.
DECIDED_BY = {
    "precision": ("precision", "attention", "chunked", "compiled", "checkpointing", "graphs"),
    "compile": ("compiled", "graphs"),
    "checkpointing": ("checkpointing", "graphs"),
    "device": (
        "device",
        "precision",
        "packing",
        "attention",
        "chunked",
        "compiled",
        "checkpointing",
        "graphs",
        "micro_tokens",
    ),
    "micro_tokens": ("micro_tokens", "checkpointing", "graphs"),
    "optim.accumulation": ("accumulation", "checkpointing", "graphs"),
    "data.packing": ("packing", "attention", "chunked", "compiled", "checkpointing", "graphs"),
    "processes": ("processes", "sharding", "chunked", "compiled", "checkpointing", "graphs"),
    "sharding": ("sharding", "chunked", "compiled", "checkpointing", "graphs"),
}
# What a plan brings along, so that another value here changes nothing, unless the plan moves for another reason.
KEPT = {"threads"}


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on (None: at its beginning), under which plan, and whether it was changed since."""

    checkpoint: Checkpoint | None
    plan: Plan
    changed: bool


def made_from(recipe: Recipe, base: Base, contract: Contract, splits: Splits, start: str | None) -> dict[str, Any]:
    """All that must be the same when a run goes on: plain values, by name; `start` is the starting adapter's hash."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"track"}),
        "base model": base.fingerprint(),
        "tokenizer and template": contract.id,
        "starting adapter": start,
        "rows": {
            name: rows.dataset.id
            for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
        }
        | {"replay": splits.replay.rows.dataset.id if splits.replay else None},
        "prompt": splits.around.version.id if splits.around else None,
    }


def begin_plan(
    recipe: Recipe, folder: Path, bound: dict[str, Any], splits: Splits, arguments: dict[str, Any], ranks: Ranks,
    report: Report,
) -> tuple[Plan, Checkpoint | None, bool]:  # fmt: skip
    """The plan as the first process has it so far, the checkpoint to go on from, whether the run was changed."""
    plan = make_plan(
        recipe.precision, recipe.data.packing, recipe.micro_tokens, recipe.optim.accumulation, recipe.device, ranks,
        recipe.sharding,
    )  # fmt: skip
    if recipe.model.quantize != "none":
        plan = replace(plan, versions={**plan.versions, "bitsandbytes": version_of("bitsandbytes")})
    checkpoint, changed = None, False
    if ranks.leads:
        resumed = find_resumed(folder, bound, plan, arguments, report) if arguments.get("resume") else None
        if resumed is not None:
            plan, checkpoint, changed = resumed.plan, resumed.checkpoint, resumed.changed
        if arguments.get("smaller"):
            plan = in_smaller_pieces(plan, recipe.optim.batch_size, splits.mixture.every_length.tolist())
    told = {"plan": plan.to_json(), "step": None if checkpoint is None else checkpoint.step, "changed": changed}
    told = ranks.gather(told)[0]
    if told["step"] is not None and checkpoint is None:
        checkpoint = find_step(folder / "checkpoints", told["step"])
    return Plan(**told["plan"]), checkpoint, told["changed"]


def find_resumed(
    folder: Path, bound: Mapping[str, Any], here: Plan, arguments: Mapping[str, Any], report: Report
) -> Resumed | None:
    """The last whole checkpoint of the run in `folder` and its plan; None if nothing was trained yet.

    What was noted of steps after that checkpoint is taken out of the run's files: they are done again.

    Args:
        folder: the run's.
        bound: what the run is made from now.
        here: the plan that would be made here now.
        arguments: `accept_change` and `allow_inexact` let differences pass, each its own kind; all are recorded.
        report: hears about damaged checkpoints, differences and where the run goes on.

    Raises:
        TrainingError: none of its checkpoints is whole.
        ConfigError: something was changed since, or this machine is another; the message names it.
    """
    checkpoint, damaged = find_checkpoint(folder / "checkpoints")
    for sentence in damaged:
        report(events.Warning(sentence))
    if checkpoint is None and not (arguments.get("smaller") and (folder / "plan.json").exists()):
        forget_after(folder, 0)  # nothing was trained: the run begins as its config.yaml says now
        report(events.Resumed(0))
        return None
    before = {} if checkpoint is None else checkpoint.state["made_from"]
    changes = [] if checkpoint is None else list(changed(before, bound))
    plan, inexact = moved(read_plan(folder / "plan.json"), here, changes)
    refuse_unaccepted(folder, changes, inexact, arguments)
    step = 0 if checkpoint is None else checkpoint.step
    forget_after(folder, step)
    accepted = {"changes": [asdict(one) for one in changes], "inexact": [asdict(one) for one in inexact]}
    report(events.Resumed(step, **accepted))
    return Resumed(checkpoint, plan, bool(changes))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """What a run is made from and was not; settings by the names that recipes give them."""
    for one in differences(before, now):
        yield replace(one, name=one.name.removeprefix("recipe."))


def moved(plan: Plan, here: Plan, changes: Sequence[Difference]) -> tuple[Plan, list[Difference]]:
    """The plan to go on under, and what makes it another than the user has asked for by changing settings.

    Args:
        plan: the recorded one.
        here: the one that would be made here now.
        changes: of settings; what they decide is taken from `here`, and nothing else.
    """
    anew = {field for one in changes for field in DECIDED_BY.get(one.name, ())}
    reasons = {name: reason for name, reason in plan.reasons.items() if name not in anew}
    reasons |= {name: reason for name, reason in here.reasons.items() if name in anew}
    others = [one for one in differences(plan.surroundings(), here.surroundings()) if one.name not in anew]
    plan = replace(plan, reasons=reasons, **{field: getattr(here, field) for field in anew})
    if all(one.name in KEPT for one in others):
        return plan, []
    # Whether the loss is right, and what is fastest there, is tried again.
    return replace(plan, chunked=None, attention=None, graphs=None, **here.surroundings()), others


def refuse_unaccepted(
    folder: Path, changes: Sequence[Difference], inexact: Sequence[Difference], arguments: Mapping[str, Any]
) -> None:
    """Refuse to go on with differences of a kind that nobody has accepted.

    Raises:
        ConfigError: it names each of them, and what accepts it.
    """
    sentences: list[str] = []
    if changes and not arguments.get("accept_change"):
        sentences.append(
            f"since its checkpoint {'; '.join(map(str, changes))}. Put it back, start a new run, or go on with "
            "--accept-change, which is recorded."
        )
    if inexact and not arguments.get("allow_inexact"):
        sentences.append(
            f"{'; '.join(map(str, inexact))}, so it cannot go on to the last bit as it would have. Go on with "
            "--allow-inexact, which is recorded."
        )
    if sentences:
        raise ConfigError(f"{folder}: {' And '.join(sentences)}")


def go_back(folder: Path, learner: Learner, state: TrainerState, report: Report) -> TrainerState:
    """Take a run that met a spike back to its last checkpoint; its source goes on: batches since are left behind.

    Raises:
        TrainingError: there is no checkpoint yet, or it has gone back too often.
    """
    if state.last_checkpoint is None or state.rollbacks == MOST_ROLLBACKS:
        often = f"it has done so {MOST_ROLLBACKS} times"
        why = "there is no checkpoint yet" if state.last_checkpoint is None else often
        raise TrainingError(
            f"step {learner.step_number + 1}: the loss stands far out, and the run cannot go back: {why}. "
            "Lower optim.learning_rate, raise optim.warmup, or look at the rows of this step."
        )
    checkpoint = find_step(folder / "checkpoints", state.last_checkpoint)
    earlier = restore(learner, checkpoint)
    learner.forget_gradients()
    if learner.ranks.leads:
        delete_later(folder / "checkpoints", checkpoint.step)
        forget_after(folder, checkpoint.step)
    learner.ranks.wait()
    report(events.RolledBack(checkpoint.step))
    return replace(earlier, rollbacks=state.rollbacks + 1)


def forget_after(folder: Path, step: int) -> None:
    """Take out what was noted of later steps."""
    keep_lines(folder / METRICS, lambda line: line["step"] <= step)
    keep_lines(folder / EVENTS, lambda line: line["kind"] != "validation" or line["step"] <= step)
