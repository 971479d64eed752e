"""Rows that begin with tokens of the model's own, which are read and never learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.data.kinds.prepared import Prepared, Spans, Tokens
from tunesmith.train.objective import Columns, Draw, Models, Objective
from tunesmith.train.planning.plan import Plan


def prefixed(objective: Objective, ids: Sequence[int]) -> Objective:
    """The objective, on rows each of whose sequences has these ids before it."""
    if not ids:
        return objective
    before = np.asarray(ids, dtype=np.int64)

    def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> Any:
        return objective.collate([with_prefix(row, before) for row in rows], plan, draw, columns)

    def precompute(models: Models, rows: Sequence[Prepared]) -> Columns:
        assert objective.precompute is not None
        return objective.precompute(models, [with_prefix(row, before) for row in rows])

    found = None if objective.precompute is None else precompute
    return replace(objective, collate=collate, precompute=found, soft=len(ids))


def with_prefix(row: Prepared, before: np.ndarray) -> Prepared:
    """A row whose sequences begin with other ids."""
    others = tuple(Tokens(_joined(before, one.ids), _moved(one.spans, len(before))) for one in row.others)
    return replace(row, ids=_joined(before, row.ids), spans=_moved(row.spans, len(before)), others=others)


def _joined(before: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.concatenate([before, ids.astype(np.int64)])


def _moved(spans: Spans, by: int) -> Spans:
    """Targets behind the prefix; the first token of a row is none, as without one."""
    return tuple((max(begin, 1) + by, end + by) for begin, end in spans if end > 1)
