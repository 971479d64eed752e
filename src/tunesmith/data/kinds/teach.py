"""Rows that could not teach: no trained token, no end, one answer to everything. Kinds call what holds for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.kinds.kind import Facts
from tunesmith.data.kinds.prepared import Prepared, TrainingRows
from tunesmith.prompt.contract import Contract

NO_LABEL = frozenset(("nan", "n/a", "na", "null", "#n/a", "<na>"))  # what tables write where nothing is
STOPS_LOOKED_FOR = 1000  # rows in which a stop token is looked for


def refuse_answers(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """A `RowKind.refuse`: rows without a trained token, or answers that never end."""
    refuse_untrained(rows)
    refuse_endless(rows, contract)


def refuse_unvaried(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """A `RowKind.refuse`: what `refuse_answers` refuses, or one answer to everything."""
    refuse_answers(rows, facts, contract)
    refuse_one_answer(rows, contract)


def refuse_untrained(rows: TrainingRows) -> None:
    """Refuse rows of which a sequence has no trained token.

    Raises:
        DataError: with their count and the first.
    """
    if len(empty := (rows.least_trained == 0).nonzero()[0]):
        raise DataError(
            f"{counted(len(empty), 'row')} without a trained token (first: {rows[int(empty[0])].source}). "
            "Look at data.train_on and at the turns' weights."
        )


def refuse_endless(rows: TrainingRows, contract: Contract) -> None:
    """Refuse rows without a stop token: they teach answers that never end. Of rows that were cut one knows why.

    Raises:
        DataError: with the first.
    """
    stops = np.array(contract.stop_ids)
    names = ", ".join(contract.tokenizer.convert_ids_to_tokens(list(contract.stop_ids)))
    for row in islice(rows, STOPS_LOOKED_FOR):
        for one in row.sequences:
            if not (row.cut or row.goes_on or np.isin(one.ids[one.mask], stops).any()):
                raise DataError(
                    f"{row.source}: no stop token ({names}) is among the trained tokens: the model "
                    "would never end its answers. Choose another model.template, or set data.train_on=assistant."
                )


def refuse_one_answer(rows: TrainingRows, contract: Contract) -> None:
    """Refuse two or more different rows that all teach the same tokens: to say that, whatever is asked.

    Raises:
        DataError: with the answer.
    """
    wanted = taught(rows[0])
    if len(rows) > 1 and all(taught(row) == wanted for row in rows):
        raise DataError(
            f"all {len(rows)} training rows have the same answer ({contract.decode(wanted)[:60]!r}): the model "
            "would learn to say that to everything. Give rows with different answers."
        )


def refuse_pairs(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """A `RowKind.refuse` of pairs: what `refuse_answers` refuses, pairs whose sides became the same, one preference.

    Raises:
        DataError: with the first such row, or with the answer that all pairs prefer.
    """
    refuse_answers(rows, facts, contract)
    same = [row for row in rows if np.array_equal(row.ids, row.others[0].ids)]
    if same:
        why = " after the cut" if same[0].cut else ""
        raise DataError(
            f"{same[0].source}: both answers are the same tokens{why}, as in {counted(len(same), 'row')}: there is "
            "nothing to prefer. Raise data.max_length, or delete the row."
        )
    wanted, other = _sides(rows[0])
    for side, answer, does in ((0, wanted, "prefer"), (1, other, "reject")):
        if len(rows) > 1 and all(_sides(row)[side] == answer for row in rows):
            raise DataError(
                f"all {len(rows)} training rows {does} the same answer ({contract.decode(answer)[:60]!r}), whatever is "
                "asked. Give pairs with different answers."
            )


def _sides(row: Prepared) -> tuple[list[int], list[int]]:
    """The trained tokens of both sides of a pair."""
    chosen, rejected = (one.ids[one.mask].tolist() for one in row.sequences)
    return chosen, rejected


def taught(row: Prepared) -> list[int]:
    """The trained tokens of a row."""
    return [token for one in row.sequences for token in one.ids[one.mask].tolist()]


def refuse_one_label(names: Sequence[str], rows: TrainingRows) -> None:
    """Refuse several rows that all have the same label.

    Raises:
        DataError: with the label.
    """
    if len(names) == 1 and len(rows) > 1:
        raise DataError(
            f"all {len(rows)} training rows are labelled {names[0]!r}: the model would learn to say that of "
            "everything. Give rows with other labels too."
        )


def name_doubts(counts: Mapping[str, int]) -> list[str]:
    """What is odd about names of classes and how often each comes, in sentences."""
    found: list[str] = []
    if single := [name for name, count in counts.items() if count == 1]:
        found.append(f"{counted(len(single), 'label')} with a single training row each ({some_of(single)}).")
    if nothing := [name for name in counts if name.casefold() in NO_LABEL]:
        found.append(f"labels that look like missing values ({some_of(nothing)}). Delete their rows, if they are.")
    folded: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        folded["".join(filter(str.isalnum, name.casefold().removesuffix(".0")))].append(name)
    if alike := [names for names in folded.values() if len(names) > 1 and all(map(str.strip, names))]:
        pairs = "; ".join(" and ".join(map(repr, names)) for names in alike[:3])
        found.append(f"labels that are nearly the same: {pairs}. Give them one name if they mean one thing.")
    return found


def some_of(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
