"""Every task with every architecture that it claims, all weights and LoRA: trained, resumed, read by the library.

    python scripts/tasks_matrix.py                    # prints the matrix
    python scripts/tasks_matrix.py --write            # ... and puts it into docs/tasks.md
    python scripts/tasks_matrix.py --noted FILE       # goes on where it was

Models are small ones of each family's shape, with random weights, in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]
SHOWN = ("resumed", "reloaded", "Auto class", "pipeline", "merged")


def tried(task: str, kind: str, method: str) -> dict[str, str]:
    """What was seen of one cell."""
    from task_cells import try_cell

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seen = try_cell(task, kind, method, Path(folder))
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            seen = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return {**seen, "seconds": f"{time.monotonic() - began:.1f}"}


def sign(seen: dict[str, str]) -> str:
    """What was seen, in few words."""
    if "failed" in seen:
        return "FAILED"
    held = ", ".join(name for name in SHOWN if name in seen)
    return f"loss {seen['loss']}; {held}"


def table(found: dict[str, dict[str, str]], cells: list[tuple[str, str]], methods: list[str]) -> str:
    """The matrix: a row for each task and architecture."""
    lines = [f"| task | base | rows | {' | '.join(methods)} |", "|---|---|---|" + "---|" * len(methods)]
    for task, kind in cells:
        seen = [found[f"{task}/{kind}/{method}"] for method in methods]
        rows = {"yes": "packed", "no": "padded"}.get(seen[0].get("packed", ""), "")
        lines.append(f"| {task} | {kind} | {rows} | {' | '.join(map(sign, seen))} |")
    return "\n".join(lines)


def main() -> None:
    """Try all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noted", type=Path, help="note what was seen there, and leave out what was")
    parser.add_argument("--task", nargs="+", default=[], help="try these alone, and note what was seen")
    parser.add_argument("--write", action="store_true", help="put the matrix into docs/tasks.md")
    options = parser.parse_args()
    from results import put

    from task_cells import METHODS, TASKS

    noted: Path | None = options.noted
    found: dict[str, dict[str, str]] = json.loads(noted.read_text()) if noted is not None and noted.exists() else {}
    cells = [(task, kind) for task in options.task or TASKS for kind in TASKS[task].kinds]
    for task, kind in cells:
        for method in METHODS:
            name = f"{task}/{kind}/{method}"
            if name not in found or "failed" in found[name]:
                found[name] = tried(task, kind, method)
                if noted is not None:
                    noted.parent.mkdir(parents=True, exist_ok=True)
                    noted.write_text(json.dumps(found, indent=1))
            print(name, found[name], flush=True)
    text = table(found, cells, list(METHODS))
    print(text)
    failed = any("failed" in seen for seen in found.values())
    if options.write and not options.task:
        put("tasks-matrix", text, ROOT / "docs" / "tasks.md")
    if noted is not None and not options.task and not failed:
        noted.unlink()
    sys.exit(failed)


if __name__ == "__main__":
    main()
