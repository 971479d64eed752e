"""Files become checked rows; every row is accounted for; packing loses nothing."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import chat_row, many_rows
from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_dataset, require_rows
from tunesmith.data.pack import epoch_batches, micro_batches, pack
from tunesmith.data.prepare import prepare, spread
from tunesmith.data.split import load_splits
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import load_contract
from tunesmith.prompt.messages import Message

EXCHANGE = (Message("user", "Hi?"), Message("assistant", "Hello."))
SYSTEM = Message("system", "Be kind.")


def read(path, **options):
    return [row.conversation for row in load_dataset(str(path), **options).rows]


@pytest.mark.parametrize(
    ("row", "format", "conversation"),
    [
        (chat_row("Hi?", "Hello."), "chat", EXCHANGE),
        (chat_row("Hi?", "Hello.", "Be kind."), "chat", (SYSTEM, *EXCHANGE)),
        ({"messages": [{"role": "developer", "content": "Be kind."}, *chat_row("Hi?", "Hello.")["messages"]]},
         "chat", (SYSTEM, *EXCHANGE)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
                       {"role": "assistant", "content": "Hello."}]}, "chat", EXCHANGE),
        ({"prompt": "Hi?", "completion": "Hello."}, "prompt-completion", EXCHANGE),
        ({"question": "Hi?", "answer": "Hello."}, "question-answer", EXCHANGE),
        ({"instruction": "Hi?", "input": "", "output": "Hello."}, "alpaca", EXCHANGE),
        ({"instruction": "Hi?", "input": "You?", "output": "Hello.", "system": "Be kind."}, "alpaca",
         (SYSTEM, Message("user", "Hi?\nYou?"), EXCHANGE[1])),
        ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}],
          "system": "Be kind."}, "sharegpt", (SYSTEM, *EXCHANGE)),
    ],
)  # fmt: skip
def test_each_format_is_found_and_read(write_rows, row, format, conversation):
    dataset = load_dataset(str(write_rows([row])))
    assert (dataset.format, dataset.rows[0].conversation) == (format, conversation)


def test_containers(tmp_path):
    rows = [chat_row("Hi?", "Hello."), chat_row("Bye?", "Goodbye.")]
    want = [tuple(Message(m["role"], m["content"]) for m in row["messages"]) for row in rows]
    cells = [json.dumps(row).replace('"', '""') for row in rows]
    texts = {
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "bom_crlf.jsonl": "\ufeff" + "\r\n".join(map(json.dumps, rows)) + "\r\n\r\n",
        "trailing.json": json.dumps(rows, indent=2)[:-2] + ",\n]",
        "wrapped.json": json.dumps({"data": rows}, indent=1),
        "compact.json": json.dumps({"data": rows}),
        "cells.csv": "\ufeff" + "\r\n".join(f'"{cell}"' for cell in cells),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
        assert read(tmp_path / name) == want, name
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(texts["cells.csv"].encode()))
    assert read(tmp_path / "rows.csv.gz") == want
    (tmp_path / "pretty.json").write_text(json.dumps(rows[0], indent=2))
    assert read(tmp_path / "pretty.json") == want[:1]
    (tmp_path / "header.csv").write_text('question,answer,intent\nHi?,Hello.,greet\n"Bye,\nnow?",Goodbye.,part\n')
    dataset = load_dataset(str(tmp_path / "header.csv"))
    assert dataset.rows[1].conversation[0].content == "Bye,\nnow?"
    assert [row.labels for row in dataset.rows] == [{"intent": "greet"}, {"intent": "part"}]
    assert [row.source.line for row in dataset.rows] == [2, 3]
    (tmp_path / "tabs.tsv").write_text("prompt\tcompletion\nHi?\tHello.\n")
    assert read(tmp_path / "tabs.tsv") == [EXCHANGE]


def test_columns_with_other_names_are_mapped(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("Frage,Antwort,Thema\nHi?,Hello.,Gruß\n", encoding="utf-8")
    dataset = load_dataset(str(path), columns={"question": "Frage", "answer": "Antwort"})
    assert (dataset.rows[0].conversation, dataset.rows[0].labels) == (EXCHANGE, {"Thema": "Gruß"})
    with pytest.raises(DataError, match=r"names 'Fragen', which no row has\. The first row has: Antwort, Frage, Thema"):
        load_dataset(str(path), columns={"question": "Fragen"})


def test_a_gzip_file_that_is_cut_or_swells_without_end_is_refused(tmp_path, monkeypatch):
    whole = gzip.compress(json.dumps(chat_row("Hi?", "Hello.")).encode() * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "bomb.jsonl.gz").write_bytes(whole)
    monkeypatch.setattr("tunesmith.data.read.LARGEST", 1000)
    with pytest.raises(DataError, match="when unpacked"):
        load_dataset(str(tmp_path / "bomb.jsonl.gz"))


def test_lines_of_an_array_are_those_of_the_file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([chat_row("Hi?", "Hello."), {"messages": []}], indent=1))
    dataset = load_dataset(str(path))
    line = path.read_text().split("\n").index('  "messages": []')  # the row's { is the line before
    assert [(str(e.source), e.code) for e in dataset.ledger.dropped()] == [(f"{path}:{line}", "not_a_list")]


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("{broken", "bad_json"),
        ("[1, 2]", "not_an_object"),
        ("[" * 100_000, "too_deep"),
        ('{"messages": ' + "9" * 5000 + "}", "bad_json"),
        ({"text": "x"}, "missing_key"),
        ({"messages": "hello"}, "bad_json"),
        ({"messages": {"a": 1}}, "not_a_list"),
        ({"messages": []}, "not_a_list"),
        ({"messages": ["hello"]}, "not_an_object"),
        (turns(("user", "Hi?"), ("robot", "Hello.")), "unknown_role"),
        (turns((["user"], "Hi?"), ("assistant", "Hello.")), "unknown_role"),
        (turns(("user", [{"type": "text", "text": None}]), ("assistant", "Hello.")), "not_text"),
        ({"messages": [{"role": "user", "content": "Hi?"},
                       {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "1"}]}]}, "tool_call"),
        (turns(("user", "Hi?"), ("assistant", None)), "not_text"),
        (turns(("user", "Hi?"), ("assistant", 3)), "not_text"),
        (turns(("user", "Hi?"), ("assistant", "  ")), "empty_turn"),
        (turns(("user", ""), ("assistant", "Hello.")), "empty_turn"),
        (turns(("user", "Hi?")), "no_assistant"),
        (turns(("system", "x"), ("assistant", "Hello.")), "no_user"),
        (turns(("assistant", "Hello."), ("user", "Hi?")), "assistant_first"),
        (turns(("user", "Hi?"), ("user", "You?"), ("assistant", "Hello.")), "repeated_role"),
        (turns(("user", "Hi?"), ("system", "x"), ("assistant", "Hello.")), "late_system"),
        (turns(("user", "Hi \ud83d"), ("assistant", "Hello.")), "lone_surrogate"),
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello.", "weight": 2}]},
         "bad_weight"),
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello.", "weight": 0}]},
         "no_assistant"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)  # fmt: skip
def test_a_bad_row_is_dropped_with_line_code_and_advice(tmp_path, row, code):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(chat_row("Hi?", "Hello."))
    path.write_text(f"{good}\n{row if isinstance(row, str) else json.dumps(row)}\n")
    dataset = load_dataset(str(path))
    [entry] = dataset.ledger.entries
    assert (entry.source.line, entry.outcome, entry.code) == (2, "dropped", code)
    assert entry.found
    assert entry.advice
    assert dataset.ledger.counts() == {"read": 2, "kept": 1, "dropped": 1}
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used.*bad_rows=drop"):
        require_rows(dataset, "rows", "fail")
    require_rows(dataset, "rows", "drop")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", b" \n", "the file is empty"),
        ("latin.jsonl", '{"prompt": "caf\xe9"}'.encode("latin-1"), "byte 15 is not UTF-8"),
        ("picture.png", b"\x89PNG....", "is not UTF-8"),
        ("notes.md", b"# hello", "not a data file that is known"),
        ("cut.json", b'[{"prompt": "a", "completion": "b"}, ', "the JSON array is not closed"),
        ("odd.json", b'[{"prompt": "a", "completion": "b"}, {"a" 1}]', "not JSON"),
        ("two.json", b'[{"prompt": "a", "completion": "b"}]\n[{"prompt": "c"}]', "more text after the JSON array"),
        ("deep.json", b"[" * 100_000, "cannot be held|not closed"),
        ("quote.csv", b'question,answer\nHi?,"Hello.\nBye?,Goodbye.\n', r"quote\.csv:2: the row that begins here"),
        ("twice.csv", b"question,answer,answer\na,b,c\n", "names 'answer' twice"),
        ("keys.jsonl", b'{"foo": 1}', "no known format has the keys 'foo'"),
        ("all_bad.jsonl", b'{"a"\n{"b"', "no row can be read"),
        ("pairs.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "preference pairs"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_dataset(str(tmp_path / name))


def test_a_missing_file_and_an_unknown_format(tmp_path, write_rows):
    with pytest.raises(MissingError, match="no such file"):
        load_dataset(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="did you mean 'alpaca'"):
        load_dataset(str(write_rows(many_rows(1))), format="alpacca")


def test_duplicates_are_counted_apart_and_can_be_kept(write_rows):
    path = str(write_rows([*many_rows(3), *many_rows(2)]))
    assert load_dataset(path).ledger.counts() == {"read": 5, "kept": 3, "duplicate": 2}
    assert load_dataset(path, keep_duplicates=True).ledger.counts() == {"read": 5, "kept": 5}


def test_a_dataset_id_depends_on_rows_alone(write_rows):
    one = load_dataset(str(write_rows(many_rows(4), "a.jsonl")))
    same = load_dataset(str(write_rows(many_rows(4), "b.jsonl")))
    other = load_dataset(str(write_rows(many_rows(5), "c.jsonl")))
    assert one.id == same.id != other.id


def test_splits_part_by_prompt_and_stay_when_rows_are_added(write_rows):
    rows = many_rows(300)
    small = load_splits(DataConfig(train=str(write_rows(rows[:200], "small.jsonl"))))
    large = load_splits(DataConfig(train=str(write_rows(rows, "large.jsonl"))))
    keys = lambda dataset: {row.key for row in dataset.rows}  # noqa: E731
    for name in ("train", "validation", "test"):
        assert keys(getattr(small, name)) <= keys(getattr(large, name))
    assert 10 < len(large.test.rows) < 50
    assert len(large.train.rows) + len(large.validation.rows) + len(large.test.rows) == 300
    assert not keys(large.train) & keys(large.test)
    assert [ledger.read for ledger in large.ledgers()] == [300]
    two = DataConfig(train=str(write_rows(rows, "x.jsonl")), test=str(write_rows(rows[:9], "y.jsonl")), validation=0)
    assert [(ledger.file, ledger.read) for ledger in load_splits(two).ledgers()] == [(two.train, 300), (two.test, 9)]
    with pytest.raises(DataError, match="shares of 0 to 1"):
        load_splits(DataConfig(train=str(write_rows(rows)), test=0.5, validation=0.5))


def test_over_long_rows_fail_unless_allowed(write_rows):
    contract = load_contract(resolve("ember").folder)
    path = str(write_rows(many_rows(10)))
    load = lambda: load_dataset(path)  # noqa: E731
    lengths = sorted(len(row.ids) for row in prepare(load(), contract, 500))
    middle = lengths[5]
    with pytest.raises(DataError, match=rf"longest: {lengths[-1]}\)\. Raise data\.max_length"):
        prepare(load(), contract, middle)
    dropping = load()
    kept = prepare(dropping, contract, middle, "drop")
    assert len(kept) == dropping.ledger.outcomes["kept"] == sum(n <= middle for n in lengths)
    cutting = load()
    assert max(len(row.ids) for row in prepare(cutting, contract, middle, "truncate")) == middle
    assert cutting.ledger.balanced()
    with pytest.raises(DataError, match="no row fits in 8 tokens"):
        prepare(load(), contract, 8, "drop")


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 80))
def test_packing_places_every_row_once_within_capacity(lengths, capacity):
    groups = pack(lengths, capacity)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= capacity or len(group) == 1 for group in groups)
    least = -(-sum(min(n, capacity) for n in lengths) // capacity)
    assert len(groups) <= max(1, 2 * least) or not lengths


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 80), st.none() | st.integers(1, 6),
       st.booleans())  # fmt: skip
def test_micro_batches_part_a_step(lengths, capacity, accumulation, packed):
    groups = micro_batches(lengths, accumulation, capacity, packed)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(groups)
    if accumulation is None:
        for group in groups:
            size = sum(lengths[i] for i in group) if packed else len(group) * max(lengths[i] for i in group)
            assert size <= capacity or len(group) == 1
    if accumulation:
        assert len(groups) <= accumulation


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_visits_every_row_once_in_an_order_of_its_own(rows, size, seed, epoch):
    batches = list(epoch_batches(rows, size, seed, epoch))
    assert sorted(i for batch in batches for i in batch) == list(range(rows))
    assert batches == list(epoch_batches(rows, size, seed, epoch))
    if rows > 12:
        assert batches != list(epoch_batches(rows, size, seed, epoch + 1))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_spread_equals_numpy(values):
    import numpy as np

    s = spread(values)
    assert [s.median, s.p5, s.p95] == pytest.approx(np.quantile(values, [0.5, 0.05, 0.95]).tolist())
