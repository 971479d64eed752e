"""What a prompt lacks, and what adding it gains on the validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report
from tunesmith.core.names import counted
from tunesmith.data.prompting.variant import Variant
from tunesmith.evaluate.prompts.edited import text_of
from tunesmith.evaluate.prompts.labels import endings_of
from tunesmith.evaluate.prompts.lint import Finding, Looked, Tokens
from tunesmith.evaluate.prompts.lint_rules import look
from tunesmith.evaluate.prompts.table import Entry, table_of
from tunesmith.evaluate.prompts.versions import Prompt, Versions
from tunesmith.infer.remote import RemoteModel
from tunesmith.jobs.prompt_asking import Asker, Found, found, questions_of, takes_of
from tunesmith.jobs.prompt_trial import Trial, trial_of
from tunesmith.jobs.prompt_versions import asker_of, options_for, prompt_of, trial_for


def lint_prompt(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Look at a prompt by all rules, and score each change where that is wanted.

    Args:
        arguments: those of `tunesmith prompts`, with one model; `into`, the folder; `version`, an id, or None for the
            prompt that instruction, template, shots and examples say; `gain`, whether to score changes.
        report: hears of progress.

    Returns:
        `report`: plain values: `findings`, and the `prompt` they are about.
    """
    if arguments["version"] is None:
        trial = trial_of({**arguments, "validate_only": True}, report)
        way = trial.ways[-1]  # with the instruction, if there is one
        prompt, schema, called = prompt_of(trial, way), trial.schema_of(way), "the prompt"
    else:
        version = Versions(Path(arguments["into"])).find(arguments["version"])
        trial = trial_of(options_for(arguments, version.schema, version), report)
        prompt, schema, called = version.prompt, version.schema, version.id
    own, way = trial_for(trial, prompt, schema)
    name = arguments["models"][0]
    examples = own.examples.for_rows(way, trial.rows.validation)
    looked = Looked(prompt, schema, trial.rows, examples, _tokens(name, found(name), own, way))
    findings = look(looked)
    gains: dict[str, dict[str, Any]] = {}
    base: dict[str, Any] | None = None
    if arguments["gain"]:
        base, gains = _gains(findings, prompt, schema, asker_of(arguments["models"], trial), trial, called)
    said = [
        {"name": one.name, "found": one.found, "advice": one.advice, "text": one.fixed and text_of(one.fixed),
         "fixed": one.fixed and one.fixed.to_plain(), "gain": gains.get(one.name)}
        for one in findings
    ]  # fmt: skip
    return {
        "report": {
            "data": arguments["data"], "kind": trial.rows.kind, "metric": trial.metric.name, "model": name,
            "called": called, "prompt": prompt.to_plain(), "text": text_of(prompt), "findings": said, "base": base,
            "spent": trial.budget.to_json(), "validation_rows": len(trial.rows.validation),
        }
    }  # fmt: skip


def _tokens(name: str, model: Found, trial: Trial, way: Variant) -> Tokens | None:
    """What the model's tokenizer makes of it; None of a server's, or of a model that is not prompted."""
    if isinstance(model, RemoteModel) or not model.chats:
        return None
    try:
        contract = model.contract(trial.arguments["chat_template"])
    except ModelError as error:
        raise ModelError(str(error).replace("model.template", "--chat-template")) from None
    questions, labels = questions_of(way, trial.rows.validation, trial), trial.rows.labels
    ids = dict(zip(labels, endings_of(contract, questions[0].turns, labels)[1], strict=True)) if labels else {}
    longest = max(map(len, ids.values())) if ids and not way.json else trial.longest(way)
    lengths = [len(contract.prompt(question.turns, question.tools)) + longest for question in questions]
    return Tokens(name, takes_of(model), lengths, ids)


def _gains(
    findings: list[Finding], prompt: Prompt, schema: dict[str, Any] | None, asker: Asker, trial: Trial, called: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The prompt's own line, and for each change that can be tried what it scores beside it."""
    rows = trial.rows.validation

    def scored(changed: Prompt, name: str) -> Entry:
        own, way = trial_for(trial, changed, schema)
        return asker.asked(way, rows, own, "validation rows", name)

    base = scored(prompt, called)
    changed = {one.name: scored(one.fixed, one.name) for one in findings if one.fixed is not None}
    entries = [base, *changed.values()]
    first, *lines = table_of(entries, trial.rows.kind, base if base.places else None)
    return _line(first, trial), {name: _line(line, trial) for name, line in zip(changed, lines, strict=True)}


def _line(line: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """What is told of a line: the metric that prompts are chosen by, or why there is none."""
    score = next((one for one in line["scores"] if one["metric"] == trial.metric.name), None)
    part = "" if line["rows"] == line["of"] else f"answered about {line['rows']} of {counted(line['of'], 'row')} alone"
    return {"score": None, "difference": None, "verdict": "", **(score or {}), "left_out": line["left_out"] or part}
