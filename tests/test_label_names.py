"""Labels as rows have them: as numbers with names elsewhere, as lists that some rows lack."""

from __future__ import annotations

import json

import pytest

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.formats.label_names import read_label_names
from tunesmith.data.load import load_rows


@pytest.mark.parametrize("text", [
    "dog\npool\n\n", '["dog", "pool"]', '{"0": "dog", "1": "pool"}', '{"pool": 1, "dog": 0}', "\ufeffdog\r\npool\r\n",
    "0,dog\n1,pool\n", "id,label\n1,pool\n0,dog\n", "0 dog\n1 pool", "0\tdog\n1\tpool\n",
    '{"id2label": {"0": "dog", "1": "pool"}}',
])  # fmt: skip
def test_names_are_read_from_lists_and_maps(tmp_path, text):
    file = tmp_path / "names.txt"
    file.write_text(text, encoding="utf-8")
    assert read_label_names(str(file)) == ["dog", "pool"] == read_label_names(["dog", "pool"])


@pytest.mark.parametrize(("text", "said"), [
    ("", "is no list of names. Write one a line"),
    ("dog\n\npool", "is no list of names"),
    ("dog\npool\ndog", "'dog' stands there twice"),
    ('["dog", 2]', "is no list of names"),
    ('["dog"', "is no JSON"),
    ('{"0": "dog", "2": "pool"}', "does not name the numbers from 0 to 1"),
    ("1,dog\n2,pool", "does not name the numbers from 0 to 1"),
])  # fmt: skip
def test_files_that_name_no_labels_are_refused(tmp_path, text, said):
    file = tmp_path / "names.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        read_label_names(str(file))
    file.write_bytes("dög".encode("latin-1"))
    with pytest.raises(DataError, match=r"names.txt: is not UTF-8 \(byte 1\)"):
        read_label_names(str(file))
    with pytest.raises(MissingError, match=r"data.label_names = .*absent.txt: no such file"):
        read_label_names(str(tmp_path / "absent.txt"))


def test_numbers_become_names(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nwoof,0\nsplash,1\nmoo,2\nbaa,x\n")
    rows = load_rows(str(file), label_names=["dog", "pool"])
    assert [row.content.label for row in rows.rows] == ["dog", "pool"]
    assert [(one.source.line, one.found) for one in rows.ledger.entries] == [
        (4, "'label' is '2', and data.label_names has names for 0 to 1."),
        (5, "'label' is 'x', and data.label_names has names for 0 to 1."),
    ]
    several = tmp_path / "several.jsonl"
    several.write_text(json.dumps({"text": "woof splash", "labels": [1, 0]}) + "\n")
    assert load_rows(str(several), label_names=["dog", "pool"]).rows[0].content.label == ("pool", "dog")
    chat = tmp_path / "chat.jsonl"
    chat.write_text(json.dumps({"question": "Where?", "answer": "Here."}) + "\n")
    assert "and chat rows have none" in load_rows(str(chat), label_names=["dog"]).ledger.entries[0].found


def test_rows_without_their_list_have_no_label_where_the_format_is_named(tmp_path):
    file = tmp_path / "rows.json"
    rows = [{"text": "a dog", "intents": ["dog"]}, {"text": "3"}, {"text": "well", "intents": None}]
    file.write_text(json.dumps(rows))
    found = load_rows(str(file), columns={"labels": "intents"})
    assert len(found.rows) == 1
    assert found.ledger.entries[0].advice.endswith("data.format=text-labels, in check --format text-labels.")
    found = load_rows(str(file), columns={"labels": "intents"}, format="text-labels")
    assert [row.content.label for row in found.rows] == [("dog",), (), ()]
    assert found.ledger.sentence().endswith("(no 'labels': read as none: 2)")


def test_whole_numbers_with_a_fraction_are_told_and_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"a {n}", "label": float(n % 2)}) + "\n" for n in range(4)))
    remarks = " ".join(load_rows(str(file)).ledger.remarks)
    assert (
        "Labels such as 0.0 are learned as numbers. If they are classes, write them without a fraction (0)" in remarks
    )
    named = load_rows(str(file), label_names=["dog", "pool"])
    assert [row.content.label for row in named.rows] == ["dog", "pool"] * 2


@pytest.mark.parametrize("names", [["1 star", "2 stars", "3 stars"], ["0 x", "1 x"]])
def test_names_that_begin_with_numbers_stay_whole(tmp_path, names):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(names))
    assert read_label_names(str(file)) == names
