"""Write the general-ability check of ember: general questions and plain text that it can answer before any tuning.

    python scripts/base_model/general_ability.py    # -> src/tunesmith/assets/general_ability/

Drawn from the same generator as its corpus, with a seed of their own, without anything about hotels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from corpus.everyday import everyday  # noqa: E402
from corpus.prose import prose  # noqa: E402

ASSETS = HERE.parents[1] / "src" / "tunesmith" / "assets" / "general_ability"
SEED, QUESTIONS, TEXTS, LONGEST = 4711, 120, 60, 900
HOUSES = ("hotel", "guest", "room", "front desk", "check out", "check in", "breakfast", "inn", "lodge")


def general(text: str) -> bool:
    return not any(word in text.lower() for word in HOUSES)


def main() -> None:
    rng = Random(SEED)
    questions: dict[str, dict[str, object]] = {}
    while len(questions) < QUESTIONS:
        turns = everyday(rng)
        if len(turns) == 2 and general(turns[0]["content"] + turns[1]["content"]):
            questions.setdefault(turns[0]["content"], {"messages": turns})
    texts: dict[str, None] = {}
    while len(texts) < TEXTS:
        text = prose(rng).strip()
        if len(text) < LONGEST and general(text):
            texts.setdefault(text)
    ASSETS.mkdir(exist_ok=True)
    for name, rows in (("questions", questions.values()), ("texts", [{"text": text} for text in texts])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (ASSETS / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
