"""The page of `tunesmith check --html`: how long rows are, where every row went, what a model sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tunesmith.core.pages import render
from tunesmith.data.prepare import spread
from tunesmith.data.quality.ledger import OUTCOMES
from tunesmith.data.quality.report import DataReport
from tunesmith.prompt.contract import Contract, Rendered

HISTOGRAM_BARS = 40  # at most


def parts_of(rendered: Rendered, contract: Contract) -> Iterator[dict[str, Any]]:
    """A rendered row in stretches: their `text`, and whether they are `trained` on."""
    place = 0
    for begin, end in (*rendered.spans, (len(rendered.ids), len(rendered.ids))):
        for ids, trained in ((rendered.ids[place:begin], False), (rendered.ids[begin:end], True)):
            if ids:
                text = contract.tokenizer.decode(
                    list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                yield {"text": text, "trained": trained}
        place = end


def report_page(found: DataReport, contract: Contract) -> str:
    """The page as HTML text. Everything from data is escaped."""
    values = report_values(found, contract)
    lead = ", ".join(file["name"] for file in values["files"])
    return render("tunesmith.data.quality", "report.html.jinja", title="Data check", lead=lead, **values)


def report_values(found: DataReport, contract: Contract) -> dict[str, Any]:
    """What the page shows, as JSON takes it."""
    ledgers = found.reading.ledgers.values()
    return {
        "tiles": [
            {"name": "rows to use", "value": f"{found.rows:,}"},
            {"name": "rows read", "value": f"{sum(ledger.read for ledger in ledgers):,}"},
            {"name": "tokens", "value": f"{sum(found.lengths):,}"},
            *([{"name": "trained tokens", "value": f"{sum(found.trained):,}"}] if found.trained else []),
            {"name": f"longer than {found.max_length}", "value": f"{found.too_long:,}"},
        ],
        "pictures": [
            _histogram(title, values)
            for title, values in (
                ("Tokens a row", found.lengths),
                ("Trained tokens a row", found.trained),
                ("Turns a row", found.turns),
            )
            if len(values)
        ],
        "outcomes": ["read", *OUTCOMES],
        "files": [
            {"name": ledger.file, "format": found.reading.formats[ledger.file].name, "counts": ledger.counts()}
            for ledger in ledgers
        ],
        "findings": _findings(found),
        "samples": [
            {"source": str(row.source), "parts": list(parts_of(one, contract))}
            for row, rendered in found.samples
            for one in rendered
        ],
    }


def _histogram(title: str, values: Sequence[int]) -> dict[str, Any]:
    s = spread(values)
    width = -(-(s.most - s.least + 1) // HISTOGRAM_BARS)  # whole numbers share bars evenly
    edges = np.arange(s.least, s.most + width + 1, width)
    counts, _ = np.histogram(values, bins=edges)
    return {
        "title": title,
        "bars": [
            {"label": _label(first, first + width - 1), "count": int(n), "height": 100 * n / counts.max()}
            for first, n in zip(edges.tolist(), counts.tolist(), strict=False)
        ],
        "least": s.least,
        "most": s.most,
        "note": f"mean {s.mean}, median {s.median:.0f}, 5% {s.p5:.0f}, 95% {s.p95:.0f}",
    }


def _label(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _findings(found: DataReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for ledger in found.reading.ledgers.values():
        for (outcome, code), count in ledger.codes.most_common():
            first = next(str(e) for e in ledger.entries if (e.outcome, e.code) == (outcome, code))
            rows.append({"first": first, "outcome": outcome, "code": code, "count": count})
    return rows
