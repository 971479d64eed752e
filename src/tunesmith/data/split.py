"""Which rows are trained on, which are validated on, which are kept for the end.

A share is taken by the hash of the prompt (of near duplicates: of the first one's), so that equal and
nearly equal questions never stand on both sides, and rows added later do not move the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.data.cache import prepared_dataset
from tunesmith.data.config import DataConfig
from tunesmith.data.dataset import Dataset, Subset
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.around import READS, Around, put_around
from tunesmith.data.prompting.version import read_version
from tunesmith.data.quality.ledger import Ledger, RowFault
from tunesmith.data.replay import Mixture, Replay
from tunesmith.data.source import SourceFile, find_files
from tunesmith.prompt.contract import Contract

ENDLESS = 1 << 30  # tokens: rows that are only read are held to no length


@dataclass(frozen=True)
class Splits:
    """The three parts; `validation` and `test` may hold no rows.

    Attributes:
        train, validation, test: the parts.
        ledgers: the account of each file that was read.
        replay: general rows that are seen beside the training rows, if there are any; never counted among the user's.
        around: the prompt around each row, if there is one.
    """

    train: Subset
    validation: Subset
    test: Subset
    ledgers: list[Ledger]
    replay: Replay | None = None
    around: Around | None = None

    @property
    def mixture(self) -> Mixture:
        """What is trained on: the training rows with what is replayed beside them."""
        return Mixture(self.train, self.replay)

    @property
    def kind(self) -> RowKind:
        """What the training rows are."""
        return self.train.dataset.kind

    @property
    def format(self) -> str:
        """The format of the training rows, or the formats of its files."""
        return ", ".join(dict.fromkeys(self.train.dataset.meta["formats"].values()))

    def leaked(self) -> int:
        """Test rows that ask what a training row asks."""
        asked = [rows.dataset.column("asked")[rows.places] for rows in (self.test, self.train)]
        return int(np.isin(asked[0], asked[1]).sum())


def load_splits(
    config: DataConfig, contract: Contract, max_length: int, reads: frozenset[str], around: Around | None = None
) -> Splits:  # fmt: skip
    """The rows of a recipe, prepared and parted.

    Args:
        config: which rows, and how they are read.
        contract: how they are rendered.
        max_length: longest sequence in tokens.
        reads: the kinds of rows that the objective reads.
        around: a prompt to put around each row, in place of the one that the recipe names.

    Raises:
        DataError: unusable rows, or no rows to train on. Small files may leave the other parts empty.
    """
    shares = {
        name: float(share) for name in ("test", "validation") if isinstance(share := getattr(config, name), int | float)
    }
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 0.9:
        raise DataError("data.validation and data.test: give files, or shares of 0 to 1 that leave rows to train on.")
    if around is None and config.prompt is not None:
        around = prompt_of(config, contract, reads)
    files = find_files(config.train)
    whole = prepared_dataset(files, config, contract, max_length, config.over_long, reads, around)
    ledgers = whole.ledgers()
    part = parts(whole.column("group"), shares)
    index = {name: np.flatnonzero(part == number) for number, name in enumerate(("train", "test", "validation"))}
    held_out = {name: _uncut(whole, index[name], ledgers) for name in ("validation", "test")}
    train = weighted(whole, index["train"], files)
    if not len(train):
        raise DataError(f"{config.train}: no rows are left to train on. Lower data.validation and data.test.")
    found = {name: Subset(whole, rows) for name, rows in held_out.items()}
    uncut = "drop" if config.over_long == "truncate" else config.over_long
    for name in ("validation", "test"):
        if name not in shares:
            named = find_files(getattr(config, name))
            dataset = prepared_dataset(named, config, contract, max_length, uncut, reads, around)
            found[name] = Subset(dataset, np.arange(dataset.meta["rows"]))
            ledgers |= dataset.ledgers()
    return Splits(Subset(whole, train), found["validation"], found["test"], list(ledgers.values()), around=around)


def prompt_of(config: DataConfig, contract: Contract, reads: frozenset[str]) -> Around:
    """The prompt that a recipe names, ready for its rows: examples are the training rows as they are without it.

    Raises:
        MissingError: there is no such prompt.
        ConfigError: it does not fit these rows.
        DataError: rows that no prompt can be put around.
    """
    assert config.prompt is not None
    where = f"data.prompt = {config.prompt}"
    version = read_version(config.prompt, where)
    splits, training = examples_of(config, contract, reads)
    dataset = splits.train.dataset
    if splits.kind.name not in READS:
        raise DataError(
            f"{', '.join(dataset.files)}: holds {splits.kind.words}, and {where} is put around questions with answers "
            "or texts with one class each. Leave it out."
        )
    labels = label_names(dataset.facts) if splits.kind.name == "labelled" else []
    return put_around(version, where, splits.kind.name, labels, training)


def examples_of(config: DataConfig, contract: Contract, reads: frozenset[str]) -> tuple[Splits, Iterator[Row]]:
    """The rows without a prompt around them, however long; and those of the training part, each once."""
    shares = {name: 0.0 for name in ("validation", "test") if not isinstance(getattr(config, name), int | float)}
    without = config.model_copy(update={"prompt": None, "over_long": "fail", **shares})
    splits = load_splits(without, contract, ENDLESS, reads | READS)
    return splits, (row.row for row in splits.train.at(np.unique(splits.train.places, return_index=True)[1]))


def parts(group: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """For each row 0 (train), 1 (test) or 2 (validation), by where its group's hash falls in [0, 1)."""
    place = group / 2**64
    test = shares.get("test", 0.0)
    part = np.where(place < test, 1, 0)
    part[(place >= test) & (place < test + shares.get("validation", 0.0))] = 2
    if shares.get("validation") and not (part == 2).any():  # of a small file: the group that was nearest to it
        left = np.unique(place[part == 0])
        part[np.isin(place, left[:1] if len(left) > 1 else [])] = 2
    return part


def _uncut(dataset: Dataset, index: np.ndarray, ledgers: dict[str, Ledger]) -> np.ndarray:
    """Rows of a held-out part without those whose answer was cut: what is measured must be whole."""
    cut = dataset.column("cut")[index]
    for row in index[cut]:
        source = dataset.source(int(row))
        fault = RowFault("over_long", "too long, and held out.", "Held-out rows are never cut.")
        ledgers[source.file].revise("dropped", source, fault, was="cut", code="over_long")
    return index[~cut]


def weighted(dataset: Dataset, index: np.ndarray, files: list[SourceFile]) -> np.ndarray:
    """Training rows, each as often as its file's weight says; of a fraction, those whose hash falls below it."""
    weights = np.array([file.weight for file in files])
    if (weights == 1).all():
        return index
    weight = weights[dataset.column("file")[index]]
    # Another hash than the split's, or a fraction would take only what stands near the border.
    place = ((dataset.column("asked")[index] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) / 2**53
    times = np.floor(weight).astype(int) + (place < weight % 1)
    return np.repeat(index, times)
