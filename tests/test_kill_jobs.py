"""A few of the kills of scripts/kill_jobs.py and kill_server.py; `make kill-jobs` does them all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import ROOT


@pytest.mark.parametrize("kind", [pytest.param("sqlite:count", marks=pytest.mark.kills), "postgres:stops"])
def test_who_works_with_the_queue_may_be_killed_at_any_moment(kind):
    command = [sys.executable, ROOT / "scripts" / "kill_jobs.py", "--only", kind, "--kills", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 found wrong" in done.stdout


def test_the_server_may_be_killed_at_any_moment():
    command = [sys.executable, ROOT / "scripts" / "kill_server.py", "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 found wrong" in done.stdout
