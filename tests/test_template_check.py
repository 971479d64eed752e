"""A template of somebody else's takes no more of a machine than a template may."""

from __future__ import annotations

import shutil
import sys

import pytest

from tunesmith.core.errors import ModelError
from tunesmith.core.files import home
from tunesmith.prompt import template_check
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message
from tunesmith.prompt.render import ROOM, WritesTooMuch, compile_template, render
from tunesmith.prompt.template_check import check_template, try_template
from tunesmith.prompt.templates import MARKS, TEMPLATES

SAY = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
LOOPS = "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}"
ENDS = "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (SAY, None),
        ("{{ raise_exception('no tools') if tools else '' }}" + SAY, None),
        ("{% for i in range(10**9) %}{% endfor %}", None),  # the sandbox forbids that by itself
        ("{{ 'a' * 10**10 }}", "takes more than 128 MB for a short conversation"),
        ("{% set all = 'a' * 10**10 %}" + SAY, "takes more than 128 MB"),
        (SAY + "{% if tools %}{{ '%09999999999d' % 1 }}{% endif %}", "takes more than 128 MB"),
        (LOOPS + ENDS, "takes more than 1 seconds"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
         "takes more than 1 seconds"),
        (LOOPS + "{{ messages[0]['content'] }}" + ENDS, "writes more than 200,000 characters"),
    ],
)  # fmt: skip
def test_what_a_template_takes_is_found_in_a_child(template, words):
    found = try_template(template, {"eos_token": "</s>"}, seconds=1)
    assert words in found if words else found == ""


def test_a_model_with_such_a_template_is_refused_again_without_another_child(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    template = (folder / "chat_template.jinja").read_text()
    for text, refused in ((template + "{{ 'a' * 10**11 }}", True), ("{{ '' }}" + template, False)):
        (folder / "chat_template.jinja").write_text(text)
        for _ in range(2):
            if refused:
                with pytest.raises(ModelError, match=r"takes more than 128 MB .* so it is not used. Name another with"):
                    load_contract(folder)
            else:
                assert load_contract(folder).template == text
            monkeypatch.setattr(template_check, "try_template", never)
        monkeypatch.undo()
        assert load_contract(folder, "zephyr").template == TEMPLATES["zephyr"]  # the advice can be followed


def never(*arguments, **options):
    raise AssertionError("a child was started")


def test_our_own_templates_are_never_tried(monkeypatch):
    monkeypatch.setattr(template_check, "try_template", never)
    folder = resolve("ember").folder
    assert load_contract(folder).template
    for name in TEMPLATES:
        if name not in MARKS or name == "chatml":
            load_contract(folder, name)


def test_what_is_in_use_is_watched_where_the_system_sets_no_bound(monkeypatch):
    monkeypatch.setattr(template_check, "MOST_BYTES", 1 << 20)  # less than any Python needs
    assert "takes more than 1 MB" in try_template(SAY, {})


def test_a_template_that_cannot_be_tried_is_not_taken_for_good_or_bad(monkeypatch):
    before = sorted((home() / "templates").glob("*"))
    with pytest.raises(ModelError, match=r"within 0 seconds. Try again"):
        try_template(SAY + " ", {}, longest=0)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ModelError, match="could not be tried"):
        check_template(SAY + " ", {})
    assert sorted((home() / "templates").glob("*")) == before


def test_a_template_that_goes_wild_on_some_words_only_is_stopped_by_what_it_writes():
    wild = "{% if 'boom' in messages[0]['content'] %}" + LOOPS + "{{ 'a' * 1000 }}" + ENDS + "{% endif %}" + SAY
    contract = load_contract(resolve("ember").folder)
    contract = Contract(contract.tokenizer, wild, contract.stop_ids)
    assert contract.text((Message("user", "hello"),)) == "hello<|im_end|>"
    with pytest.raises(ModelError, match="writes more than 1,000,000 characters"):
        contract.text((Message("user", "boom"),))


def test_what_a_template_may_write_grows_with_what_it_is_given():
    values = {"messages": [{"content": "a" * 3 * ROOM}], "tools": None, "eos_token": ""}
    assert len(render(compile_template(SAY * 19), values)) == 57 * ROOM
    with pytest.raises(WritesTooMuch):
        render(compile_template(SAY * 21), values)
