"""A kind of row is one small file: one that is added here is read, checked, prepared, kept, read back and refused."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

import tunesmith.data
from conftest import READS, many_rows
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError, ModelError
from tunesmith.data.config import DataConfig
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.prepared import Tokens, count_trained, joined, parted, prepared
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import FORMATS, KINDS, find_kind, register
from tunesmith.data.load import Reading, load_rows
from tunesmith.data.prepare import prepare
from tunesmith.data.quality.ledger import Source
from tunesmith.data.quality.report import data_report
from tunesmith.data.source import find_files
from tunesmith.data.split import load_splits
from tunesmith.jobs.preflight import refuse_what_cannot_teach
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract


# A riddle and its answer in a language: two sequences a row, windows of a long riddle, the languages of the whole file.
@dataclass(frozen=True)
class Riddle:
    kind: ClassVar[str] = "riddle"
    riddle: str
    solution: str
    tongue: str

    def to_plain(self):
        return {"riddle": self.riddle, "solution": self.solution, "tongue": self.tongue}

    def texts(self):
        return (self.riddle, self.solution)

    def asked(self):
        return self.riddle


def count_tongue(content, facts):
    facts[content.tongue] = facts.get(content.tongue, 0) + 1


def refuse_one_tongue(rows, facts, contract):
    if len(facts) == 1:
        raise DataError(f"all {len(rows)} riddles are in {next(iter(facts))}. Give some in another language.")


def in_windows(row, sequences, longest, contract):
    riddle, solution = sequences
    starts = range(0, len(riddle.ids) - longest // 2, longest // 2)  # each half overlaps the next
    return [prepared(row, [*(Tokens(riddle.ids[start : start + longest], ()) for start in starts), solution])]


RIDDLES = RowKind(
    name="riddle", words="riddles", chat=False,
    formats=(Format("riddle", "riddle", sets("riddle solution tongue"), lambda row, warn: Riddle(**row)),),
    drafts=lambda content, contract: [contract.draft_text(text) for text in content.texts()],
    gather=count_tongue, refuse=refuse_one_tongue, split=in_windows,
)  # fmt: skip
# So much is the kind.


@pytest.fixture
def riddles() -> Iterator[RowKind]:
    register(RIDDLES)
    yield RIDDLES
    del KINDS["riddle"], FORMATS["riddle"]


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


def riddle(i, tongue="English"):
    return {"riddle": f"What has {i} legs?", "solution": f"A table of {i} legs.", "tongue": tongue}


def some(count):
    return [riddle(i, "Dutch" if i % 3 else "English") for i in range(count)]


def prepared_splits(path, contract, longest=64, reads=frozenset({"riddle"}), **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", **fields}
    return load_splits(DataConfig(train=str(path), **fields), contract, longest, reads)


def refuse(splits, contract):
    recipe = SimpleNamespace(
        data=DataConfig(train="x", validation=0), evaluate=SimpleNamespace(patience=0, export="", metric="loss")
    )
    refuse_what_cannot_teach(recipe, splits, contract)


def test_a_new_kind_is_read_checked_prepared_kept_and_read_back(riddles, write_rows, contract):
    path = write_rows(some(30))
    shown = CliRunner().invoke(app, ["check", str(path), "--show", "1"]).output
    assert "riddle, 30 rows read: 30 kept." in shown
    assert shown.count("What has 0 legs?") == 1
    splits = prepared_splits(path, contract)
    rows = load_rows(str(path)).rows
    assert splits.kind is riddles
    assert splits.train.dataset.facts == {"English": 10, "Dutch": 20}
    for row, kept in zip(rows, splits.train, strict=True):
        assert kept.row == row
        want = contract.render_many([contract.draft_text(text) for text in row.content.texts()])
        assert [one.ids.tolist() for one in kept.sequences] == [list(one.ids) for one in want]
        assert [one.spans for one in kept.sequences] == [one.spans for one in want]
        assert kept.ids.tolist() == list(want[0].ids)
        assert kept.trained == sum(one.trained for one in want)
    refuse(splits, contract)
    parts = prepared_splits(path, contract, test=0.3, validation=0.3)
    assert sum(map(len, (parts.train, parts.validation, parts.test))) == 30


def test_numbers_of_rows_and_of_sequences(riddles, write_rows, contract):
    dataset = prepared_splits(write_rows(some(30)), contract).train.dataset
    rows = [dataset.prepared(i) for i in range(30)]
    assert dataset.lengths.tolist() == [row.length for row in rows]
    assert dataset.column("trained").tolist() == [row.trained for row in rows]
    assert dataset.starts.tolist() == list(range(0, 61, 2))
    assert dataset.sequence_lengths.tolist() == [len(one.ids) for row in rows for one in row.sequences]
    assert dataset.sequence_trained.tolist() == [one.trained for row in rows for one in row.sequences]
    assert dataset.least_trained.tolist() == [min(one.trained for one in row.sequences) for row in rows]


def test_what_could_not_teach_is_refused_by_the_kind(riddles, write_rows, contract):
    splits = prepared_splits(write_rows([riddle(i) for i in range(4)]), contract)
    with pytest.raises(DataError, match="all 4 riddles are in English"):
        refuse(splits, contract)


def test_windows_of_a_document_come_back_together(riddles, write_rows, contract):
    rows = some(9)
    rows[4]["riddle"] = "What has legs? " * 40
    splits = prepared_splits(write_rows(rows), contract, 32, over_long="split")
    kept = list(splits.train)
    assert [len(row.sequences) for row in kept] == [2] * 4 + [len(kept[4].sequences)] + [2] * 4
    [whole] = contract.render_many([contract.draft_text(rows[4]["riddle"])])
    *windows, solution = kept[4].sequences
    assert len(windows) == len(range(0, len(whole.ids) - 16, 16)) > 3
    for number, window in enumerate(windows):
        assert window.ids.tolist() == list(whole.ids)[16 * number : 16 * number + 32]
        assert not window.spans
    assert contract.decode(solution.ids.tolist()) == rows[4]["solution"]
    assert splits.train.dataset.starts.tolist() == np.cumsum([0, *(len(row.sequences) for row in kept)]).tolist()
    [ledger] = splits.ledgers
    assert ledger.counts() == {"read": 9, "kept": 8, "cut": 1}


def test_a_kind_that_the_objective_does_not_read_is_refused_from_the_cache_too(riddles, write_rows, contract):
    path = write_rows(some(3))
    for _ in range(2):
        with pytest.raises(
            DataError,
            match=r"holds riddle rows, which this objective cannot train on\. It takes chat \(or .*plain text\.",
        ):
            prepared_splits(path, contract, reads=READS)
        assert len(prepared_splits(path, contract).train) == 3


def test_names_of_kinds(riddles):
    assert find_kind("chat").name == "chat"
    with pytest.raises(ConfigError, match="unknown kind of row 'ridle': did you mean 'riddle'"):
        find_kind("ridle")
    with pytest.raises(AssertionError, match="is there already"):
        register(RIDDLES)
    assert all(format.kind == name for name, kind in KINDS.items() for format in kind.formats)


# Of the kinds that there are ----------------------------------------------------------------------------------------


def test_a_preference_gives_its_two_sides(write_rows, contract):
    rows = [{"prompt": f"Hi {i}?", "chosen": f"Hello {i}.", "rejected": f"What, {i}?"} for i in range(5)]
    splits = prepared_splits(write_rows(rows), contract, reads=frozenset({"preference"}))
    for row, kept in zip(rows, splits.train, strict=True):
        said = [contract.decode(one.ids[one.mask].tolist()) for one in kept.sequences]
        assert said == [row["chosen"], row["rejected"]]
        assert all(kept.ids[:3].tolist() == one.ids[:3].tolist() for one in kept.sequences)
    refuse(splits, contract)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no stop token"):
        refuse(splits, replace(contract, stop_ids=(4095,)))


def test_a_side_of_which_nothing_is_left_is_dropped(write_rows, contract):
    rows = [{"prompt": "Hi?", "chosen": f"Hello {i}.", "rejected": "What? " * 9 * (i + 1)} for i in range(5)]
    rows.append({"prompt": "Why? " * 40, "chosen": "So.", "rejected": "No."})
    path = write_rows(rows)
    splits = prepared_splits(path, contract, 40, frozenset({"preference"}), over_long="truncate")
    whole = [KINDS["preference"].drafts(row.content, contract) for row in load_rows(str(path)).rows]
    longest = [max(len(one.ids) for one in contract.render_many(drafts)) for drafts in whole]
    assert [row.cut for row in splits.train] == [length > 40 for length in longest[:5]] != [True] * 5
    assert all(len(one.ids) <= 40 and one.trained for row in splits.train for one in row.sequences)
    assert splits.ledgers[0].by_code("dropped") == {"over_long": 1}


@pytest.mark.parametrize(
    ("rows", "kind", "facts", "words"),
    [
        ([{"text": f"Fine {i}.", "label": "praise"} for i in range(3)], "labelled", {"labels": {"praise": 3}},
         "all 3 training rows are labelled 'praise'"),
        ([{"text": f"Fine {i}.", "label": i % 2} for i in range(3)], "labelled", {"labels": {"0": 2, "1": 1}}, ""),
        ([{"text": f"Fine {i}.", "labels": ["a", "b"][:i]} for i in range(3)], "labelled",
         {"labels": {"a": 2, "b": 1}, "several": 3}, ""),
        ([{"text": f"Fine {i}.", "score": i / 2} for i in range(3)], "labelled", {"labels": {}}, ""),
        ([{"tokens": ["Anna", f"sleeps {i}"], "tags": ["NAME", "O"]} for i in range(3)], "tagged",
         {"labels": {"NAME": 3, "O": 3}}, ""),
        ([{"tokens": [f"sleeps {i}"], "tags": ["O"]} for i in range(3)], "tagged", {"labels": {"O": 3}},
         "all 3 training rows are labelled 'O'"),
        ([{"prompt": f"Hi {i}?", "completion": "Hello.", "label": i < 2} for i in range(3)], "verdict",
         {"good": 2, "bad": 1}, ""),
    ],
)  # fmt: skip
def test_what_a_kind_knows_of_the_whole_file(write_rows, contract, rows, kind, facts, words):
    splits = prepared_splits(write_rows(rows), contract, reads=frozenset({kind}))
    assert splits.train.dataset.facts == facts
    assert json.loads((splits.train.dataset.folder / "meta.json").read_text())["facts"] == facts
    if words:
        with pytest.raises(DataError, match=words):
            refuse(splits, contract)
    else:
        refuse(splits, contract)


def test_sequences_are_joined_and_parted_again():
    draw = np.random.default_rng(0)
    for _ in range(100):
        sequences = []
        for _ in range(draw.integers(1, 5)):
            length = int(draw.integers(1, 9))
            cuts = sorted(draw.choice(length + 1, size=2 * int(draw.integers(0, (length + 1) // 2 + 1)), replace=False))
            sequences.append(
                Tokens(np.arange(length), tuple(zip(map(int, cuts[::2]), map(int, cuts[1::2]), strict=True)))
            )
        row = prepared(Row(Riddle("a", "b", "c"), Source("f", 1)), sequences)
        ids, table, spans = joined(row)
        assert count_trained(row.spans) == sequences[0].trained
        lengths = table[::2] or [len(ids)]
        for one, again in zip(sequences, parted(ids, lengths, spans), strict=True):
            assert (one.ids.tolist(), one.spans) == (again.ids.tolist(), again.spans)


# Models that nobody chats with --------------------------------------------------------------------------------------


@pytest.fixture
def encoder(tmp_path):
    """A tokenizer as BERT has it, [CLS] before a text and [SEP] behind it, without a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "a", "quiet", "room", "cold", "coffee"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_texts_need_no_chat_template(encoder, write_rows):
    with pytest.raises(ModelError, match=r"the model has no chat template\. Choose one with model.template"):
        load_contract(encoder)
    contract = load_contract(encoder, chat=False)
    rows = [{"text": "a quiet room", "label": "praise"}, {"text": "cold coffee", "label": "complaint"}]
    splits = prepared_splits(path := write_rows(rows), contract, reads=frozenset({"labelled"}))
    assert [row.ids.tolist() for row in splits.train] == [[1, 5, 6, 7, 2], [1, 8, 9, 2]]
    tokenizer = contract.tokenizer
    assert [row.ids.tolist() for row in splits.train] == [tokenizer(row["text"])["input_ids"] for row in rows]
    chats = load_rows(str(write_rows(many_rows(2), "chats.jsonl")))
    with pytest.raises(ModelError, match=r"chats\.jsonl: holds chat rows, and the model has no chat template"):
        list(prepare(chats.rows, chats.reading.ledgers, contract, 64, READS))
    found = data_report(Reading(find_files(str(path)), DataConfig(train=str(path))), contract, 64)
    assert (found.rows, found.facts, list(found.lengths)) == (2, {"labels": {"praise": 1, "complaint": 1}}, [5, 4])
    with pytest.raises(ModelError, match=r"chats\.jsonl: holds chat rows, and the model has no chat template"):
        data_report(chats.reading, contract, 64)
    with pytest.raises(ModelError, match="a conversation needs a chat template"):
        contract.text(chats.rows[0].conversation)


def test_only_the_table_names_kinds():
    """And what makes chats of rows with classes, by putting a prompt around them."""
    room = Path(tunesmith.data.__file__).parent
    files = {name.replace("source-target", "pair") for name in KINDS} | {"reinforcement"}
    modules = {f"tunesmith.data.kinds.{name}" for name in files}
    for path in room.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} & modules
        assert not named or path.name in ("table.py", "around.py"), f"{path} imports {named}"
    assert all((room / "kinds" / f"{name}.py").exists() for name in files)
