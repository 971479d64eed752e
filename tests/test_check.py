"""`tunesmith check`: what it prints and what it writes."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from conftest import chat_row, many_rows
from tunesmith.cli.main import app
from tunesmith.core.errors import DataError
from tunesmith.data.load import load_rows
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract

BAD = ['{"messages": ', json.dumps(chat_row("", "Empty?"))]


@pytest.fixture
def check(monkeypatch):
    """Runs the command; returns what it prints, and the sentence it ends with where rows are lost."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        done = CliRunner().invoke(app, ["check", *map(str, arguments)])
        if done.exception is not None and not isinstance(done.exception, DataError):
            raise done.exception
        return done.output, str(done.exception or "")

    return run


@pytest.fixture
def mixed(tmp_path):
    """Twelve good rows, one of them twice, and two bad ones between them."""
    rows = [json.dumps(chat_row(f"Where is room {i}?", f"On floor {i}. Sure.")) for i in range(12)]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join([*rows[:3], BAD[0], *rows[3:], rows[0], BAD[1]]) + "\n")
    return path


def test_the_counts_the_places_and_the_way_on(check, mixed):
    shown, end = check(mixed)
    assert "mixed.jsonl: chat, 15 rows read: 12 kept, 1 duplicate, 2 dropped." in shown
    assert f"{mixed}:4:13: not JSON at column 13" in shown
    assert f"{mixed}:15:43: turn 1 (user) is empty. Fill it in or delete the row." in shown
    assert re.search(r"tokens a row +mean .* 95% .* sum \d+", shown)
    assert "8 epochs by its rule" in shown
    assert "2 of 15 rows cannot be used. Mend them, write the others with --fix OUT" in end


def test_everything_stands_in_the_report_and_the_corrected_copy_is_good(check, mixed, tmp_path):
    report, fixed = tmp_path / "report.jsonl", tmp_path / "fixed.jsonl"
    check(mixed, "--report", report, "--fix", fixed, "--faults", 0)
    entries = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(entry["line"], entry["outcome"], entry["code"]) for entry in entries] == [
        (4, "dropped", "bad_json"),
        (14, "duplicate", "duplicate"),
        (15, "dropped", "empty_turn"),
    ]
    shown, end = check(fixed)
    assert "12 rows read: 12 kept." in shown
    assert not end
    assert [row.conversation for row in load_rows(str(fixed)).rows] == [
        row.conversation for row in load_rows(str(mixed)).rows
    ]
    before = fixed.read_text()
    assert "fixed.jsonl: exists already, and --fix overwrites nothing" in check(mixed, "--fix", fixed)[1]
    assert fixed.read_text() == before


def test_a_copy_keeps_labels_and_counts_what_was_cleaned(check, tmp_path):
    path, fixed = tmp_path / "rows.jsonl", tmp_path / "fixed.jsonl"
    path.write_text(json.dumps({**chat_row(" Hi? ", "Cafe\u0301."), "intent": "greet"}) + "\n")
    shown, _ = check(path, "--clean", "nfc", "--clean", "whitespace", "--fix", fixed)
    assert "1 row read: 1 repaired." in shown
    assert json.loads(fixed.read_text()) == {"intent": "greet", **chat_row("Hi?", "Caf\u00e9.")}


def test_rows_are_shown_as_the_model_sees_them(check, mixed):
    shown, _ = check(mixed, "--show", 2)
    contract = load_contract(resolve("ember").folder)
    for row in load_rows(str(mixed)).rows[:2]:
        assert contract.text(row.conversation).strip() in shown
    assert shown.count("trained ─") == 2


def test_held_out_rows_that_training_rows_give_away(check, tmp_path):
    training, held_out = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    long = " ".join(f"On day {day} guests of room {day} may have breakfast from seven to ten" for day in range(9))
    rows = [chat_row("Where?", "Here."), chat_row(f"{long}?", f"{long}, from seven to eleven in the hall.")]
    training.write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [
        chat_row("Where?", "There."),  # asks the same
        chat_row(f"{long}, please?", f"{long}, from seven to eleven in the hall."),  # nearly the same
        chat_row("Is there a pool?", "No."),
    ]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in others))
    shown, _ = check(training, "--held-out", held_out)
    assert "held out: 3 rows; 1 ask what training rows ask, 1 more are nearly equal" in shown


def test_a_page_with_histograms_and_samples(check, mixed, tmp_path):
    page = tmp_path / "page.html"
    check(mixed, "--html", page)
    text = page.read_text()
    bars = [(int(number), int(count)) for number, count in re.findall(r'title="(\d+): (\d+)"', text)]
    assert sum(count for _, count in bars) == 3 * 12  # tokens, trained tokens and turns of twelve rows
    assert (2, 12) in bars
    assert "<td>12</td>" in text
    assert "Where is room 0?" in text
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", text)  # it needs nothing from elsewhere


def test_the_price_is_an_estimate_with_its_tokenizer(check, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
    shown, _ = check(path, "--price", "gpt-4.1-nano")
    tokens = int(re.search(r"sum ([\d,]+)", shown)[1].replace(",", ""))
    assert (
        f"gpt-4.1-nano: about ${3 * tokens * 1.5e-6:.2f} for {3 * tokens:,} tokens, estimated with ember's tokenizer"
        in shown
    )
    with pytest.raises(Exception, match="did you mean 'gpt-4o'"):
        check(path, "--price", "gpt-4p")


def test_private_matters_are_counted_unless_nobody_shall_look(check, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(chat_row("Your address?", "anna.berg@example.com")) + "\n")
    shown, _ = check(path)
    assert "kept, and worth a look: personal_data 1" in shown
    assert "anna" not in shown
    assert "personal" not in check(path, "--no-private")[0]


def test_without_a_model_rows_stand_for_themselves_and_with_one_its_template_counts(check, tmp_path):
    path = tmp_path / "calls.jsonl"
    call = {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}}
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Rain?"}, call]}) + "\n")
    shown, end = check(path)
    assert "1 kept" in shown
    assert "no model named" in shown
    assert not end
    shown, end = check(path, "--model", "ember")
    assert "does not show that the assistant calls 'weather'" in shown
    assert end.endswith("1 of 1 row cannot be used. Mend them as the lines above say.")
    assert not check(path, "--model", "ember", "--template", "chatml")[1]


def test_columns_that_are_not_read_are_shown_under_the_counts(check, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,category\nA quiet room.,praise\nCold coffee.,complaint\n")
    shown, _ = check(path)
    assert "Columns not read: 'category' in 2 rows (if it is the label: data.columns={label: category}" in shown
    shown, _ = check(path, "--column", "label=category")
    assert "text-label, 2 rows read: 2 kept." in shown
    assert "data.format=text, in check --format text." in shown
