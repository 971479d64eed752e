"""Documents say what is there: references match the code, examples parse, links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tunesmith.core.config import union_members
from tunesmith.data.kinds.table import FORMATS, kind_of
from tunesmith.data.load import load_rows
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_tokenizer
from tunesmith.prompt.messages import Message
from tunesmith.prompt.templates import TEMPLATES
from tunesmith.train.recipe import Recipe, read_recipe

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"core": "exec", "store": "jobs", "score": "evaluate", "track": "train"}  # rooms on the page of another
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_is_what_the_code_says():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, place in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        if not target.startswith("https://"):
            found = page.parent / target if target else page
            assert found.exists(), target
            assert not place or place in headings(found), f"{target}#{place}"


def headings(page):
    """What a link may name of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_room_has_a_page():
    rooms = {path.parent.name for path in (ROOT / "src" / "tunesmith").glob("*/__init__.py")}
    pages = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    assert set(SHARED) <= rooms
    assert not set(SHARED) & set(pages)
    assert {SHARED.get(room, room) for room in rooms} <= set(pages)
    for room, page in SHARED.items():
        assert f"`{room}`" in pages[page]


def test_modules_that_pages_name_are_there():
    rooms = [path for path in (ROOT / "src" / "tunesmith").iterdir() if path.is_dir()]
    folders = {room.name for room in rooms if room.name != "assets"}
    for page in (page for page in PAGES if page.parent.name != "decisions"):  # these keep the words of their day
        for name in re.findall(r"`((?:\w+/)+[\w.]+)`", page.read_text()):
            if name.partition("/")[0] in folders and "NAME" not in name:
                found = ROOT / "src" / "tunesmith" / name
                assert any(path.exists() for path in (found, found.with_suffix(".py"))), f"{page.name}: {name}"


def test_each_format_of_the_data_page_is_read_as_it_says(tmp_path):
    examples = re.findall(r"```json (\S+)\n(.*?)\n```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert [name for name, _ in examples] == list(FORMATS)
    for name, text in examples:
        path = tmp_path / f"{name}.jsonl"
        path.write_text(text)
        asked = frozenset({FORMATS[name].kind}) if FORMATS[name].on_request else frozenset[str]()
        dataset = load_rows(str(path), asked, format=name if FORMATS[name].named_only else None)
        count = len(text.splitlines())
        assert (dataset.format, dataset.ledger.counts()) == (name, {"read": count, "kept": count})
        assert not dataset.ledger.entries
        for row in dataset.rows:  # what is read can be written and read again
            again = kind_of(row).read_back(json.loads(row.json))
            assert again == row.content


def test_the_data_page_names_every_code_of_the_ledger():
    source = "".join(path.read_text() for path in (ROOT / "src" / "tunesmith" / "data").rglob("*.py"))
    codes = set(re.findall(r'RowFault\(\s*"([a-z_]+)"', source))
    page = (ROOT / "docs" / "data.md").read_text()
    assert len(codes) > 50
    assert not {code for code in codes if f"`{code}`" not in page}


def test_the_prompt_page_shows_each_template_as_it_is():
    shown = dict(re.findall(r"^\| `(\w+)` \| `(.*)` \|$", (ROOT / "docs" / "prompt.md").read_text(), re.MULTILINE))
    assert set(shown) == set(TEMPLATES)
    tokenizer = load_tokenizer(resolve("ember").folder)
    tokenizer.add_special_tokens({"eos_token": "</s>", "bos_token": "<s>"})
    for name, text in shown.items():
        ours = Contract(tokenizer, TEMPLATES[name], ()).text((Message("user", "Hi?"), Message("assistant", "Hello.")))
        assert ours == text.replace("⏎", "\n").replace("\\|", "|")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_are_valid(path):
    read_recipe(path)


def test_the_chat_recipe_shows_every_field_with_its_default():
    shown = yaml.safe_load((ROOT / "recipes" / "chat.yaml").read_text())
    defaults = Recipe.model_validate({"data": {"train": "hotel"}, "method": {"type": "lora"}}).model_dump(mode="json")
    defaults["optim"]["learning_rate"] = 2e-3  # ember's, with the reason beside it
    assert shown == defaults
    for name, field in Recipe.model_fields.items():
        members = union_members(field)
        assert name in shown
        assert len(members) != 1 or set(shown[name]) == set(members[0].model_fields)
    for line in (ROOT / "recipes" / "chat.yaml").read_text().splitlines():
        if re.match(r"  \w+: ", line):
            assert "#" in line, f"not explained: {line}"
