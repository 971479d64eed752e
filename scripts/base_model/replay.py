"""Write the rows that are replayed beside a user's when ember is tuned: general chats, so that it keeps what it knows.

    python scripts/base_model/replay.py    # -> src/tunesmith/assets/replay/ember.jsonl

Drawn from the generator of ember's corpus, like its general-ability check, of which they must give no row away. So a
chat is left out if a question of it is worded as a question of the check is (the same template, whatever is filled
in), or if it is a near duplicate of a row of the check or of one before it, by the MinHash that looks for leaks in
users' files. What both are about is the same small world: a word that the check asks for may be asked for here in other
words.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from corpus import lexicon, places, words  # noqa: E402
from corpus.everyday import everyday  # noqa: E402
from corpus.grammar import plural  # noqa: E402
from corpus.prose import SLOTS  # noqa: E402
from general_ability import ASSETS as CHECK  # noqa: E402
from general_ability import general  # noqa: E402

from tunesmith.data.kinds.chat import Chat  # noqa: E402
from tunesmith.data.kinds.row import Row  # noqa: E402
from tunesmith.data.quality.ledger import Source  # noqa: E402
from tunesmith.data.quality.near_duplicates import NearDuplicates  # noqa: E402
from tunesmith.prompt.messages import as_conversation  # noqa: E402

TARGET = CHECK.parent / "replay" / "ember.jsonl"
SEED, ROWS = 2027, 2400
OPENINGS = "hello|hi|please tell me|can you tell me|i have a question|do you know"  # before a question
FRAME = """
    animal answer ask bird call city come comes copy country day do does explain find give go hear how kind letter
    like make many mean means month name noise now number old one opposite people person place plural read repeat
    rewrite say sentence show sound spell story sum tell thing time use used what which who word write yesterday
    young
""".split()  # noqa: SIM905  that are filled in somewhere, and word questions elsewhere
Turns = list[dict[str, str]]


def main() -> None:
    chats, left_out = draw()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats), encoding="utf-8")
    print(f"{len(chats)} chats; left out:", *(f"{count} {why}" for why, count in left_out.items()), sep="\n  ")


def draw() -> tuple[list[Turns], Counter[str]]:
    """The chats, always the same, and how many were left out why."""
    rng, known = Random(SEED), NearDuplicates()
    lines = (CHECK / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    check: list[Turns] = [json.loads(line)["messages"] for line in lines]
    worded = {skeleton(question) for turns in check for question in said(turns, "user")}
    for turns in check:
        known.add(row_of(turns))
    chats, left_out = list[Turns](), Counter[str]()
    while len(chats) < ROWS:
        turns = everyday(rng)
        if not all(general(turn["content"]) for turn in turns):
            left_out["about houses, which the hotel's rows are about"] += 1
        elif any(skeleton(question) in worded for question in said(turns, "user")):
            left_out["worded as a question of the check"] += 1
        elif known.add(row_of(turns)) is not None:
            left_out["nearly equal to a row of the check, or to one before"] += 1
        else:
            chats.append(turns)
    return chats, left_out


def said(turns: Turns, role: str) -> list[str]:
    return [turn["content"] for turn in turns if turn["role"] == role]


def row_of(turns: Turns) -> Row:
    return Row(Chat(as_conversation(turns)), Source("ember", 0))


def skeleton(question: str) -> str:
    """The template behind a question: lower case, no marks, `_` for all that is filled in, nothing after a colon."""
    text = re.sub(f"^({OPENINGS})[!,:] ", "", question.lower()).partition(":")[0]
    text = text.replace("'s ", " is ").replace("n't", " not").replace("cannot", "can not")
    text = re.sub(r"\W+", " ", FILLED_IN.sub("_", text))
    return re.sub(r"_( _)+", "_", text).strip()


def fillings() -> Iterator[str]:
    """Everything that the generator fills into its questions, in lower case."""
    tables = (words.USE, words.JOB, words.ANIMAL, words.OPPOSITE, words.CATEGORY, words.CATEGORY.values(), words.ONES,
              words.DAYS, words.MONTHS, lexicon.DEFINITION, lexicon.PAST_FORM, lexicon.SYNONYM, lexicon.COUNTRY,
              lexicon.COMPARISON, [word for word, _ in lexicon.EXAMPLE], places.FIRST,
              [values for values in SLOTS.values() if not callable(values)])  # fmt: skip

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield from (value.lower(), plural(value.lower()))
        else:
            for part in value:
                yield from inside(part)

    return inside(tables)


def any_of(texts: Iterator[str]) -> re.Pattern[str]:
    """A pattern for the longest of the texts that stands at a place, with its article."""
    longest_first = sorted(
        {text for text in texts if len(text) > 1 and text not in FRAME}, key=lambda text: (-len(text), text)
    )
    return re.compile(r"\b(?:an? |the |some )?(?:" + "|".join(map(re.escape, longest_first)) + r")\b")


FILLED_IN = any_of(fillings())

if __name__ == "__main__":
    main()
