"""Whatever a file holds: no crash, no hang, bounded memory, and every row accounted for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc
import zipfile
from copy import deepcopy

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from openpyxl.utils.exceptions import IllegalCharacterError

from tunesmith.core.errors import TunesmithError
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.table import FORMATS, kind_of
from tunesmith.data.load import Reading
from tunesmith.data.quality.report import data_report
from tunesmith.data.source import find_files
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract

ROWS, FILES = 2_000, 100  # of one seed
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.fuzz) for seed in range(1, 26))]
MEMORY = 256 << 20  # bytes that reading one of these files may take at most
HI, HELLO = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
CALL = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": "{}"}}]}
GOOD = [
    {"translation": {"en": "Good morning", "fr": "Bonjour"}},
    {"document": "The pool opens at 7.", "summary": "From 7."},
    {"messages": [HI, HELLO]},
    {"messages": [HI, CALL, {"role": "tool", "tool_call_id": "c1", "content": "Rain."}, HELLO],
     "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}], "system": "Be kind."},
    {"system": [{"type": "text", "text": "Be kind."}], "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."},
                                          {"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Rain."}]}, HELLO],
     "tools": [{"name": "look", "input_schema": {"type": "object"}}]},
    {"contents": [{"role": "user", "parts": [{"text": "Hi?"}]}, {"role": "model", "parts": [{"text": "Hello."}]}],
     "systemInstruction": {"parts": [{"text": "Be kind."}]}},
    {"instruction": "Hi?", "input": "Now.", "output": "Hello.", "history": [["A?", "B."]]},
    {"prompt": "Hi?", "completion": "Hello."},
    {"question": "Hi?", "answer": "Hello."},
    {"text": "Hello."},
    {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [{**HELLO, "content": "No."}]},
    {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."},
    {"prompt": "Hi?", "completion": "Hello.", "label": True},
    {"messages": [HI], "reference": "4"},
    {"text": "Hello.", "label": "good"},
    {"text": "Hello.", "labels": ["good", "short"]},
    {"text": "Hello.", "score": 0.5},
    {"tokens": ["Hello", "."], "tags": ["X", "O"]},
    {"source": "Hello.", "target": "Hallo."},
    {"question": "Who?", "context": "The cat.", "answers": {"text": ["cat"], "answer_start": [4]}},
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 2**70, 1e308, float("nan"), float("inf"), "", " ", "\n", "x" * 5000, "\ud83d", "\x00",
    "\u202e", "é" * 40, "{}", "[]", '{"role": "user"}', "[{", "<|im_end|>", [], {}, [[]], [None], [{}],
    {"role": "user"}, {"from": 1}, ["a", 1], [HI, HI], [HELLO], {"messages": [HI]}, {"type": "text", "text": 5},
    {"text": [1], "answer_start": ["a"]},
]  # fmt: skip


def places(value, path=()):
    """The way to every value inside a row."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def mutated(row, draw):
    """The row with one to three things changed: a value, a key, a repetition."""
    row = json.loads(json.dumps(row))
    for _ in range(draw.randint(1, 3)):
        value = deepcopy(draw.choice(VALUES))
        path = draw.choice(list(places(row)))
        if not path:
            continue
        inside = row
        for key in path[:-1]:
            inside = inside[key]
        match draw.randrange(5):
            case 0 | 1:
                inside[path[-1]] = value
            case 2:
                del inside[path[-1]]
            case 3 if isinstance(inside, dict):
                inside[draw.choice(["role", "content", "weight", "name", "label", "x", "Content", "text"])] = (
                    inside.pop(path[-1])
                )
            case _ if isinstance(inside, list):
                inside.insert(draw.randrange(len(inside) + 1), draw.choice([value, deepcopy(inside[path[-1]])]))
            case _:
                inside["more"] = value
    return row


def read(path, **options):
    reading = Reading(find_files(str(path)), DataConfig(train=str(path), **options), personal=True)
    rows = list(reading)
    ledger = reading.ledgers[str(path)]
    assert ledger.balanced()
    return rows, ledger


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("format", FORMATS)
def test_fuzzed_rows_are_kept_or_dropped_and_counted(tmp_path, format, seed):
    """Every row of each format's share ends in the ledger, and what is kept can be rendered."""
    draw = random.Random(f"{format} {seed}")
    seeds = [row for row in GOOD if FORMATS[format].has_keys(row)]
    count = -(-ROWS // len(FORMATS))
    rows = [mutated(draw.choice(seeds), draw) for _ in range(count)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kept, ledger = read(path, format=format, clean=["whitespace", "nfc", "boilerplate", "turns"])
    assert ledger.read == count
    assert 0 < len(kept) < count
    for entry in ledger.dropped():
        assert entry.column >= 1
        assert entry.found.endswith((".", "?"))
        assert entry.advice
    for row in kept:  # what is kept can be written and read again
        again = kind_of(row).read_back(json.loads(row.json))
        assert again == row.content
    contract = load_contract(resolve("ember").folder)
    reading = Reading(find_files(str(path)), DataConfig(train=str(path), format=format))
    data_report(reading, contract, 512)
    assert all(ledger.balanced() for ledger in reading.ledgers.values())


# Files ------------------------------------------------------------------------------------------------------------


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def as_csv(rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(rows[0])
    writer.writerows([[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows])
    return buffer.getvalue().encode("utf-8", "replace")


def as_parquet(rows):
    buffer = io.BytesIO()
    texts = [
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()} for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(texts), buffer)
    return buffer.getvalue()


def as_workbook(rows):
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([value if isinstance(value, str) else json.dumps(value) for value in row.values()])
    book.save(buffer)
    return buffer.getvalue()


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/workbook.xml", data)
    return buffer.getvalue()


WRITERS = {
    "jsonl": as_lines,
    "json": lambda rows: json.dumps(rows).encode(),
    "spread.json": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False).encode("utf-8", "replace"),
    "wrapped.json": lambda rows: json.dumps({"data": rows}).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
    "xlsx": as_workbook,
    "jsonl.gz": as_lines,
    "jsonl.zst": as_lines,
    "txt": lambda rows: b"\n\n".join(json.dumps(row).encode() for row in rows),
}


PACKERS = {"jsonl.gz": gzip.compress, "jsonl.zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True)}


def cut(data, draw):
    return data[: draw.randrange(len(data))]


def flipped(data, draw):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def spliced(data, draw):
    """A piece of it, or of something else, somewhere in it."""
    start, place = draw.randrange(len(data)), draw.randrange(len(data))
    piece = draw.choice(
        [data[start : start + 200], b"\x00" * 50, b'"', b"{", b"]", b"\n", b"\xff\xfe", b"[" * 5000, b"9" * 5000]
    )
    return data[:place] + piece + data[place:]


def recoded(data, draw):
    encoding = draw.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-7", "utf-8-sig"])
    return data.decode("utf-8", "replace").encode(encoding, "replace")


def grown(data, draw):
    """With a huge cell, or brackets without end, in it."""
    place = draw.randrange(len(data))
    huge = draw.choice([b"x", b"[", b'{"a":', b"\\", b'"', b" ", b",", b"\n"]) * draw.choice([100_000, 1_000_000])
    return data[:place] + huge + data[place:]


DAMAGE = [cut, flipped, spliced, recoded, grown]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", WRITERS)
def test_fuzzed_files_are_read_or_refused_in_bounded_memory(tmp_path, kind, seed):
    """A tenth of the files each: refused in a sentence, or read with every row in the ledger; the first is whole."""
    draw = random.Random(f"{kind} {seed}")
    outcomes = {"read": 0, "refused": 0}
    for number in range(FILES // len(WRITERS)):
        template = draw.choice(GOOD)
        rows = [template] * 3 + [mutated(template, draw) for _ in range(draw.randrange(3))] + [template] * 3
        if number % 7 == 0:  # several formats in one file
            rows = draw.sample(GOOD, 8)
        try:
            data = WRITERS[kind](rows)
        except (ValueError, TypeError, pyarrow.ArrowException, IllegalCharacterError):  # the writer's own limits
            data = as_lines(rows)
        pack = PACKERS.get(kind, bytes)
        damage = draw.choice(DAMAGE)
        damaged = pack(damage(data, draw)) if draw.random() < 0.5 else damage(pack(data), draw)
        if number == 0:
            damaged = pack(WRITERS[kind]([GOOD[0]] * 6))
        path = tmp_path / f"rows{number}.{kind}"
        path.write_bytes(damaged)
        message = ""
        tracemalloc.start()
        try:
            read(path)
            outcomes["read"] += 1
        except TunesmithError as error:
            message = str(error)
            outcomes["refused"] += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, (path, peak)
        assert not message or str(path) in message, message
    assert outcomes["read"]  # the one that is whole, at least


BOMBS = {
    "spaces": lambda: b" " * (300 << 20),
    "brackets": lambda: b"[" * (300 << 20),
    "one_string": lambda: b'{"text": "' + b"x" * (300 << 20),
    "array_of_nothing": lambda: b"[" + b"[]," * (100 << 20),
    "zeros": lambda: b"\x00" * (300 << 20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_memory(tmp_path, name):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(BOMBS[name](), 1))
    tracemalloc.start()
    with pytest.raises(TunesmithError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


def test_a_workbook_that_is_a_bomb_is_refused(tmp_path):
    path = tmp_path / "rows.xlsx"
    path.write_bytes(zipped(b"<a/>" * (80 << 20)))
    with pytest.raises(TunesmithError, match="unpacks to more than 256 MiB"):
        read(path)
