"""One cell of the matrix of tasks for each task; scripts/tasks_matrix.py tries all of them."""

from __future__ import annotations

import pytest

from task_cells import TASKS, try_cell

CELLS = [("classify", "distilbert"), ("token_classify", "bert"), ("extract", "roberta"), ("seq2seq", "t5"),
         ("pretrain", "roberta"), ("pretrain", "t5"), ("dpo", "llama"), ("kto", "gpt2"),
         ("reward", "bert")]  # fmt: skip


@pytest.mark.parametrize(("task", "kind"), CELLS)
def test_a_task_is_trained_resumed_and_read_by_the_library(tmp_path, task, kind):
    seen = try_cell(task, kind, "lora", tmp_path)
    names = ["reloaded", "Auto class", "merged", *(["pipeline"] if "pipeline" in seen else [])]
    assert seen["resumed"] == "exactly"
    assert {seen[name] for name in names} == {"equal"}


def test_every_task_has_its_cells():
    from tunesmith.train.objectives.table import OBJECTIVES

    chats = {"sft", "grpo", "rloo", "ppo"}  # whose cells are those of methods, and of policies
    assert OBJECTIVES.keys() - chats == TASKS.keys()
