"""What a run works with, as its recipe and its rows have it: how the base is prompted, and what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.core import events
from tunesmith.core.events import Report
from tunesmith.data.split import Splits
from tunesmith.jobs.trained import pool_of
from tunesmith.model.heads import fresh_weights
from tunesmith.model.load import TASKS, LoadSpec
from tunesmith.model.methods.table import method_for
from tunesmith.prompt.base import Base
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract
from tunesmith.train.objective import Objective
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe


def contract_of(recipe: Recipe, base: Base, task: str) -> Contract:
    """How the base is prompted, as the recipe has it."""
    prefix, add_tokens = getattr(recipe.objective, "prefix", ""), recipe.model.add_tokens
    chat, answers = TASKS[task].chats, TASKS[task].causal or not TASKS[task].chats
    return load_contract(base.folder, recipe.model.template, recipe.data.train_on, chat, add_tokens, prefix, answers)


def spec_of(recipe: Recipe, plan: Plan, task: str, facts: Mapping[str, Any]) -> LoadSpec:
    """How the base is loaded to be trained: in the run's precision where it stays as it is, else in fp32."""
    return LoadSpec(
        task=task,
        facts=facts,
        precision=plan.precision if method_for(recipe.method).base_untouched else "fp32",
        device="cpu" if plan.sharding == "full" else plan.device,
        quantize=recipe.model.quantize,
        new_tokens=tuple(recipe.model.add_tokens),
        dropout=recipe.model.dropout,
        shard=plan.sharding == "full",
        pool=pool_of(recipe),
    )


def informed(objective: Objective, splits: Splits, contract: Contract) -> Objective:
    """The objective, which knows what its rows are.

    Raises:
        DataError: it could learn nothing of them.
    """
    if objective.informed is not None:
        objective = objective.informed(splits.train.dataset.facts, contract)
    objective.refuse(splits.train)
    return objective


def say_fresh(model: Any, task: str, report: Report) -> None:
    """Say of a base without a head what that means for the task."""
    if fresh_weights(model) and TASKS[task].said_of_fresh:
        report(events.Warning(TASKS[task].said_of_fresh))
