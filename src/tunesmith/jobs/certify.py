"""Whether a merged model says what its adapter says: every logit, greedy answers, scores; on rows, in fp32.

Both models are loaded from their folders, one after the other; the first one's logits wait on the disk.
Axes: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.data.rows import Chat
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.suite import Measured, measure
from tunesmith.infer.engine import Completion, Engine, RowScore, Sampling
from tunesmith.infer.local import LocalEngine
from tunesmith.model.load import answering, load_model
from tunesmith.model.publish import Published

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


@dataclass(frozen=True)
class Recorder:
    """An engine that keeps the completions it has given."""

    engine: Engine
    completions: list[Completion] = field(default_factory=list)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion for each prompt, in order, kept."""
        found = self.engine.generate(prompts, sampling)
        self.completions.extend(found)
        return found

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one completion as they come; not kept."""
        return self.engine.stream(prompt, sampling)

    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """The score of each row, in order."""
        return self.engine.score(rows)


@dataclass(frozen=True)
class Answered:
    """What one model made of the rows: counts for the scores, and its own answers as ids."""

    measured: Measured
    completions: list[Completion]


def certify(
    adapter: Published, whole: Published, rows: Sequence[Prepared], scratch: Path, trial: Trial, report: Report
) -> dict[str, Any]:
    """Compare a merged model with its adapter, as plain values for a certificate.

    Args:
        adapter: published, with its base.
        whole: the merged model, published too.
        rows: prepared with the adapter's contract; at least one.
        scratch: a folder for the first model's logits: 4 bytes for each token of the rows and word of the vocabulary.
        trial: what is compared and what is demanded.
        report: hears phases and pulses.

    Raises:
        ModelError: the merged model is prompted otherwise, or a logit is further off than the limit.
    """
    contract = whole.contract()
    assert contract.id == adapter.card["contract"]["id"]
    chats = isinstance(rows[0].row.content, Chat)  # a file's rows are of one kind; plain text is answered by nobody

    def answer(model: Any, label: str) -> Answered | None:
        recorder = Recorder(LocalEngine(model, contract.stop_ids))
        if not chats:
            return None
        measured = measure(recorder, contract, rows, trial.max_new_tokens, report, label, timed=0)
        return Answered(measured, recorder.completions)

    report({"kind": "phase", "name": "comparing the merged model with its adapter"})
    model = load_exact(adapter, trial.device)
    for i, logits_TV in enumerate(_logits(model, rows, report, "adapter")):
        np.save(scratch / f"{i}.npy", logits_TV)
    before = answer(model, "adapter")
    del model
    gc.collect()
    model = load_exact(whole, trial.device)
    offs = [
        _furthest(np.load(scratch / f"{i}.npy", mmap_mode="r"), logits_TV)
        for i, logits_TV in enumerate(_logits(model, rows, report, "merged model"))
    ]
    found = _judged(adapter, rows, offs, trial)
    after = answer(model, "merged model")
    if before is None or after is None:
        return {**found, "answers": None, "scores": []}
    scores = compare(after.measured, before.measured, ("merged", "adapter"), "", rows).to_json()["scores"]
    prompts = [contract.prompt(row.row.prompt, row.row.tools) for row in rows]
    agreement = agree(model, prompts, before.completions, after.completions)
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


def load_exact(published: Published, device: str = "auto") -> Any:
    """A published model in fp32 on the device that answers, whatever that device would take by itself."""
    _, device = answering(device)
    if published.base is None:
        return load_model(published.folder, torch.float32, device)
    return PeftModel.from_pretrained(
        load_model(published.base.folder, torch.float32, device), str(published.folder)
    ).eval()


@torch.inference_mode()
def _logits(model: Any, rows: Sequence[Prepared], report: Report, label: str) -> Iterator[np.ndarray]:
    """The logits of each row (T, V), prompt and answer, one row at a time."""
    for i, row in enumerate(rows):
        ids_1T = torch.from_numpy(row.ids.astype(np.int64))[None].to(model.device)
        yield model(input_ids=ids_1T, use_cache=False).logits[0].float().cpu().numpy()
        report({"kind": "pulse", "doing": f"logits of the {label}", "done": i + 1, "of": len(rows)})


def _furthest(one_TV: np.ndarray, other_TV: np.ndarray) -> tuple[float, int]:
    """The largest absolute difference, infinite where a logit is no number, and the position where it is."""
    off_T = np.abs(one_TV - other_TV).max(axis=1)
    off_T[np.isnan(off_T)] = math.inf
    return float(off_T.max()), int(off_T.argmax())


def _judged(
    adapter: Published, rows: Sequence[Prepared], offs: Sequence[tuple[float, int]], trial: Trial
) -> dict[str, Any]:
    worst = max(range(len(rows)), key=lambda i: offs[i][0])
    value, position = offs[worst]
    if not (math.isfinite(value) and value <= trial.limit):
        raise ModelError(
            f"{adapter.folder}: a logit of the merged model is off by {value:.3g} (at token {position + 1} of row "
            f"{rows[worst].source}), above the limit of {trial.limit:g}, so nothing was published. If rounding "
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
    before: Sequence[Completion],
    after: Sequence[Completion],
) -> dict[str, Any]:
    """How many greedy answers are the same, and of the others how many are near ties.

    Args:
        model: the one that gave `after`.
        prompts: ids of each.
        before: answers of the other model.
        after: answers of this one.

    Returns:
        `rows`, `same`, `excused` (the top two logits at the first differing token are within `NEAR_TIE`),
        `different`, and `flips`, each with its row's number, first differing token and gap.
    """
    flips: list[dict[str, Any]] = []
    for i, (prompt, one, other) in enumerate(zip(prompts, before, after, strict=True)):
        if one == other:
            continue
        common = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one.ids, other.ids, strict=False))]
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
