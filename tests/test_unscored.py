"""Answers and prompts that nothing is known of: they are told to be such, and nothing else."""

from __future__ import annotations

import json
import math

import numpy as np

from tunesmith.jobs.start import start_run
from tunesmith.train.objectives.advantages import equal_groups
from tunesmith.train.recipe import Recipe

NAN = math.nan


def test_prompts_without_rewards_are_not_told_to_have_equal_ones():
    assert equal_groups(np.array([[NAN, NAN], [1.0, NAN]])) == 0
    assert equal_groups(np.array([[NAN, NAN], [1.0, NAN], [1.0, 1.0], [1.0, 2.0]])) == 0.5
    assert equal_groups(np.array([[1.0, NAN, 1.0], [0.0, 0.0, 0.0]])) == 1


def test_a_run_on_prompts_without_answers_ends_and_says_that_nothing_was_compared(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"What is {i} + 2?"}], "sum": str(i + 2)} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "model": {"base": "ember"},
            "method": {"type": "lora", "rank": 2},
            "objective": {
                "type": "grpo", "samples": 2, "sampling": {"max_new_tokens": 8},
                "rewards": [{"type": "length", "most": 2}],
            },
            "data": {"train": str(path), "test": 0.3, "validation": 0.2},
            "optim": {"steps": 1, "batch_size": 2},
            "output": {"folder": str(tmp_path / "runs"), "name": "short"},
        }
    )  # fmt: skip
    run = start_run(recipe)
    said = [json.loads(line) for line in (tmp_path / "runs" / "short" / "events.jsonl").read_text().splitlines()]
    assert said[-1]["kind"] == "finished"
    assert any("no answers to compare with" in event.get("sentence", "") for event in said)
    assert not run.scores
