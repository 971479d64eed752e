"""Going on with a run that ended early: from its last whole checkpoint, under its plan, with nothing changed unseen.

On one machine with the same libraries and threads a resumed run gives the losses and weights of one that was
never broken, bit by bit: order of rows, learning rate, dropout and moments all stand where they stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError, TrainingError
from tunesmith.core.events import Report
from tunesmith.core.files import keep_lines
from tunesmith.data.split import Splits
from tunesmith.jobs.recipe import Recipe
from tunesmith.prompt.base import Base
from tunesmith.prompt.contract import Contract
from tunesmith.train.checkpoint import Checkpoint, find_checkpoint, find_step, restore
from tunesmith.train.plan import Plan, differences, read_plan
from tunesmith.train.policy import Policy
from tunesmith.train.standing import Standing

MOST_ROLLBACKS = 5
PLANNED = (
    "precision ", "compile ", "checkpointing ", "device ", "micro_tokens ", "optim.accumulation ", "data.packing ",
    "processes ", "sharding ",
)  # fmt: skip


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
            name: rows.shelf.id
            for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
        }
        | {"replay": splits.replay.rows.shelf.id if splits.replay else None},
    }


def find_resumed(
    folder: Path, bound: Mapping[str, Any], here: Plan, arguments: Mapping[str, Any], report: Report
) -> Resumed | None:
    """The last whole checkpoint of the run in `folder` and its plan; None if nothing was trained yet.

    What was noted of steps after that checkpoint is taken out of the run's files: they are done again.

    Args:
        folder: the run's.
        bound: what the run is made from now.
        here: the plan that would be made here now.
        arguments: `accept_change` and `allow_inexact` let differences pass; both are recorded.
        report: hears about damaged checkpoints, differences and where the run goes on.

    Raises:
        TrainingError: none of its checkpoints is whole.
        ConfigError: something was changed since, or this machine is another; the message names it.
    """
    checkpoint, damaged = find_checkpoint(folder / "checkpoints")
    for sentence in damaged:
        report({"kind": "warning", "sentence": sentence})
    if checkpoint is None and not (arguments.get("smaller") and (folder / "plan.json").exists()):
        forget_after(folder, 0)  # nothing was trained: the run begins as its config.yaml says now
        report({"kind": "resumed", "step": 0})
        return None
    changes = [] if checkpoint is None else list(changed(checkpoint.state["made_from"], bound))
    if changes and not arguments.get("accept_change"):
        raise ConfigError(
            f"{folder}: since its checkpoint {'; '.join(changes)}. Put it back, start a new run, or go on with "
            "--accept-change, which is recorded."
        )
    plan = read_plan(folder / "plan.json")
    if any(change.startswith(PLANNED) for change in changes):
        plan = here
    others = [one for one in differences(plan, here) if not one.startswith("threads")]
    if others and not arguments.get("allow_inexact"):
        raise ConfigError(
            f"{folder}: {'; '.join(others)}, so it cannot go on to the last bit as it would have. Go on with "
            "--allow-inexact, which is recorded."
        )
    if others:
        plan = replace(plan, device=here.device, machine=here.machine, versions=here.versions, threads=here.threads)
    step = 0 if checkpoint is None else checkpoint.step
    forget_after(folder, step)
    report({"kind": "resumed", "step": step, "changes": changes, "inexact": others})
    return Resumed(checkpoint, plan, bool(changes))


def go_back(folder: Path, policy: Policy, standing: Standing, report: Report) -> Standing:
    """Take a run that met a spike back to its last checkpoint; the batches that it took since are left behind.

    Raises:
        TrainingError: there is no checkpoint yet, or it has gone back too often.
    """
    if standing.anchor is None or standing.rollbacks == MOST_ROLLBACKS:
        why = "there is no checkpoint yet" if standing.anchor is None else f"it has done so {MOST_ROLLBACKS} times"
        raise TrainingError(
            f"step {policy.step_number + 1}: the loss stands far out, and the run cannot go back: {why}. "
            "Lower optim.learning_rate, raise optim.warmup, or look at the rows of this step."
        )
    checkpoint = find_step(folder / "checkpoints", standing.anchor)
    earlier = restore(policy, checkpoint)
    policy.optimizer.zero_grad(set_to_none=True)
    if policy.ranks.leads:
        forget_after(folder, checkpoint.step)
    policy.ranks.wait()
    report({"kind": "rolled_back", "step": checkpoint.step, "batches": standing.cursor})
    return replace(earlier, cursor=standing.cursor, rollbacks=standing.rollbacks + 1)


def forget_after(folder: Path, step: int) -> None:
    """Take out what was noted of later steps."""
    keep_lines(folder / "metrics.jsonl", lambda line: line["step"] <= step)
    keep_lines(folder / "events.jsonl", lambda line: line["kind"] != "validation" or line["step"] <= step)


def changed(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Each value that is another now, with its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            inner = f"{name}.{key}" if name else key
            yield from changed(before.get(key), now.get(key), inner.removeprefix("recipe."))
    elif before != now:
        yield f"{name} was {before!r} and is {now!r}"
