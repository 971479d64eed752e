"""Write the embedded pairs of answers of which people prefer one, from `intents.yaml` and `manners.yaml`.

    python scripts/hotel/preferences.py    # -> src/tunesmith/assets/hotel_pairs/{train,test}.jsonl

A question of the hotel's guests, a polite and concise answer, and one that is curt or rambles. All say what
`intents.yaml` says, so that manner alone tells them apart. Held-out pairs have other wordings of the question, which
`build.py` keeps from training as well, and other templates for both answers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "src" / "tunesmith" / "assets" / "hotel_pairs"
HELD_OUT = 2  # wordings of each intent, the last ones, as `build.py` has it
TRAIN, TEST = 14, 2  # pairs of each intent
FAULTS = ("curt", "rambling")


def pairs(source: dict[str, Any], manners: dict[str, Any], part: str) -> list[dict[str, str]]:
    """The pairs of a part, each once: wordings, templates and faults in turn, from a place that differs by intent."""
    made: dict[str, dict[str, str]] = {}
    for number, intent in enumerate(source["intents"]):
        name, wordings = intent["name"], intent["wordings"]
        wordings = wordings[:-HELD_OUT] if part == "train" else wordings[-HELD_OUT:]
        polite = manners["polite"][part]
        if name in manners["closing_only"]:
            polite = [one for one in polite if one.startswith("{answer}") and one[9:-1] not in intent["answer"]]
        words = {"answer": intent["answer"], "curt": manners["answers"][name]}
        for turn in range(TRAIN if part == "train" else TEST):
            fault = FAULTS[turn % 2]
            faulty = manners[fault][part]
            row = {
                "prompt": wordings[turn % len(wordings)],
                "chosen": polite[(number + 5 * turn) % len(polite)].format(**words),
                "rejected": faulty[(number + turn // 2) % len(faulty)].format(**words),
            }
            made[json.dumps(row)] = row
    rows = list(made.values())
    random.Random(0).shuffle(rows)
    return rows


def main() -> None:
    source = yaml.safe_load((HERE / "intents.yaml").read_text(encoding="utf-8"))
    manners = yaml.safe_load((HERE / "manners.yaml").read_text(encoding="utf-8"))
    TARGET.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        rows = pairs(source, manners, part)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (TARGET / f"{part}.jsonl").write_text(text, encoding="utf-8")
        print(f"{len(rows):>5} rows  {len(text):>7} bytes  {part}.jsonl")


if __name__ == "__main__":
    main()
