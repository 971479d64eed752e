"""The command line as a user meets it; in processes of its own where the process matters."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from conftest import COMMAND, chat_row, many_rows
from tunesmith.cli import main
from tunesmith.cli.screen import scores_table, show_sample


@pytest.fixture
def command(monkeypatch, capfd, in_process, tmp_path):
    """The command line in this process, its jobs too: gives exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["tunesmith", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main.run()
        said = capfd.readouterr()
        return end.value.code or 0, said.out, said.err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def recipe(tmp_path, tiny, write_rows):
    path = tmp_path / "small.yaml"
    values = {
        "model": {"base": str(tiny)},
        "data": {"train": str(write_rows(many_rows(40)))},
        "optim": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8},
        "evaluate": {"max_new_tokens": 8},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_help_and_check_do_not_load_torch(tmp_path):
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from tunesmith.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""
    for arguments in (["--help"], ["check", "hotel"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "1145 rows read: 1145 kept." in done.stdout
    heavy = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import tunesmith.cli.main"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert not [name for name in ("transformers", "numpy", "pydantic", "rich.table") if f" {name}\n" in heavy]


def test_a_whole_session(finished, command, tmp_path, tiny):
    said = (finished / "said").read_text()
    for words in ("run folder runs/small", "packed", "step 8/8", "perplexity", "report  runs/small/report/report.html"):
        assert words in said
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    code, out, _ = command("runs")
    assert (code, "succeeded" in out, "runs/small" in out) == (0, True, True)
    code, out, _ = command("show", "runs/small")
    assert (code, "epochs: 2.0" in out, "BLEU" in out) == (0, True, True)
    code, out, error = command("evaluate", "runs/small", "--data", "rows.jsonl", "--against", tmp_path / "none")
    assert (code, "no such folder" in error) == (1, True)
    code, out, error = command("evaluate", "runs/small", "--data", "rows.jsonl", "--rows", 6, "--max-new-tokens", 5,
                               "--against", tiny, "--output", "report.json")  # fmt: skip
    assert code == 0, error
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["rows"], len(report["samples"]), report["model"]) == (6, 6, "runs/small")
    code, once, _ = command("chat", "runs/small", "--once", "Where is the pool?", "--max-new-tokens", 8)
    assert (code, bool(once.strip())) == (0, True)
    code, out, _ = command("chat", "runs/small", "--max-new-tokens", 8, "--system", "Be kind.",
                           stdin="Hello?\n/new\nHello?\nAnd now?\n\n")  # fmt: skip
    _, *answers = out.splitlines()
    assert code == 0
    assert len(answers) == 3
    assert answers[0] == answers[1]  # /new forgot


def scores_of(**verdicts):
    """Scores as report.json has them, each with its verdict."""
    one = {"value": 12.5, "low": -11.25, "high": 13.75}
    return [
        {"metric": metric, "verdict": verdict.replace("_", " "), "score": one, "other": one, "difference": one}
        for metric, verdict in verdicts.items()
    ]


def test_scores_name_the_models_and_show_first_what_got_better_or_worse():
    wide = Console(width=80, record=True, file=io.StringIO())
    scores = scores_of(BLEU="no_difference_shown", length="changed", chrF="worse", perplexity="better", F1="better")
    wide.print(scores_table(scores, 30, "runs/hotel", "HuggingFaceTB/SmolLM2-135M-Instruct"))
    show_sample(wide, {"messages": [{"content": "Hi [b]?"}], "other": "No.", "answer": "Yes."}, "runs/hotel", "ember")
    title, heads, _, *lines = [line.strip() for line in wide.export_text().splitlines()]
    assert title == "30 rows, 95% intervals"
    assert heads.split() == ["metric", "SmolLM2-…-Instruct", "hotel", "difference"]
    assert [re.split(r"\s{2,}", line)[0] for line in lines[:9]] == [
        "better", "perplexity", "F1", "worse", "chrF", "changed", "length", "no difference shown", "BLEU",
    ]  # fmt: skip
    assert lines[1].count("12.5 [-11.2, 13.8]") == 3
    assert lines[-3:] == ["Q      Hi [b]?", "ember  No.", "hotel  Yes."]
    alone = Console(width=80, record=True, file=io.StringIO())
    alone.print(scores_table([{**score, "verdict": ""} for score in scores], 30, "ember", None, only=("BLEU",)))
    shown = alone.export_text()
    assert re.search(r"metric +ember\n", shown)
    assert ("BLEU" in shown, "chrF" in shown, "difference" in shown) == (True, False, False)


def test_a_run_goes_as_far_as_it_is_asked_to(recipe, command):
    code, out, error = command("train", recipe, "--until", "trained")
    assert code == 0, error
    assert "go on   tunesmith train --resume runs/small" in out
    assert "report.html" not in out
    assert "  trained  " in command("runs")[1]
    code, out, error = command("train", "--resume", "runs/small", "--until", "exported")
    assert (code, "chat    tunesmith chat runs/small" in out, "report.html" in out) == (0, True, False)
    code, out, error = command("train", "--resume", "runs/small")
    assert (code, "report  runs/small/report/report.html" in out) == (0, True)


def broken(tmp_path, tiny, recipe):
    """Each kind of broken input: the arguments, and words that its sentence must hold."""
    files = {
        "empty.jsonl": "",
        "words.doc": "just words",
        "odd.jsonl": '{"foo": 1}\n',
        "question_only.jsonl": json.dumps({"messages": [{"role": "user", "content": "Hi?"}]}) + "\n",
        "half.jsonl": json.dumps(chat_row("Hi?", "Hello.")) + '\n{"messages": \n',
        "bad.yaml": "data: {train: [}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "no_tokenizer").mkdir()
    (tmp_path / "no_tokenizer" / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "no_tokenizer" / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    (tmp_path / "file_in_the_way").write_text("")
    return [
        (["check", "none.jsonl"], "none.jsonl: no such file"),
        (["check", "empty.jsonl"], "the file is empty"),
        (["check", "words.doc"], "not a data file that is known"),
        (["check", "odd.jsonl"], "no known format has the keys 'foo'"),
        (["check", "question_only.jsonl"], "1 of 1 row cannot be used"),
        (["train", "none.yaml"], "no such recipe"),
        (["train", "bad.yaml"], "not YAML"),
        (["train", recipe, "--set", "optim.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["train", recipe, "--set", "optim.learning_rate=50"], "less than or equal to 1"),
        (["train", recipe, "--set", "optim.learning_rate"], "write --set section.field=value"),
        (["train", recipe, "--set", "data.train=question_only.jsonl"], "no assistant turn"),
        (["train", recipe, "--set", "data.train=half.jsonl"], "half.jsonl:2:13: not JSON at column"),
        (["train", recipe, "--set", "model.base=no_tokenizer"], "no_tokenizer: no tokenizer (tokenizer.json)"),
        (["train", recipe, "--set", "model.base=some/model"], "not in the cache, and the hub cannot be reached"),
        (["train", recipe, "--set", "output.folder=file_in_the_way"], "cannot write runs there"),
        (["train", recipe, "--set", "output.folder=/proc/runs"], "cannot write runs there"),
        (["evaluate", "none", "--data", "hotel"], "no such folder"),
        (["chat", "runs/none", "--once", "hi"], "'runs/none': no such folder or run here; not in the cache"),
        (["show", "none"], "not a run folder"),
    ]


def test_broken_input_gives_one_sentence_and_no_traceback(tmp_path, tiny, recipe, command):
    for arguments, words in broken(tmp_path, tiny, recipe):
        code, out, error = command(*arguments)
        assert code == 1, (arguments, out, error)
        assert error.startswith("error: "), (arguments, error)
        assert words in error, (arguments, error)
        assert "Traceback" not in out + error
        assert error.count("\n") <= 3, error


def test_a_file_with_other_column_names_is_checked(tmp_path, command):
    (tmp_path / "faq.csv").write_text("Frage,Antwort\nHi?,Hello.\n")
    code, out, error = command("check", "faq.csv", "--column", "question=Frage", "--column", "answer=Antwort")
    assert (code, "question-answer" in out, error) == (0, True, "")


def test_wrong_usage_is_explained_by_the_parser(command):
    code, _, error = command("trian")
    assert code == 2
    assert "No such command 'trian'" in error
    assert command("--version")[1].startswith("tunesmith 0.")
    assert "Start one: tunesmith demo" in command("runs")[1]


def test_the_live_bar_is_drawn_on_a_terminal(recipe, tmp_path):
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    child = subprocess.Popen(
        [*COMMAND, "train", str(recipe), "--until", "trained", "--set", "optim.epochs=8"],
        cwd=tmp_path,
        env=environment,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:  # the child has closed its end
            break
    os.close(leader)
    assert child.wait() == 0, shown
    for words in ("training", "tokens/s", "GB", "loss"):
        assert words.encode() in shown
    assert shown.count(b"\r") > 3 or shown.count(b"\x1b[") > 20
