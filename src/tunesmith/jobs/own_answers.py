"""A base model's own answers to prompts (self-distillation): what it is to go on saying while it learns something else.

Answers are greedy and bounded; one that does not end by itself is left out and counted. They are kept in the cache
under what they depend on, some prompts together, each such part whole or not at all: so a run that is stopped goes on
where it was, and later runs on the same base have them at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import MissingError, ModelError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.files import home, make_folder, read_json, write_json
from tunesmith.data.kinds.conversation import openai_turns
from tunesmith.infer.generator import Generator, Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Conversation

LAYOUT = 1  # of the parts; another number makes every one new
TOGETHER = 40  # prompts in a part
OPTIONS = Options(max_new_tokens=192)
FEWEST_ENDED = 0.1  # share of the first part's answers; a model that ends fewer of them is asked no more
Answer = dict[str, Any]  # `text`, or `lost`: why there is none


@dataclass(frozen=True)
class Speaker:
    """Who answers.

    Attributes:
        id: hash of all weights that decide what it says.
        load: the model, ready to answer.
        contract: how it is prompted.
        computed: in which precision and where, and how it is quantised, if it is.
    """

    id: str
    load: Callable[[], Any]
    contract: Contract
    computed: tuple[str, ...] = ()


@dataclass
class Answers:
    """What a model said.

    Attributes:
        rows: prompts with their answers, as rows of a file of chats.
        asked: prompts that it was asked.
        lost: prompts without an answer, by the reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    asked: int = 0
    lost: Counter[str] = field(default_factory=Counter[str])


def parts_of(prompts: Sequence[Conversation]) -> list[Sequence[Conversation]]:
    """The prompts as they are answered and kept together."""
    return [prompts[start : start + TOGETHER] for start in range(0, len(prompts), TOGETHER)]


def key_of(speaker: Speaker, prompts: Sequence[Conversation], here: bool = True) -> str:
    """32 digits that stand for everything that decides what is answered; `here`: in which precision and where, too."""
    asked = [openai_turns(prompt) for prompt in prompts]
    sampling = {name: getattr(OPTIONS, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    parts = [LAYOUT, speaker.id, speaker.contract.id, sampling, list(speaker.computed) if here else [], asked]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def own_answers(speaker: Speaker, prompts: Sequence[Conversation], most_tokens: int, report: Report) -> Answers:
    """Let the model answer, as far as its answers are not in the cache.

    Args:
        speaker: the model.
        prompts: what it is asked.
        most_tokens: longest prompt with its answer.
        report: hears how far it is, and how long it will take.
    """
    found, engine, seconds, made = Answers(), None, 0.0, 0
    parts = parts_of(prompts)
    folder = make_folder(home() / "answers", "a model's own answers")
    for number, part in enumerate(parts):
        path = folder / f"{key_of(speaker, part)}.json"
        answers = _kept(path, len(part))
        if answers is None:
            engine = engine or LocalEngine(speaker.load(), speaker.contract)
            started = time.perf_counter()
            answers = _answered(engine, speaker.contract, part, most_tokens)
            seconds, made = seconds + time.perf_counter() - started, made + 1
            write_json(path, answers)
            left = seconds / made * (len(parts) - number - 1)
            if made == 1 and left > 10:
                report(events.Replay(f"its other answers take about {left:.0f} s, once for this base."))
        found.asked += len(part)
        for prompt, answer in zip(part, answers, strict=True):
            if "lost" in answer:
                found.lost[answer["lost"]] += 1
            else:
                turns = [*openai_turns(prompt), {"role": "assistant", "content": answer["text"]}]
                found.rows.append({"messages": turns})
        report(events.Pulse("the base model answers", found.asked, len(prompts)))
        if number == 0 and len(found.rows) < FEWEST_ENDED * len(part):
            break
    return found


def _kept(path: Path, count: int) -> list[Answer] | None:
    """A part's answers in the cache; None where there are none, or not as many as there are prompts."""
    try:
        answers = read_json(path)
    except (MissingError, TunesmithError, OSError):
        return None
    fits = isinstance(answers, list) and len(answers) == count
    return answers if fits and all(isinstance(one, dict) and one.keys() & {"text", "lost"} for one in answers) else None


def _answered(
    generator: Generator, contract: Contract, prompts: Sequence[Conversation], most_tokens: int
) -> list[Answer]:
    asked: dict[int, list[int]] = {}
    answers: list[Answer] = [{} for _ in prompts]
    for i, prompt in enumerate(prompts):
        try:
            ids = contract.prompt(prompt)
        except ModelError:
            answers[i] = {"lost": "the chat template refuses the prompt"}
            continue
        if len(ids) >= most_tokens:
            answers[i] = {"lost": f"the prompt has {most_tokens} tokens or more"}
        else:
            asked[i] = ids
    completions = answer_all(generator, [(ids, OPTIONS) for ids in asked.values()])
    for i, completion in zip(asked, completions, strict=True):
        text = completion.choice.text.strip()
        if not completion.choice.ended:
            answers[i] = {"lost": f"no end within {OPTIONS.max_new_tokens} tokens"}
        else:
            answers[i] = {"text": text} if text else {"lost": "an empty answer"}
    return answers
