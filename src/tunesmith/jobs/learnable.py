"""Runs that cannot teach anything are refused before the first step; runs that may mislead are spoken of."""

from __future__ import annotations

from itertools import islice

import numpy as np

from tunesmith.core.errors import ConfigError, DataError, ModelError
from tunesmith.core.names import counted
from tunesmith.data.seal import Rows
from tunesmith.data.split import Splits
from tunesmith.jobs.recipe import Recipe
from tunesmith.prompt.contract import Contract

LOOKED_AT = 1000  # rows that are looked at one by one


def refuse_what_cannot_teach(recipe: Recipe, splits: Splits, contract: Contract) -> None:
    """Everything that would end as a model that learned nothing, or something else than was meant.

    Raises:
        DataError: rows that teach nothing, never end, or all say the same.
        ConfigError: something is to be judged by validation rows, and there are none.
    """
    _refuse_untrained(splits.train)
    _refuse_endless(splits.train, contract)
    _refuse_one_answer(splits.train, contract)
    _refuse_no_validation(recipe, splits)


def _refuse_untrained(rows: Rows) -> None:
    empty = (rows.trained == 0).nonzero()[0]
    if len(empty):
        raise DataError(
            f"{counted(len(empty), 'row')} without a trained token (first: {rows[int(empty[0])].source}). "
            "Look at data.train_on and at the turns' weights."
        )


def _refuse_endless(rows: Rows, contract: Contract) -> None:
    """Rows whose template has no stop token teach answers that never end; of rows that were cut one knows why."""
    stops = np.array(contract.stop_ids)
    names = ", ".join(contract.tokenizer.convert_ids_to_tokens(list(contract.stop_ids)))
    for row in islice(rows, LOOKED_AT):
        if not (row.cut or row.goes_on or np.isin(row.ids[row.mask], stops).any()):
            raise DataError(
                f"{row.source}: no stop token ({names}) is among the trained tokens: the model "
                "would never end its answers. Choose another model.template, or set data.train_on=assistant."
            )


def _refuse_one_answer(rows: Rows, contract: Contract) -> None:
    """Two or more different rows that all teach the same tokens teach to say that, whatever is asked."""
    first = rows[0]
    wanted = first.ids[first.mask].tolist()
    if len(rows) > 1 and all(row.ids[row.mask].tolist() == wanted for row in rows):
        raise DataError(
            f"all {len(rows)} training rows have the same answer ({contract.decode(wanted)[:60]!r}): the model "
            "would learn to say that to everything. Give rows with different answers."
        )


def _refuse_no_validation(recipe: Recipe, splits: Splits) -> None:
    if len(splits.validation):
        return
    if recipe.data.validation and not _lost_by_length(splits):
        raise DataError(
            f"no row fell into the validation part (data.validation = {recipe.data.validation}). Name a file, take a "
            "larger share, or set data.validation=0 to train without watching."
        )
    for name, wanted in (("patience", recipe.evaluate.patience), ("publish", recipe.evaluate.publish == "best")):
        if wanted:
            raise ConfigError(f"evaluate.{name} needs validation rows. Set data.validation to a share or a file.")


def _lost_by_length(splits: Splits) -> bool:
    """Whether a part may be without rows because rows that are held out are never cut."""
    return bool(splits.train.shelf.column("cut").any())


def refuse_unknown_tokens(splits: Splits, contract: Contract, words: int) -> None:
    """Refuse rows with tokens that the model has no embedding for: its tokenizer is of another model, or was added to.

    Args:
        splits: all rows.
        contract: whose tokenizer made their ids.
        words: embeddings that the model has.

    Raises:
        ModelError: with the first such row and token.
    """
    for rows in (splits.train, splits.validation, splits.test):
        if not len(rows) or rows.shelf.largest_id < words:
            continue
        for row in rows:
            if (largest := int(row.ids.max())) >= words:
                token = contract.tokenizer.convert_ids_to_tokens(largest)
                raise ModelError(
                    f"{row.source}: holds the token {token!r}, number {largest}, and the model has embeddings for "
                    f"{words}. Its tokenizer has {len(contract.tokenizer)} tokens: some were added and the embeddings "
                    "not resized. Resize them (`model.resize_token_embeddings(len(tokenizer))` in transformers) and "
                    "save both, or take a model.template that does without them."
                )


def doubts(recipe: Recipe, splits: Splits) -> list[str]:
    """What a user should know about rows and split before believing a score."""
    sentences = [
        f"{code.replace('_', ' ')} in {counted(count, 'row')} of {ledger.file} (`tunesmith check` shows them)."
        for ledger in splits.ledgers
        for code, count in ledger.by_code("warning").items()
    ]
    sentences += _breaking_off(splits.train)
    if leaked := splits.leaked():
        sentences.append(f"{leaked} of {counted(len(splits.test), 'test row')} ask what training rows ask.")
    if recipe.data.validation and not splits.validation:
        sentences.append(
            "no row is left to watch during training: those that were drawn are too long, and rows that are held out "
            "are never cut. Raise data.max_length, or name a file with data.validation."
        )
    if recipe.data.test and not splits.test:
        sentences.append(
            "no row fell into the test part, so base and tuned model are not compared. Name a file with data.test."
        )
    return sentences


def _breaking_off(rows: Rows) -> list[str]:
    cut = int(rows.shelf.column("cut")[rows.places].sum())
    if not cut:
        return []
    found = f"data.over_long=truncate cut the end off {cut} of {counted(len(rows), 'row')} to train on"
    if cut == len(rows):
        return [f"{found}: the model will not learn to stop. Raise data.max_length, or set data.over_long=drop."]
    return [f"{found}: from them the model does not learn to stop."]
