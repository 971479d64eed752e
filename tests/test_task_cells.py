"""One cell of the matrix of tasks for each task; scripts/tasks_matrix.py tries all of them."""

from __future__ import annotations

import pytest

from task_cells import TASKS, try_cell


@pytest.mark.parametrize(("task", "kind"), [("classify", "distilbert"), ("pretrain", "roberta")])
def test_a_task_is_trained_resumed_and_read_by_the_library(tmp_path, task, kind):
    seen = try_cell(task, kind, "lora", tmp_path)
    assert {name: seen[name] for name in ("resumed", "reloaded", "Auto class", "merged", "pipeline")} == {
        "resumed": "exactly", "reloaded": "equal", "Auto class": "equal", "merged": "equal", "pipeline": "equal",
    }  # fmt: skip


def test_every_task_that_predicts_or_learns_text_has_its_cells():
    from tunesmith.jobs.tasks.table import EVALUATIONS

    assert {"pretrain" if name == "masked" else name for name in EVALUATIONS} <= TASKS.keys()
