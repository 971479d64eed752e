"""What rewards name on this machine goes along with a queued job."""

from __future__ import annotations

import json
import shutil

import pytest

from conftest import save_adapters
from rewarding import rewards
from tunesmith.core.config import validate
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.jobs.brought_rewards import with_rewards
from tunesmith.train.config import SftConfig
from tunesmith.train.policy_config import GrpoConfig


def grpo(*given):
    return validate(GrpoConfig, {"rewards": list(given)}, "recipe")


def test_files_and_models_go_along(tmp_path, tiny, monkeypatch):
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object"}))
    judge = {"type": "judge", "model": str(tiny), "max_new_tokens": 50}
    given = grpo(
        {"type": "json", "json_schema": str(tmp_path / "schema.json")},
        {"type": "combined", "formula": "a + b", "scores": {
            "a": {"type": "length", "unit": "tokens", "tokenizer": str(tiny), "most": 9}, "b": judge}},
        {"type": "judge", "name": "far", "model": "https://host/v1#big"},
        {"type": "judge", "name": "embedded", "model": "ember"},
        "number",
    )  # fmt: skip
    paths = {}
    moved = with_rewards(given, "inputs/rewards", paths)
    names = [getattr(one, "model", None) for one in moved.rewards]
    assert names[2:] == ["https://host/v1#big", "ember", None]
    assert moved.rewards[0].json_schema == "inputs/rewards/0/schema.json"
    assert moved.rewards[1].scores["a"].tokenizer == "inputs/rewards/1/0"
    assert moved.rewards[1].scores["b"].model == "inputs/rewards/1/1"
    for place, path in paths.items():  # as a worker does
        (tmp_path / "job" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "job" / place)
    monkeypatch.chdir(tmp_path / "job")
    made = rewards(*(one.model_dump(exclude_none=True) for one in moved.rewards[:2]), device="cpu")
    made.refuse([{}])  # which asks the judge


def test_what_cannot_go_along_is_refused(tmp_path, tiny):
    [adapter] = save_adapters(tiny, tmp_path, 1)
    for given, said in (
        ({"type": "function", "file": "grade.py"}, "a queued job runs no functions"),
        ({"type": "model", "model": str(adapter)}, "`tunesmith merge` makes a whole model of it"),
        ({"type": "judge", "model": str(tmp_path / "none")}, "none"),
    ):
        with pytest.raises((ConfigError, MissingError), match=said):
            with_rewards(grpo(given), "inputs/rewards", {})


def test_an_objective_without_rewards_stays_as_it_is():
    paths = {}
    config = SftConfig()
    assert with_rewards(config, "inputs/rewards", paths) is config
    assert not paths
