"""The demo of learning from preferences: its pairs, the judge that no reward model saw, and what policies are worth."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import ROOT, chat_row
from tunesmith.core.errors import DataError
from tunesmith.core.events import silent
from tunesmith.core.files import read_lines
from tunesmith.data.load import load_rows
from tunesmith.data.source import find_files
from tunesmith.evaluate.policy_picture import draw_policies
from tunesmith.jobs import rlhf_demo
from tunesmith.jobs.policies import compare_policies, questions_of
from tunesmith.jobs.rlhf_demo import FROM_PAIRS, FROM_REWARDS, TOLD, graded_by, kept, manner_chats, recipe_of
from tunesmith.score.manners import manner_of
from tunesmith.score.policies import Answered, policy_scores

FIGURES = re.compile(r"\d[\d:]*")


def pairs_of(name: str) -> list[dict]:
    return read_lines(find_files(name)[0].path)


def test_the_pairs_are_many_and_held_out_ones_are_of_other_templates():
    train, test = pairs_of("hotel-preferences"), pairs_of("hotel-preferences-test")
    assert len(train) + len(test) >= 1500
    assert (
        sum(find_files(name)[0].path.stat().st_size for name in ("hotel-preferences", "hotel-preferences-test")) < 6e5
    )
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    source, chats = load_source(), (chat for name in ("hotel", "hotel-test") for chat in pairs_of(name))
    facts = [turn["content"] for chat in chats for turn in chat["messages"] if turn["role"] == "assistant"]
    for part, rows in (("train", train), ("test", test)):
        other = "test" if part == "train" else "train"
        for key in ("polite", "rambling"):
            frames = [around(template) for template in source[key][other] if len(max(around(template), key=len)) > 12]
            assert frames
            frames = [frame for frame in frames if not any(all(piece in fact for piece in frame) for fact in facts)]
            texts = [row["chosen" if key == "polite" else "rejected"] for row in rows]
            assert frames
            assert not any(all(piece in text for piece in frame) for frame in frames for text in texts)
    for name in ("hotel-preferences", "hotel-preferences-test"):
        assert load_rows(name, frozenset({"preference"})).ledger.counts()["kept"] == len(pairs_of(name))


def load_source() -> dict:
    import yaml

    return yaml.safe_load((ROOT / "scripts" / "hotel" / "manners.yaml").read_text())


def around(template: str) -> list[str]:
    """What a template says itself."""
    return [piece.strip() for piece in template.split("{answer}") if piece.strip()]


def test_only_manner_tells_the_answers_apart():
    """Every figure of one answer stands in the other, in all pairs."""
    for name in ("hotel-preferences", "hotel-preferences-test"):
        for row in pairs_of(name):
            assert set(FIGURES.findall(row["chosen"])) == set(FIGURES.findall(row["rejected"])), row


def test_the_judge_agrees_with_people_on_every_pair():
    for row in (*pairs_of("hotel-preferences"), *pairs_of("hotel-preferences-test")):
        chosen, rejected = manner_of(row["chosen"]), manner_of(row["rejected"])
        assert chosen.points > rejected.points, row


@pytest.mark.parametrize(
    ("answer", "lacks"),
    [
        ("I would be delighted to help: the museum is open until five, and tickets are sold here.", set()),
        ("My apologies for the wait. Your taxi will be at the door in about ten minutes.", set()),
        ("Our pool is open from seven to nine, and I wish you a pleasant swim there.", set()),
        ("Nine.", {"polite", "short"}),
        ("Nine to five, and not on Mondays, as it says at the door.", {"polite"}),
        ("To be honest, I could not say, but please ask the porter about the boats this evening.", {"straight"}),
        ("Please take the lift to the pool. Please take the lift to the pool. It is on the left.", {"once"}),
        ("Thank you. " + "The garden lies beyond the terrace, which looks out over trees, hills, lakes and far "
         "villages whose chimneys smoke on winter mornings while bells ring from towers that nobody has climbed since "
         "long before anybody now alive was born.", {"short"}),
        ("Happy hour begins at five in the bar and ends at half past six.", {"polite"}),
        ("", {"polite", "short", "straight", "once"}),
    ],
)  # fmt: skip
def test_the_judge_reads_answers_that_no_template_made(answer, lacks):
    manner = manner_of(answer)
    assert {name for name in ("polite", "short", "straight", "once") if not getattr(manner, name)} == lacks
    assert manner.points == 4 - len(lacks)


def test_policies_are_measured_beside_the_first():
    questions, good, bad = 40, "Of course. The pool is open from seven to nine.", "Seven to nine."
    first = Answered([bad] * questions, [0.0] * questions, [0.0] * questions)
    mixed = [good if place % 4 else bad for place in range(questions)]
    better = policy_scores(Answered(mixed, [1.0] * questions, [2.0, 4.0] * 20), first, [good] * questions)
    assert better.won is not None
    assert better.gain is not None
    assert better.divergence is not None
    assert better.won.value == pytest.approx(100 * (0.75 + 0.25 / 2))
    assert better.won.low > 50
    assert (better.gain.value, better.divergence.value) == (1.0, 3.0)
    assert better.bleu_share > 100
    same = policy_scores(first, first, [good] * questions)
    assert same.won is not None
    assert same.won.value == 50
    assert policy_scores(first, None, [good] * questions).won is None


def test_what_is_not_kept_is_named():
    good = {"won": {"low": 60.0}, "gain": {"low": 0.1}, "divergence": {"value": 3.0}, "bleu_share": 95.0}
    assert all((kept(good) or {}).values())
    for key, value in (("won", {"low": 49.0}), ("gain", {"low": -1.0}), ("divergence", {"value": 11.0}),
                       ("bleu_share", 89.0)):  # fmt: skip
        assert list((kept({**good, key: value}) or {}).values()).count(False) == 1
    assert kept({**good, "won": None}) is None


def test_staff_talk_in_all_manners_before_they_learn():
    chats = list(manner_chats())
    assert len(chats) == len(pairs_of("hotel-preferences"))
    points = [manner_of(chat["messages"][-1]["content"]).points for chat in chats]
    assert np.mean([one == 4 for one in points]) == pytest.approx(0.5, abs=0.01)


def test_every_stage_has_a_recipe_and_a_sentence(tmp_path):
    for name in ("start", "reward", *FROM_PAIRS, *FROM_REWARDS):
        recipe = recipe_of(name, tmp_path, graded_by(tmp_path / "reward") if name in FROM_REWARDS else {})
        assert recipe.output.name == name
        assert recipe.model.base == "ember"
        assert TOLD[name]


def test_the_road_goes_on_from_the_start_and_is_judged(tmp_path, monkeypatch):
    """Stages get what earlier ones made; what is written is what is returned."""
    seen = {}

    def start_run(recipe, report):
        seen[recipe.output.name] = recipe
        return SimpleNamespace(folder=tmp_path / recipe.output.name, scores=[
            {"metric": "reward accuracy", "score": {"value": 98.0, "low": 95.0, "high": 99.0, "rows": 192}}
        ])  # fmt: skip

    interval = {"value": 1.0, "low": 0.5, "high": 1.5, "rows": 20}
    line = dict.fromkeys(("reward", "gain", "won", "divergence", "bleu", "length"), interval)
    start = {**line, "name": "start", "gain": None, "won": None, "divergence": None, "bleu_share": 100.0}
    lines = [start, *({**line, "name": name, "bleu_share": 95.0} for name in (*FROM_PAIRS, *FROM_REWARDS))]
    monkeypatch.setattr(rlhf_demo, "start_run", start_run)
    monkeypatch.setattr(rlhf_demo, "run_alone", lambda *_: {"report": {"policies": lines, "rows": 20, "samples": []}})
    told = []
    found = rlhf_demo.rlhf_demo(silent, lambda stage: told.append(stage.name), tmp_path / "runs")
    assert told == ["start", "reward", *FROM_PAIRS, *FROM_REWARDS, "judge"]
    for name in (*FROM_PAIRS, *FROM_REWARDS):
        assert seen[name].method.continue_from == str(tmp_path / "start")
    assert list(seen["start"].data.train) == ["hotel", str(tmp_path / "runs/rlhf/manners.jsonl")]
    assert found == json.loads((tmp_path / "runs/rlhf/rlhf.json").read_text())
    assert (tmp_path / "runs/rlhf/rlhf.svg").stat().st_size > 1000
    for name in FROM_REWARDS:
        [score] = seen[name].objective.rewards
        assert (score.type, score.model) == ("model", str(tmp_path / "reward"))
    assert found["policies"][1]["kept"]["wins more than half"] is False


def test_the_picture_shows_every_policy(tmp_path):
    interval = {"value": 6.0, "low": 5.0, "high": 7.0}
    path = [[0.0, 1.0], [4.0, 5.0]]
    lines = [{"name": "start", "reward": interval, "divergence": None},
             {"name": "dpo", "reward": interval, "divergence": interval, "path": path}]  # fmt: skip
    draw_policies(lines, 10.0, tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")


def test_questions_that_end_with_no_answer_are_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi?"}]}) + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: the chat does not end with an answer"):
        questions_of(str(file))


def test_a_model_beside_itself_has_moved_nowhere(tmp_path, monkeypatch):
    """Through the real engine: KL 0 and half of the wins for a policy that is the start."""
    from tunesmith.jobs import policies

    (tmp_path / "rows.jsonl").write_text("".join(
        json.dumps(chat_row(f"What time is {meal}?", "At eight, and you are welcome.")) + "\n"
        for meal in ("breakfast", "dinner", "lunch", "tea")
    ))  # fmt: skip
    monkeypatch.setattr(policies, "load_predictor", lambda *_: SimpleNamespace(
        predict=lambda turns: [SimpleNamespace(reward=float(len(one[-1]["content"]))) for one in turns]
    ))  # fmt: skip
    data = str(tmp_path / "rows.jsonl")
    arguments = {"start": "ember", "policies": {"same": "ember"}, "reward": "ember", "data": data,
                 "max_new_tokens": 12, "seed": 3, "device": "cpu"}  # fmt: skip
    first, same = compare_policies(arguments, silent)["report"]["policies"]
    assert first["won"] is None
    assert same["won"]["value"] == 50
    assert abs(same["divergence"]["value"]) < 1e-4
    assert same["reward"] == first["reward"]
    assert same["bleu_share"] == pytest.approx(100)


def test_the_table_fits_a_terminal_and_names_what_is_not_kept(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from tunesmith.cli import demo, screen

    def interval(value: float) -> dict:
        return {"value": value, "low": value - 3.1, "high": value + 3.1, "rows": 192}

    names = ("start", *FROM_PAIRS, *FROM_REWARDS)
    lines = [
        {"name": name, "folder": name, "bleu_share": 98.0, "kept": {"KL at most 10": name != "ppo"}}
        | {key: interval(12.3) for key in ("reward", "won", "divergence", "bleu", "length")}
        for name in names
    ]
    written = StringIO()
    monkeypatch.setattr(screen, "console", Console(file=written, width=80))
    demo.show_policies({
        "reward_accuracy": interval(98.0), "rows": 192, "policies": lines, "picture": "one.svg", "folder": "runs/rlhf",
        "samples": [{"question": "Where?", **dict.fromkeys(names, "Here.")}],
    })  # fmt: skip
    said = written.getvalue()
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    assert said.count("not kept") == 1
    assert "ppo: not kept: KL at most 10" in said
    assert "98.0% [94.9, 101] of 192 held-out pairs" in said
