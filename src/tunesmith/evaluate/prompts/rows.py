"""The rows that prompts are tried on: split as training splits them, so that tuned models stand on the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.data.config import DataConfig
from tunesmith.data.dataset import Subset
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.labelled import shape_of
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import KINDS
from tunesmith.data.prompting.variant import turns_of
from tunesmith.data.split import Splits, load_splits
from tunesmith.evaluate.prompts.cache import key_of
from tunesmith.prompt.base import EMBEDDED, resolve
from tunesmith.prompt.load import load_contract

LONGEST = 1 << 30  # tokens: rows are held to each model's length later
READS = ("labelled", "chat")


@dataclass(frozen=True)
class PromptRows:
    """Rows by what they are for.

    Attributes:
        kind: `labelled` or `chat`.
        labels: the classes, in order; none of chats.
        training: to choose examples from.
        validation: to choose a prompt by, at most as many as were asked for.
        test: for the chosen prompts, at most as many.
        of: how many rows validation and test part have.
        pairs: whether rows are pairs of texts.
        content: stands for all rows of the file.
    """

    kind: str
    labels: list[str]
    training: list[Row]
    validation: list[Row]
    test: list[Row]
    of: tuple[int, int]
    pairs: bool
    content: str

    @property
    def test_id(self) -> str:
        """Stands for the test rows."""
        return key_of(sorted(row.key.hex() for row in self.test))

    @property
    def validation_id(self) -> str:
        """Stands for the validation rows: scores on the same ones can be compared."""
        return key_of(sorted(row.key.hex() for row in self.validation))


def prompt_rows(config: DataConfig, most: int, seed: int) -> PromptRows:
    """Read and split the rows.

    They are rendered with the embedded model's contract, of which nothing is used: what part a row belongs to depends
    on its words alone.

    Args:
        config: which rows, and how they are split.
        most: rows of each held-out part, drawn by chance where there are more.
        seed: of that.

    Raises:
        DataError: rows that nothing can be asked about, or none to validate on.
    """
    contract = load_contract(resolve(EMBEDDED).folder)
    splits = load_splits(config, contract, LONGEST, frozenset(KINDS))
    refuse_other_kinds(splits)
    kind = splits.kind.name
    labels = _labels(splits) if kind == "labelled" else []
    if not len(splits.validation):
        raise DataError(
            f"{config.train}: no rows are left to choose a prompt by. Give more rows, or a file with --validation."
        )
    for name in ("validation", "test"):
        part: Subset = getattr(splits, name)
        splits.kind.refuse_held_out(part, splits.train.dataset.facts, name)
    validation, test = drawn(splits.validation, most, seed), drawn(splits.test, most, seed)
    training = [row.row for row in splits.train.at(np.unique(splits.train.places, return_index=True)[1])]
    whole: list[Any] = [row.content for row in (*training, *validation, *test)]
    pairs = any(getattr(content, "second", None) is not None for content in whole)
    of, content = (len(splits.validation), len(splits.test)), splits.train.dataset.id
    return PromptRows(kind, labels, training, validation, test, of, pairs, content)


def drawn(part: Subset, most: int, seed: int) -> list[Row]:
    """At most so many rows of a part, by chance, in file order."""
    places = np.arange(len(part))
    if len(places) > most:
        places = np.sort(np.random.default_rng(seed).permutation(len(places))[:most])
    return [row.row for row in part.at(places)]


def refuse_other_kinds(splits: Splits) -> None:
    """Refuse rows that ask nothing that a prompt could.

    Raises:
        DataError: they are of another kind.
    """
    kind = splits.kind
    if kind.name not in READS:
        files = ", ".join(splits.train.dataset.files)
        advice = " and ".join(KINDS[name].words for name in READS)
        raise DataError(
            f"{files}: holds {kind.words} ({splits.format}), without labels or answers that a prompt could be measured "
            f"by. Give {advice}. Where columns are called otherwise, name them: --column label=NAME."
        )


def _labels(splits: Splits) -> list[str]:
    """The classes of the rows.

    Raises:
        DataError: they have several each, or numbers, or there is only one.
    """
    facts, files = splits.train.dataset.facts, ", ".join(splits.train.dataset.files)
    shape = shape_of(facts)
    if shape == "several":
        raise DataError(f"{files}: rows have several classes each, which prompts are not measured on. Give one each.")
    if shape == "number":
        raise DataError(f"{files}: rows have numbers, which prompts are not measured on. Give rows with classes.")
    names = label_names(facts)
    _refuse_numbers(splits)
    if len(names) < 2:
        raise DataError(f"{files}: all rows have the label {names[0]!r}, so there is nothing to tell. Give others too.")
    return names


def _refuse_numbers(splits: Splits) -> None:
    for row in splits.train:
        content: Any = row.row.content
        if isinstance(content.label, float):
            raise DataError(f"{row.source}: the label is a number with a fraction among classes. Give it a class.")


def asked_in(training: Iterable[Row], rows: Sequence[Row]) -> int:
    """How many rows ask what a training row asks, a text with a class and a chat of one question alike."""
    seen = {key for row in training for key in _asks(row)}
    return sum(not seen.isdisjoint(_asks(row)) for row in rows)


def _asks(row: Row) -> set[int | str]:
    """What stands for all that a row asks, without a prompt around it."""
    plain = row.unprompted or row
    asked = turns_of(plain)
    return {row.asked, *([asked[0].content] if len(asked) == 1 else [])}
