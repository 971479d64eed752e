"""Fills a small disk of its own in a save, a log, the cache or at publishing; run by test_full_disk.

python tests/full_disk.py DISK WHAT LEVEL...     # DISK: an empty folder on a file system of a few megabytes
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

DISK, WHAT = Path(sys.argv[1]), sys.argv[2]
LEVELS = [float(level) for level in sys.argv[3:]]  # of what is about to be written, left free
os.environ.update(HF_HUB_OFFLINE="1", TUNESMITH_HOME=str(DISK.parent / "home"), TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import load_file

from conftest import many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_lines, write_text
from tunesmith.jobs.finetune import finetune
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.recipe import read_recipe


def begin(name: str, parent: Path) -> Path:
    values = {
        "model": {"base": str(DISK.parent / "base")},
        "data": {"train": str(DISK.parent / "rows.jsonl"), "test": 0, "validation": 0.1},
        "optim": {"learning_rate": 1e-3, "steps": 6, "batch_size": 8},
        "output": {"checkpoint_every": 2, "keep_last": 2},
        "precision": "fp32",
    }
    (DISK.parent / "recipe.yaml").write_text(json.dumps(values))
    folder = parent / name
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(read_recipe(DISK.parent / "recipe.yaml")))
    return folder


def fill(free: int) -> Path:
    """Leave `free` bytes, to the block."""
    path = DISK / "filler"
    with path.open("wb", buffering=0) as file:
        left = shutil.disk_usage(DISK).free - free
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 16)))
    return path


def result(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    [weights] = (folder / "model").glob("*.safetensors")
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")], load_file(weights)


def expect(error: TunesmithError | None, *words: str) -> None:
    assert error is not None, "the disk was full and nobody noticed"
    for word in words:
        assert re.search(word, str(error)), (word, str(error))


def attempt(folder: Path, hear, **options) -> TunesmithError | None:
    try:
        finetune({"folder": str(folder), **options}, hear)
    except TunesmithError as error:
        return error
    return None


def fill_before(what: str, size: int, level: float, folder: Path):
    """A listener that fills the disk when the work is about to write something."""
    filled = []

    def hear(event):
        save = event.kind == "step" and event.step == 4
        if not filled and (save if what != "exporting" else getattr(event, "name", "") == "exporting"):
            line = len(json.dumps(event.to_json()))
            filled.append(fill(int(level * line) if what == "log" else int(level * size)))

    return hear


def fill_in_a_run(what: str, level: float, whole: Path) -> None:
    """The disk is full while a run saves, logs or publishes; with room again it goes on to the same bits."""
    saved = checkpoints.all_checkpoints(whole / "checkpoints")[-1]
    size = sum(file.stat().st_size for file in (whole / "model" if what == "exporting" else saved).iterdir())
    folder = begin(f"{what}-{level}", DISK)
    error = attempt(folder, fill_before(what, size, level, folder))
    expect(error, re.escape(str(folder)), r"[\d,]+ bytes", "space")
    before, damaged = checkpoints.find_checkpoint(folder / "checkpoints")
    assert before is not None
    assert (before.step, damaged) == (6 if what == "exporting" else 2, []), (what, level, before.step, damaged)
    (DISK / "filler").unlink()
    assert attempt(folder, lambda event: None, resume=True) is None
    losses, weights = result(whole)
    again = result(folder)
    assert again[0] == losses
    assert all(torch.equal(again[1][name], weights[name]) for name in weights)
    shutil.rmtree(folder)


def fill_in_the_cache(level: float, whole: Path) -> None:
    """The disk is full while rows are prepared."""
    prepared = next((DISK.parent / "home" / "data").glob("*/rows.arrow")).stat().st_size
    os.environ["TUNESMITH_HOME"] = str(DISK / "home")
    (DISK / "home" / "data").mkdir(parents=True)
    folder = begin(f"cache-{level}", DISK.parent / "runs")
    fill(int(level * prepared))
    expect(attempt(folder, lambda event: None), re.escape(str(DISK / "home" / "data")), r"[\d,]+ bytes", "space")
    assert not list((DISK / "home" / "data").glob("*/rows.arrow"))
    (DISK / "filler").unlink()
    assert attempt(folder, lambda event: None, resume=True) is None
    assert result(folder)[0] == result(whole)[0]
    shutil.rmtree(DISK / "home")


def main() -> None:
    save_tiny(DISK.parent / "base")
    (DISK.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
    checkpoints.SPARE = 0  # or a disk of a few megabytes would be refused before the first step
    whole = begin("whole", DISK.parent / "runs")
    assert attempt(whole, lambda event: None) is None
    for level in LEVELS:
        if WHAT == "cache":
            fill_in_the_cache(level, whole)
        else:
            fill_in_a_run(WHAT, level, whole)
    print(f"{len(LEVELS)} full disks: each was named, nothing before was lost, every run went on to the same bits")


if __name__ == "__main__":
    main()
