"""Rows of words with tags, and of questions with passages, that small bases of `classifiers` can learn."""

from __future__ import annotations

import random
from typing import Any

from classifiers import PLAIN, WORDS, begin

TAG_FACTS = {"labels": {"O": 9, "B-wifi": 3, "I-wifi": 1, "B-pool": 2, "B-dog": 2}}


def tagged_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Words of a few groups are entities: the first two of a group begin one, the others go on."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens: list[str] = []
        tags: list[str] = []
        for _ in range(chance.randint(1, 3)):
            plain = chance.sample(PLAIN, chance.randint(1, 3))
            name = chance.choice(list(WORDS))
            own = [chance.choice(WORDS[name][:2]), *chance.sample(WORDS[name][2:], chance.randint(0, 1))]
            tokens += [*plain, *own]
            tags += [*["O"] * len(plain), f"B-{name}", *[f"I-{name}"] * (len(own) - 1)]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def passage_rows(count: int, seed: int = 0, unanswered: int = 3) -> list[dict[str, Any]]:
    """The answer is the only word of a group that the context holds; of each `unanswered` rows one holds none."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        words = [chance.choice(PLAIN) for _ in range(chance.randint(4, 9))]
        found = "" if unanswered and i % unanswered == 0 else chance.choice(WORDS[chance.choice(list(WORDS))])
        if found:
            words.insert(chance.randint(0, len(words)), found)
        context = " ".join(words)
        answers = [{"text": found, "answer_start": f" {context} ".find(f" {found} ")}] if found else []
        rows.append({"question": chance.choice(["where is my room", "where we need"]), "context": context,
                     "answers": answers})  # fmt: skip
    return rows


def begin_tags(folder: Any, base: Any, rows: list[dict[str, Any]], **settings: Any) -> Any:
    settings = {"objective": {"type": "token_classify"}, "evaluate": {"metric": "f1"}, **settings}
    return begin(folder, base, rows, **settings)


def begin_passages(folder: Any, base: Any, rows: list[dict[str, Any]], **settings: Any) -> Any:
    settings = {"objective": {"type": "extract"}, "evaluate": {"metric": "accuracy"}, **settings}
    return begin(folder, base, rows, **settings)
