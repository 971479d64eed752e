"""Files as people have them become the rows that were meant, and what was decided is said."""

from __future__ import annotations

import datetime
import io
import json
import re
import zipfile

import openpyxl
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from openpyxl.chart import BarChart, Reference

from tunesmith.core.errors import DataError
from tunesmith.data.load import load_rows

TWO = [("Q1?", "A1"), ("Q2?", "A2")]
LINES = '{"question": "Q1?", "answer": "A1"}\n{"question": "Q2?", "answer": "A2"}\n'
LONG = "".join(f"q{i}?,a{i}\n" for i in range(300))


def exchanges(dataset):
    return [(row.prompt[-1].content, row.answer) for row in dataset.rows]


def notes_of(dataset):
    return "; ".join(dataset.ledger.notes)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


# Tables -------------------------------------------------------------------------------------------------------------

TABLES = {
    # name, content, what it says, what is noted ("" for nothing)
    "space_after_comma": ("t.csv", 'question, answer\n"Q1?", "A1"\n"Q2?", "A2"\n', TWO, "spaces after delimiters left"),
    "space_without_quotes": ("t.csv", "question, answer\nQ1?, A1\nQ2?, A2\n", TWO, "spaces after delimiters left out"),
    "space_now_and_then": ("t.csv", 'question, answer\n"Q, 1?", "A1"\nQ2?, A2\n"Q3?","A3"\n',
                           [("Q, 1?", "A1"), ("Q2?", "A2"), ("Q3?", "A3")], "spaces after delimiters left out"),
    "quoted_header": ("t.csv", '"question", "answer"\n"Q1?", "A1"\n"Q2?", "A2"\n', TWO, "spaces after delimiters"),
    "quotes_in_text": ("t.csv", 'question,answer\nHow is 5" said?,Five "inches"\nWho?,He said "x"\n',
                       [('How is 5" said?', 'Five "inches"'), ("Who?", 'He said "x"')], ""),
    "space_before_quoted_words": ("t.csv", 'question,answer\nWho?, "Nobody" is right\nWhy?,"Yes"\n',
                                  [("Who?", ' "Nobody" is right'), ("Why?", "Yes")], ""),
    "doubled_quotes": ("t.csv", 'question,answer\n"What is ""x""?","It is ""y"", so"\n',
                       [('What is "x"?', 'It is "y", so')], ""),
    "backslash_quotes": ("t.csv", 'question,answer\n"What is \\"x\\"?","A \\\\ and \\"y\\", so"\n"Line?","a\\nb"\n',
                         [('What is "x"?', 'A \\ and "y", so'), ("Line?", "a\\nb")], "quotes inside cells written as"),
    "backslashes_alone": ("t.csv", 'question,answer\n"Where?","C:\\dir\\"\n', [("Where?", "C:\\dir\\")], ""),
    "single_quotes": ("t.csv", "'question','answer'\n'Q, 1?','A1'\n'It''s?','A2'\n",
                      [("Q, 1?", "A1"), ("It's?", "A2")], "cells in single quotes"),
    "apostrophes": ("t.csv", "question,answer\n'Tis?,'Twas\nIt's?,A2\n", [("'Tis?", "'Twas"), ("It's?", "A2")], ""),
    "semicolons": ("t.csv", "question;answer;intent\nHi, you?;Hello, me.;a\nBye?;Bye, bye, bye.;b\n",
                   [("Hi, you?", "Hello, me."), ("Bye?", "Bye, bye, bye.")], "cells parted by semicolons"),
    "semicolons_in_text": ("t.csv", "question,answer\na;b;c,d;e;f\n", [("a;b;c", "d;e;f")], ""),
    "tabs_in_csv": ("t.csv", "question\tanswer\nWho, me?\tYou.\n", [("Who, me?", "You.")], "cells parted by tabs"),
    "commas_in_tsv": ("t.tsv", 'question,answer\nQ1?,"A, 1"\n', [("Q1?", "A, 1")], "cells parted by commas"),
    "bars": ("t.csv", "question|answer\nQ1?|A1\nQ2?|A2\n", TWO, "cells parted by bars"),
    "quotes_as_text_in_tsv": ("t.tsv", 'question\tanswer\n"Hi" he said?\tA1\nWhat?\t"No" she said\n',
                              [('"Hi" he said?', "A1"), ("What?", '"No" she said')], "quotes read as text"),
    "byte_order_mark": ("t.csv", '\ufeff"question","answer"\r\n"Q1?","A1"\r\n"Q2?","A2"\r\n', TWO, "byte order mark"),
    "header_with_spaces": ("t.csv", " question ,answer \nQ1?,A1\nQ2?,A2\n", TWO, ""),
    "empty_lines": ("t.csv", "\n\nquestion,answer\n\nQ1?,A1\n\n\nQ2?,A2\n\n", TWO, ""),
    "line_ends_of_cr": ("t.csv", "question,answer\rQ1?,A1\rQ2?,A2\r", TWO, "line ends of CR alone"),
    "excels_own_first_line": ("t.csv", "sep=;\nquestion;answer\nQ1?;A1\nQ2?;A2\n", TWO, "1 line before the header"),
    "a_comment": ("t.csv", "# exported on May 1, 2024\nquestion,answer\nQ1?,A1\nQ2?,A2\n", TWO, "1 line before the"),
    "a_header_like_a_comment": ("t.csv", "# question,answer\nQ1?,A1\nQ2?,A2\n", TWO, "# before the header left out"),
    "trailing_delimiters": ("t.csv", "question,answer,,\nQ1?,A1,,\nQ2?,A2\n", TWO, ""),
    "lines_of_json": ("t.csv", LINES, TWO, "rows of JSON in a .csv file"),
    "cells_of_several_lines": ("t.csv", 'question,answer\n"Q\n1?","A\n\n1"\n', [("Q\n1?", "A\n\n1")], ""),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "meant", "noted"), TABLES.values(), ids=TABLES)
def test_a_table_is_read_as_it_was_meant(tmp_path, name, content, meant, noted):
    dataset = load_rows(written(tmp_path / name, content))
    assert exchanges(dataset) == meant
    assert dataset.ledger.counts() == {"read": len(meant), "kept": len(meant)}
    assert noted in notes_of(dataset)
    assert bool(noted) == bool(dataset.ledger.notes), dataset.ledger.notes


def test_what_cannot_be_meant_is_named(tmp_path):
    late = load_rows(written(tmp_path / "late.csv", f'question,answer\n{LONG}Who?, "Here."\n'))
    assert str(late.ledger.dropped()[0]).endswith(
        "late.csv:302:1: a space stands before the quotes of 'answer', so that they would be part of its text. "
        "Take the space out."
    )
    assert len(late.rows) == 300
    with pytest.raises(DataError, match=r"the header leaves columns 1, 3 without a name"):
        load_rows(written(tmp_path / "nameless.csv", ",question,,answer\n0,Q1?,x,A1\n"))
    one = load_rows(written(tmp_path / "one.csv", "text\nHello, world\nHello\n"))
    assert "2 cells where the header has 1. Quote cells" in str(one.ledger.dropped()[0])


# Text files ---------------------------------------------------------------------------------------------------------

HELD = {
    "lines": ("t.txt", LINES, "rows of JSON in a .txt file"),
    "lines_with_blanks": ("t.txt", LINES.replace("\n", "\n\n"), "rows of JSON in a .txt file"),
    "lines_after_blanks": ("t.txt", f"\n\n{LINES}", "rows of JSON in a .txt file"),
    "lines_in_a_log": ("t.log", LINES, "rows of JSON in a .log file"),
    "lines_in_markdown": ("t.md", LINES, "rows of JSON in a .md file"),
    "lines_without_suffix": ("rows", LINES, "rows of JSON in a file without a suffix"),
    "lines_after_a_comment": ("t.txt", f"# my rows\n{LINES}", "1 line before the first row passed over"),
    "lines_after_comments_in_jsonl": ("t.jsonl", f"// mine\n# twice\n\n{LINES}", "2 lines before the first row"),
    "lines_in_json": ("t.json", LINES, ""),
    "lines_of_cr": ("t.jsonl", LINES.replace("\n", "\r"), "line ends of CR alone"),
    "array": ("t.txt", f"[{','.join(LINES.splitlines())}]", "rows of JSON in a .txt file"),
    "array_in_jsonl": ("t.jsonl", f"[{','.join(LINES.splitlines())}]", ""),
    "array_after_a_comment": ("t.json", f"// mine\n[{','.join(LINES.splitlines())}]", "1 line before the first row"),
    "spread_out": ("t.txt", "\n".join(json.dumps(json.loads(line), indent=2) for line in LINES.splitlines()),
                   "rows of JSON in a .txt file"),
    "spread_out_after_a_comment": ("t.json", "# mine\n" + "\n".join(
        json.dumps(json.loads(line), indent=2) for line in LINES.splitlines()), "1 line before the first row"),
    "around_an_array": ("t.txt", f'{{"data": [{",".join(LINES.splitlines())}]}}', "rows of JSON in a .txt file"),
    "csv": ("t.txt", "question,answer\nQ1?,A1\nQ2?,A2\n", "a table in a .txt file"),
    "csv_with_quotes": ("t.md", 'question, answer\n"Q1?", "A1"\n"Q2?", "A2"\n', "a table in a .md file"),
    "csv_with_capitals": ("t.txt", "question,answer,Topic\nQ1?,A1,x\nQ2?,A2,y\n", "a table in a .txt file"),
    "tsv": ("t.txt", "question\tanswer\nQ1?\tA1\nQ2?\tA2\n", "a table in a .txt file; cells parted by tabs"),
    "csv_without_suffix": ("rows", "question,answer\nQ1?,A1\nQ2?,A2\n", "a table in a file without a suffix"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "noted"), HELD.values(), ids=HELD)
def test_a_text_file_is_read_by_what_it_holds(tmp_path, name, content, noted):
    dataset = load_rows(written(tmp_path / name, content))
    assert exchanges(dataset) == TWO
    assert noted in notes_of(dataset)
    assert bool(noted) == bool(dataset.ledger.notes)


def test_places_after_comments_are_those_of_the_file(tmp_path):
    broken = '{"question": "Q3?" "answer": "A3"}'
    for name, text in (("a.jsonl", f"# mine\n{LINES}{broken}\n"), ("b.json", f"# mine\n[{LINES[:-1]},".replace(
            "}\n{", "},\n{") + f"\n{broken}]")):  # fmt: skip
        dataset = load_rows(written(tmp_path / name, text))
        assert [(e.source.line, e.column) for e in dataset.ledger.dropped()] == [(4, 20)]
        assert [row.source.line for row in dataset.rows] == [2, 3]


def test_rows_that_were_to_be_json_are_no_prose(tmp_path):
    with pytest.raises(
        DataError, match=r"no row can be read\. .*:1: not JSON at column 2 .* json\.dumps, not with str"
    ):
        load_rows(written(tmp_path / "python.txt", LINES.replace('"', "'")))
    first_broken = load_rows(written(tmp_path / "first.txt", '{"question": "Q0?" "answer": "A0"}\n' + LINES))
    assert (exchanges(first_broken), first_broken.ledger.outcomes["dropped"]) == (TWO, 1)
    with pytest.raises(DataError, match="no known format has the keys 'Frage', 'Antwort'"):
        load_rows(written(tmp_path / "own.txt", '{"Frage": "Q?", "Antwort": "A"}\n'))


PROSE = {
    "braces": "{Note} This is the story, of a boat.\n\nIt sailed, and sank.\n",
    "json_in_a_sentence": '{"a": 1} is an object, says the book.\n\nSo it is.\n',
    "template": "{% if x %}\nHello {{ name }}\n{% endif %}\n\n{{ bye }}\n",
    "code": "{\n  int x;\n}\n\nint f() { return 1; }\n",
    "references": "[1] Smith, J. A book.\n[2] Jones, K. Another.\n\nSee [1].\n",
    "a_list_of_words": '["Hello", he said]\n\nMore.\n',
    "heading": "# Title\n\nSome prose, and more.\n",
    "commas": "Dear John, dear Jane,\nthe boat, which I saw,\nsank, alas, today,\n\nYours, truly\n",
    "two_words_a_line": "apples, pears\nplums, cherries\nfigs, dates\n\nEnd.\n",
    "source_and_target_once": "The source, the target\nand the text, at last\n\nBoth.\n",
}


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE)
def test_prose_stays_prose(tmp_path, text):
    dataset = load_rows(written(tmp_path / "t.txt", text))
    assert [row.content.text for row in dataset.rows] == [part.strip("\n") for part in text.split("\n\n")]
    assert not dataset.ledger.notes


def test_a_table_of_unknown_names_is_spoken_of_and_known_by_columns(tmp_path):
    path = written(tmp_path / "t.txt", "Frage,Antwort\n" + LONG)
    assert "looks like a table with the columns 'Frage', 'Antwort'" in notes_of(load_rows(path))
    named = load_rows(path, columns={"question": "Frage", "answer": "Antwort"})
    assert (len(named.rows), exchanges(named)[0]) == (300, ("q0?", "a0"))


def test_plain_text_can_be_asked_for(tmp_path):
    path = written(tmp_path / "t.txt", LINES)
    [row] = load_rows(path, format="text").rows
    assert row.content.text == LINES.strip()
    assert len(load_rows(written(tmp_path / "u.txt", '{"text": "One."}\n{"text": "Two."}\n'), format="text").rows) == 2


REFUSED = {
    "pointer": ("t.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                r"only a git-lfs pointer to the file of 12,345 bytes.*Run `git lfs pull`"),
    "pointer_to_parquet": ("t.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                           "only a git-lfs pointer"),
    "web_page": ("t.csv", "<!DOCTYPE html>\n<html></html>", "a web page, not data"),
    "old_workbook": ("t.xls", b"\xd0\xcf\x11\xe0" + b"\x00" * 600, r"an old Office file \(\.xls\).*Save it as \.xlsx"),
    "prose_without_suffix": ("notes", "Just prose.\n", r"not a data file that is known\. Give \.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_stands_in_the_place_of_a_file(tmp_path, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        load_rows(written(tmp_path / name, content))


# Numbers that are none ----------------------------------------------------------------------------------------------

ODD = ["NaN", "-Infinity", "Infinity", "1e999", "9" * 5000, '{"a": [1, NaN]}', "[[Infinity]]"]


@pytest.mark.parametrize("shape", ["{}\n{}\n", "[{},\n{}]", "[\n{},\n{}\n]", '{{"data": [{}, {}]}}'])
def test_a_number_that_is_none_costs_a_row_only_where_it_is_read(tmp_path, shape):
    row = '{"question": "Q%d?", "answer": "A%d", "rating": %s}'
    for odd in ODD:
        path = written(tmp_path / "t.json", shape.format(row % (1, 1, "1.5"), row % (2, 2, odd)))
        dataset = load_rows(path)
        assert exchanges(dataset) == TWO
        json.dumps([row.labels for row in dataset.rows], allow_nan=False)
        assert notes_of(dataset) == "null for what is no value in 'rating', which is not read"
        text = shape.format(row % (1, 1, "1.5"), f'{{"question": "Q2?", "answer": {odd}}}')
        [entry] = load_rows(written(tmp_path / "read.json", text), bad_rows="drop").ledger.dropped()
        assert entry.code == "bad_number"
        assert entry.found.startswith("'answer")
        assert str(entry.source).endswith(f":{text[: text.index(odd)].count(chr(10)) + 1}")
        found = re.search("NaN|-?Infinity|1e999|9{9}", text).start()
        assert entry.column == found - text.rfind("\n", 0, found)


# Parquet, Arrow -----------------------------------------------------------------------------------------------------


def call(**arguments):
    return [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}]


def tool(**properties):
    parameters = {"type": "object", "properties": properties}
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def test_columns_say_what_the_lines_said_that_they_were_made_from(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": call(
            x=1, deep={"list": [{"p": 1}, {"q": "r"}]})}], "tools": tool(x={"type": "integer"}),
         "meta": {"who": "me"}},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "Hi."}],
         "tools": tool(y={"type": "string", "enum": ["s", "t"]}), "meta": {"lists": [[1], [None, 2]]}},
    ]  # fmt: skip
    lines = load_rows(written(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as file:
        file.write_table(table)
    with pyarrow.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as file:
        file.write_table(table)
    for name in ("t.parquet", "file.arrow", "stream.arrow"):
        same = load_rows(str(tmp_path / name))
        assert [(row.json, row.labels) for row in same.rows] == [(row.json, row.labels) for row in lines.rows], name
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "file.arrow").read_bytes()[:400])
    with pytest.raises(DataError, match="not an Arrow file that can be read"):
        load_rows(str(tmp_path / "cut.arrow"))


def test_a_null_that_a_line_writes_stays(tmp_path):
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": call(x=None)}]
    }
    [read] = load_rows(written(tmp_path / "t.jsonl", json.dumps(row))).rows
    assert read.conversation[1].tool_calls[0].arguments == {"x": None}


def test_columns_of_other_types(tmp_path):
    moment = datetime.datetime(2024, 3, 12, 14, 30)
    table = {
        "question": ["Q1?", "Q2?"],
        "answer": pyarrow.array([b"A1", b"A2"]),  # text that was not called so
        "map": pyarrow.array([[("k", "v"), ("n", None)], []], pyarrow.map_(pyarrow.string(), pyarrow.string())),
        "score": [float("nan"), 1.5],
        "when": [moment, None],
        "picture": [b"\xff\xd8", None],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    dataset = load_rows(str(tmp_path / "t.parquet"))
    assert exchanges(dataset) == TWO
    assert [row.labels for row in dataset.rows] == [
        {"map": {"k": "v", "n": None}, "score": None, "when": "2024-03-12 14:30:00", "picture": None},
        {"map": {}, "score": 1.5},
    ]
    assert set(dataset.ledger.notes) == {
        f"null for what is no value in {column!r}, which is not read" for column in ("score", "picture")
    }
    pyarrow.parquet.write_table(pyarrow.table({**table, "answer": [b"\xff", b"A2"]}), tmp_path / "u.parquet")
    [entry] = load_rows(str(tmp_path / "u.parquet")).ledger.dropped()
    assert entry.found == "'answer' is binary data, which no text is."


# Excel --------------------------------------------------------------------------------------------------------------

HEAD = ("question", "answer")


def book(path, *sheets, after=lambda book: None):
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, state, rows in sheets:
        sheet = made.create_sheet(title)
        sheet.sheet_state = state
        for row in rows:
            sheet.append(row)
    after(made)
    made.save(path)
    return str(path)


def test_cells_are_what_a_csv_would_say(tmp_path):
    cells = {
        12: "12", 7.0: "7", 9.5: "9.5", 0.1 + 0.2: "0.3", -3: "-3", 49891234567: "49891234567", True: "TRUE",
        datetime.date(2024, 3, 12): "2024-03-12", datetime.datetime(2024, 3, 12): "2024-03-12",
        datetime.datetime(2024, 3, 12, 14, 30): "2024-03-12 14:30:00", datetime.time(9): "09:00:00",
        datetime.timedelta(hours=26, minutes=5): "26:05:00", "TRUE.": "TRUE.",
    }  # fmt: skip
    rows = [(f"Q{i}?", value) for i, value in enumerate([*cells, False])]
    dataset = load_rows(book(tmp_path / "t.xlsx", ("Data", "visible", [HEAD, *rows])))
    assert [answer for _, answer in exchanges(dataset)] == [*cells.values(), "FALSE"]
    assert not dataset.ledger.notes


def with_chart(made):
    chart = BarChart()
    chart.add_data(Reference(made["Data"], min_col=2, min_row=1, max_row=3))
    made.create_chartsheet("Chart", 0).add_chart(chart)


DATA, OTHER = ("Data", "visible", [HEAD, *TWO]), [HEAD, ("Old?", "Old.")]
SHEETS = {
    "alone": ([DATA], None, ""),
    "hidden_first": ([("Old", "hidden", OTHER), DATA], None, "sheet 'Data' is read, 1 other not: 'Old' (hidden)"),
    "very_hidden_first": ([("Old", "veryHidden", OTHER), DATA], None, "'Data' is read, 1 other not: 'Old' (hidden)"),
    "empty_first": ([("Empty", "visible", []), DATA], None, "sheet 'Data' is read, 1 other not: 'Empty'"),
    "several": ([DATA, ("More", "visible", OTHER), ("Old", "hidden", OTHER)], None,
                "sheet 'Data' is read, 2 others not: 'More', 'Old' (hidden)"),
    "chart_first": ([DATA], with_chart, "sheet 'Data' is read, 1 other not: 'Chart' (a chart)"),
    "empty_rows_above": ([("Data", "visible", [(), (), HEAD, (), *TWO])], None, ""),
    "merged": ([DATA], lambda made: made["Data"].merge_cells("D1:E1"), "merged ranges of cells, of which only"),
}  # fmt: skip


@pytest.mark.parametrize(("sheets", "after", "noted"), SHEETS.values(), ids=SHEETS)
def test_the_first_visible_sheet_that_holds_something_is_read(tmp_path, sheets, after, noted):
    dataset = load_rows(book(tmp_path / "t.xlsx", *sheets, after=after or (lambda made: None)))
    assert exchanges(dataset) == TWO
    assert noted in notes_of(dataset)
    assert bool(noted) == bool(dataset.ledger.notes)


def test_what_a_workbook_does_not_hold_is_named(tmp_path):
    rows = [(*HEAD, "note"), ("Q1?", "A1", "#N/A"), ("Q2?", "A2", "=A1"), ("Q3?", "#REF!", "x"), ("=A1", "=B1", None)]
    dataset = load_rows(book(tmp_path / "t.xlsx", ("Data", "visible", rows)))
    assert exchanges(dataset) == TWO
    assert [str(entry).partition("xlsx:")[2] for entry in dataset.ledger.dropped()] == [
        "4:1: 'answer' is #REF!, an error of the workbook. Mend the cell.",
        "5:1: 'question' is =A1, a formula whose result was never saved. Open the workbook in Excel or LibreOffice and "
        "save it.",
    ]
    assert dataset.ledger.notes == {"null for what is no value in 'note', which is not read": 2}
    with pytest.raises(DataError, match=r"no sheet that is visible holds anything\. Hidden: 'Old'\. Show the one"):
        load_rows(book(tmp_path / "u.xlsx", ("Empty", "visible", []), ("Old", "hidden", OTHER)))


def test_a_workbook_that_says_it_is_smaller_than_it_is_loses_no_row(tmp_path):
    whole, packed = book(tmp_path / "t.xlsx", DATA), io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w") as new:
        for item in old.infolist():
            new.writestr(item, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', old.read(item)))
    assert exchanges(load_rows(written(tmp_path / "u.xlsx", packed.getvalue()))) == TWO
