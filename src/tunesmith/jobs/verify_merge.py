"""Whether a merged model says what its adapter says: every logit, greedy answers, scores; on rows, in fp32.

Both models are loaded from their folders, one after the other; the first one's logits wait on the disk.
Axes: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.core import events
from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.suite import RowResults, evaluate_rows
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.table import PREDICTORS
from tunesmith.model.export import ExportedModel
from tunesmith.model.load import answering
from tunesmith.model.memory import to_compare

LIMIT = 1e-3  # of a logit's difference
NEAR_TIE = 1e-3  # top two logits so near that rounding may decide between them
ROUNDING = 1e-3  # of a score, relative: what logits within the limit may make of a perplexity
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Trial:
    """On how much a merged model is compared with its adapter, and how far off it may be.

    Attributes:
        prompts: most rows.
        limit: largest absolute difference of a logit.
        max_new_tokens: longest answer.
        device: where both compute.
    """

    prompts: int = 32
    limit: float = LIMIT
    max_new_tokens: int = 64
    device: str = "auto"


def verify_merge(
    adapter: ExportedModel, whole: ExportedModel, rows: Sequence[Prepared], scratch: Path, trial: Trial, report: Report
) -> dict[str, Any]:
    """Compare a merged model with its adapter, as plain values for a verification.

    Args:
        adapter: exported, with its base.
        whole: the merged model, exported too.
        rows: prepared with the adapter's contract; at least one.
        scratch: a folder for the first model's logits: 4 bytes for each token of the rows and word of the vocabulary.
        trial: what is compared and what is demanded.
        report: hears phases and pulses.

    Raises:
        ModelError: the merged model is prompted otherwise, or a logit is further off than the limit.
    """
    contract = whole.contract()
    assert contract.id == adapter.card["contract"]["id"]
    chats = rows[0].row.content.kind == "chat"  # a file's rows are of one kind; plain text is answered by nobody

    def answer(model: Any, label: str) -> RowResults | None:
        if not chats:
            return None
        return evaluate_rows(LocalEngine(model, contract), rows, trial.max_new_tokens, report, label, timed=0)

    report(events.Phase("comparing the merged model with its adapter"))
    model = load_exact(adapter, trial.device)
    for i, logits_TV in enumerate(_logits(model, rows, adapter.task, report, "adapter")):
        np.save(scratch / f"{i}.npy", logits_TV)
    before = answer(model, "adapter")
    del model
    gc.collect()
    model = load_exact(whole, trial.device)
    offs = [
        _furthest(np.load(scratch / f"{i}.npy", mmap_mode="r"), logits_TV)
        for i, logits_TV in enumerate(_logits(model, rows, adapter.task, report, "merged model"))
    ]
    found = _judged(adapter, rows, offs, trial)
    after = answer(model, "merged model")
    if before is None or after is None:
        return {**found, "answers": None, "scores": []}
    scores = compare(after, before, ("merged", "adapter"), "", rows).to_json()["scores"]
    prompts = [contract.prompt(row.row.prompt, row.row.tools) for row in rows]
    ids = [[completion.choice.ids for completion in results.completions] for results in (before, after)]
    agreement = agree(model, prompts, *ids)
    flips = [{"row": str(rows[flip.pop("row")].source), **flip} for flip in agreement.pop("flips")]
    return {
        **found,
        "answers": {"max_new_tokens": trial.max_new_tokens, **agreement, "flips": flips},
        "scores": [without_rounding(score) for score in scores],
    }


def without_rounding(score: dict[str, Any]) -> dict[str, Any]:
    """A compared metric, where a difference in the fourth digit is none: every row may round to the same side."""
    if math.isclose(score["score"]["value"], score["other"]["value"], rel_tol=ROUNDING):
        return {**score, "verdict": NO_DIFFERENCE if score["verdict"] in ("better", "worse") else score["verdict"]}
    return score


def load_exact(exported: ExportedModel, device: str = "auto") -> Any:
    """An exported model in fp32 on the device that answers, if it fits there, whatever that would take by itself."""
    folder = exported.folder if exported.base is None else exported.base.folder
    return exported.load_as(to_compare(folder, replace(answering(device), precision="fp32")))


@torch.inference_mode()
def _logits(model: Any, rows: Sequence[Prepared], task: str, report: Report, label: str) -> Iterator[np.ndarray]:
    """The logits of each row (T, V), prompt and answer, one row at a time; or what the task computes of it."""
    for i, row in enumerate(rows):
        if task in PREDICTORS:
            yield PREDICTORS[task].outputs(model, [row])[0]
        else:
            ids_1T = torch.from_numpy(row.ids.astype(np.int64))[None].to(model.device)
            yield model(input_ids=ids_1T, use_cache=False).logits[0].float().cpu().numpy()
        report(events.Pulse(f"logits of the {label}", i + 1, len(rows)))


def _furthest(one_TV: np.ndarray, other_TV: np.ndarray) -> tuple[float, int]:
    """The largest absolute difference, infinite where a logit is no number, and the position where it is."""
    off_T = np.abs(one_TV - other_TV).max(axis=1)
    off_T[np.isnan(off_T)] = math.inf
    return float(off_T.max()), int(off_T.argmax())


def _judged(
    adapter: ExportedModel, rows: Sequence[Prepared], offs: Sequence[tuple[float, int]], trial: Trial
) -> dict[str, Any]:
    worst = max(range(len(rows)), key=lambda i: offs[i][0])
    value, position = offs[worst]
    if not (math.isfinite(value) and value <= trial.limit):
        raise ModelError(
            f"{adapter.folder}: a logit of the merged model is off by {value:.3g} (at token {position + 1} of row "
            f"{rows[worst].source}), above the limit of {trial.limit:g}, so nothing was exported. If rounding "
            "explains it, because the model's logits are very large, raise --limit."
        )
    return {
        "largest_logit_difference": {
            "value": value,
            "limit": trial.limit,
            "row": str(rows[worst].source),
            "position": position,
        },
        "positions": sum(len(row.ids) for row in rows),
    }


@torch.inference_mode()
def agree(
    model: Any,
    prompts: Sequence[list[int]],
    before: Sequence[list[int]],
    after: Sequence[list[int]],
) -> dict[str, Any]:
    """How many greedy answers are the same, and of the others how many are near ties.

    Args:
        model: the one that gave `after`.
        prompts: ids of each.
        before: ids of the other model's answers, a stop token among them.
        after: of this one's.

    Returns:
        `rows`, `same`, `excused` (the top two logits at the first differing token are within `NEAR_TIE`),
        `different`, and `flips`, each with its row's number, first differing token and gap.
    """
    flips: list[dict[str, Any]] = []
    for i, (prompt, one, other) in enumerate(zip(prompts, before, after, strict=True)):
        if one == other:
            continue
        common = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        ids_1T = torch.tensor([[*prompt, *common]], device=model.device)
        top = model(input_ids=ids_1T, use_cache=False).logits[0, -1].float().topk(2).values
        gap = float(top[0] - top[1])
        flips.append({"row": i, "token": len(common) + 1, "gap": gap, "excused": gap <= NEAR_TIE})
    excused = sum(flip["excused"] for flip in flips)
    return {
        "rows": len(prompts),
        "same": len(prompts) - len(flips),
        "excused": excused,
        "different": len(flips) - excused,
        "flips": flips,
    }
