"""`tunesmith compare`: real runs beside one another, and run folders made by hand for what is rare."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import typer
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

import tunesmith
from conftest import many_rows, run_here
from tunesmith.cli.compare import compare
from tunesmith.cli.screen import console
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import read_json
from tunesmith.core.names import shortened, shortest_ends
from tunesmith.evaluate.pictures import fit_axis
from tunesmith.evaluate.score_pictures import MOST_POINTS, curves_of_runs, run_colours, score_dots, smooth
from tunesmith.registry.compare_runs import compare_runs
from tunesmith.score.interval import Interval
from tunesmith.score.metrics import METRICS
from tunesmith.train.recipe import Recipe

EVIL = "<script>alert(1)<script> $x^2$ [red] & \"' \x1b[31m"


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counted(folder: Path) -> dict[str, np.ndarray]:
    """Counts of the exported model on each test row."""
    lines = lines_of(folder / "report" / "rows.jsonl")
    return {name: np.array([line["counts"][name] for line in lines]) for name in lines[0]["counts"]}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Two real runs (lora, and full at five times the rate for longer), and the counts of each."""
    place = tmp_path_factory.mktemp("trained")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(160)))
    (place / "small.yaml").write_text(
        f"model: {{base: '{tiny}'}}\n"
        f"data: {{train: '{place / 'rows.jsonl'}'}}\n"
        "optim: {learning_rate: 1.0e-3, steps: 8, batch_size: 8}\n"
        "evaluate: {max_new_tokens: 4, every: 3}\n"
        "precision: fp32\n"
        f"output: {{folder: '{place / 'runs'}'}}\n"
    )
    changes = [{}, {"method": {"type": "full"}, "optim": {"learning_rate": 5e-3, "steps": 11}}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.jobs.start.supervise", run_here)
        runs = [tunesmith.finetune(place / "small.yaml", **change).folder for change in changes]
    return runs, [counted(run) for run in runs]


def flat(values, name=""):
    """A recipe's values by dotted name: sections and their fields, which is all this one has."""
    return {f"{a}.{b}" if isinstance(v, dict) else a: w for a, v in values.items()
            for b, w in (v.items() if isinstance(v, dict) else [(a, v)])}  # fmt: skip


def test_the_settings_that_differ_and_no_others(trained):
    runs, _ = trained
    found = compare_runs(runs)
    shown = {setting.name: setting.values for setting in found.settings}
    recipes = {run.name: flat(yaml.safe_load((run / "config.yaml").read_text())) for run in runs}
    differ = {}
    for name in set().union(*recipes.values()) - {"output.name", "output.folder"}:
        values = {run: recipe[name] for run, recipe in recipes.items() if name in recipe}
        if len(values) < 2 or len(set(map(str, values.values()))) > 1:
            differ[name] = values
    assert {"method.type", "method.rank", "optim.learning_rate", "optim.steps"} <= set(differ)
    assert {name: values for name, values in shown.items() if not name.startswith("plan.")} == differ
    assert shown["method.rank"] == {"small": 16}
    assert len(set(shown["plan.trainable"].values())) == 2
    assert not {"plan.learning_rate", "plan.precision", "plan.machine", "dataset.id", "report.data"} & set(shown)
    assert found.equal > 40


def test_how_each_run_went(trained):
    runs, _ = trained
    for entry, run in zip(compare_runs(runs).runs, runs, strict=True):
        steps, events = lines_of(run / "metrics.jsonl"), lines_of(run / "events.jsonl")
        looks = [event for event in events if event["kind"] == "validation"]
        assert (entry.name, entry.status, entry.steps) == (run.name, "succeeded", (len(steps), len(steps)))
        assert entry.losses == [(step["step"], step["loss"]) for step in steps]
        assert len(entry.validations) == len(looks) > 2
        assert (entry.last_loss, entry.last_validation) == (steps[-1]["loss"], looks[-1]["loss"])
        best = min(looks, key=lambda look: look["loss"])
        assert (entry.best_validation, entry.best_step) == (best["loss"], best["step"])
        speeds = sorted(step["tokens_per_second"] for step in steps)
        assert entry.tokens_per_second == speeds[len(steps) // 2]
        assert entry.memory_bytes == max(step["memory_bytes"] for step in steps)
        assert entry.seconds == pytest.approx(events[-1]["time"] - events[0]["time"], abs=0.01)


def test_scores_and_paired_differences_are_those_of_the_counts(trained):
    runs, (first, other) = trained
    scores = compare_runs(runs).scores
    assert [score.metric for score in scores] == [
        score["metric"] for score in read_json(runs[0] / "report" / "report.json")["scores"]
    ]
    count = len(first["BLEU"])
    draws = np.random.default_rng(99).integers(0, count, size=(1000, count))
    for metric in METRICS:
        [row] = [score for score in scores if score.metric == metric.name]
        assert row.higher_is_better == metric.higher_is_better
        whole = [float(metric.of_sums(one[metric.name].sum(0))) for one in (first, other)]
        assert [cell.score.value for cell in row.runs] == pytest.approx(whole, rel=1e-3, abs=1e-6)
        assert row.runs[0].difference is None
        found = row.runs[1].difference
        assert found.value == pytest.approx(whole[1] - whole[0], rel=1e-3, abs=1e-6)
        drawn = [
            float(metric.of_sums(other[metric.name][draw].sum(0)) - metric.of_sums(first[metric.name][draw].sum(0)))
            for draw in draws
        ]
        low, high = np.quantile(drawn, [0.025, 0.975])
        near = 0.25 * (high - low) + 1e-6  # two bootstraps with different draws
        assert (found.low, found.high) == pytest.approx((low, high), abs=near)
    assert scores[0].metric == "perplexity"
    assert scores[0].runs[1].verdict == "better"  # every weight at five times the rate, against a few


# ------------------------------------------------------------------------------------------ folders made by hand


def make_run(folder: Path, *, ending="finished", steps=6, planned=6, rows=None, id="d" * 64, **recipe) -> Path:
    """A run folder with a loss of 3 / step, and report and rows.jsonl for `rows` (hits and tries of each row)."""
    values = Recipe.model_validate({"data": {"train": "a.jsonl"}, **recipe}).model_dump(mode="json")
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "plan.json").write_text(json.dumps({"precision": "fp32", "threads": 2, "versions": {"torch": "2.13"}}))
    numbers = {"steps": planned, "tokens_per_second": 100.0, "memory_bytes": 2**30}
    metrics = [{"time": 100.0 + i, "kind": "step", "step": i, "loss": 3 / i, **numbers} for i in range(1, steps + 1)]
    events = [
        {"time": 100.0, "kind": "phase", "name": "preparing data"},
        {"time": 100.5, "kind": "data", "id": id, "rows": {"train": 30, "validation": 4, "test": 12}},
        *({"time": 100.1 + i, "kind": "validation", "step": i, "loss": 4 / i} for i in range(2, steps + 1, 2)),
        *([{"time": 110.0, "kind": ending, "sentence": "it broke."}] if ending else []),
    ]
    for name, lines in (("metrics", metrics), ("events", events)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if rows is not None:
        write_report(folder, rows, id)
    return folder


def write_report(folder: Path, rows, id: str, metric="token accuracy") -> None:
    """report.json with one score, 100 * hits / tries, and its counts."""
    value = 100 * sum(hits for hits, _ in rows) / sum(tries for _, tries in rows)
    score = {"value": value, "low": value - 1, "high": value + 1, "rows": len(rows)}
    report = {"data": id, "rows": len(rows), "scores": [{"metric": metric, "unit": "%", "score": score}]}
    (folder / "report" / "report.json").write_text(json.dumps(report))
    lines = [{"source": f"a:{i}", "answer": "", "counts": {metric: row}} for i, row in enumerate(rows)]
    (folder / "report" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def make(tmp_path):
    return lambda name, **what: make_run(tmp_path / name, **what)


def hard_and_easy(seed, gain=0.0, count=60):
    """Rows of 50 tries whose share of hits differs much between rows, and by `gain` between models."""
    shares = np.clip(np.random.default_rng(0).uniform(0.1, 0.8, count) + gain, 0, 1)
    noise = np.random.default_rng(seed).normal(0, 1, count)
    return [[float(round(50 * share + one)), 50.0] for share, one in zip(shares, noise, strict=True)]


def test_pairing_shows_what_the_intervals_alone_hide(make):
    one, other = hard_and_easy(1), hard_and_easy(2, gain=0.03)
    found = compare_runs([make("a", rows=one), make("b", rows=other)])
    cell = found.scores[0].runs[1]
    each = 100 * (np.array(other)[:, 0] - np.array(one)[:, 0]) / 50  # equal tries: the score is the rows' mean
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    assert cell.difference.value == pytest.approx(each.mean())
    assert (cell.difference.low, cell.difference.high) == pytest.approx(
        (each.mean() - half, each.mean() + half), abs=0.2 * half
    )
    assert cell.verdict == "better"
    swapped = compare_runs([Path(run.folder) for run in reversed(found.runs)])
    assert swapped.scores[0].runs[1].verdict == "worse"
    assert swapped.scores[0].runs[1].difference.value == pytest.approx(-each.mean())
    spread = 1.96 * 100 * (np.array(one)[:, 0] / 50).std() / np.sqrt(60)
    assert spread > each.mean()  # unpaired, nothing would be shown


def test_no_verdict_where_rows_are_others_missing_or_few(make):
    rows = hard_and_easy(1)
    first = make("first", rows=rows)
    elsewhere = make("elsewhere", rows=hard_and_easy(3, 0.2), id="e" * 64)
    older = make("older", rows=rows)
    (older / "report" / "rows.jsonl").unlink()
    damaged = make("damaged", rows=rows)
    lines = (damaged / "report" / "rows.jsonl").read_text().splitlines(keepends=True)
    (damaged / "report" / "rows.jsonl").write_text("".join(lines[:7]) + lines[7][:20] + "\n" + "".join(lines[8:]))
    found = compare_runs([first, elsewhere, older, damaged])
    cells = {cell.run: cell for cell in found.scores[0].runs}
    assert [cell.verdict for cell in cells.values()] == ["", "other rows", "", ""]
    assert not [cell for cell in cells.values() if cell.difference]
    assert all(cell.score for cell in cells.values())
    notes = " ".join(found.notes)
    assert "elsewhere was measured on other rows than first" in notes
    assert re.search(r"no verdict with older: \S+/older/report/rows\.jsonl is missing, as in runs of older", notes)
    assert re.search(r"no verdict with damaged: \S+ does not hold every row", notes)
    few = [make(f"few-{i}", rows=hard_and_easy(i, 0.3 * i, count=9)) for i in range(2)]
    assert compare_runs(few).scores[0].runs[1].verdict == "too few rows"


def test_a_metric_that_is_not_known_or_not_counted_alike_has_no_verdict(make):
    runs = [make("a", rows=hard_and_easy(1)), make("b", rows=hard_and_easy(2))]
    text = (runs[1] / "report" / "rows.jsonl").read_text()
    (runs[1] / "report" / "rows.jsonl").write_text(text.replace("50.0]", "50.0, 1.0]"))
    found = compare_runs(runs)
    assert found.scores[0].runs[1].difference is None
    assert "no verdict on token accuracy: the counts of b and a cannot be paired." in found.notes
    for run in runs:
        write_report(run, hard_and_easy(1), "d" * 64, metric="charm")
    found = compare_runs(runs)
    assert (found.scores[0].metric, found.scores[0].higher_is_better) == ("charm", None)
    assert found.scores[0].runs[1].score.value == pytest.approx(found.scores[0].runs[0].score.value)
    assert "no verdict on charm: this version of tunesmith does not know it." in found.notes


def test_runs_that_did_not_end_well_are_shown_as_far_as_they_came(make):
    good = make("good", rows=hard_and_easy(1))
    killed = make("killed", ending=None, steps=4)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"time": 105.0, "kind": "step", "st')
    early = make("early", ending="failed", steps=0)
    (early / "plan.json").unlink()
    (early / "events.jsonl").write_text(json.dumps({"time": 1.0, "kind": "failed", "sentence": "no row is usable."}))
    unscored = make("unscored")
    found = compare_runs([good, killed, early, unscored])
    entries = {entry.name: entry for entry in found.runs}
    assert [entry.status for entry in found.runs] == ["succeeded", "unfinished", "failed", "succeeded"]
    assert [step for step, _ in entries["killed"].losses] == [1, 2, 3, 4]
    assert (entries["killed"].steps, entries["killed"].last_loss) == ((4, 6), 0.75)
    assert (entries["early"].losses, entries["early"].last_validation, entries["early"].seconds) == ([], None, 0)
    assert not [setting for setting in found.settings if setting.name.startswith(("plan.", "dataset.", "report."))]
    notes = " ".join(found.notes)
    for words in (
        "killed: unfinished, after 4 of 6 steps.",
        "early: failed, before its first step: no row is usable.",
        "unscored has no scores",
        "the runs took different numbers of steps (4, 6); curves are drawn over steps",
    ):
        assert words in notes
    reversed_order = compare_runs([unscored, good])
    assert reversed_order.scores[0].runs[1].verdict == ""
    assert "unscored has no scores, so no differences are shown." in " ".join(reversed_order.notes)


def test_facts_of_plan_and_data_that_differ_are_named(make):
    one = make("one", precision="fp32", method={"type": "lora"})
    two = make("two", precision="bf16", method={"type": "lora"}, data={"train": "a.jsonl", "columns": {"q": "F"}})
    plan = {"precision": "bf16", "threads": 8, "versions": {"torch": "2.12", "peft": "0.2"}, "reasons": {"why": "so"}}
    (two / "plan.json").write_text(json.dumps(plan))
    events = (
        (two / "events.jsonl").read_text().replace('"validation": 4', '"validation": 5').replace("d" * 64, "f" * 64)
    )
    (two / "events.jsonl").write_text(events)
    found = compare_runs([one, two])
    assert {setting.name: setting.values for setting in found.settings} == {
        "precision": {"one": "fp32", "two": "bf16"},  # and not once more as the plan's
        "data.columns.q": {"two": "F"},
        "plan.threads": {"one": 2, "two": 8},
        "plan.versions.torch": {"one": "2.13", "two": "2.12"},
        "plan.versions.peft": {"two": "0.2"},
        "dataset.id": {"one": "d" * 64, "two": "f" * 64},
        "dataset.rows.validation": {"one": 4, "two": 5},
    }
    assert "validation losses may be of other rows or tokens in each run (dataset.id, dataset.rows.validation)." in (
        found.notes
    )


def test_the_pause_before_a_resume_is_not_counted(make):
    run = make("resumed", steps=4)  # at work from 100 to 104, and again for 20 seconds
    events = [event for event in lines_of(run / "events.jsonl") if event["time"] < 105]
    again = [
        {"time": 9000.0, "kind": "phase", "name": "preparing data"},
        {"time": 9001.0, "kind": "resumed", "step": 4},
        {"time": 9020.0, "kind": "finished"},
    ]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events + again))
    assert compare_runs([run, make("other")]).runs[0].seconds == pytest.approx(4.1 + 20)


def test_runs_of_one_name_are_told_apart_by_their_folders(make):
    runs = [make("monday/chat"), make("tuesday/chat"), make("tuesday/other")]
    assert [run.name for run in compare_runs(runs).runs] == ["monday/chat", "tuesday/chat", "tuesday/other"]
    assert [run.name for run in compare_runs(runs[1:]).runs] == ["chat", "other"]


def test_refusals(make, tmp_path):
    runs = [make(f"run-{i}") for i in range(11)]
    for given in (runs[:1], runs):
        with pytest.raises(ConfigError, match=rf"takes 2 to 10 run folders, and {len(given)} w"):
            compare_runs(given)
    with pytest.raises(ConfigError, match="the same run as"):
        compare_runs([runs[0], runs[1], tmp_path / "run-1" / ".." / "run-0"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="empty: not a run folder"):
        compare_runs([runs[0], tmp_path / "empty"])


def test_nothing_heavy_is_loaded(make):
    code = """
import sys
from pathlib import Path
from tunesmith.registry.compare_runs import compare_runs
from tunesmith.cli.compare import comparison_page
comparison_page(compare_runs([Path(name) for name in sys.argv[1:]]), Path("page.html"))
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""
    runs = [make("a", rows=hard_and_easy(1)), make("b", rows=hard_and_easy(2))]
    done = subprocess.run([sys.executable, "-c", code, *map(str, runs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ----------------------------------------------------------------------------------------------- what is shown


@pytest.fixture
def command(monkeypatch):
    """Runs the command on a terminal that is `width` wide; returns what it prints."""
    app = typer.Typer()
    app.command()(compare)

    def run(*arguments, width=100):
        monkeypatch.setattr(console, "_width", width)
        done = CliRunner().invoke(app, list(map(str, arguments)))
        if done.exception is not None:
            raise done.exception
        return done.output

    return run


@pytest.fixture
def ten(make):
    """Ten runs with long names, of which some have come to nothing."""
    endings = ["finished"] * 4 + ["failed", None] + ["finished"] * 4
    return [
        make(
            f"a-run-with-a-long-name-and-number-{i}",
            ending=ending,
            rows=hard_and_easy(i, 0.02 * i) if ending == "finished" else None,
            data={"train": f"/data/of-guests/in-a-folder-far-away/rows-{i % 3}.jsonl"},
            optim={"learning_rate": (i + 1) / 10000, "batch_size": 4 * (i + 1), "epochs": 1 + i % 2},
        )
        for i, ending in enumerate(endings)
    ]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [2, 10])
def test_tables_fit_the_terminal_and_hold_every_value(command, ten, width, count):
    shown = command(*ten[:count], width=width)
    folders, tables = shown.split("what was set otherwise")
    rows = tables.splitlines()
    assert max(map(len, rows)) <= width
    for i, folder in enumerate(folders.splitlines()[:count]):
        assert folder.endswith(str(ten[i]))
        mine = [line for line in rows if re.match(rf"a-run-\S*…\S*-{i} ", line)]
        assert len(mine) == len([line for line in rows if re.match(r"a-run-\S*…\S*-0 ", line)]) > 0
        cells = " ".join(mine).split()
        assert {f"{(i + 1) / 10000}", str(4 * (i + 1)), "0.500", "0.667", "6/6", "100", "1.00"} <= set(cells)
    heads = [re.split(r"\s{2,}", line.strip()) for line in rows if line.strip().startswith("run ")]
    assert {"learning_rate", "batch_size", "epochs", "train", "seconds", "tokens/s"} <= {
        n for head in heads for n in head
    }
    assert f"{compare_runs(ten[:count]).equal} settings and facts are equal" in shown


def test_scores_are_printed_with_their_verdicts(command, ten):
    shown = command(*ten)
    found = compare_runs(ten)
    lines = shown.split("95% intervals")[1].splitlines()
    for number, cell in enumerate(found.scores[0].runs):
        [line] = [line for line in lines if re.match(rf"a-run-\S*…\S*-{number} ", line)]
        assert line.rstrip().endswith(cell.verdict or ("]" if cell.score else "no score"))
        assert (f"{cell.score.value:.1f} [" if cell.score else "no score") in line
        assert cell.difference is None or f" {cell.difference.value:+.1f} [" in line or cell.difference.value < 10
    assert {cell.verdict for cell in found.scores[0].runs} >= {"", "better"}
    assert "note: a-run-with-a-long-name-and-number-4: failed" in shown


def test_long_values_are_shown_from_where_they_differ(command, make):
    system = "Be kind to every guest.\n" * 40
    runs = [make(name, data={"train": "a", "system": system + last * 100}) for name, last in (("a", "x"), ("b", "y"))]
    runs.append(make("c", data={"train": "a"}))
    shown = command(*runs).split("how they went")[0]
    assert "x" * 20 in shown
    assert "y" * 20 in shown
    assert re.search(r"(?m)^c +null", shown)
    assert len(shown.splitlines()) < 30


def test_equal_runs_are_said_to_be_equal(command, make):
    assert "what was set otherwise: nothing (" in command(make("a"), make("b"))


def test_json_holds_everything_as_plain_values(command, ten, tmp_path):
    target = tmp_path / "deep" / "all.json"
    write_report(ten[1], [[float("inf"), 1.0], *hard_and_easy(1)[1:]], "d" * 64)
    command(*ten[:3], "--json", target)

    def refuse(word):
        raise AssertionError(word)

    values = json.loads(target.read_text(), parse_constant=refuse)
    found = compare_runs(ten[:3])
    assert set(values) == {"runs", "settings", "equal", "scores", "notes"}
    assert values["runs"][0]["losses"] == [list(point) for point in found.runs[0].losses]
    assert values["scores"][0]["runs"][1]["score"]["value"] is None  # not a number that JSON has
    assert values["scores"][0]["runs"][2]["difference"]["value"] == found.scores[0].runs[2].difference.value
    assert values["settings"] == [{"name": one.name, "values": one.values} for one in found.settings]


class Page(HTMLParser):
    """What a browser sees of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.outside, self.text = set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "action", "xlink:href") and not value.startswith("#"):
                self.outside.append(value)

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_links_to_reports_and_escapes_everything(command, make, tmp_path):
    one = make("one", rows=hard_and_easy(1), data={"train": "a", "system": EVIL})
    two = make(EVIL, rows=hard_and_easy(2), data={"train": "b", "system": "kind"})
    three = make("three", ending="failed")
    for run in (one, two):
        (run / "report" / "report.html").write_text("here")
        write_report(run, hard_and_easy(1), "d" * 64, metric=EVIL)
    target = tmp_path / "pages" / "deep" / "page.html"
    command(one, two, three, "--html", target)
    text = target.read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & page.tags
    assert not page.outside
    assert not re.search(r"@import|url\((?!#)", text)
    assert page.text.count(EVIL) >= 5  # a name, a setting and a metric, wherever they stand, and in the picture
    assert len(page.links) == 2
    for link, run in zip(page.links, (one, two), strict=True):
        assert not link.startswith(("/", "http"))
        assert (target.parent / unquote(link)).resolve() == (run / "report" / "report.html").resolve()
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ET.fromstring(picture)
    for colour in run_colours(3):
        assert text.count(f"background: {colour}") == 5  # in three tables and above two pictures
        assert colour in pictures[1]
    assert colour not in pictures[0]  # the third run has no scores


def test_a_page_of_real_runs(command, trained, tmp_path):
    runs, _ = trained
    command(*runs, "--html", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert [(tmp_path / unquote(link)).resolve() for link in page.links] == [run / "report/report.html" for run in runs]
    assert all(metric.name in page.text for metric in METRICS)
    assert "training loss, moving mean" in page.text
    assert "optim.learning_rate" in page.text
    assert "the runs took different numbers of steps (8, 11)" in page.text


def test_runs_without_a_single_step_make_a_page_without_pictures(command, make, tmp_path):
    command(make("a", ending="failed", steps=0), make("b", ending="failed", steps=0), "--html", tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text()


def test_a_file_that_cannot_be_written_is_refused_first(command, make, tmp_path):
    runs = [make("a"), make("b")]
    with pytest.raises(ConfigError, match="a folder is there"):
        command(*runs, "--html", tmp_path)


def points(svg: str) -> list[list[tuple[float, float]]]:
    """The lines of a picture, without grid and frame."""
    paths = re.findall(
        r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: #[0-9a-f]{6}; stroke-width: 2', svg
    )
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for path in paths]


def test_curves_end_where_their_runs_did_and_long_ones_are_thinned():
    long = [(step, 2.0 + 1000 / step) for step in range(1, 20_001)]
    half, one = long[:10_000], [(1, 1000.0)]
    lines = points(curves_of_runs("loss", [long, half, one, []], [[], [(20_000, 1.0)], [], []]))
    assert MOST_POINTS / 2 < len(smooth(long)) <= MOST_POINTS
    assert smooth(long)[-1][0] == 20_000
    assert smooth(half[:2]) == [(1, pytest.approx(752.0)), (2, pytest.approx(752.0))]  # of 1002 and 502
    (left, _), (right, _) = lines[0][0], lines[0][-1]
    assert (lines[1][-1][0] - left) / (right - left) == pytest.approx(0.5, abs=0.01)
    assert curves_of_runs("loss", [long], [[]]).count("validation") == 0


def test_dots_stand_where_the_scores_are():
    scores = [Interval(1.0, 0.0, 2.0, 20), None, Interval(2.0, 1.5, 4.0, 20), Interval(float("nan"), 0, 1, 20)]
    drawn = points(score_dots([("charm", scores)], ["a", "b", "c", "d"]))
    lines = [line for line in drawn if line[0][1] == line[-1][1]]
    [first, third] = lines
    unit = (first[1][0] - first[0][0]) / 2
    assert (third[1][0] - third[0][0]) / unit == pytest.approx(2.5, abs=0.01)
    assert (third[0][0] - first[0][0]) / unit == pytest.approx(1.5, abs=0.01)
    assert third[0][1] > first[0][1]  # the first run stands on top


def test_what_got_better_or_worse_stands_first(command, make, tmp_path):
    rows = hard_and_easy(1)
    one, two = make("first-one", rows=rows), make("second", rows=hard_and_easy(2, 0.4))
    for run, counts in ((one, rows), (two, rows)):
        report = read_json(run / "report" / "report.json")
        report["scores"].insert(0, {**report["scores"][0], "metric": "exact match"})
        (run / "report" / "report.json").write_text(json.dumps(report))
        lines = lines_of(run / "report" / "rows.jsonl")
        for line, pair in zip(lines, counts, strict=True):
            line["counts"]["exact match"] = pair
        (run / "report" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = command(one, two, "--html", tmp_path / "page.html").split("95% intervals")[1]
    assert shown.index("token accuracy") < shown.index("exact match")
    text = (tmp_path / "page.html").read_text()
    folded = text.index("<summary>no run is better or worse than first-one: exact match")
    assert text.index("token accuracy") < folded
    assert "exact match" not in "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert {"first-one", "second"} <= set(re.findall(r">\s*([\w-]+)</text>", text))  # beside their dots


def limits_of(losses, validations=()):
    """What an axis shows of some losses: its limits, whether it is logarithmic, and what is said of the others."""
    axes = Figure().add_subplot()
    fit_axis(axes, [losses, list(validations)])
    return (*axes.get_ylim(), axes.get_yscale(), [text.get_text() for text in axes.texts])


def test_a_loss_axis_fits_its_curve():
    fall = [2.0 + 0.5 * 0.98**step for step in range(200)]
    low, high, scale, said = limits_of([9.0, 5.0, *fall], [2.3, 2.1])
    assert (scale, said) == ("linear", ["not shown: 2 of 204 losses, up to 9"])
    assert 1.9 < low < 2.02
    assert 2.45 < high < 2.6
    low, high, scale, said = limits_of(fall)  # nothing stands out, and nothing is left out
    assert (low < min(fall), max(fall) < high < 2.6, scale, said) == (True, True, "linear", [])
    low, high, scale, said = limits_of([4 * 0.98**step + 0.02 for step in range(300)])
    assert (scale, said) == ("log", [])
    assert (0.015 < low < 0.03, 4 < high < 6) == (True, True)
    assert limits_of([2.0] * 9 + [-5.0])[2:] == ("linear", ["not shown: 1 of 10 losses, down to -5"])
    for few in ([1.0], [0.0], [3.0, 1.0], [1.0, float("nan")]):  # every one is shown
        low, high, _, said = limits_of(few)
        assert low < min(few[0], few[-1], key=lambda value: value if value == value else 99) < high
        assert said == []
    assert limits_of([])[2:] == ("linear", [])


def test_names_are_as_short_as_tells_them_apart():
    assert shortest_ends(["/runs/a", "/runs/b"]) == ["a", "b"]
    assert shortest_ends(["runs/x/model", "runs/y/model"]) == ["x/model", "y/model"]
    assert shortest_ends(["https://api.host/v1#gpt", "org/name"]) == ["gpt", "name"]
    assert shortest_ends(["runs/a", "runs/a"]) == ["a", "a"]
    assert shortest_ends(["/", "ember"]) == ["/", "ember"]
    assert shortest_ends([]) == []
    assert shortened(["a-run-of-monday", "ember"], 9) == ["a-ru…nday", "ember"]
    assert shortened(["a-run-of-monday-1", "a-run-on-friday-1"], 8) == ["1 a-…y-1", "2 a-…y-1"]


def test_ten_colours_are_ten():
    assert len(set(run_colours(10))) == 10


def test_a_damaged_report_is_one_sentence(make):
    runs = [make("a", rows=hard_and_easy(1)), make("b", rows=hard_and_easy(1))]
    (runs[1] / "report" / "report.json").write_text("{")
    with pytest.raises(tunesmith.core.errors.TunesmithError, match=r"report\.json:1:\d+: not JSON"):
        compare_runs(runs)
    assert read_json(runs[0] / "report" / "report.json")["rows"] == 60
