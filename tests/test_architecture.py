"""The house: imports go one way, files stay short, no public function hides a room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "tunesmith"
ORDER = [
    "core", "store", "exec", "track", "prompt", "data", "model", "infer", "score", "train", "evaluate", "registry",
    "jobs", "search", "monitor", "serve", "retrain", "deploy", "web", "cli",
]  # fmt: skip
LIGHT = ["core", "store", "exec", "prompt", "data", "score", "cli"]  # rooms that never import torch themselves
MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def test_every_room_has_a_place_in_the_order():
    assert {room_of(path) for path in MODULES} - {None, "assets"} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_those_above_it(path: Path):
    room = room_of(path)
    if room is None:
        return
    for name in imported(path):
        if name.startswith("tunesmith."):
            assert ORDER.index(name.split(".")[1]) <= ORDER.index(room), f"{path} imports {name}"
        if room in LIGHT:
            assert name.split(".")[0] not in ("torch", "peft"), f"{path} imports {name}"


def test_no_cycles_between_modules():
    graph = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): {
            name for name in imported(path) if name.startswith("tunesmith.")
        }
        for path in MODULES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_short_and_say_what_they_are_for(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_functions_are_short_or_numbered_spines(path: Path):
    """Sixty lines, or a straight road whose steps are numbered."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            numbered = any(line.lstrip().startswith("# 1. ") for line in lines)
            assert len(lines) <= (150 if numbered else 60), f"{node.name} has {len(lines)} lines"


def test_the_road_names_no_objective_method_or_kind():
    """What changes often is behind a seam: a new one changes none of these files."""
    named = {"lora", "full", "sft", "chat", "text", "preference"}
    for name in ("train/loop.py", "train/planning/planner.py", "train/checkpoint.py", "train/learner.py",
                 "train/validate.py", "train/weights/placed.py", "jobs/finetune.py"):  # fmt: skip
        for module in imported(SOURCE / name):
            assert module.rpartition(".")[2] not in named, f"{name} imports {module}"


def test_no_public_function_is_named_as_a_room():
    import tunesmith

    assert not set(tunesmith.__all__) & set(ORDER)
