"""What a file was probably meant to be when no format has its keys: the nearest, with the setting that would read it.

Nothing is read by a guess. Other names of a key are only ever suggested.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from tunesmith.data.formats.format import Format
from tunesmith.data.formats.turns import CONTENTS, SPEAKERS

# Other names that files have for a key, folded.
OTHERS = {
    "question": "q ques user human usermessage userinput userquery customer ask problem inquiry humanmessage",
    "answer": "a ans assistant bot gpt ai agent reply solution assistantmessage assistantresponse botresponse "
    "modelresponse model answers",
    "prompt": "context user human inputtext userprompt request src sourcetext utterance",
    "completion": "reply continuation generation outputtext result answer output target tgt targettext assistant "
    "generatedtext",
    "instruction": "instructions instruct command task",
    "output": "outputs result answer completion target reply response",
    "system": "systemmessage systemtext sysprompt preamble instructions",
    "history": "chathistory previous",
    "context": "ctx passage document background",
    "text": "body paragraph passage document review comment tweet utterance abstract article story post description "
    "value data query question message",
    "label": "category class classname intent sentiment target topic emotion labelname lbl gold y",
    "labels": "categories classes intents topics",
    "score": "rating stars grade",
    "chosen": "chosenresponse accepted preferred winner better positive responsechosen",
    "rejected": "rejectedresponse reject dispreferred loser worse negative responserejected",
    "source": "src sourcetext original",
    "target": "tgt trg targettext translation",
    "tools": "toolconfig functiondefinitions",
}
NAMES = {key: frozenset(names.split()) for key, names in OTHERS.items()}


def folded(name: str) -> str:
    """A name without its case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", str(name)).lower()


def near(name: str, key: str) -> bool:
    """Whether a column may have been meant as a key: another name for it, or a slip of the pen."""
    fold = folded(name)
    if fold in NAMES.get(key, ()):
        return True
    return len(fold) > 2 and difflib.SequenceMatcher(None, fold, folded(key)).ratio() >= 0.8


def columns_advice(columns: Mapping[str, str]) -> str:
    """The setting, and the option of `check`, that read a file's columns as these keys."""
    pairs = ", ".join(f"{key}: {name}" for key, name in columns.items())
    options = " ".join(f"--column {shlex.quote(f'{key}={name}')}" for key, name in columns.items())
    return f"data.columns={{{pairs}}}, in check {options}"


def nearest_key(name: str, chosen: Format, formats: Iterable[Format], there: Container[str]) -> str | None:
    """The key that an unread column was perhaps meant as: one that would add to the format, or make another of it."""
    further = [key for key in sorted(chosen.uses) if key not in there]
    for entry in formats:
        if entry.looks is None and entry.kind != chosen.kind:
            further += [
                key
                for need in entry.needs
                for key in sorted(need)
                if len(need) > 1 and key not in there and all(other in there for other in need - {key})
            ]
    return next((key for key in further if near(name, key)), None)


def nearest_format(formats: Mapping[str, Format], samples: Sequence[Mapping[str, Any]]) -> str:
    """What would read rows that no format fits: a sentence with the exact setting, or how to write one.

    Args:
        formats: all that there are.
        samples: rows of the file, at least one.
    """
    row = max(samples, key=len)
    columns = {name: value for name, value in row.items() if value not in (None, "", [], {})}
    found = _turns(columns) or _inside(columns, formats) or _two_answers(columns) or _by_names(columns, formats)
    if not found and "prompt" in columns:
        found = (
            "If answers to its prompts are to be drawn and scored, say data.format=prompts, in check --format prompts; "
            "if they are given, call them completion."
        )
    return found or f"{_by_hand(columns)} Formats, each with an example in docs/data.md: {', '.join(formats)}."


def _turns(columns: Mapping[str, Any]) -> str:
    """A list of turns under a name of its own."""
    for name, value in columns.items():
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if not isinstance(value, list) or not value:
            continue
        if isinstance(value[0], dict) and any(key in value[0] for key in SPEAKERS):
            if any(key in value[0] for key in CONTENTS):
                return f"{name!r} looks like turns of a chat: {columns_advice({'messages': name})} reads it."
            said = next((key for key in value[0] if key not in SPEAKERS and isinstance(value[0][key], str)), "?")
            return f"The turns in {name!r} say something under {said!r}: call that content, and the list messages."
        if all(isinstance(one, str) for one in value) and len(columns) == 1:
            return (
                f"{name!r} is a list of texts, and nothing says who speaks. Write turns: "
                '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'
            )
        if isinstance(value[0], dict) and len(columns) == 1:
            keys = ", ".join(map(repr, list(value[0])[:4]))
            return (
                f"{name!r} is a list of objects with the keys {keys}. If these are exchanges, write them as turns: "
                '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.'
            )
    return ""


def _inside(columns: Mapping[str, Any], formats: Mapping[str, Format]) -> str:
    """Rows that hold everything under one key."""
    for name, value in columns.items():
        if isinstance(value, dict) and len(columns) <= 2 and (best := _matches(value, formats)):
            return (
                f"Its rows hold {', '.join(map(repr, list(value)[:4]))} inside of {name!r}, which looks like "
                f"{best[0][0].name}: take them out of it, for example with jq -c '.{name}'."
            )
    return ""


def _two_answers(columns: Mapping[str, Any]) -> str:
    """Two columns that differ in their last letter or number: answers that somebody has compared."""
    ends: dict[str, str] = {}
    for name, value in columns.items():
        fold = folded(name)
        if not isinstance(value, str | list) or fold[-1:] not in ("a", "b", "0", "1", "2"):
            continue
        stem = fold[:-1]
        if stem in ends and any(near(stem, key) for key in ("answer", "completion", "output", "chosen")):
            return (
                f"{ends[stem]!r} and {name!r} look like two answers to one question. For preferences write the better "
                "one under 'chosen' and the other under 'rejected', and leave out ties."
            )
        ends.setdefault(stem, name)
    return ""


def _by_names(columns: Mapping[str, Any], formats: Mapping[str, Format]) -> str:
    """The nearest formats by other names of their keys."""
    best = _matches(columns, formats)[:2]
    ways = [f"as {entry.name} with {columns_advice(names)}" for entry, names in best]
    return f"It can be read {'; or '.join(ways)}." if ways else ""


def _matches(columns: Mapping[str, Any], formats: Mapping[str, Format]) -> list[tuple[Format, dict[str, str]]]:
    """Formats all of whose keys are there, be it by another name, with those names: the nearest first.

    A kind of row counts once: the format with the most keys.
    """
    found: dict[str, tuple[tuple[int, int], Format, dict[str, str]]] = {}
    for entry in formats.values():
        for need in entry.needs:
            names = _assigned(need, columns)
            if names is None or (entry.looks is not None and not names.keys() < need):
                continue
            rank = (len(need), -len(names))
            if entry.kind not in found or rank > found[entry.kind][0]:
                found[entry.kind] = (rank, entry, names)
    ordered = sorted(found.values(), key=lambda one: one[0], reverse=True)
    most = ordered[0][0][0] if ordered else 0
    return [(entry, names) for rank, entry, names in ordered if rank[0] == most]


def _assigned(need: frozenset[str], columns: Mapping[str, Any]) -> dict[str, str] | None:
    """For each key that is not there the column that may stand for it; None if one has none."""
    free = [name for name in columns if name not in need]
    names: dict[str, str] = {}
    for key in sorted(need - columns.keys()):
        name = next((name for name in free if near(name, key)), None)
        if name is None:
            return None
        names[key] = name
        free.remove(name)
    return dict(sorted(names.items(), key=lambda pair: list(columns).index(pair[1])))


def _by_hand(columns: Mapping[str, Any]) -> str:
    """How to name columns whose names say nothing here."""
    texts = [name for name, value in columns.items() if isinstance(value, str)]
    if len(texts) >= 2 and any(" " in name.strip() for name in texts):
        return (
            f"If {', '.join(map(repr, texts[:3]))} are no names of columns but a row, put a line with names above it, "
            "such as text,label or question,answer."
        )
    if len(texts) >= 2:
        names = {"question": texts[0], "answer": texts[1]}
        return f"If {texts[0]!r} asks and {texts[1]!r} answers, say {columns_advice(names)}."
    if texts:
        return f"If {texts[0]!r} is plain text, say {columns_advice({'text': texts[0]})}."
    return "Name your keys with data.columns (in check --column key=name)."
