"""Which rows are trained on, which are watched, which are kept for the end.

A share is taken by the hash of the prompt, so equal questions never stand on both sides, and rows
added later do not move the others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tunesmith.core.errors import DataError
from tunesmith.data.config import DataConfig
from tunesmith.data.ledger import Ledger
from tunesmith.data.load import Dataset, Row, load_dataset, require_rows, with_rows
from tunesmith.prompt.messages import plain


@dataclass(frozen=True)
class Splits:
    """The three parts; `validation` and `test` may hold no rows."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def ledgers(self) -> list[Ledger]:
        """The account of each file that was read, once."""
        return list({id(part.ledger): part.ledger for part in (self.train, self.validation, self.test)}.values())


def position(row: Row) -> float:
    """Where a row's prompt falls in [0, 1), by its hash."""
    text = repr(plain(row.prompt))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def load_splits(config: DataConfig) -> Splits:
    """Read the training file and part it as the config says.

    Raises:
        DataError: unusable rows, or no rows to train on. Small files may leave the other parts empty.
    """
    whole = _load(config, config.train)
    shares = {name: share for name in ("test", "validation") if not isinstance(share := getattr(config, name), str)}
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 0.9:
        raise DataError("data.validation and data.test: give files, or shares of 0 to 1 that leave rows to train on.")
    parts: dict[str, list[Row]] = {"test": [], "validation": [], "train": []}
    for row in whole.rows:
        place, edge = position(row), 0.0
        for name, share in shares.items():
            edge += share
            if place < edge:
                parts[name].append(row)
                break
        else:
            parts["train"].append(row)
    if not parts["train"]:
        raise DataError(f"{config.train}: no rows are left to train on. Lower data.validation and data.test.")
    files = {
        name: _load(config, given) for name in ("validation", "test") if isinstance(given := getattr(config, name), str)
    }
    return Splits(
        train=with_rows(whole, parts["train"]),
        validation=files.get("validation", with_rows(whole, parts["validation"])),
        test=files.get("test", with_rows(whole, parts["test"])),
    )


def _load(config: DataConfig, name: str) -> Dataset:
    keep = config.duplicates == "keep"
    dataset = load_dataset(name, config.format, config.columns, config.system, keep_duplicates=keep)
    require_rows(dataset, name, config.bad_rows)
    return dataset
