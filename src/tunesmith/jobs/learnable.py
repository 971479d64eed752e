"""Runs that cannot teach anything are refused before the first step; runs that may mislead are spoken of."""

from __future__ import annotations

from itertools import islice

import numpy as np

from tunesmith.core.errors import ConfigError, DataError
from tunesmith.data.seal import Rows
from tunesmith.data.split import Splits
from tunesmith.jobs.recipe import Recipe
from tunesmith.prompt.contract import Contract

LOOKED_AT = 1000  # rows that are looked at one by one
CUT = 0.5  # share of rows without their end from which a run is refused


def refuse_what_cannot_teach(recipe: Recipe, splits: Splits, contract: Contract) -> None:
    """Everything that would end as a model that learned nothing, or something else than was meant.

    Raises:
        DataError: rows that teach nothing, never end, or all say the same.
        ConfigError: something is to be judged by validation rows, and there are none.
    """
    _refuse_untrained(splits.train)
    _refuse_endless(splits.train, contract)
    _refuse_one_answer(splits.train)
    _refuse_no_validation(recipe, splits)


def _refuse_untrained(rows: Rows) -> None:
    empty = (rows.trained == 0).nonzero()[0]
    if len(empty):
        raise DataError(
            f"{len(empty)} rows have no trained token (first: {rows[int(empty[0])].source}). "
            "Look at data.train_on and at the turns' weights."
        )


def _refuse_endless(rows: Rows, contract: Contract) -> None:
    """Rows whose end was cut away, or whose template has no stop token, teach answers that never end."""
    cut = rows.shelf.column("cut")[rows.places]
    if cut.mean() > CUT and rows[0].row.content.kind != "text":
        raise DataError(
            f"data.max_length cuts the end off {cut.sum()} of {len(rows)} training rows: the model would learn answers "
            "that break off. Raise data.max_length, or set data.over_long=drop."
        )
    stops = np.array(contract.stop_ids)
    names = ", ".join(contract.tokenizer.convert_ids_to_tokens(list(contract.stop_ids)))
    for row in islice(rows, LOOKED_AT):
        if not row.cut and not np.isin(row.ids[row.mask], stops).any():
            raise DataError(
                f"{row.source}: no stop token ({names}) is among the trained tokens: the model "
                "would never end its answers. Choose another model.template, or set data.train_on=assistant."
            )


def _refuse_one_answer(rows: Rows) -> None:
    """Two or more different rows that all teach the same tokens teach to say that, whatever is asked."""
    first = rows[0]
    wanted = first.ids[first.mask].tolist()
    if len(rows) > 1 and all(row.ids[row.mask].tolist() == wanted for row in rows):
        raise DataError(
            f"all {len(rows)} training rows have the same answer ({first.row.answer[:60]!r}): the model would learn "
            "to say that to everything. Give rows with different answers."
        )


def _refuse_no_validation(recipe: Recipe, splits: Splits) -> None:
    if len(splits.validation):
        return
    if recipe.data.validation:
        raise DataError(
            f"no row fell into the validation part (data.validation = {recipe.data.validation}). Name a file, take a "
            "larger share, or set data.validation=0 to train without watching."
        )
    for name, wanted in (("patience", recipe.evaluate.patience), ("publish", recipe.evaluate.publish == "best")):
        if wanted:
            raise ConfigError(f"evaluate.{name} needs validation rows. Set data.validation to a share or a file.")


def doubts(recipe: Recipe, splits: Splits) -> list[str]:
    """What a user should know about rows and split before believing a score."""
    sentences = [
        f"{count} rows of {ledger.file} deserve a look ({code}), the first in line {first.source.line}: {first.found} "
        f"{first.advice}"
        for ledger in splits.ledgers
        for code, count in ledger.by_code("warning").items()
        for first in [next(one for one in ledger.entries if (one.outcome, one.code) == ("warning", code))]
    ]
    if leaked := splits.leaked():
        sentences.append(f"{leaked} of {len(splits.test)} test rows ask what training rows ask.")
    if recipe.data.test and not splits.test:
        sentences.append(
            "no row fell into the test part, so base and tuned model are not compared. Name a file with data.test."
        )
    return sentences
