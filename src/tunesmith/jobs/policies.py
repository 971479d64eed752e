"""Models that learned from rewards, beside the one that they began as: rewards, points, KL. Runs in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import DataError
from tunesmith.core.events import Report
from tunesmith.data.formats.turns import conversation_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.files import read_rows
from tunesmith.data.source import find_files
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.table import load_predictor
from tunesmith.model.export import find_model
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Conversation, plain
from tunesmith.score.policies import Answered, policy_scores

SHOWN = 5  # questions whose answers are told


@dataclass(frozen=True)
class Drawn:
    """One answer to each question.

    Attributes:
        texts: what they say.
        rows: prompt and answer as token ids, with the answer marked.
    """

    texts: list[str]
    rows: list[tuple[list[int], list[bool]]]


def compare_policies(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ask every model the same questions, and measure what each says.

    Args:
        arguments: `start`, the folder of the model that all began as; `policies`, folders by name; `reward`, the
            folder of a reward model; `data`, a file of chats whose last answers are the references; `max_new_tokens`,
            `seed`, `device`.
        report: hears of progress.

    Returns:
        `report`: plain values: of each of `policies`, the start first, its scores; and some questions with all answers.

    Raises:
        DataError: a row is no chat that ends with an answer.
    """
    asked, references = questions_of(arguments["data"])
    judge = load_predictor(find_model(arguments["reward"]), arguments["device"])
    names = {"start": arguments["start"], **arguments["policies"]}
    start, found = _engine(arguments["start"], arguments["device"]), dict[str, Answered]()
    for name, folder in names.items():
        engine = start if name == "start" else _engine(folder, arguments["device"])
        drawn = draw(engine, asked, arguments, name, report)
        turns = [
            [*plain(one), {"role": "assistant", "content": text}] for one, text in zip(asked, drawn.texts, strict=True)
        ]
        rewards = [one.reward for one in judge.predict(turns)]
        own, before = engine.score(drawn.rows), start.score(drawn.rows)
        nats = [before.loss - own.loss for own, before in zip(own, before, strict=True)]
        found[name] = Answered(drawn.texts, rewards, nats)
    first = found["start"]
    scores = {name: policy_scores(one, None if one is first else first, references) for name, one in found.items()}
    return {
        "report": {
            "data": arguments["data"], "rows": len(asked),
            "policies": [{"name": name, "folder": names[name], **asdict(one)} for name, one in scores.items()],
            "samples": [
                {"question": asked[place][-1].content, **{name: one.texts[place] for name, one in found.items()}}
                for place in range(min(SHOWN, len(asked)))
            ],
        }
    }  # fmt: skip


def questions_of(data: str) -> tuple[list[Conversation], list[str]]:
    """What a file's chats ask last, and what they answer to that.

    Raises:
        DataError: a row is no chat that ends with an answer.
    """
    asked: list[Conversation] = []
    references: list[str] = []
    for file in find_files(data):
        for row in read_rows(file.path, name=file.name):
            try:
                if isinstance(row.value, RowFault):
                    raise row.value
                turns = conversation_of(row.value, "messages", lambda fault: None)
            except RowFault as fault:
                raise DataError(f"{row.source}: {fault.found} {fault.advice}") from None
            if len(turns) < 2 or turns[-1].role != "assistant":
                raise DataError(
                    f"{row.source}: the chat does not end with an answer. Give one, to compare others with."
                )
            asked.append(turns[:-1])
            references.append(turns[-1].content)
    if not asked:
        raise DataError(f"{data}: no rows. Give chats that end with an answer.")
    return asked, references


def _engine(folder: str, device: str) -> LocalEngine:
    model = find_model(folder)
    contract = model.contract()
    return LocalEngine(model.load(device), contract)


def draw(
    engine: LocalEngine, asked: Sequence[Conversation], arguments: dict[str, Any], name: str, report: Report
) -> Drawn:  # fmt: skip
    """One answer to each question, from the model's own distribution."""
    longest, seed = arguments["max_new_tokens"], arguments["seed"]
    options = [Options(longest, temperature=1.0, seed=seed + place) for place in range(len(asked))]

    def heard(done: int) -> None:
        report(events.Pulse(f"{name} answers", done, len(asked)))

    replies = [one.choice for one in answer_all(engine, list(zip(asked, options, strict=True)), heard)]
    contract = engine.contract
    assert contract is not None
    rows = [_row(contract, turns, reply.ids) for turns, reply in zip(asked, replies, strict=True)]
    return Drawn([reply.text.strip() for reply in replies], rows)


def _row(contract: Contract, turns: Conversation, answer: list[int]) -> tuple[list[int], list[bool]]:
    """Prompt and answer as they are scored."""
    prompt = contract.prompt(turns)
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
