"""The road from preferences to a better manner, on the embedded model and data: start, reward model, policies, judge.

Each stage is a run of its own. What a stage needs of another is a folder: policies go on from the start's adapter,
which so is their reference, and learn from the pairs, or from the reward model's rewards of their own answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from tunesmith.core.events import METRICS, Report
from tunesmith.core.files import expanded, read_lines, write_json, write_text
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.files import read_rows
from tunesmith.data.source import find_files
from tunesmith.evaluate.policy_picture import draw_policies
from tunesmith.exec.alone import run_alone
from tunesmith.exec.executor import Job
from tunesmith.jobs.start import EXECUTOR, Run, free_folder, start_run
from tunesmith.score.metrics import REWARD_ACCURACY
from tunesmith.train.recipe import read_recipe

PAIRS, QUESTIONS = "hotel-preferences", "hotel-test"
FROM_PAIRS, FROM_REWARDS = ("dpo",), ("ppo", "grpo")  # policies, by what they learn from
WEIGHT = 0.1  # of the reward model, whose rewards lie between -6 and 6: so that values are as large as advantages
SHARES = {"hotel": 0.5, "manners": 1.0}  # how often rows of either are seen in an epoch of the start
LONGEST = 96  # tokens of an answer that is judged
LARGEST_KL, LEAST_BLEU = 10.0, 90.0  # nats an answer; percent of the start's


@dataclass(frozen=True)
class Stage:
    """A stage that is about to begin, for people.

    Attributes:
        name: of its recipe.
        told: what it does.
    """

    name: str
    told: str


TOLD = {
    "start": "the hotel's answers, in all manners that staff have (supervised fine-tuning)",
    "reward": "a reward model, from pairs of answers of which one is polite and concise",
    "dpo": "from the same pairs, without the reward model (DPO)",
    "ppo": "from the reward model's rewards of own answers, against what was expected of them (PPO)",
    "grpo": "from the same rewards, of several answers to a prompt against each other (GRPO)",
    "judge": "held-out questions, asked of all of them",
}


def rlhf_demo(report: Report, tell: Callable[[Stage], None], parent: Path = Path("runs")) -> dict[str, Any]:
    """Run all stages, judge, and write `rlhf.json` and the picture `rlhf.svg` into a new folder in `parent`.

    Args:
        report: hears the events of every stage.
        tell: hears which one begins.
        parent: of the folder.

    Returns:
        What `rlhf.json` says: of each policy its scores and what is `kept`, `reward_accuracy`, `seconds` of each stage.
    """
    folder = free_folder(expanded(parent), "rlhf")
    seconds: dict[str, float] = {}

    def stage(name: str, settings: Mapping[str, Any] | None = None) -> Run:
        tell(Stage(name, TOLD[name]))
        begun = time.perf_counter()
        run = start_run(recipe_of(name, folder, settings or {}), report)
        seconds[name] = time.perf_counter() - begun
        return run

    manners = folder / "manners.jsonl"
    write_text(manners, "".join(f"{json.dumps(row)}\n" for row in manner_chats()))
    start = stage("start", {"data": {"train": {"hotel": SHARES["hotel"], str(manners): SHARES["manners"]}}})
    reward = stage("reward")
    begins = {"method": {"continue_from": str(start.folder)}}
    graded = graded_by(reward.folder)
    policies = {name: stage(name, begins) for name in FROM_PAIRS}
    policies |= {name: stage(name, begins | graded) for name in FROM_REWARDS}
    tell(Stage("judge", TOLD["judge"]))
    begun = time.perf_counter()
    found = judged(start, reward, policies, report)
    seconds["judge"] = time.perf_counter() - begun
    result = {
        "folder": str(folder), "reward_accuracy": accuracy_of(reward), "seconds": seconds, **found,
        "picture": str(folder / "rlhf.svg"),
    }  # fmt: skip
    write_json(folder / "rlhf.json", result)
    draw_policies(result["policies"], LARGEST_KL, folder / "rlhf.svg")
    return result


def graded_by(reward: Path) -> dict[str, Any]:
    """Settings of a policy that learns from a reward model."""
    return {"objective": {"rewards": [{"type": "model", "model": str(reward), "weight": WEIGHT}]}}


def recipe_of(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    """The embedded recipe of a stage, as its run in `folder`."""
    with as_file(files("tunesmith") / "assets" / "rlhf" / f"{name}.yaml") as path:
        return read_recipe(path, {**settings, "output": {"folder": str(folder), "name": name}})


def manner_chats() -> Iterator[dict[str, Any]]:
    """One side of each pair as a chat, the chosen and the rejected one in turn: how staff talk before they learn."""
    for file in find_files(PAIRS):
        for place, row in enumerate(read_rows(file.path, name=file.name)):
            assert not isinstance(row.value, RowFault)
            answer = row.value["rejected" if place % 2 else "chosen"]
            turns = [{"role": "user", "content": row.value["prompt"]}, {"role": "assistant", "content": answer}]
            yield {"messages": turns}


def judged(start: Run, reward: Run, policies: Mapping[str, Run], report: Report) -> dict[str, Any]:
    """The policies' answers to held-out questions beside the start's, and what of the demo's promises is kept."""
    arguments = {
        "start": str(start.folder), "reward": str(reward.folder), "data": QUESTIONS,
        "policies": {name: str(run.folder) for name, run in policies.items()},
        "max_new_tokens": LONGEST, "seed": 0, "device": "auto",
    }  # fmt: skip
    found = run_alone(EXECUTOR, Job("policies", arguments, stoppable=True), report)["report"]
    paths = {name: path_of(run.folder) for name, run in policies.items()}
    lines = [{**one, "kept": kept(one), "path": paths.get(one["name"], [])} for one in found["policies"]]
    return {**found, "policies": lines}


def path_of(folder: Path) -> list[list[float]]:
    """KL and the reward model's reward at each step of a run that learned from its own answers; else nothing."""
    steps = [one for one in read_lines(folder / METRICS) if one.get("kind") == "step"]
    return [[one["kl"], one["reward"] / WEIGHT] for one in steps if "kl" in one and "reward" in one]


def kept(policy: Mapping[str, Any]) -> dict[str, bool] | None:
    """What a policy keeps: of the start, nothing was promised."""
    if policy["won"] is None:
        return None
    return {
        "reward is higher": policy["gain"]["low"] > 0,
        "wins more than half": policy["won"]["low"] > 50,
        f"KL at most {LARGEST_KL:g}": policy["divergence"]["value"] <= LARGEST_KL,
        f"BLEU at least {LEAST_BLEU:g}%": policy["bleu_share"] >= LEAST_BLEU,
    }


def accuracy_of(reward: Run) -> dict[str, Any] | None:
    """How often the reward model is right about held-out pairs, with its interval."""
    return next((one["score"] for one in reward.scores if one["metric"] == REWARD_ACCURACY.name), None)
