"""What is done in a session on a GPU runs as it is, on the smallest shapes, on a CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

STEPS = {"a": ["tests", "demo"], "b": ["full", "lora"], "c": ["decode", "loss", "large", "unsloth"]}
TABLES = {
    "b-full": "tiny-full-64",
    "b-lora": "tiny-lora-64-mixed",
    "c-large": "tiny-lora-64",
    "c-unsloth": "tiny-lora-64",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its commands are those of Linux")
@pytest.mark.parametrize("part", STEPS)
def test_each_part_ends_in_time_with_every_step_done(part, tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "PART_SECONDS": "600"}
    done = subprocess.run(
        [str(ROOT / "scripts" / "gpu_session.sh"), part, "--cpu"], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    summary = (tmp_path / "summary.txt").read_text()
    for name in STEPS[part]:
        assert re.search(rf"^{part}-{name}: exit 0, \d+ s of at most \d+$", summary, re.MULTILINE), summary
    for name, case in TABLES.items():
        if name.startswith(part):
            table = (tmp_path / f"{name}.log").read_text()
            assert re.search(rf"\| {case} \|.*\n.*\n\| tunesmith \| [\d,]+ \|", table), table
    if part == "a":
        assert {"demo-report.json", "demo-plan.json"} <= {path.name for path in tmp_path.iterdir()}
        assert " passed" in (tmp_path / "a-tests.log").read_text()
    assert len(list(tmp_path.iterdir())) <= 8


def test_a_step_that_has_no_time_left_is_said_to_be_left_out(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "PART_SECONDS": "0"}
    done = subprocess.run(
        [str(ROOT / "scripts" / "gpu_session.sh"), "b", "--cpu"], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "b-full: left out, " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("part b: ")
