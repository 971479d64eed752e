"""What every field of a recipe does: told of each, true of the code, and shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.core.config import Section, option
from tunesmith.core.errors import ConfigError
from tunesmith.train import explain as room
from tunesmith.train.explain import KINDS, everything, explain, fields, kind_of, named, texts

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("effect", "usual", "source")
EXPLAINED = [one for one in everything().values() if one.role != "section"]
KNOWN = {one.name for one in EXPLAINED} | {one.written for one in fields()}


@pytest.mark.parametrize("one", EXPLAINED, ids=lambda one: one.name)
def test_every_field_and_every_alternative_is_explained(one):
    for part in PARTS:
        value = getattr(one, part)
        assert isinstance(value, str), f"{one.name}: {part}"
        assert value, f"{one.name}: {part}"
    assert one.effect.endswith(".")
    assert one.usual.endswith(".")
    assert one.what
    assert one.role == "alternative" or (one.values and one.default and one.with_)


def test_no_text_is_of_no_field():
    assert not texts().keys() - KNOWN
    for name, text in texts().items():
        assert not text.keys() - {*PARTS, "with"}, name


def test_what_a_text_names_is_there():
    for name, text in texts().items():
        assert not text.get("with", {}).keys() - KNOWN, name
        assert not [how for how in text.get("with", {}).values() if not isinstance(how, str) or how.endswith(".")], name
        for path in re.findall(r"\b(?:docs|benchmarks|recipes|scripts|tests)/[\w./-]*\w", text.get("source", "")):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_a_paper_has_one_number_wherever_it_is_named():
    cited = re.compile(r"([A-ZÀ-Ž][\w-]+)(?: et al\.| and [A-Z]\w+)?, (\d{4}),\s+arXiv\s(\d{4}\.\d{4,5})")
    of_code = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    of_texts = [text["source"] for text in texts().values() if "source" in text]
    author_of: dict[str, str] = {}
    for author, _, number in (found for text in [*of_code, *of_texts] for found in cited.findall(text)):
        assert author_of.setdefault(number, author) == author, number
    assert len(author_of) > 40
    numbers = {number for text in of_texts for number in re.findall(r"arXiv (\d{4}\.\d{4,5})", text)}
    assert not numbers - author_of.keys()


def test_each_field_is_of_one_kind():
    prefixes = [prefix for kind in KINDS for prefix in kind.of]
    assert not [prefix for prefix, times in Counter(prefixes).items() if times > 1]
    assert set(prefixes) <= everything().keys()
    titles = {kind.name for kind in KINDS}
    assert {one.kind for one in everything().values()} == titles
    assert {name: kind_of(name).name for name in ("optim.layer_decay", "data.replay_share", "data.train", "seed")} == {
        "optim.layer_decay": "hyperparameter", "data.replay_share": "of a technique", "data.train": "the run around it",
        "seed": "hyperparameter",
    }  # fmt: skip


def test_a_name_may_be_short_where_it_is_plain_what_is_meant():
    assert explain("layer_decay") == explain("optim.layer_decay")
    assert explain("muon").name == "optim.optimizer.muon"
    assert explain("lora.dora").name == "method.lora.dora"
    assert explain("method.type").name == "method"
    assert explain("optim").inside[:2] == ("optim.optimizer", "optim.learning_rate")
    assert explain("model.dropout").inside == ("model.dropout.attention", "model.dropout.hidden")
    assert explain("objective.class_weights").name == "objective.classify.class_weights"
    ranks = {one.name: one.default for one in named("rank")}
    assert ranks["method.lora.rank"] == "`16`"
    assert ranks["method.vera.rank"] == "`256`"
    assert explain("lion.betas").default == "`[0.9, 0.99]`"


def test_an_entry_of_an_alternative_goes_before_the_shared_one():
    lora, loha = explain("method.lora.alpha"), explain("method.loha.alpha")
    assert lora.effect == loha.effect == texts()["method.alpha"]["effect"]
    assert lora.usual != loha.usual


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("optim.layer_deca", "optim has no field 'layer_deca'; did you mean 'layer_decay'?"),
        ("optim.optimizer.moun", "optim.optimizer has no field 'moun'; did you mean 'muon'?"),
        ("layer_deca", "a recipe has no such field; did you mean 'layer_decay'?"),
        ("xyzzy", "a recipe has no such field; `tunesmith explain` lists all."),
        ("dropout", "which one? There are model.dropout, method.dropout."),
        ("track.x", "track has no field 'x'; known: experiment, mlflow, name, tags, tensorboard, wandb."),
    ],
)
def test_a_name_that_is_none(name, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        named(name)


def test_one_of_several_is_asked_for():
    with pytest.raises(ConfigError, match="which one"):
        explain("method.rank")


def words(*arguments: str) -> str:
    return " ".join(CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False).output.split())


@pytest.mark.parametrize("name", ["optim.layer_decay", "perturb.pgd.steps", "optim.optimizer.lion", "data.replay"])
def test_the_command_says_all_of_it(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown, one = words(name), explain(name)
    for text in (one.what, one.effect, one.usual, one.source, *(f"{a}: {b}" for a, b in one.with_.items())):
        assert " ".join(text.replace("`", "").split()) in shown


def test_the_command_shows_what_alternatives_share_once():
    shown = words("method.rank")
    assert shown.count(explain("method.lora.rank").effect) == 1
    assert all(f"of {name}:" in shown for name in ("lora", "adalora", "vera", "loha", "lokr"))
    assert "of lora, adalora, vera, loha, lokr, oft:" in words("method.targets")


def test_the_command_lists_every_field_under_its_kind():
    shown = words()
    places = [shown.index(kind.title) for kind in KINDS]
    assert places == sorted(places)
    assert all(" ".join(kind.sentence.split()) in shown for kind in KINDS)
    assert "optim.optimizer.muon momentum, iterations, betas, eps" in shown
    assert "method.bitfit (no fields)" in shown
    for one in fields():
        assert one.name.rpartition(".")[2] in shown


def test_a_section_shows_its_fields():
    assert all(name.rpartition(".")[2] in words("optim") for name in explain("optim").inside)
    assert "Newton-Schulz iterations" in words("optim.optimizer.muon")
    assert "such as [q_proj, v_proj]" in words("lora")


def test_the_reference_says_the_same():
    page = (ROOT / "docs" / "reference-config.md").read_text()
    for one in EXPLAINED:
        assert one.effect in page, one.name
        assert one.usual in page, one.name
    assert "## optim.optimizer (`type: muon`)" in page


def test_torch_is_not_imported():
    code = "import sys; from tunesmith.train.explain import everything; everything(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Plain(Section):
    """One way."""

    type: Literal["plain"] = "plain"


class Fancy(Section):
    """Another way."""

    type: Literal["fancy"] = "fancy"
    size: int = option(3, "How large.", ge=1)


class Whole(Section):
    """All of it."""

    way: Annotated[Plain | Fancy, Field(discriminator="type")] = option(Plain(), "Which way.")
    seed: int = option(0, "Chance.", ge=0)


def test_a_new_alternative_is_found_and_takes_the_shared_text(monkeypatch):
    monkeypatch.setattr(room, "KINDS", (room.Kind("any", "Any", "Any.", ("way", "seed")),))
    said = {"way.size": {"effect": "Larger.", "with": {"seed": "drawn"}}, "way.fancy.size": {"usual": "3."}}
    found = {one.name: one for one in room._below(Whole, "", "", said)}
    assert list(found) == ["way", "way.plain", "way.fancy", "way.fancy.size", "seed"]
    assert found["way"].inside == ("way.plain", "way.fancy")
    assert found["way"].values == "`plain`, `fancy`"
    size = found["way.fancy.size"]
    assert (size.written, size.effect, size.usual, size.values) == ("way.size", "Larger.", "3.", "int, ≥ 1")
