"""`pytest --passed FILE`: what passes is noted in FILE and left out the next time, so that hours can be done in pieces.

The notes hold for the code that they were made with, and are thrown away when everything has passed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def hash_of_code() -> str:
    """SHA-256 of all that tests depend on in this repository."""
    digest = hashlib.sha256()
    for folder in ("src", "tests", "benchmarks", "scripts", "examples", "recipes"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Passed:
    """The notes, as a plugin of pytest; processes of pytest-xdist read them, and only their parent writes."""

    def __init__(self, file: Path, reads_only: bool) -> None:
        self.file, self.reads_only, self.called = file, reads_only, set[str]()
        code, *names = file.read_text(encoding="utf-8").splitlines() if file.exists() else [""]
        self.code = hash_of_code()
        self.names = set(names) if code == self.code else set[str]()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed."""
        done = [item for item in items if plain(item.nodeid) in self.names]
        items[:] = [item for item in items if plain(item.nodeid) not in self.names]
        config.hook.pytest_deselected(items=done)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test when all three of its parts have passed."""
        name = plain(report.nodeid)
        if report.when == "call" and not report.failed:
            self.called.add(name)
        if report.when == "teardown" and report.passed and name in self.called and not self.reads_only:
            self.names.add(name)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("\n".join([self.code, *sorted(self.names)]) + "\n", encoding="utf-8")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """All has passed: the next time begins anew."""
        if exitstatus == 0 and not self.reads_only:
            self.file.unlink(missing_ok=True)


def plain(nodeid: str) -> str:
    """A test's name without the group that pytest-xdist adds to it."""
    return nodeid if nodeid.rfind("@") < nodeid.rfind("]") else nodeid.rpartition("@")[0] or nodeid
