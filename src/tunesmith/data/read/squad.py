"""SQuAD's own files: articles with paragraphs, paragraphs with questions. Each question becomes a row.

{"version": "v2.0", "data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"question": ..., ...}]}]}]}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.json import RawRow, sequence_rows
from tunesmith.data.read.place import items_at

HEAD = re.compile(r'\{\s*(?:"version"\s*:\s*"[^"\\]*"\s*,\s*)?"data"\s*:\s*\[')
SHAPE = 'Write {"paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [...]}]}]}.'


def squad_prefix(head: str) -> str:
    """What stands before the first article; empty where the text is no such file."""
    found = HEAD.match(head)
    if found is None or not re.match(r'\s*\{\s*"(title|paragraphs)"', head[found.end() :]) or '"qas"' not in head:
        return ""
    return found[0]


def squad_rows(path: Path, name: str, notes: Counter[str], prefix: str) -> Iterator[RawRow]:
    """A row for each question: `question`, `context`, `answers`, and what else stands beside them.

    Raises:
        DataError: the array of articles is not closed.
    """
    for article in sequence_rows(path, name, notes, prefix, whole=False):
        if isinstance(article.value, RowFault):
            yield article
            continue
        yield from _questions_of(article, article.value)


def _questions_of(article: RawRow, value: dict[str, Any]) -> Iterator[RawRow]:
    """The questions of an article, each where it stands."""
    text, paragraphs = article.text, value.get("paragraphs")
    beside = {"title": value["title"]} if isinstance(value.get("title"), str) else {}
    if not isinstance(paragraphs, list):
        yield _fault(article, 0, "an article has no list of paragraphs.")
        return
    for paragraph, place in zip(paragraphs, items_at(text, 0, "paragraphs"), strict=True):
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            yield _fault(article, place, "a paragraph has no list of questions (qas).")
            continue
        context = {"context": paragraph.get("context")}
        for asked, start in zip(paragraph["qas"], items_at(text, place, "qas"), strict=True):
            if not isinstance(asked, dict):
                yield _fault(article, start, "a question is no object.")
                continue
            _, end = json.JSONDecoder().raw_decode(text, start)
            source, column = _source(article, start)
            yield RawRow(source, {**beside, **context, **asked}, text[start:end], column, article.odd)


def _fault(article: RawRow, place: int, found: str) -> RawRow:
    source, column = _source(article, place)
    return RawRow(source, RowFault("bad_squad", found, SHAPE), column=column)


def _source(article: RawRow, place: int) -> tuple[Source, int]:
    """Line and column of a place in an article's text."""
    breaks = article.text.count("\n", 0, place)
    column = place - article.text.rfind("\n", 0, place) if breaks else article.column + place
    return Source(article.source.file, article.source.line + breaks), column
