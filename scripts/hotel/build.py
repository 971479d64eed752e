"""Write the embedded hotel data set from `intents.yaml`, the text that people edit.

    python scripts/hotel/build.py          # -> src/tunesmith/assets/hotel/{train,test}.jsonl

Each intent has one answer and 13 wordings; the last two of them are the test set: new wordings of
known intents. Conversations of several turns go to training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "src" / "tunesmith" / "assets" / "hotel"
HELD_OUT = 2


def conversation(system: str, turns: list[tuple[str, str]], intent: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "intent": intent}


def write(path: Path, rows: list[dict[str, Any]], shown: list[str]) -> None:
    """Rows in a shuffled order, those with a question of `shown` first and in its order."""
    random.Random(0).shuffle(rows)
    rows.sort(key=lambda row: shown.index(asked) if (asked := row["messages"][1]["content"]) in shown else len(shown))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows):>5} rows  {path.name}")


def main() -> None:
    source = yaml.safe_load((HERE / "intents.yaml").read_text(encoding="utf-8"))
    system, intents = source["system"], {intent["name"]: intent for intent in source["intents"]}
    train, test = [], []
    for name, intent in intents.items():
        for i, wording in enumerate(intent["wordings"]):
            rows = test if i >= len(intent["wordings"]) - HELD_OUT else train
            rows.append(conversation(system, [(wording, intent["answer"])], name))
    for chat in source["multi_turn"]:
        turns = [(turn["user"], turn.get("answer", intents[turn["intent"]]["answer"])) for turn in chat["turns"]]
        train.append(conversation(system, turns, chat["turns"][-1]["intent"]))
    TARGET.mkdir(parents=True, exist_ok=True)
    write(TARGET / "train.jsonl", train, [])
    write(TARGET / "test.jsonl", test, source["shown"])


if __name__ == "__main__":
    main()
