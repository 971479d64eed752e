"""Rows that are too long: cut, split, dropped or refused, known for what they are, and counted."""

from __future__ import annotations

from array import array
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import READS, chat_row, many_rows
from tunesmith.core.errors import DataError
from tunesmith.data.config import DataConfig
from tunesmith.data.fit import Fitting
from tunesmith.data.kinds.prepared import tokens_of
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.text import Text
from tunesmith.data.load import load_rows
from tunesmith.data.quality.ledger import Ledger, Source
from tunesmith.data.split import load_splits
from tunesmith.jobs.preflight import doubts, refuse_what_cannot_teach
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Rendered
from tunesmith.prompt.load import load_contract


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


def a_recipe(config):
    """What is looked at of a recipe before anything is trained."""
    evaluate = SimpleNamespace(patience=None, export="last", metric="loss")
    return SimpleNamespace(data=config, evaluate=evaluate, objective=SimpleNamespace(type="sft"))


def split(contract, path, max_length, **fields):
    """The parts of a file's rows, looked at as a run does; and what the run says of them."""
    fields = {"validation": 0, "test": 0, **fields}
    config = DataConfig(train=str(path), **fields)
    splits = load_splits(config, contract, max_length, READS)
    recipe = a_recipe(config)
    refuse_what_cannot_teach(recipe, splits, contract)
    assert all(ledger.balanced() for ledger in splits.ledgers)
    return splits, " ".join(doubts(recipe, splits))


def long_rows(count, words=30):
    return [chat_row(f"Tale {i}?", f"It is tale {i}. " + "word " * words) for i in range(count)]


def test_one_cut_row_stops_no_run(write_rows, contract):
    path = write_rows([*many_rows(20), *long_rows(1, 200)])
    splits, said = split(contract, path, 64, over_long="truncate")
    assert [row.cut for row in splits.train].count(True) == 1
    assert splits.ledgers[0].counts() == {"read": 21, "kept": 20, "cut": 1}
    assert "cut the end off 1 of 21 rows to train on: from them the model does not learn to stop." in said
    again, _ = split(contract, path, 64, over_long="truncate")  # from the cache
    assert [row.cut for row in again.train] == [row.cut for row in splits.train]
    assert again.train.dataset.folder == splits.train.dataset.folder


def test_all_rows_cut_train_with_a_warning(write_rows, contract):
    splits, said = split(contract, write_rows(long_rows(30)), 24, over_long="truncate", validation=0.2, test=0.2)
    assert all(row.cut and len(row.ids) == 24 for row in splits.train)
    assert (len(splits.validation), len(splits.test)) == (0, 0)
    [ledger] = splits.ledgers
    assert ledger.counts() == {"read": 30, "cut": len(splits.train), "dropped": 30 - len(splits.train)}
    assert ledger.by_code("cut")["over_long"] == len(splits.train)
    assert "the model will not learn to stop. Raise data.max_length" in said
    assert "no row is left to validate on during training" in said


def test_a_row_whose_answers_are_cut_away_wholly_is_dropped_with_its_reason(write_rows, contract):
    turns = chat_row("Hi?", "Hello.")["messages"] + chat_row("Tell me. " * 60, "Long. " * 60)["messages"]
    path = write_rows([*many_rows(8), chat_row("Why? " * 90, "So."), {"messages": turns}])
    splits, _ = split(contract, path, 64, over_long="truncate")
    [ledger] = splits.ledgers
    assert ledger.counts() == {"read": 10, "kept": 8, "cut": 1, "dropped": 1}
    assert "and nothing that is trained on stands before the cut. Raise" in str(ledger.dropped()[0])
    [cut] = [row for row in splits.train if row.cut]
    assert cut.source.line == 10
    assert contract.decode(cut.ids[cut.mask].tolist()) == "Hello."  # its first answer is whole


def test_rows_without_a_stop_token_are_refused_though_others_were_cut(write_rows, contract):
    path = write_rows([*many_rows(8), *long_rows(1, 200)])
    config = DataConfig(train=str(path), over_long="truncate", validation=0, test=0)
    splits = load_splits(config, contract, 64, READS)
    endless = replace(contract, stop_ids=(4095,))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no stop token"):
        refuse_what_cannot_teach(a_recipe(config), splits, endless)


def test_texts_that_are_the_same_once_they_are_cut(write_rows, contract):
    path = write_rows(
        [{"text": "The same beginning of every text, word for word, " + "and on " * i} for i in (9, 10, 11)]
    )
    with pytest.raises(DataError, match=r"all 3 training rows have the same answer \('The same beginning"):
        split(contract, path, 12, over_long="truncate", near_duplicates="off")


# Plain text in pieces


def ids_by_text(rows):
    found = {}
    for row in rows:
        found.setdefault(row.source.line, []).append(row)
    return found


def long_texts(count):
    return [
        {"text": f"Chapter {i}. " + " ".join(f"word{i}x{j}" for j in range(20 * (i % 3) + 3))} for i in range(count)
    ]


def test_a_long_text_becomes_pieces_that_hold_every_token_once(write_rows, contract):
    path = write_rows(long_texts(40))
    splits, said = split(contract, path, 48, over_long="split", validation=0.2, test=0.2)
    whole = {row.source.line: contract.render_many([contract.draft_text(row.content.text)])[0]
             for row in load_rows(str(path)).rows}  # fmt: skip
    assert not said
    parts = [ids_by_text(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 40  # the pieces of a text are all in one part
    assert all(parts)
    pieces = {line: rows for part in parts for line, rows in part.items()}
    for line, rows in pieces.items():
        assert np.concatenate([row.ids for row in rows]).tolist() == list(whole[line].ids)
        assert max(len(row.ids) for row in rows) <= 48
        assert max(len(row.ids) for row in rows) - min(len(row.ids) for row in rows) <= 1
        assert [row.goes_on for row in rows] == [True] * (len(rows) - 1) + [False]
        assert not any(row.cut for row in rows)
        assert all(row.mask.all() for row in rows)
        assert "".join(row.row.content.text for row in rows) == contract.decode(list(whole[line].ids))
    many = [line for line, rows in pieces.items() if len(rows) > 1]
    assert many == [line for line in pieces if len(whole[line].ids) > 48]
    [ledger] = splits.ledgers
    assert ledger.counts() == {"read": 40, "kept": 40 - len(many), "cut": len(many)}
    assert ledger.by_code("cut") == {"split": len(many)}
    assert ledger.notes["pieces that long texts were cut into"] == sum(len(pieces[line]) for line in many)
    entry = next(entry for entry in ledger.entries if entry.outcome == "cut")
    assert f"more than 48. It was cut into {len(pieces[entry.source.line])} pieces." in str(entry)


def test_each_piece_begins_as_texts_of_the_model_do():
    tokenizer = SimpleNamespace(bos_token_id=1)
    contract = SimpleNamespace(tokenizer=tokenizer, decode=lambda ids: str(ids), around_pieces=([1], []))
    row = Row(Text("x"), Source("f", 1))
    ledger = Ledger("f")
    ledger.keep()
    ids = array("i", [1, *range(10, 30), 2])
    fitting = Fitting(contract, 8, "split")
    pieces = fitting.fitted(row, [tokens_of(Rendered(ids, ((0, len(ids)),)))], ledger)
    assert [piece.ids.tolist()[0] for piece in pieces] == [1, 1, 1]
    assert [token for piece in pieces for token in piece.ids.tolist()[1:]] == ids.tolist()[1:]
    assert all(len(piece.ids) <= 8 and piece.row.whole is row for piece in pieces)


def test_held_out_files_of_text_are_split_too(write_rows, contract):
    held_out = str(write_rows([{"text": "A story. " * 100}], "test.jsonl"))
    splits, _ = split(contract, write_rows(long_texts(9)), 48, over_long="split", test=held_out)
    assert len(splits.test) == -(-sum(len(row.ids) for row in splits.test) // 48)
    assert len(splits.test) > 1


def test_chats_are_not_split_and_the_sentence_names_the_choices(write_rows, contract):
    with pytest.raises(DataError) as error:
        split(contract, write_rows([*many_rows(5), *long_rows(2)]), 40, over_long="split")
    assert "4 of 7 rows are longer than 40 tokens (first: " in str(error.value)
    assert "These are chat rows, and data.over_long=split cuts plain text and words with tags alone." in str(
        error.value
    )
    assert "drop (leave them out), or truncate (their end is lost)." in str(error.value)
    with pytest.raises(
        DataError, match=r"drop \(leave them out\), truncate \(their end is lost\) or split \(plain text"
    ):
        split(contract, write_rows(long_texts(9), "texts.jsonl"), 40)


def test_turns_of_a_chat_that_come_one_by_one_stay_on_one_side(write_rows, contract):
    kept = "(message['content'] if loop.last or message['role'] == 'user' else 'gone')"
    rewriting = replace(contract, template=contract.template.replace("message['content']", kept))
    rows = [{"messages": [turn for j in range(3) for turn in chat_row(f"{i} {j}?", f"{i} {j}.")["messages"]]}
            for i in range(40)]  # fmt: skip
    splits, _ = split(rewriting, write_rows(rows), 500, test=0.3, validation=0.3)
    sides = [set(ids_by_text(part)) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, sides)) == 40
    assert all(len(part) for part in sides)
