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
from tunesmith.data.formats import FORMATS, canonical
from tunesmith.data.load import load_dataset
from tunesmith.jobs.recipe import Recipe, read_recipe
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_tokenizer
from tunesmith.prompt.messages import Message
from tunesmith.prompt.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
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
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_room_has_a_page():
    rooms = {path.parent.name for path in (ROOT / "src" / "tunesmith").glob("*/__init__.py")}
    assert rooms <= {path.stem for path in PAGES}


def test_each_format_of_the_data_page_is_read_as_it_says(tmp_path):
    examples = re.findall(r"```json (\S+)\n(.*?)\n```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert [name for name, _ in examples] == list(FORMATS)
    for name, text in examples:
        path = tmp_path / f"{name}.jsonl"
        path.write_text(text)
        dataset = load_dataset(str(path))
        count = len(text.splitlines())
        assert (dataset.format, dataset.ledger.counts()) == (name, {"read": count, "kept": count})
        assert not dataset.ledger.entries
        for row in dataset.rows:  # what is read can be written and read again
            again = canonical(row.content).convert(json.loads(row.json), lambda fault: None)
            assert again == row.content


def test_the_data_page_names_every_code_of_the_ledger():
    source = "".join(path.read_text() for path in (ROOT / "src" / "tunesmith" / "data").glob("*.py"))
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
