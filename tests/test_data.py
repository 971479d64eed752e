"""Files become checked rows; every row is accounted for; packing loses nothing."""

from __future__ import annotations

import copy
import gzip
import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from conftest import READS, chat_row, many_rows
from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.data.config import DataConfig
from tunesmith.data.estimate import default_epochs, estimate
from tunesmith.data.kinds.preference import Preference
from tunesmith.data.kinds.text import Text
from tunesmith.data.load import load_rows
from tunesmith.data.pack import epoch_batches, micro_batches, pack
from tunesmith.data.prepare import prepare, spread
from tunesmith.data.source import download
from tunesmith.data.split import load_splits
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message

EXCHANGE = (Message("user", "Hi?"), Message("assistant", "Hello."))
SYSTEM = Message("system", "Be kind.")


def read(path, **options):
    return [row.conversation for row in load_rows(str(path), **options).rows]


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
    dataset = load_rows(str(write_rows([row])))
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
    dataset = load_rows(str(tmp_path / "header.csv"))
    assert dataset.rows[1].conversation[0].content == "Bye,\nnow?"
    assert [row.labels for row in dataset.rows] == [{"intent": "greet"}, {"intent": "part"}]
    assert [row.source.line for row in dataset.rows] == [2, 3]
    (tmp_path / "tabs.tsv").write_text("prompt\tcompletion\nHi?\tHello.\n")
    assert read(tmp_path / "tabs.tsv") == [EXCHANGE]
    (tmp_path / "semicolons.csv").write_text("prompt;completion\nHi?;Hello.\n")
    assert read(tmp_path / "semicolons.csv") == [EXCHANGE]


def test_more_containers(tmp_path):
    rows = [chat_row("Hi?", "Hello."), chat_row("Grüße?", "Goodbye.")]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "plain.jsonl").write_text(text, encoding="utf-8")
    want = read(tmp_path / "plain.jsonl")
    (tmp_path / "wide.jsonl").write_bytes(text.encode("utf-16"))
    with pyarrow.output_stream(str(tmp_path / "rows.jsonl.zst"), compression="zstd") as file:
        file.write(text.encode())
    (tmp_path / "misnamed.jsonl").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "stream.json").write_text("\n".join(json.dumps(row, indent=2, ensure_ascii=False) for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("wide.jsonl", "rows.jsonl.zst", "misnamed.jsonl", "stream.json", "rows.parquet"):
        assert read(tmp_path / name) == want, name
    book = openpyxl.Workbook()
    for cells in (["question", "answer", "intent"], ["Hi?", "Hello.", 3], [None, None, None], ["Bye?", "Goodbye.", 4]):
        book.active.append(cells)
    book.save(tmp_path / "rows.xlsx")
    dataset = load_rows(str(tmp_path / "rows.xlsx"))
    assert [(row.answer, row.labels, row.source.line) for row in dataset.rows] == [
        ("Hello.", {"intent": "3"}, 2), ("Goodbye.", {"intent": "4"}, 4)]  # fmt: skip
    (tmp_path / "book.txt").write_text("One\nparagraph.\n\n\nAnother.\n")
    texts = load_rows(str(tmp_path / "book.txt")).rows
    assert [(row.content.text, row.source.line) for row in texts] == [("One\nparagraph.", 1), ("Another.", 5)]
    assert load_rows(str(tmp_path / "wide.jsonl")).ledger.notes == {"UTF-16 text": 1}


def test_rows_across_pieces_of_a_long_array(tmp_path, monkeypatch):
    rows = [chat_row(f"Grüße {i}?", "x" * (i % 50)) for i in range(1, 200)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    want = [(row.conversation, row.source) for row in load_rows(str(path)).rows]
    assert len(want) == 199 - 199 // 50
    for size in (3, 7, 64, 1000):
        monkeypatch.setattr("tunesmith.data.read.stream.CHUNK", size)
        assert [(row.conversation, row.source) for row in load_rows(str(path)).rows] == want


def test_columns_with_other_names_are_mapped(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("Frage,Antwort,Thema\nHi?,Hello.,Gruß\n", encoding="utf-8")
    dataset = load_rows(str(path), columns={"question": "Frage", "answer": "Antwort"})
    assert (dataset.rows[0].conversation, dataset.rows[0].labels) == (EXCHANGE, {"Thema": "Gruß"})
    with pytest.raises(DataError, match=r"names 'Fragen', which no row has\. The first row has: Antwort, Frage, Thema"):
        load_rows(str(path), columns={"question": "Fragen"})


def test_a_missing_file_and_an_unknown_format(tmp_path, write_rows):
    with pytest.raises(MissingError, match="no such file"):
        load_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="did you mean 'alpaca'"):
        load_rows(str(write_rows(many_rows(1))), format="alpacca")


def test_duplicates_are_counted_apart_and_can_be_kept(write_rows):
    path = str(write_rows([*many_rows(3), *many_rows(2)]))
    assert load_rows(path).ledger.counts() == {"read": 5, "kept": 3, "duplicate": 2}
    assert load_rows(path, duplicates="keep").ledger.counts() == {"read": 5, "kept": 5}


def test_a_dataset_id_depends_on_rows_alone(write_rows):
    one = load_rows(str(write_rows(many_rows(4), "a.jsonl")))
    same = load_rows(str(write_rows(many_rows(4), "b.jsonl")))
    other = load_rows(str(write_rows(many_rows(5), "c.jsonl")))
    assert one.id == same.id != other.id


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


def keys(rows):
    return {row.key for row in rows}


def test_splits_part_by_prompt_and_stay_when_rows_are_added(write_rows, contract):
    rows = many_rows(300)
    split = lambda **fields: load_splits(DataConfig(near_duplicates="off", **fields), contract, 500, READS)  # noqa: E731
    small = split(train=str(write_rows(rows[:200], "small.jsonl")))
    large = split(train=str(write_rows(rows, "large.jsonl")))
    for name in ("train", "validation", "test"):
        assert keys(getattr(small, name)) <= keys(getattr(large, name))
    assert 10 < len(large.test) < 50
    assert len(large.train) + len(large.validation) + len(large.test) == 300
    assert not keys(large.train) & keys(large.test)
    assert large.leaked() == 0
    assert [ledger.read for ledger in large.ledgers] == [300]
    train, test = str(write_rows(rows, "x.jsonl")), str(write_rows(rows[:9], "y.jsonl"))
    two = split(train=train, test=test, validation=0)
    assert [(ledger.file, ledger.read) for ledger in two.ledgers] == [(train, 300), (test, 9)]
    assert (two.leaked(), len(two.validation)) == (9, 0)
    with pytest.raises(DataError, match="shares of 0 to 1"):
        split(train=train, test=0.5, validation=0.5)


def test_near_duplicates_stay_on_one_side_or_are_dropped(write_rows, contract):
    words = " ".join(f"word{i}" for i in range(60))
    rows = [chat_row(f"{words} {i}", f"Answer {i // 10}. {words} {i // 10}") for i in range(40)]
    rows = [chat_row(f"{words} about topic {i % 4} {words[: 30 * (i % 4)]} {i}", words) for i in range(40)]
    path = str(write_rows(rows))
    grouped = load_splits(DataConfig(train=path), contract, 2000, READS).train.dataset
    assert len(set(grouped.column("group"))) < len(set(grouped.column("asked"))) == 40
    dropped = load_splits(DataConfig(train=path, near_duplicates="drop", validation=0, test=0), contract, 2000, READS)
    [ledger] = dropped.ledgers
    assert ledger.counts() == {"read": 40, "kept": len(dropped.train), "duplicate": 40 - len(dropped.train)}
    assert ledger.by_code("duplicate") == {"near_duplicate": 40 - len(dropped.train)}
    assert 0 < len(dropped.train) < 20


def test_weights_say_how_often_a_files_rows_are_seen(write_rows, contract):
    one = str(write_rows([chat_row(f"One {i}?", "Yes.") for i in range(100)], "one.jsonl"))
    two = str(write_rows([chat_row(f"Two {i}?", "No.") for i in range(100)], "two.jsonl"))
    config = DataConfig(train={one: 2, two: 0.3}, validation=0, test=0)
    train = load_splits(config, contract, 500, READS).train
    count = Counter(row.source.file for row in train)
    assert count[one] == 200
    assert 15 < count[two] < 45
    files = [str(Path(one).parent / "*o*.jsonl"), [one, two], str(Path(one).parent)]
    for names in files:
        assert len(load_splits(DataConfig(train=names, validation=0, test=0), contract, 500, READS).train) == 200
    with pytest.raises(ConfigError, match="named twice"):
        load_splits(DataConfig(train=[one, one]), contract, 500, READS)
    with pytest.raises(ConfigError, match="Give a number above 0"):
        load_splits(DataConfig(train={one: 0}), contract, 500, READS)


def test_over_long_rows_fail_unless_allowed(write_rows, contract):
    dataset = load_rows(str(write_rows(many_rows(10))))
    ledgers = lambda: {name: copy.deepcopy(one) for name, one in dataset.reading.ledgers.items()}  # noqa: E731
    lengths = sorted(len(row.ids) for row in prepare(dataset.rows, ledgers(), contract, 500, READS))
    middle = lengths[5]
    with pytest.raises(DataError, match=rf"longest: {lengths[-1]}\)\. Raise data\.max_length"):
        list(prepare(dataset.rows, ledgers(), contract, middle, READS))
    [dropping] = (account := ledgers()).values()
    kept = list(prepare(dataset.rows, account, contract, middle, READS, "drop"))
    assert len(kept) == dropping.outcomes["kept"] == sum(n <= middle for n in lengths)
    [cutting] = (account := ledgers()).values()
    assert max(len(row.ids) for row in prepare(dataset.rows, account, contract, middle, READS, "truncate")) == middle
    assert cutting.balanced()
    assert cutting.outcomes["cut"] > 0
    with pytest.raises(DataError, match="no row fits in 8 tokens"):
        list(prepare(dataset.rows, ledgers(), contract, 8, READS, "drop"))


def test_held_out_rows_are_never_cut(write_rows, contract):
    config = DataConfig(train=str(write_rows(many_rows(200))), over_long="truncate", test=0.3)
    splits = load_splits(config, contract, 40, READS)
    assert any(len(row.ids) == 40 and not set(contract.stop_ids) & set(row.ids[-2:].tolist()) for row in splits.train)
    assert all(set(contract.stop_ids) & set(row.ids[-2:].tolist()) for row in [*splits.test, *splits.validation])
    [ledger] = splits.ledgers
    assert ledger.balanced()
    assert len(splits.train) + len(splits.test) + len(splits.validation) == 200 - ledger.outcomes["dropped"]


def test_prepared_rows_are_kept_and_used_again(write_rows, contract, home):
    config = DataConfig(train=str(write_rows(many_rows(50))), validation=0, test=0)
    first = load_splits(config, contract, 500, READS).train
    before = {path: path.stat().st_ino for path in (home / "data").rglob("rows.arrow")}
    again = load_splits(config, contract, 500, READS).train
    assert {path: path.stat().st_ino for path in (home / "data").rglob("rows.arrow")} == before
    assert first.dataset.folder == again.dataset.folder
    assert first.dataset.folder.name.startswith(first.dataset.id[:16])
    assert [row.ids.tolist() for row in first] == [row.ids.tolist() for row in again]
    ours = list(load_rows(config.train).rows)
    assert [row.row for row in again] == ours
    assert [row.mask.tolist() for row in again] == [contract.render(row.conversation).mask for row in ours]
    assert (again.lengths == [len(row.ids) for row in again]).all()
    assert (again.trained == [row.trained for row in again]).all()
    other = load_splits(config.model_copy(update={"system": "Be brief."}), contract, 500, READS).train
    assert other.dataset.id != first.dataset.id
    # A damaged folder is never used: it is made again, with the same id.
    damaged = first.dataset.folder / "rows.arrow"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    mended = load_splits(config, contract, 500, READS).train
    assert mended.dataset.id == first.dataset.id
    assert [row.ids.tolist() for row in mended] == [contract.render(row.conversation).ids.tolist() for row in ours]


def test_many_processes_verify_prepared_rows_at_once(write_rows, contract, home):
    """Who only reads does not wait for the lock that makers take; of makers, one makes and the others use it."""
    config = DataConfig(train=str(write_rows(many_rows(20), "shared.jsonl")), validation=0, test=0)
    found = []
    makers = [
        threading.Thread(target=lambda: found.append(load_splits(config, contract, 500, READS).train.dataset))
        for _ in range(3)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert len(found) == 3
    assert len({dataset.folder for dataset in found}) == 1
    rows = found[0].folder / "rows.arrow"
    made = rows.stat().st_mtime_ns
    with FileLock(home / "data" / f".{found[0].folder.name.partition('-')[2]}.lock"):
        reader = threading.Thread(
            target=lambda: found.append(load_splits(config, contract, 500, READS).train.dataset), daemon=True
        )
        reader.start()
        reader.join(60)
        assert len(found) == 4
        # One that found a damaged folder waits, and uses what another has made in its place meanwhile.
        whole = rows.read_bytes()
        rows.write_bytes(whole[:-1])
        late = threading.Thread(
            target=lambda: found.append(load_splits(config, contract, 500, READS).train.dataset), daemon=True
        )
        late.start()
        late.join(0.5)
        assert late.is_alive()
        rows.write_bytes(whole)
        mended = rows.stat().st_mtime_ns
    late.join(60)
    assert len(found) == 5
    assert made < mended == rows.stat().st_mtime_ns


def test_a_kill_while_writing_leaves_nothing_that_is_used(write_rows, contract, home, monkeypatch):
    config = DataConfig(train=str(write_rows(many_rows(30), "killed.jsonl")), validation=0, test=0)
    monkeypatch.setattr("tunesmith.data.cache.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load_splits(config, contract, 500, READS)
    assert not [path for path in (home / "data").iterdir() if path.name.endswith(".tmp")]
    monkeypatch.undo()
    assert len(load_splits(config, contract, 500, READS).train) == 30


def test_the_cache_keeps_to_its_size(write_rows, contract, home, monkeypatch):
    monkeypatch.setattr("tunesmith.data.cache.LARGEST_CACHE", 1)
    config = DataConfig(train=str(write_rows(many_rows(20), "small.jsonl")), validation=0, test=0)
    newest = load_splits(config, contract, 500, READS).train.dataset.folder
    assert [path for path in (home / "data").iterdir() if path.is_dir()] == [newest]


def test_a_template_that_rewrites_turns_is_trained_turn_by_turn(write_rows, contract):
    kept = "(message['content'] if loop.last or message['role'] == 'user' else 'gone')"
    rewriting = replace(contract, template=contract.template.replace("message['content']", kept))
    rows = [chat_row("Hi?", "Hello.")["messages"] + chat_row("Bye?", "Goodbye.")["messages"]]
    dataset = load_rows(str(write_rows([{"messages": messages} for messages in rows])))
    prepared = list(prepare(dataset.rows, dataset.reading.ledgers, rewriting, 500, READS))
    said = [contract.decode([i for i, m in zip(row.ids, row.mask, strict=True) if m]) for row in prepared]
    assert said == ["Hello.", "Goodbye."]
    for row in prepared:  # each is what the model sees when it is asked
        asked = rewriting.prompt(row.row.prompt)
        assert row.ids[: len(asked)].tolist() == asked
        assert row.mask[len(asked)]
    assert dataset.ledger.counts() == {"read": 1, "kept": 1}


@pytest.mark.parametrize(
    ("name", "row", "kind", "content"),
    [
        ("text", {"text": "Once."}, "text", Text("Once.")),
        ("preference", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "preference",
         Preference((EXCHANGE[0],), (EXCHANGE[1],), (Message("assistant", "No."),))),
    ],
)  # fmt: skip
def test_rows_write_themselves_and_read_themselves_back(write_rows, name, row, kind, content):
    [read] = load_rows(str(write_rows([row]))).rows
    assert (read.content, read.content.kind) == (content, kind)
    [again] = load_rows(str(write_rows([read.content.to_plain()], "again.jsonl"))).rows
    assert again.content == content


def test_cleanings_are_counted_and_only_those_asked_for(write_rows):
    rows = [
        chat_row(" Hi? ", "Hello."),
        chat_row("Cafe\u0301?", "Yes."),
        chat_row("Why?", "Sure! Because it is. I hope this helps!"),
        chat_row("Plain?", "Yes."),
    ]
    path = str(write_rows(rows))
    asked = load_rows(path, clean=["whitespace", "nfc", "boilerplate"])
    assert asked.ledger.counts() == {"read": 4, "kept": 1, "repaired": 3}
    assert asked.ledger.by_code("repaired") == {"whitespace": 1, "nfc": 1, "boilerplate": 1}
    assert [row.conversation[0].content for row in asked.rows[:2]] == ["Hi?", "Caf\u00e9?"]
    assert asked.rows[2].answer == "Because it is."
    left = load_rows(path)
    assert left.rows[2].answer == "Sure! Because it is. I hope this helps!"
    assert left.ledger.counts() == {"read": 4, "kept": 4}


def test_openais_rule_for_epochs_and_the_price():
    # The cookbook's own example: 5 rows get 20 epochs, 4306 tokens become 86120.
    assert [default_epochs(n) for n in (0, 1, 5, 40, 1000, 20_000)] == [0, 25, 20, 3, 3, 1]
    cost = estimate("gpt-4o-mini", [1000, 1000, 1000, 1000, 306])
    assert (cost.epochs, cost.tokens, round(cost.dollars, 4)) == (20, 86_120, 0.2584)


class Files(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(chat_row("Hi?", "Hello.")).encode() * 1
        self.send_response(200 if self.path.startswith("/rows") else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_addresses_are_fetched_once_within_a_limit(home):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(DataError, match="more than 10 bytes"):
            download(f"{url}/rows.jsonl", largest=10)
        assert load_rows(f"{url}/rows.jsonl").rows[0].conversation == EXCHANGE
        with pytest.raises(MissingError, match="answers 404"):
            load_rows(f"{url}/none.jsonl")
    finally:
        server.shutdown()
        server.server_close()
    assert load_rows(f"{url}/rows.jsonl").ledger.read == 1  # from the cache
    with pytest.raises(MissingError, match="cannot be fetched"):
        load_rows(f"{url}/more.jsonl")


def test_data_sets_of_the_hub(write_rows, tmp_path):
    path = write_rows(many_rows(7), "train.jsonl")
    assert [row.source.line for row in load_rows(f"hf:{path.parent}").rows] == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(MissingError, match="Write hf:owner/name"):
        load_rows(f"hf:{path.parent}::nosplit")


def test_splits_of_the_hub_that_are_not_read_are_told(write_rows):
    train, _ = write_rows(many_rows(3), "train.jsonl"), write_rows(many_rows(2), "test.jsonl")
    name = f"hf:{train.parent}"
    told = f"its split 'train'; not read: test. {name}::SPLIT names one"
    assert load_rows(name).ledger.sentence() == f"3 rows read: 3 kept. ({told})"
    assert load_rows(f"{name}::test").ledger.sentence() == "2 rows read: 2 kept."
    assert load_rows(f"{name}::train").ledger.sentence() == "3 rows read: 3 kept."


def test_the_system_message_of_the_recipe_is_given_to_every_kind_of_conversation(write_rows):
    rows = [{"prompt": "Hi?", "chosen": "Hello.", "rejected": "What?"}, {"prompt": "Hi?", "completion": "Hello."}]
    for i, row in enumerate(rows):
        [read] = load_rows(str(write_rows([row], f"{i}.jsonl")), system="Be kind.").rows
        turns = read.content.prompt if i == 0 else read.conversation
        assert turns[:2] == (SYSTEM, EXCHANGE[0])


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


@pytest.mark.parametrize("over_long", ["drop", "truncate"])
def test_rows_that_may_be_dropped_for_their_length_are_no_bad_rows(write_rows, contract, over_long):
    """Through the whole of preparing, with bad_rows at its default of failing."""
    rows = many_rows(12)
    rows[5]["messages"][0]["content"] = "Hello. " * 300  # its answer lies beyond any cut
    config = DataConfig(train=str(write_rows(rows)), over_long=over_long, test=0, validation=0)
    splits = load_splits(config, contract, 200, READS)
    assert len(splits.train) == 11
    assert splits.ledgers[0].by_code("dropped") == {"over_long": 1}
    config = config.model_copy(update={"over_long": "fail"})
    with pytest.raises(DataError, match=r"longer than 200 tokens|cannot be used"):
        load_splits(config, contract, 200, READS)


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_rows_on_one_line_are_told_apart(tmp_path, contract, indent):
    """Of compact JSON every row begins on the first line: each is accounted for all the same."""
    rows = [
        chat_row("Hi?", "Hello."),
        chat_row("Hi?", "Hello."),
        *(chat_row(f"Ho {i}?", "Long. " * 90) for i in (1, 2)),
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, chat_row("Who?", "Me.")], indent=indent))
    [entry] = (dataset := load_rows(str(path))).ledger.entries
    assert (entry.outcome, entry.code) == ("duplicate", "duplicate")
    if indent is None:
        columns = [row.source.column for row in dataset.rows]
        assert entry.found == "equal to the row at column 2 of this line."
        assert len(set(columns)) == 4
        assert str(dataset.rows[1].source) == f"{path}:1:{columns[1]}"
    for over_long, want in {"drop": {"kept": 2, "dropped": 2}, "truncate": {"kept": 2, "cut": 2}}.items():
        config = DataConfig(train=str(path), over_long=over_long, validation=0, test=0, near_duplicates="off")
        splits = load_splits(config, contract, 64, READS)
        assert splits.ledgers[0].counts() == {"read": 5, "duplicate": 1, **want}
        sources = {row.source for row in dataset.rows}
        assert {row.source for row in splits.train} <= sources
        assert len(splits.train) == 2 + want.get("cut", 0)
    held = load_splits(config.model_copy(update={"test": 0.8}), contract, 64, READS)
    lost = held.ledgers[0].outcomes["dropped"]
    assert len(held.train) + len(held.test) + lost == 4
    assert lost == 2 - sum(row.cut for row in held.train)
