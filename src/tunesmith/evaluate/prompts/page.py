"""What people see of prompts: cells of tables, sentences below them, and a page that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.core.names import counted, shortest_ends
from tunesmith.core.pages import render
from tunesmith.score.interval import show

OF_PAGE = {
    "labelled": ("accuracy", "macro F1", "unmatched answers", "valid answers", "calibration error"),
    "chat": ("equal fields", "valid answers", "chrF", "token F1", "exact match", "BLEU", "ROUGE-L", "ends by itself"),
}


def titles(found: dict[str, Any]) -> dict[str, str]:
    """The parts that have lines, each with its heading."""
    chosen = {
        "validation": "by which prompts are chosen",
        "test": "which each model is asked with its chosen prompt",
    }
    return {
        part: f"{part}: {counted(found[part]['rows'], 'row')} of {found[part]['of']}, {said}"
        for part, said in chosen.items()
        if found[part]["entries"]
    }


def cells(found: dict[str, Any], part: str, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a line of cells for each model and prompt, of the metrics that any of them has."""
    entries = found[part]["entries"]
    there = {score["metric"] for entry in entries for score in entry["scores"]}
    metrics = [metric for metric in metrics if metric in there]
    names = dict(zip(_models(entries), shortest_ends(_models(entries)), strict=True))
    priced = any(entry["cost"] is not None for entry in entries)
    beside = next((entry for entry in entries if entry["beside"]), None)
    difference = f"{found['metric']} against {_short(beside, names)}" if beside else ""
    heads = ["model", "prompt", *metrics, *([difference] if difference else []), "tokens", "seconds"]
    lines = [_line(entry, names, metrics, found["metric"] if beside else "", priced) for entry in entries]
    return [*heads, *(["dollars"] if priced else [])], lines


def _models(entries: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(entry["model"] for entry in entries))


def _short(entry: dict[str, Any], names: dict[str, str]) -> str:
    return f"{names[entry['model']]}, {entry['prompt']}"


def _line(
    entry: dict[str, Any], names: dict[str, str], metrics: Sequence[str], compared: str, priced: bool
) -> list[str]:  # fmt: skip
    scores = {score["metric"]: score for score in entry["scores"]}
    part = "" if entry["rows"] == entry["of"] else f" ({entry['rows']} of {entry['of']} rows)"
    line = [names[entry["model"]], f"{entry['prompt']}{' (left out)' if entry['left_out'] else part}"]
    line += [with_interval(scores[metric]["score"]) if metric in scores else "-" for metric in metrics]
    if compared:
        difference = scores.get(compared, {}).get("difference")
        said = "-" if difference is None else f"{signed(difference)} {scores[compared]['verdict']}"
        line.append("it is that" if entry["beside"] else said)
    tokens = [_number(entry[name], ".0f") for name in ("prompt_tokens", "answer_tokens")]
    line += ["-" if tokens == ["-", "-"] else " + ".join(tokens), _number(entry["seconds"], ".3f")]
    return [*line, *([_number(entry["cost"], ".4f")] if priced else [])]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def with_interval(score: dict[str, float]) -> str:
    """`12.3 [11.0, 13.9]`."""
    return f"{show(score['value'])} [{show(score['low'])}, {show(score['high'])}]"


def signed(score: dict[str, float]) -> str:
    """`+1.3 [-0.2, +2.9]`."""
    value, low, high = (f"{'+' if score[key] > 0 else ''}{show(score[key])}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def legend(found: dict[str, Any]) -> list[str]:
    """What is to be known of the tables."""
    entries = [*found["validation"]["entries"], *found["test"]["entries"]]
    ways = dict.fromkeys((entry["model"], entry["how"]) for entry in entries)
    said = ["[low, high]: 95% intervals; differences are paired by row."]
    said += [f"{model}: {how}." for model, how in ways]
    said.append(
        f"Examples come from {counted(found['training_rows'], 'row')} of the training part. tokens: of the prompt, and "
        "of the answer (of scored labels: all of them). seconds: of one answer, when it was asked."
    )
    if found["test"]["entries"]:
        said.append(
            "The test rows took no part in choosing: each model was asked about them with the one prompt that was best "
            "on validation rows."
        )
    else:
        said.append("These are the rows that prompts are chosen by: the best of many looks better here than it is.")
    spent = found["spent"]
    if spent["requests"]:
        requests = counted(spent["requests"], "request")
        said.append(f"Asked of servers in this call: {requests}, {spent['dollars']:.4f} dollars.")
    return said


def as_markdown(found: dict[str, Any], part: str, metrics: Sequence[str]) -> str:
    """The table of a part, for a page of text."""
    heads, lines = cells(found, part, metrics)
    shown = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def prompts_page(found: dict[str, Any]) -> str:
    """The page as HTML text. Everything from data or models is escaped."""
    parts: list[dict[str, Any]] = []
    for part, title in titles(found).items():
        heads, lines = cells(found, part, OF_PAGE[found["kind"]])
        parts.append({"title": title, "heads": heads, "lines": lines})
    examples = [entry for entry in found["validation"]["entries"] if entry["example"]]
    return render(
        "tunesmith.evaluate",
        "prompts.html.jinja",
        title=f"Prompts for {found['data']}",
        lead=f"chosen by {found['metric']} on validation rows",
        parts=parts,
        said=[*legend(found), *found["notes"]],
        examples=examples,
    )
