"""Names become files: whatever a file is called, and what lies beside it is left out with a word."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.data.load import load_rows
from tunesmith.data.source import find_files

ROW = '{"question": "Q1?", "answer": "A1"}\n'
NAMES = [
    "~tilde.jsonl", "~nobody/rows.jsonl", "a b.jsonl", "a#b.jsonl", "a%20b.jsonl", "[x].jsonl",
    "a*b.jsonl", "a?b.jsonl", "-d.jsonl", "hf:thing.jsonl", "12:30.jsonl", "dots.jsonl.", "up.JSONL", "b[1]/rows.jsonl",
    "~$rows.jsonl", "grüße.jsonl", "no-suffix", "folder.jsonl/rows.jsonl",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in; writes files there."""
    monkeypatch.chdir(tmp_path)

    def write(*names, text=ROW):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_that_file_whatever_its_name_looks_like(here, name):
    here(name, "x.jsonl", "a_b.jsonl")
    [file] = find_files(name)
    assert (file.name, file.path, file.notes) == (name, Path(name), ())
    assert len(load_rows(name).rows) == 1


def test_a_home_folder_is_meant_by_a_tilde_alone(here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here("home/rows.jsonl")
    assert find_files("~/rows.jsonl")[0].path == tmp_path / "home" / "rows.jsonl"
    assert [file.path.name for file in find_files("~/*.jsonl")] == ["rows.jsonl"]
    with pytest.raises(MissingError, match="this-name/rows: no such file"):
        find_files("~nobody-of-this-name/rows")


def test_an_accent_is_the_same_however_it_is_written(here):
    here(unicodedata.normalize("NFD", "grüße/café.jsonl"))
    assert len(load_rows(unicodedata.normalize("NFC", "grüße/café.jsonl")).rows) == 1


def test_parts_of_a_pattern_that_are_there_are_no_pattern(here):
    here("b[1]/one.jsonl", "b1/two.jsonl", "~x/three.jsonl")
    assert [file.name for file in find_files("b[1]/*.jsonl")] == ["b[1]/one.jsonl"]
    assert [file.name for file in find_files("b[12]/*.jsonl")] == ["b1/two.jsonl"]
    assert [file.name for file in find_files("~x/*.jsonl")] == ["~x/three.jsonl"]


def test_links_are_followed_and_broken_ones_named(here, tmp_path):
    here("x.jsonl")
    (tmp_path / "link.jsonl").symlink_to("x.jsonl")
    (tmp_path / "broken.jsonl").symlink_to("gone.jsonl")
    assert len(load_rows("link.jsonl").rows) == 1
    with pytest.raises(MissingError, match=r"broken\.jsonl: a link to gone\.jsonl, which is not there\."):
        find_files("broken.jsonl")
    with pytest.raises(
        ConfigError, match=r"'link\.jsonl' is the same file as 'x\.jsonl', and so named twice\. Name it"
    ):
        find_files(["x.jsonl", "link.jsonl"])


@pytest.mark.parametrize("lock", ["~$book.xlsx", ".~lock.book.xlsx#"])
def test_what_an_open_workbook_leaves_is_no_workbook(here, lock):
    here("rows.jsonl")
    here(lock, text="Anna")
    with pytest.raises(DataError, match=r"leaves beside a workbook that is open.*Name the workbook itself: book\.xlsx"):
        find_files(lock)
    assert [file.name for file in find_files(".")] == ["rows.jsonl"]
    with pytest.raises(MissingError, match=r"no file matches this pattern \(1 other: "):
        find_files("*book*")


def test_what_hubs_put_beside_data_is_no_data(here):
    beside = ["README.md", "LICENSE", "dataset_info.json", "state.json", "rows.lock"]
    here(*(f"hub/{name}" for name in [*beside, ".gitattributes", "train.jsonl", "notes.md", "paper.pdf"]))
    for name, names in (("hub", ["notes.md", "train.jsonl"]), ("hub/*", ["notes.md", "paper.pdf", "train.jsonl"])):
        found = find_files(name)
        assert [file.path.name for file in found] == names
        assert found[0].notes[0].startswith(f"beside it {8 - len(names)} others not read: ")
    assert find_files("hub/README.md")[0].notes == ()
    here("hub/inner/rows.jsonl", "other/data/rows.jsonl", "other/README.md")
    sentence = load_rows("hub/*.jsonl").ledger.sentence()
    assert sentence == "1 row read: 1 kept."
    assert "inner/" in find_files("hub")[0].notes[0]
    with pytest.raises(MissingError, match=r"other: no data file in this folder\. Its folder 'data' holds some: name"):
        find_files("other")


def test_near_names_and_impossible_ones(here):
    here("rows.jsonl", "hotel")
    with pytest.raises(MissingError, match=r"rows\.jsonll: no such file\. Did you mean 'rows\.jsonl'\?"):
        find_files("rows.jsonll")
    for name in ("x" * 300, "~" + "x" * 300):
        with pytest.raises(MissingError, match="x: no such file"):
            find_files(name)
    [hotel] = find_files("hotel")
    assert hotel.notes == ("the embedded example; write ./hotel for what is here under this name",)
    assert find_files("./hotel")[0].path == Path("hotel")


# Columns that are named ---------------------------------------------------------------------------------------------


def test_names_of_columns_that_a_file_lacks_are_refused_though_it_has_the_key(here):
    rows = [{"Frage": "A?", "question": "B?", "answer": "C."}, {"Frage": "D?", "question": "E?", "answer": "F."}]
    here("rows.jsonl", text="".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_rows("rows.jsonl", columns={"question": "Frage"})
    assert [row.prompt[-1].content for row in dataset.rows] == ["A?", "D?"]
    assert dataset.ledger.remarks == ['Columns not read: "question (the file\'s own)" in 2 rows.']
    with pytest.raises(
        DataError, match=r"names 'Frag', which no row has\. The first row has: .*Did you mean 'Frage'\?"
    ):
        load_rows("rows.jsonl", columns={"question": "Frag"})
    with pytest.raises(DataError, match=r"reads 'Frage' as 'qestion', which question-answer rows do not have: did you"):
        load_rows("rows.jsonl", columns={"qestion": "Frage"})
    swapped = load_rows("rows.jsonl", columns={"question": "answer", "answer": "question"})
    assert (swapped.rows[0].prompt[-1].content, swapped.rows[0].answer) == ("C.", "B?")


def test_of_several_files_one_may_call_its_columns_by_the_keys(here):
    here("one.jsonl", text='{"Frage": "A?", "answer": "B."}\n')
    here("two.jsonl")
    here("three.jsonl", text='{"Question": "C?", "answer": "D."}\n')
    dataset = load_rows(["one.jsonl", "two.jsonl", "three.jsonl"], columns={"question": "Frage"})
    assert [row.prompt[-1].content for row in dataset.rows] == ["A?", "Q1?", "C?"]
    notes = [note for ledger in dataset.reading.ledgers.values() for note in ledger.notes]
    assert notes == [
        f"no column 'Frage', which data.columns names; its own {key!r} is read" for key in ("question", "Question")
    ]
