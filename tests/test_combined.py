"""Scores put together by a formula, and functions of the user's: what is run, and what never is."""

from __future__ import annotations

import pytest

from rewarding import configs, rewards, sample, totals
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.score.rewards.combined import read_formula


def test_combined_scores():
    both = {"right": {"type": "number"}, "short": {"type": "length", "most": 1}}
    made = rewards({"type": "combined", "scores": both, "formula": "right * (0.8 + 0.2 * short)"})
    found = made.score([sample("3", reference=3), sample("a 3", reference=3), sample("3", reference="x")])
    assert [one.total for one in found] == [1.0, pytest.approx(0.8), None]
    assert "combined: right: objective.rewards.combined.right.reference: 'x' holds no number" in found[2].reason
    divided = rewards({"type": "combined", "scores": both, "formula": "1 / right"})
    assert "the formula gives no number" in divided.score([sample("4", reference=3)])[0].reason
    with pytest.raises(ConfigError, match="no row has the field 'reference'"):
        made.refuse([{"a": 1}])
    with pytest.raises(ConfigError, match="give the weight of right in the formula"):
        configs({"type": "combined", "scores": {"right": {"type": "number", "weight": 2}}, "formula": "right"})


@pytest.mark.parametrize(
    ("text", "want"),
    [("a + 2 * b", 8), ("-(a - b) / 2", 0.5), ("a ^ 2 ** 1", 4), ("min(a, b, 1) + max(a)", 3), ("sqrt(abs(-4))", 2),
     ("floor(2.7) + ceil(0.2)", 3), ("exp(log(b))", 3), ("my grade + 1", 8), ("1e1", 10)],
)  # fmt: skip
def test_formulas(text, want):
    formula, _ = read_formula(text, dict.fromkeys(("a", "b", "my grade")), "formula")
    assert formula({"a": 2, "b": 3, "my grade": 7}) == pytest.approx(want)


@pytest.mark.parametrize(
    "text",
    ["", "a.b", "a[0]", "__import__('os')", "lambda: 1", "a if b else 1", "'a'", "a and b", "True", "min()",
     "abs(1, 2)", "min(*a)", "c", "a = 1", "a; b", "a @ b",
     "(" * 300 + "a" + ")" * 300, "+".join("a" * 600), "open(a)", "1j"],
)  # fmt: skip
def test_a_formula_is_arithmetic_alone(text):
    with pytest.raises(ConfigError, match="formula"):
        read_formula(text, dict.fromkeys("ab"), "formula")


GRADE = """
def grade(sample, item):
    if sample["output_text"] == "raise":
        raise ValueError("no")
    if sample["output_text"] == "text":
        return "text"
    if sample["output_text"] == "nan":
        return float("nan")
    return len(sample["output_text"]) / item["longest"]

def of_json(sample, item):
    return (sample["output_json"] or {}).get("n", -1)
"""


def test_function(tmp_path):
    file = tmp_path / "grade.py"
    file.write_text(GRADE)
    made = rewards({"type": "function", "file": str(file)}, allowed=[tmp_path / ".." / tmp_path.name / "grade.py"])
    found = made.score([sample(text, longest=10) for text in ("four", "raise", "text", "nan")])
    assert [one.total for one in found] == [0.4, None, None, None]
    assert [one.reason for one in found[1:]] == [
        "function: grade() raises ValueError: no", "function: grade() returns 'text', and not a number",
        "function: nan is no finite number",
    ]  # fmt: skip
    assert "KeyError" in made.score([sample("four")])[0].reason
    of_json = rewards({"type": "function", "file": str(file), "function": "of_json"}, allowed=[file])
    assert totals(of_json, sample('{"n": 3}'), sample("x")) == [3, -1]


def test_what_is_inside_of_a_formula_is_watched_as_if_it_stood_alone(tmp_path):
    file = tmp_path / "grade.py"
    file.write_text(GRADE + "\ndef without_end(sample, item):\n    return 10**400\n")
    graded = {"type": "function", "file": str(file)}
    for formula in ("max(0, right)", "min(1, right)"):
        made = rewards({"type": "combined", "scores": {"right": graded}, "formula": formula}, allowed=[file])
        assert made.files() == {"combined": [file]}
        [four, none] = made.score([sample(text, longest=10) for text in ("four", "nan")])
        assert (four.total, none.total) == (0.4, None)
        assert none.reason == "combined: right: nan is no finite number"
    endless = rewards({**graded, "function": "without_end"}, allowed=[file])
    assert endless.score([sample("four")])[0].reason == "function: without_end() returns a number without end"


def test_a_function_runs_only_where_its_file_is_allowed(tmp_path):
    file = tmp_path / "grade.py"
    file.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{GRADE}")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"a recipe alone never runs code.*--allow-function"):
        rewards({"type": "function", "file": str(file)}, allowed=[tmp_path / "broken.py", tmp_path])
    assert not (tmp_path / "ran").exists()
    for given, said in (
        ({"file": str(tmp_path / "none.py")}, "no such file"),
        ({"file": str(tmp_path / "broken.py")}, r"cannot be run \(ZeroDivisionError"),
        ({"file": str(file), "function": "grad"}, "has no function 'grad'; did you mean 'grade'"),
    ):
        with pytest.raises((ConfigError, MissingError), match=said):
            rewards({"type": "function", **given}, allowed=[tmp_path / "broken.py", file])
