"""Words with tags as files have them: lists, CoNLL's columns, marked characters; what cannot be read says where."""

from __future__ import annotations

import json

import pytest

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.formats.words import places_of, words_in
from tunesmith.data.load import load_rows
from tunesmith.data.read.conll import holds_words


def read(tmp_path, text, name="rows.conll", **options):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_rows(str(path), **options)


def contents(found):
    return [(list(row.content.tokens), list(row.content.tags)) for row in found.rows]


def findings(found):
    """Line, column, code of everything in the first ledger."""
    return [(e.source.line, e.column, e.code) for e in found.ledger.entries]


# CoNLL ---------------------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# # O O

Peter NNP B-NP B-PER
"""


@pytest.mark.parametrize("name", ["rows.conll", "rows.txt", "rows.bio", "rows.tsv", "rows"])
def test_the_first_column_is_the_word_and_the_last_its_tag(tmp_path, name):
    found = read(tmp_path, CONLL, name)
    assert found.format == "tokens-tags"
    assert contents(found) == [(["EU", "rejects", "#"], ["B-ORG", "O", "O"]), (["Peter"], ["B-PER"])]
    assert [row.source.line for row in found.rows] == [3, 7]
    assert found.ledger.notes["lines of -DOCSTART- passed over"] == 1
    assert "'column 2' in 2 rows, 'column 3' in 2 rows" in " ".join(found.ledger.remarks)


def test_another_column_is_the_tag_where_it_is_named(tmp_path):
    found = read(tmp_path, CONLL, columns={"tags": "column 3"})
    assert contents(found)[0][1] == ["B-NP", "B-VP", "O"]


def test_words_may_have_spaces_where_tabs_part_columns(tmp_path):
    text = "# sent_id = 1\nNew York\tB-LOC\n.\tO\n\n# text = so\nso\tO\n"
    found = read(tmp_path, text)
    assert contents(found) == [(["New York", "."], ["B-LOC", "O"]), (["so"], ["O"])]
    assert found.ledger.notes["lines of comment passed over"] == 2


def test_of_universal_dependencies_form_and_part_of_speech_are_read(tmp_path):
    rest = "\t_\t_\t0\troot\t_\t_\n"
    text = f"# text = don't\n1-2\tdon't\t_\t_{rest}1\tdo\tdo\tAUX{rest}2\tn't\tnot\tPART{rest}2.1\tx\t_\t_{rest}"
    assert contents(read(tmp_path, text, "rows.conllu")) == [(["do", "n't"], ["AUX", "PART"])]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a O\nb O\nc X O\n\nd O\n", (3, 5), "line 3 has 3 columns, and the file's first has 2"),
        ("a X O\nb O\n\nd X O\n", (2, 4), "line 2 has 2 columns, and the file's first has 3"),
        ("a\tO\n\tO\n\nd\tO\n", (2, 1), "line 2 has an empty column"),
    ],
)
def test_a_line_with_other_columns_is_a_fault_at_its_place(tmp_path, text, place, words):
    found = read(tmp_path, text)
    [fault] = found.ledger.dropped()
    assert (fault.source.line, fault.column) == place
    assert words in fault.found
    assert contents(found)[-1][0] == ["d"]


def test_bytes_that_are_no_text_spoil_one_sentence(tmp_path):
    path = tmp_path / "rows.conll"
    path.write_bytes(b"a O\n\nb\xff O\nc O\n\nd O\n")
    found = load_rows(str(path))
    [fault] = found.ledger.dropped()
    assert (fault.source.line, fault.column, fault.code) == (3, 2, "undecodable")
    assert [row.content.tokens for row in found.rows] == [("a",), ("d",)]


def test_a_word_a_line_without_tags_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows\.conll:1: line 1 is a word without a tag"):
        read(tmp_path, "a\nb\n")


@pytest.mark.parametrize(
    "text", ["To be or not\nto be that is\nthe question O\n", "name,tag\na,O\nb,O\n", "a O\nb O\n", "x 1\ny 2\nz 3\n"]
)
def test_prose_and_tables_are_no_words_with_tags(text):
    assert not holds_words(text.split("\n"))


def test_tags_that_break_are_kept_and_told_with_their_place(tmp_path):
    found = read(tmp_path, "a O\nb I-X\n\nc B-X\nd I-Y\n\ne B-Z\nf L-Z\n\ng B-Z\nh O\n\ni O\nj L-Z\n")
    assert len(found.rows) == 5
    assert findings(found) == [(2, 3, "broken_tags"), (5, 3, "broken_tags"), (14, 3, "broken_tags")]


# Lists ---------------------------------------------------------------------------------------------------------------


def test_lists_may_be_json_in_cells_and_tags_numbers_with_names(tmp_path):
    text = 'tokens,ner_tags\n"[""my"", ""dog""]","[0, 1]"\n"[""pool""]","[""2""]"\n'
    names = ["O", "B-dog", "B-pool"]
    assert contents(read(tmp_path, text, "rows.csv", label_names=names)) == [
        (["my", "dog"], ["O", "B-dog"]), (["pool"], ["B-pool"])
    ]  # fmt: skip
    (tmp_path / "names.txt").write_text("O\nB-dog\n")
    found = read(tmp_path, text, "rows.csv", label_names=str(tmp_path / "names.txt"))
    assert contents(found) == [(["my", "dog"], ["O", "B-dog"])]
    assert "names for 0 to 1" in str(next(iter(found.ledger.dropped())))
    with pytest.raises(MissingError, match="no such file"):
        read(tmp_path, text, "rows.csv", label_names="none.txt")
    with pytest.raises(DataError, match="a name of its own"):
        read(tmp_path, text, "rows.csv", label_names=["O", "O"])


@pytest.mark.parametrize(
    ("row", "at", "words"),
    [
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, '""', "word 2 of 'tokens' is empty"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "3", "what is not text"),
        ({"tokens": ["a"], "tags": [None]}, "null", "what is no tag"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, '["O"', "1 words and 2 tags"),
    ],
)
def test_lists_that_do_not_fit_say_where(tmp_path, row, at, words):
    good = {"tokens": ["b"], "tags": ["O"]}
    found = read(tmp_path, f"{json.dumps(good)}\n{json.dumps(row)}\n", "rows.jsonl")
    [fault] = found.ledger.dropped()
    assert (fault.source.line, fault.column) == (2, json.dumps(row).index(at) + 1)
    assert words in fault.found


def test_a_text_beside_words_says_where_there_is_no_space(tmp_path):
    rows = [{"text": "a dog's", "tokens": ["a", "dog", "'s"], "tags": ["O", "B-X", "O"]},
            {"text": "a cat", "tokens": ["a", "dog"], "tags": ["O", "O"]}]  # fmt: skip
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    assert found.rows[0].content.close == (True, False, True)
    assert found.rows[1].content.text is None
    assert findings(found) == [(2, 10, "text_differs")]


# Marked characters ---------------------------------------------------------------------------------------------------

TEXT = "We arrive tomorrow at 7 p.m."
DAY = {"start": 10, "end": 18, "label": "day"}


@pytest.mark.parametrize(
    "marks",
    [
        {"spans": [DAY]},
        {"entities": [[10, 18, "day"]]},
        {"entities": [{"start": 10, "end": 18, "type": "day", "text": "tomorrow"}]},
        {"slots": {"day": {"text": "tomorrow", "span": [10, 18], "value": {"day": 4}}}},
        {"slots": {"day": [{"span": [10, 18]}]}},
        {"spans": json.dumps([DAY])},
    ],
)
def test_marked_characters_become_tags_of_words(tmp_path, marks):
    rows = [{"text": TEXT, **marks}, {"text": "Thanks!", "intents": ["x"]}]
    found = read(tmp_path, json.dumps(rows), "rows.json")
    assert found.format == "text-spans"
    words = ["We", "arrive", "tomorrow", "at", "7", "p", ".", "m", "."]
    assert contents(found) == [(words, ["O", "O", "B-day", *["O"] * 6]), (["Thanks", "!"], ["O", "O"])]
    assert found.rows[0].content.texts() == (TEXT,)


def test_bilou_where_it_is_asked_for(tmp_path):
    row = {"text": TEXT, "spans": [DAY, {"start": 22, "end": 28, "label": "time"}]}
    found = read(tmp_path, json.dumps([row]), "rows.json", format="text-spans-bilou")
    assert contents(found)[0][1] == ["O", "O", "U-day", "O", "B-time", "I-time", "I-time", "I-time", "L-time"]


@pytest.mark.parametrize(
    ("span", "code", "words"),
    [
        ({"start": 10, "end": 99, "label": "day"}, "span_outside", "from 10 to 99, and the text has 28 characters"),
        ({"start": 5, "end": 5, "label": "day"}, "span_outside", "from 5 to 5"),
        ({"start": 9, "end": 10, "label": "day"}, "wrong_span", "marks ' ', no word"),
        ({"start": 3, "end": 9, "label": "day", "text": "tomorrow"}, "wrong_span", "It is from 10 to 18."),
        ({"start": 3, "end": 9, "label": "day", "text": "today"}, "wrong_span", "The text does not hold it."),
        ({"start": 10, "label": "day"}, "bad_spans", "lacks a start, an end or a label"),
        ({"start": True, "end": 4, "label": "day"}, "bad_spans", "True is no whole number"),
        ({"start": "0", "end": "4", "label": "day"}, "bad_spans", "'0' is no whole number"),
        ({"start": 0, "end": 4, "label": 5}, "bad_spans", "5 is no label"),
        ("tomorrow", "bad_spans", "a stretch is text"),
        ({"start": 12, "end": 21, "label": "time"}, "overlapping_spans", "both mark 'tomorrow'"),
    ],
)
def test_marks_that_cannot_be_are_faults_at_their_place(tmp_path, span, code, words):
    lines = [json.dumps({"text": TEXT, "spans": [DAY]}), json.dumps({"text": TEXT, "spans": [DAY, span]})]
    found = read(tmp_path, "\n".join(lines), "rows.jsonl", format="text-spans")
    [fault] = found.ledger.dropped()
    assert (fault.source.line, fault.column, fault.code) == (
        2,
        lines[1].index(json.dumps(DAY)) + len(json.dumps(DAY)) + 3,
        code,
    )
    assert words in str(fault)


def test_a_mark_inside_of_a_word_tags_all_of_it_and_is_told(tmp_path):
    row = {"text": "at 7pm, tomorrow", "spans": [{"start": 3, "end": 4, "label": "hour"}]}
    found = read(tmp_path, json.dumps(row), "rows.jsonl", format="text-spans")
    assert contents(found) == [(["at", "7pm", ",", "tomorrow"], ["O", "B-hour", "O", "O"])]
    [(line, column, code)] = findings(found)
    assert (line, code) == (1, "inside_word")
    assert column == json.dumps(row).index('{"start"') + 1


def test_rows_are_read_back_as_they_were(tmp_path):
    from tunesmith.data.kinds.table import KINDS

    row = {"text": TEXT, "spans": [DAY]}
    [content] = [row.content for row in read(tmp_path, json.dumps(row), "rows.jsonl").rows]
    assert KINDS["tagged"].read_back(json.loads(json.dumps(content.to_plain()))) == content


def test_words_of_a_text():
    def words(text):
        return [text[begin:end] for begin, end in words_in(text)]

    assert words("It's 7 p.m. (or so)") == ["It", "'", "s", "7", "p", ".", "m", ".", "(", "or", "so", ")"]
    assert words("東京 hotel") == ["東", "京", "hotel"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("क्\u200dष soft\u00adly") == ["क्\u200dष", "soft\u00adly"]
    assert words(" \u200b\n") == []
    assert places_of(["ok"], "ok \u200b") == [0]
    text = "a  b,c"
    assert places_of(["a", "b", ",", "c"], text) == [0, 3, 4, 5]
    assert places_of(["a", "c"], text) is None
    assert places_of(["a", "b"], text) is None


# SQuAD ---------------------------------------------------------------------------------------------------------------


def squad(indent=None, version_first=True):
    def asked(question, *answers, **more):
        return {"id": question, "question": question, "answers": list(answers), **more}

    bob = {"text": "Bob", "answer_start": 0}
    articles = [
        {"title": "One", "paragraphs": [
            {"context": "Bob left \"data\": [ early.", "qas": [
                asked("Who?", bob), asked("Where?", is_impossible=True, plausible_answers=[bob]),
                asked("Bad?", {"text": "Anna", "answer_start": 0})]},
            {"context": "x"},
        ]},
        {"paragraphs": [{"qas": [asked("What?", {"text": "so", "answer_start": 5})], "context": "just so"}]},
    ]  # fmt: skip
    whole = {"version": "v2.0", "data": articles} if version_first else {"data": articles, "version": "1.1"}
    return json.dumps(whole, indent=indent)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("first", [True, False])
def test_squads_own_files_give_a_row_for_each_question(tmp_path, indent, first):
    text = squad(indent, first)
    found = read(tmp_path, text, "train.json")
    assert [row.content.question for row in found.rows] == ["Who?", "Where?", "What?"]
    assert [row.content.answers for row in found.rows] == [(("Bob", 0),), (), (("so", 5),)]
    assert found.rows[0].labels["title"] == "One"
    bad, empty = found.ledger.dropped()
    lines = text.split("\n")

    def stands_at(entry):
        return lines[entry.source.line - 1][(entry.column or 1) - 1 :]

    assert stands_at(bad).startswith("[")
    assert (bad.code, empty.code) == ("wrong_span", "bad_squad")
    assert stands_at(empty).startswith("{")
    assert len({(row.source.line, row.source.column) for row in found.rows}) == 3


def test_whether_a_question_has_an_answer_must_fit(tmp_path):
    row = {"question": "Who?", "context": "Bob left.", "answers": {"text": ["Bob"], "answer_start": [0]}}
    rows = [{**row, "is_impossible": True}, {"question": "Who?", "context": "Bob.", "is_impossible": True},
            {"question": "Who?", "context": "Bob left.", "is_impossible": False}]  # fmt: skip
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    assert [row.content.answers for row in found.rows] == [()]
    assert [(e.source.line, e.code) for e in found.ledger.dropped()] == [(1, "bad_answers"), (3, "bad_answers")]


def test_questions_about_one_passage_are_no_near_duplicates(tmp_path):
    from tunesmith.data.quality.near_duplicates import NearDuplicates

    context = "The hotel stands at the harbour and has a pool, two bars, and a garden with old trees."
    context += " ".join(f"Room {number} is on floor {number % 7}." for number in range(30))
    rows = [
        {"question": question, "context": text, "answers": {"text": [], "answer_start": []}}
        for question, text in (("Where?", context), ("Who?", context), ("Who?", context.replace("old", "new")))
    ]
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    near = NearDuplicates()
    first, second, third = (near.add(row) for row in found.rows)
    assert (first, second) == (None, None)
    assert third is not None
    assert third[1].line == 1
