"""Library versions: write those that the tests run with, and try the oldest and newest that pyproject.toml admits.

    python scripts/versions.py update    # constraints.txt: the newest that are admitted
    python scripts/versions.py test      # the short suite on both ends, each in an environment of its own

`test` also takes names of environments (`oldest`, `newest`, `python3.12`, ...). An environment stays in `.versions/`
and is made again when pyproject.toml or its constraints change. The last lines go into CONTRIBUTING.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED, OLDEST = ROOT / "constraints.txt", ROOT / "constraints-oldest.txt"
NOTES, BEGIN, END = ROOT / "CONTRIBUTING.md", "<!-- versions -->\n", "<!-- /versions -->"
SHOWN = ("torch", "transformers", "peft", "tokenizers")
SUITE = (
    "core",
    "prompt",
    "model",
    "train",
    "resume",
    "infer",
    "decoding",
    "merge",
)  # load, train, answer, merge, go on


@dataclass(frozen=True)
class Environment:
    """Python and versions to test with; `constraints` are none for the newest."""

    name: str
    python: str
    constraints: Path | None

    @property
    def folder(self) -> Path:
        return ROOT / ".versions" / self.name

    def run(self, *arguments: str) -> str:
        """What a command of this environment's Python prints."""
        command = [str(self.folder / "bin" / "python"), *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def environments() -> list[Environment]:
    """Both ends on the Python that runs this, and the tested versions on every other Python that is here."""
    found = [Environment("oldest", sys.executable, OLDEST), Environment("newest", sys.executable, None)]
    for minor in (11, 12, 13):
        name = f"python3.{minor}"
        if minor != sys.version_info.minor and works(name):
            found.append(Environment(name, name, PINNED))
    return found


def works(python: str) -> bool:
    """Whether there is such a Python, and it starts."""
    return shutil.which(python) is not None and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def install(environment: Environment, wanted: str) -> None:
    """Make the environment, unless it is there and nothing that it is made from has changed."""
    sources = [ROOT / "pyproject.toml", *([environment.constraints] if environment.constraints else [])]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    mark = environment.folder / ".made-from"
    if mark.exists() and mark.read_text() == state and environment.constraints:  # what is newest changes by itself
        return
    subprocess.run([environment.python, "-m", "venv", "--clear", environment.folder], check=True)
    limits = ["--constraint", str(environment.constraints)] if environment.constraints else []
    environment.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *limits, "--editable", wanted)
    mark.write_text(state)


def update() -> None:
    """Write constraints.txt anew."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(folder, sys.executable, None)
        install(environment, f"{ROOT}[dev]")
        frozen = environment.run("-m", "pip", "freeze", "--exclude-editable").splitlines()
    lines = sorted({re.sub(r"\+.*", "", line) for line in frozen if "==" in line}, key=str.lower)  # `+cpu` is a build
    head = "# The exact versions that the tests ran with. The Makefile installs these; `make update` renews them."
    PINNED.write_text("\n".join([head, *lines]) + "\n")
    print(f"{PINNED.name}: {len(lines)} packages")


def test(names: list[str]) -> int:
    """Run the short suite in each environment; say how it went, and write that down."""
    known = {environment.name: environment for environment in environments()}
    if unknown := [name for name in names if name not in known]:
        print(f"{unknown[0]}: not here. Known: {', '.join(known)}")
        return 2
    rows, failed = [], False
    for name in names or known:
        environment = known[name]
        install(environment, f"{ROOT}[versions]")
        begun = time.monotonic()
        command = [environment.folder / "bin" / "python", "-m", "pytest", "--numprocesses", "2", "--dist", "loadgroup"]
        command += [f"tests/test_{part}.py" for part in SUITE]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # a thread for each process
        done = subprocess.run(command, cwd=ROOT, env=alone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout)
        failed |= done.returncode != 0
        result = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "").strip("= ")
        rows.append(f"| {name} | {versions(environment)} | {result} | {time.monotonic() - begun:.0f} s |")
    table = "\n".join(["| environment | versions | result | time |", "|---|---|---|---|", *rows]) + "\n"
    print(table)
    if not names:
        text = NOTES.read_text()
        NOTES.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table + text[text.index(END) :])
    return int(failed)


def versions(environment: Environment) -> str:
    """Python's and those of the libraries that results depend on most."""
    code = (
        "import platform, importlib.metadata as m; "
        f"print('Python', platform.python_version() + ',', ', '.join(n + ' ' + m.version(n) for n in {SHOWN!r}))"
    )
    return environment.run("-c", code).strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["update"]:
        update()
    elif sys.argv[1:2] == ["test"]:
        sys.exit(test(sys.argv[2:]))
    else:
        sys.exit(__doc__)
