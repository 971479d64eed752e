"""Evaluate a model on a file, alone or beside another. Runs in a child process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report
from tunesmith.data.load import load_dataset, require_rows
from tunesmith.data.prepare import dataset_id, prepare
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.report import pick_samples
from tunesmith.evaluate.suite import Measured, measure
from tunesmith.infer.local import LocalEngine
from tunesmith.model.publish import Published, find_published
from tunesmith.prompt.base import context_length
from tunesmith.prompt.load import load_tokenizer

LONGEST = 2048  # tokens of a row, when the model does not say


def same_tokenizer(one: Published, other: Published) -> bool:
    """Whether two models read text as the same ids."""
    return load_tokenizer(one.folder).get_vocab() == load_tokenizer(other.folder).get_vocab()


def evaluate_model(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure `model` on `data`, and `against` on the same rows where it is given.

    Both are prompted by the contract of `model`, so that they answer the same questions.

    Returns:
        The report as plain values, with every row's answers.
    """
    published = find_published(arguments["model"])
    contract = published.contract(arguments["template"])
    other = find_published(arguments["against"]) if arguments["against"] else None
    if other is not None and not same_tokenizer(published, other):
        raise ModelError(
            f"{arguments['model']} and {arguments['against']} have different tokenizers, so their scores cannot be "
            "compared token by token. Evaluate each alone."
        )
    dataset = load_dataset(arguments["data"], format=arguments["format"], columns=arguments["columns"] or {})
    ledgers = dataset.reading.ledgers
    require_rows(ledgers, arguments["bad_rows"])
    wanted = dataset.rows[: arguments["rows"]]
    takes = context_length(published.base.folder if published.base else published.folder) or LONGEST
    rows = list(prepare(wanted, ledgers, contract, takes, over_long="drop", bad_rows=arguments["bad_rows"]))
    if len(rows) < len(wanted):
        sentence = f"{len(wanted) - len(rows)} rows are longer than {takes} tokens and are left out."
        report({"kind": "warning", "sentence": sentence})

    def run(model: Published) -> Measured:
        engine = LocalEngine(model.load(), contract.stop_ids)
        return measure(engine, contract, rows, arguments["max_new_tokens"], report, model.name)

    measured = run(published)
    against = run(other) if other is not None else None
    result = compare(measured, against, (arguments["model"], arguments["against"]), dataset_id(rows), rows)
    scores = result.to_json()
    report({"kind": "scores", "rows": result.rows, "against": result.against, "scores": scores["scores"]})
    samples = pick_samples(result, arguments["samples"])
    report({"kind": "samples", "samples": [asdict(sample) for sample in samples]})
    return {"report": scores}
