"""Evaluate a model on a file, alone or beside another. Runs in a child process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from tunesmith.core.events import Report
from tunesmith.data.load import load_dataset, require_rows
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.report import pick_samples
from tunesmith.evaluate.suite import Measured, measure
from tunesmith.infer.local import LocalEngine
from tunesmith.model.load import context_length
from tunesmith.model.publish import Published, find_published
from tunesmith.prompt.contract import Contract


def evaluate_model(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure `model` on `data`, and `against` on the same rows where it is given.

    Both are prompted by the contract of `model`, so that they answer the same questions.

    Returns:
        The report as plain values, with every row's answers.
    """
    dataset = load_dataset(arguments["data"], arguments["format"])
    require_rows(dataset, arguments["data"], arguments["bad_rows"])
    published = find_published(arguments["model"])
    contract = published.contract()
    limit = context_length(published.base or published.folder) or 2048
    rows = prepare(dataset, contract, limit)[: arguments["rows"]]

    def run(model: Published, contract: Contract) -> Measured:
        engine = LocalEngine(model.load(torch.float32), contract.stop_ids)
        return measure(engine, contract, rows, arguments["max_new_tokens"], report, model.name)

    measured = run(published, contract)
    against = run(find_published(arguments["against"]), contract) if arguments["against"] else None
    result = compare(measured, against, (arguments["model"], arguments["against"]), dataset.id, rows)
    scores = result.to_json()
    report({"kind": "scores", "rows": result.rows, "against": result.against, "scores": scores["scores"]})
    samples = pick_samples(result, arguments["samples"])
    report({"kind": "samples", "samples": [asdict(sample) for sample in samples]})
    return {"report": scores}
