"""Several methods on the same rows: one after the other, resumable, and what the table says of them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from conftest import many_rows
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, Stopped
from tunesmith.core.files import read_json, read_lines
from tunesmith.jobs.compare_methods import compare_methods, outcome, recipe_for
from tunesmith.registry.runs import read_run
from tunesmith.train.recipe import read_recipe


@pytest.fixture
def recipe(tmp_path, write_rows, tiny):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: {{base: '{tiny}'}}\n"
        f"data: {{train: '{write_rows(many_rows(40))}', test: 0.2, validation: 0}}\n"
        "method: {type: lora, rank: 4}\n"
        "optim: {learning_rate: 1.0e-2, steps: 2, batch_size: 8}\n"
        "evaluate: {general_ability: 'off', max_new_tokens: 8, rows: 8}\n"
        "precision: fp32\ncompile: 'off'\n"
        f"output: {{folder: '{tmp_path / 'runs'}'}}\n"
    )
    return path


def test_a_table_and_a_picture_of_what_each_costs_and_gives(recipe, tmp_path):
    files = {name: tmp_path / f"found.{name}" for name in ("json", "png")}
    asked = ["compare-methods", str(recipe), "--methods", "lora, prompt_tuning@3e-2", "--markdown"]
    asked += ["--json", str(files["json"]), "--picture", str(files["png"])]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    lines = [line for line in told.output.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == ["| method", "| ---", "| base", "| lora", "| prompt_tuning@3e-2"]
    found = read_json(files["json"])
    assert files["png"].stat().st_size > 5000
    for one, rate in zip(found, (1e-2, 3e-2), strict=True):
        steps = read_lines(tmp_path / "runs" / f"small-{one['name'].partition('@')[0]}" / "metrics.jsonl")
        assert len(steps) == 2
        assert steps[0]["learning_rate"] == pytest.approx(rate)
        assert one["seconds"] == pytest.approx(sum(step["seconds"] for step in steps))
        assert one["trained_tokens"] == sum(step["trained_tokens"] for step in steps)
    lora, prompt = found
    assert lora["trained_tokens"] == prompt["trained_tokens"]
    assert prompt["weights"] == 20 * 64
    assert prompt["read_tokens"] - lora["read_tokens"] == 2 * 8 * 20  # steps, rows, soft tokens
    assert lora["training_loss"] == pytest.approx(prompt["training_loss"], rel=0.2)
    assert lora["bytes_on_disk"] > prompt["bytes_on_disk"] > 4 * prompt["weights"]
    assert lora["scores"][0]["base"] == prompt["scores"][0]["base"]
    assert f"{lora['weights']:,}" in lines[3]
    again = CliRunner().invoke(app, asked)  # nothing is done twice
    assert "run folder" not in again.output
    assert read_json(files["json"]) == found


def test_what_ended_early_goes_on_and_what_cannot_be_is_said_before_anything_is_run(recipe, tmp_path):
    whole = read_recipe(recipe)
    for asked, said in (
        (["lora", "lorra"], "no method is called 'lorra'"), (["lora", "lora@1e-3"], "name each method once"),
        (["lora@fast"], "learning_rate"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            compare_methods(whole, asked, lambda event: None)
    assert not (tmp_path / "runs").exists()
    assert recipe_for(whole, "qlora").model.quantize == "nf4"
    assert recipe_for(whole, "lora").method.rank == 4
    assert recipe_for(whole, "dora").optim.learning_rate is None

    def interrupt(event):
        if event.kind == "step":
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Stopped)):  # before its first checkpoint, or after
        compare_methods(whole, ["lora", "bitfit"], interrupt)
    first, refused = compare_methods(whole, ["lora", "bitfit"], lambda event: None)
    folder = tmp_path / "runs" / "small-lora"
    assert read_run(folder).status == "succeeded"
    assert first == outcome("lora", folder)
    assert "bias" in refused.trouble
    assert json.dumps(refused.to_json())
    other = read_recipe(recipe, {"optim.steps": 3})
    [taken] = compare_methods(other, ["lora"], lambda event: None)
    assert "a run of another recipe is there" in taken.trouble
