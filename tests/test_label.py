"""What people prefer, gathered: choices that training reads, ties that it does not; nothing lost or asked twice."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import termios
import time

import pytest
from typer.testing import CliRunner

from conftest import COMMAND
from tunesmith.cli.labelling import safe
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.files import read_lines
from tunesmith.data.labels import Answer, Pair, item_of, open_labels, read_pairs, refuse_options
from tunesmith.data.source import find_files
from tunesmith.prompt.messages import Message

PROMPTS = "What time is breakfast?\nWhere is the pool?\nIs there wifi?\n"
OPTIONS = {
    "prompts": None, "models": [], "answers": None, "samples": None, "temperature": None, "max_new_tokens": None,
    "system": None, "limit": None, "seed": 0, "chat_template": None, "device": "auto",
}  # fmt: skip


def brought(count: int) -> list[dict]:
    return [
        {"prompt": f"What is in room {i}?", "answers": [f"A bed, number {i}.", f"Who knows {i}."], "models": ["a", "b"]}
        for i in range(count)
    ]


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in brought(6)))
    return tmp_path


@pytest.fixture
def label(work):
    def run(keys: str, *arguments: str, into: str = "pairs.jsonl"):
        return CliRunner().invoke(app, ["label", "--into", into, "--who", "ada", *arguments], input=keys)

    return run


def chosen(work, name="pairs.jsonl"):
    return [row["chosen"] for row in read_lines(work / name)]


def test_choices_become_pairs_and_ties_stand_beside_them(label, work):
    done = label("1\nt\n2\ns\nq\n", "--answers", "answers.jsonl")
    assert done.exit_code == 0, done.output
    rows, others = read_lines(work / "pairs.jsonl"), read_lines(work / "pairs.jsonl.undecided.jsonl")
    assert [row["prompt"] for row in rows] == ["What is in room 0?", "What is in room 2?"]
    for row, place in zip(rows, (0, 1), strict=True):  # which of those that were shown
        assert row["order"][place] == row["models"]["chosen"]
        assert row["order"][1 - place] == row["models"]["rejected"]
        assert row["models"]["chosen"] == ("a" if row["chosen"].startswith("A bed") else "b")
        assert row["who"] == "ada"
        assert row["when"].startswith("20")
        assert row["seconds"] >= 0
    assert [(row["verdict"], row["prompt"]) for row in others] == [
        ("tie", "What is in room 1?"), ("skip", "What is in room 3?"),
    ]  # fmt: skip
    assert "2 choices, 1 tie, 1 skipped in this call; 4 of 6 prompts done." in done.output


def test_it_goes_on_where_it_was_and_the_order_stays(label, work):
    first = label("1\n1\n", "--answers", "answers.jsonl")
    assert "What is in room 2?" in first.output  # shown, and not judged
    second = label("2\n" * 9, "--answers", "answers.jsonl")
    assert "2 of 6 are judged already" in second.output
    assert "room 0?" not in second.output
    rows = read_lines(work / "pairs.jsonl")
    assert [row["prompt"][-2] for row in rows] == list("012345")
    again = label("1\n" * 9, "--answers", "answers.jsonl", into="other.jsonl")
    assert again.exit_code == 0
    assert [row["order"] for row in read_lines(work / "other.jsonl")] == [row["order"] for row in rows]
    assert "0 choices in this call; 6 of 6 prompts done." in label("1\n", "--answers", "answers.jsonl").output


def test_nobody_favours_the_first(tmp_path):
    pairs = [Pair((Message("user", str(i)),), (Answer("x", "a"), Answer("y", "b")), str(i)) for i in range(400)]
    first = sum(pair.shown(0)[0].by == "a" for pair in pairs)
    assert 160 < first < 240
    assert [pair.shown(1) for pair in pairs] != [pair.shown(0) for pair in pairs]


def test_an_edit_becomes_the_chosen_answer(label, work, monkeypatch):
    (work / "type.sh").write_text('#!/bin/sh\nprintf "%s" "A bed and a lamp." > "$1"\n')
    (work / "type.sh").chmod(0o755)
    monkeypatch.setenv("EDITOR", str(work / "type.sh"))
    label("e1\ne\n2\nq\n", "--answers", "answers.jsonl")
    one, other = read_lines(work / "pairs.jsonl")
    assert one["chosen"] == other["chosen"] == "A bed and a lamp."
    for row, place in ((one, 0), (other, 1)):
        assert row["order"][place] == row["models"]["chosen"]
        assert row["before_edit"] != row["rejected"]
        assert row["before_edit"] != row["chosen"]


def test_an_edit_that_leads_to_nothing_asks_again(label, work, monkeypatch):
    none = label("e1\n2\n", "--answers", "answers.jsonl")
    assert "no editor is named" in none.output
    assert len(chosen(work)) == 1
    monkeypatch.setenv("EDITOR", "true")
    assert "Nothing was changed" in label("e1\nq\n", "--answers", "answers.jsonl").output
    monkeypatch.setenv("EDITOR", "false")
    assert "ended with 1" in label("e1\nq\n", "--answers", "answers.jsonl").output
    assert len(chosen(work)) == 1


def test_the_last_one_can_be_taken_back(label, work):
    done = label("u\n1\nt\nu\n2\nq\n", "--answers", "answers.jsonl")
    assert "nothing to take back" in done.output
    assert "is taken back" in done.output
    assert len(chosen(work)) == 2
    assert not read_lines(work / "pairs.jsonl.undecided.jsonl")
    assert "2 choices in this call; 2 of 6" in done.output
    twice = label("1\nu\n1\nu\n1\nq\n", "--answers", "answers.jsonl")
    assert "1 choice in this call; 3 of 6" in twice.output
    assert len(chosen(work)) == 3


def test_equal_answers_are_left_out_and_counted(label, work):
    rows = [{"prompt": "One?", "answers": ["Same.", " Same."]}, {"prompt": "Two?", "answers": ["Yes.", "No."]}]
    (work / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = label("1\n", "--answers", "answers.jsonl")
    assert "1 left out whose answers are equal" in done.output
    assert "One?" not in done.output
    assert len(chosen(work)) == 1
    (work / "prompts.txt").write_text(PROMPTS)
    greedy = label("1\n", "prompts.txt", "--models", "ember", "--temperature", "0.00002", into="same.jsonl")
    assert "3 left out whose answers are equal in this call; 3 of 3 prompts done" in greedy.output, greedy.output


def test_what_is_no_key_is_told(label, work):
    done = label("x\n\n1\n", "--answers", "answers.jsonl")
    assert "'x' is no key for this." in done.output
    assert len(chosen(work)) == 1


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "One?"}, "there is no list 'answers'"),
        ({"prompt": "One?", "answers": ["a"]}, "'answers' holds 1"),
        ({"prompt": "One?", "answers": ["a", " "]}, "'answer' is empty"),
        ({"prompt": "One?", "answers": ["a", "b"], "models": "x"}, "'models' is not two names"),
        ({"answers": ["a", "b"]}, "nothing is asked"),
    ],
)
def test_a_bad_row_of_answers_is_named(work, row, why):
    (work / "bad.jsonl").write_text(json.dumps(brought(1)[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:2") as error:
        list(read_pairs("bad.jsonl", ()))
    assert why in str(error.value)


def test_files_of_others_are_left_alone(label, work):
    (work / "mine.jsonl").write_text('{"prompt": "One?", "chosen": "a", "rejected": "b"}\n')
    before = (work / "mine.jsonl").read_text()
    done = label("1\n", "--answers", "answers.jsonl", into="mine.jsonl")
    assert isinstance(done.exception, ConfigError)
    assert "line 1 of mine.jsonl is not of `tunesmith label`" in str(done.exception)
    assert (work / "mine.jsonl").read_text() == before
    with pytest.raises(ConfigError, match="is a folder"):
        open_labels(work)


def test_half_a_line_at_the_end_goes_and_a_broken_one_within_is_named(label, work):
    label("1\n1\n", "--answers", "answers.jsonl")
    whole = (work / "pairs.jsonl").read_text()
    (work / "pairs.jsonl").write_text(whole + '{"prompt": "What is in ro')
    label("1\n", "--answers", "answers.jsonl")
    assert (work / "pairs.jsonl").read_text().startswith(whole)
    assert len(chosen(work)) == 3
    lines = (work / "pairs.jsonl").read_text().splitlines()
    (work / "pairs.jsonl").write_text("\n".join([lines[0], "{oops", lines[1]]) + "\n")
    with pytest.raises(DataError, match="line 2: is no JSON"):
        open_labels(work / "pairs.jsonl")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "nothing to judge"),
        ({"prompts": "p.txt"}, "--models names 0"),
        ({"prompts": "p.txt", "models": ["a", "b", "c"]}, "--models names 3"),
        ({"prompts": "p.txt", "models": ["a", "b"], "samples": 2}, "--samples 2"),
        ({"prompts": "p.txt", "models": ["a"], "temperature": 0.0}, "would be the same"),
        ({"prompts": "p.txt", "answers": "a.jsonl"}, "brings its prompts along"),
        ({"answers": "a.jsonl", "temperature": 1.0}, "--temperature is for models"),
        ({"answers": "a.jsonl", "models": ["a"]}, "Give two, or none"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, why):
    with pytest.raises(ConfigError) as error:
        refuse_options({**OPTIONS, **options})
    assert why in str(error.value)


def test_two_models_answer_and_a_conversation_keeps_its_turns(label, work, tiny):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Is there wifi?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "Yes."}]}]
    (work / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = label("1\n", "chats.jsonl", "--models", f"ember,{tiny}", "--max-new-tokens", "8")
    assert done.exit_code == 0, (done.output, done.exception)
    [row] = read_lines(work / "pairs.jsonl")
    assert row["prompt"] == turns
    assert set(row["order"]) == {"ember", str(tiny)}
    better = row["models"]["chosen"]
    assert f"{better} 1" in done.output
    assert "preferred: " in done.output
    (work / "prompts.txt").write_text(PROMPTS)
    one = label("1\n", "prompts.txt", "--models", "ember", "--system", "Be kind.", "--limit", "1", into="two.jsonl")
    assert "1 of 1 prompt done" in one.output
    [row] = read_lines(work / "two.jsonl")
    assert row["prompt"][0] == turns[0]
    assert set(row["order"]) == {"ember [1]", "ember [2]"}


def test_a_row_of_prompts_that_is_none_is_refused(label, work):
    (work / "bad.jsonl").write_text('{"prompt": "One?"}\n{"nothing": 1}\n')
    done = label("1\n", "bad.jsonl", "--models", "ember")
    assert isinstance(done.exception, DataError)
    assert "1 of 2 rows hold no prompt" in str(done.exception)


def test_check_and_dpo_read_what_was_gathered(label, work, tiny):
    rows = [{"prompt": f"Room {i}?", "answers": [f"Yes, {i}.", f"Number {i}?"]} for i in range(16)]
    (work / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label("1\n2\n" * 7 + "t\n", "--answers", "answers.jsonl")
    assert [file.path.name for file in find_files(str(work))] == ["answers.jsonl", "pairs.jsonl"]  # the ties are none
    checked = CliRunner().invoke(app, ["check", "pairs.jsonl"])
    assert checked.exit_code == 0
    assert "preference, 14 rows read: 14 kept" in checked.output
    (work / "dpo.yaml").write_text(
        f"model: {{base: '{tiny}'}}\nobjective: {{type: dpo}}\nprecision: fp32\n"
        "data: {train: pairs.jsonl, validation: 0, test: 0}\noptim: {steps: 2, batch_size: 4}\n"
        "evaluate: {general_ability: 'off'}\n"
    )
    done = subprocess.run([*COMMAND, "train", "dpo.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def listens(terminal: int) -> None:
    """Wait until keys are read one by one: what is typed before that is passed over."""
    late = time.monotonic() + 60
    while termios.tcgetattr(terminal)[3] & termios.ICANON:
        assert time.monotonic() < late
        time.sleep(0.02)


def test_nothing_is_lost_on_ctrl_c_at_a_terminal(work):
    """Through a real terminal: single keys, and what was judged is there after Ctrl-C and after a kill."""
    for end, code in ((b"\x03", 130), (signal.SIGKILL, None)):
        child, terminal = pty.fork()
        if child == 0:
            os.execvp(COMMAND[0], [*COMMAND, "label", "--into", "pairs.jsonl", "--answers", "answers.jsonl"])
        seen = b""

        def wait_for(what: bytes, terminal: int = terminal) -> None:
            nonlocal seen
            late = time.monotonic() + 60
            while what not in seen:
                assert time.monotonic() < late, seen.decode()
                if select.select([terminal], [], [], 0.2)[0]:
                    seen += os.read(terminal, 65536)
            seen = seen[seen.index(what) + len(what) :]

        before = len(chosen(work)) if (work / "pairs.jsonl").exists() else 0
        wait_for(b"[q]uit")
        listens(terminal)
        os.write(terminal, b"2")
        wait_for(b"the second")
        assert len(chosen(work)) == before + 1
        wait_for(b"[q]uit")
        listens(terminal)
        if isinstance(end, bytes):
            os.write(terminal, end)
            wait_for(b"1 choice in this call")
        else:
            os.kill(child, end)
        status = os.waitpid(child, 0)[1]
        assert code is None or os.waitstatus_to_exitcode(status) == code
        os.close(terminal)
    assert len(chosen(work)) == 2
    assert (
        CliRunner().invoke(app, ["label", "--into", "pairs.jsonl", "--answers", "answers.jsonl"], input="1\n").exit_code
        == 0
    )
    assert len(chosen(work)) == 3


def test_two_at_once_do_not_write_into_one_file(label, work):
    from filelock import FileLock

    with FileLock(work / ".pairs.jsonl.lock"):
        done = label("1\n", "--answers", "answers.jsonl")
    assert "another process writes choices" in str(done.exception)


def test_the_terminal_is_not_steered():
    assert "\x1b" not in safe("\x1b[31mred")


def test_a_prompt_is_another_item_with_other_models():
    turns = (Message("user", "One?"),)
    assert item_of(turns, ["a", "b"]) != item_of(turns, ["a", "c"]) != item_of((Message("user", "Two?"),), ["a", "c"])
