"""A disk that is really full: a small file system in a mount namespace of its own, where the system gives one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")


def can_mount(folder):
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


CASES = [("save", ["0.4"]), *(pytest.param(what, ["0.0", "0.2", "0.4", "0.6", "0.8"], marks=pytest.mark.kills)
                               for what in ("save", "log", "exporting", "cache"))]  # fmt: skip


@pytest.mark.parametrize(("what", "levels"), CASES)
def test_a_full_disk_loses_nothing(tmp_path, what, levels):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("this system gives nobody a mount namespace (test_resume limits the size of files instead)")
    inside = f"mount -t tmpfs -o size=3m tmpfs '{disk}' && exec '{sys.executable}' '{SCRIPT}' '{disk}' {what} "
    inside += " ".join(levels)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{len(levels)} full disks" in done.stdout
