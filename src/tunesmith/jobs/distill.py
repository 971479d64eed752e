"""A prompted model's answers as training rows without the prompt (prompt distillation). Runs in a child process.

Snell et al., 2022, arXiv 2209.15189; Askell et al., 2021, arXiv 2112.00861 (context distillation). Each answer is kept
as soon as it has come, by the content of what was asked, so that a call that broke off pays for nothing twice; the file
of rows appears whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.events import Report
from tunesmith.core.files import expanded, open_new, write_json
from tunesmith.core.names import counted, did_you_mean
from tunesmith.data.config import DataConfig
from tunesmith.data.dataset import Subset
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.conversation import without_weight
from tunesmith.data.kinds.row import Row, to_json
from tunesmith.data.prompting.around import READS, Around, put_around
from tunesmith.data.prompting.variant import row_prompt
from tunesmith.data.prompting.version import Version, read_version
from tunesmith.data.prompts import read_prompts
from tunesmith.data.quality.ledger import Source
from tunesmith.data.split import ENDLESS, Splits, load_splits
from tunesmith.evaluate.prompts.ask import Reply
from tunesmith.evaluate.prompts.spending import Budget, parse_prices, price_of
from tunesmith.evaluate.prompts.versions import now
from tunesmith.infer.generator import GivenUp
from tunesmith.infer.remote import RemoteModel
from tunesmith.jobs.prompt_asking import found, refuse_other_prices
from tunesmith.jobs.prompt_trial import JSON_LABEL_TOKENS, LABEL_TOKENS
from tunesmith.jobs.teacher import Manner, Teacher, agreed, distinct
from tunesmith.prompt.base import EMBEDDED, resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message

KEEP = ("all", "right", "agreeing")
TOGETHER = 256  # rows that are asked about at a time
PLACES = 5  # of rows that were left out for one reason, which the ledger names
TOKENS = 256  # longest answer, where nobody says; a class is asked for as `tunesmith prompts` asks for it


@dataclass
class Tally:
    """What became of the rows.

    Attributes:
        asked: rows that were asked about.
        rows: that were written.
        left_out: answers that were not, by the reason.
        places: of these, where the first ones stand.
        right, known: answers that say what their row does, of those whose row says something.
        unasked: rows that the budget left over.
        new: answers that were asked for in this call.
        tokens: of all prompts and of all answers, as far as they are counted.
        refused: what the server said of the first question that it refused, and where that stands.
    """

    asked: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter[str])
    places: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    right: int = 0
    known: int = 0
    unasked: int = 0
    new: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    refused: str = ""

    def lose(self, row: Row, reason: str) -> None:
        """Note that an answer is left out."""
        self.left_out[reason] += 1
        if len(self.places[reason]) < PLACES:
            self.places[reason].append(str(row.source))

    def hear(self, reply: Reply) -> None:
        """Note what a reply has cost."""
        self.new += reply.new
        self.tokens[0] += reply.prompt_tokens or 0
        self.tokens[1] += reply.answer_tokens or 0

    def told(self) -> str:
        """In words."""
        lost = "".join(f"; {count} left out: {why}" for why, count in self.left_out.most_common())
        return f"{counted(self.rows, 'row')} of {self.asked} that were asked about{lost}."


@dataclass(frozen=True)
class Rows:
    """What a teacher is asked about.

    Attributes:
        kind: `labelled` or `chat`.
        labels: the classes, in order; none of chats.
        asked: in file order.
        training: rows to choose examples from.
        answered: whether the rows say what is right.
        id: of their content.
    """

    kind: str
    labels: list[str]
    asked: Sequence[Row] | Subset
    training: Subset | None
    answered: bool
    id: str

    def __iter__(self) -> Iterator[Row]:
        for one in self.asked:
            yield one if isinstance(one, Row) else one.row


def distill(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ask a model about every row with a prompt, and write its answers as rows without it.

    Args:
        arguments: the options of `tunesmith distill`, by their names.
        report: hears of progress, and notes.

    Returns:
        `report`: what the ledger beside the rows says.

    Raises:
        ConfigError: an option makes no sense.
        DataError: the rows cannot be asked about, or no answer can be kept.
        GivenUp: a server does not answer; what was answered is kept.
    """
    where = f"the prompt {arguments['prompt']}"
    target = expanded(arguments["into"])
    refuse_options(arguments, target)
    version = read_version(arguments["prompt"], where)
    rows = rows_of(arguments, version, report)
    around = put_around(version, where, rows.kind, rows.labels, (row.row for row in rows.training or ()))
    of_label = JSON_LABEL_TOKENS if around.prompting.json else LABEL_TOKENS
    longest = arguments["max_new_tokens"] or (of_label if rows.labels else TOKENS)
    manner = Manner(longest, arguments["temperature"], arguments["seed"], arguments["samples"])
    budget = Budget(arguments["max_requests"], arguments["max_cost"])
    teacher = teacher_of(arguments, around, manner, budget, report)
    tally, digest = Tally(), hashlib.sha256()
    with open_new(target) as file:
        for row in taught(rows, teacher, arguments, tally, report):
            line = f"{to_json(row)}\n"
            digest.update(line.encode())
            file.write(line)
        if not tally.rows:
            raise DataError(f"{arguments['data']}: no answer can be learned from. {tally.told()}{_advice(tally)}")
        ledger = ledger_of(arguments, around, teacher, rows, tally, budget, digest.hexdigest())
        write_json(ledger_beside(target), ledger)  # before the rows appear: rows without one would not be replaced
    for sentence in notes_of(tally, budget):
        report(events.Warning(sentence))
    return {"report": ledger}


def refuse_options(arguments: dict[str, Any], target: Path) -> None:
    """Refuse what makes no sense before anything is read.

    Raises:
        ConfigError: with what to change.
    """
    keep, samples, temperature = arguments["keep"], arguments["samples"], arguments["temperature"]
    if keep not in KEEP:
        raise ConfigError(f"--keep {keep}: {did_you_mean(keep, KEEP)}")
    if samples > 1 and not temperature:
        raise ConfigError(
            f"--samples {samples}: without --temperature all answers to a question are the same. Set it, such as 0.7."
        )
    if keep == "agreeing" and samples < 3:
        raise ConfigError("--keep agreeing asks whether most answers agree, of three or more. Give --samples 5.")
    if target.is_dir():
        raise ConfigError(f"--into {target}: is a folder. Name a file for the rows.")
    if target.exists() and not ledger_beside(target).exists():
        raise ConfigError(f"--into {target}: exists, and `tunesmith distill` has not made it. Choose another file.")
    if target.resolve() == expanded(arguments["data"]).resolve():
        raise ConfigError(f"--into {target}: is the file of questions itself. Choose another file.")


def ledger_beside(target: Path) -> Path:
    """Where it is told by what a file of rows was made."""
    return target.with_name(f"{target.name}.ledger.json")


def rows_of(arguments: dict[str, Any], version: Version, report: Report) -> Rows:
    """The rows to ask about: with classes or answers, or questions alone where that is enough.

    Raises:
        DataError: they cannot be read.
    """
    given = {key: arguments[key] for key in ("format", "columns", "label_names") if arguments[key]}
    config, contract = DataConfig(train=arguments["data"], **given), load_contract(resolve(EMBEDDED).folder)
    needs = "--keep right" if arguments["keep"] == "right" else ""
    if version.shots and version.chosen is None:
        needs = needs or f"{counted(version.shots, 'example')} of the prompt"
    try:
        splits = load_splits(config, contract, ENDLESS, READS)
        return _answered(splits, arguments["limit"])
    except DataError as error:
        if needs or given:
            advice = f" Rows with answers are needed for {needs}." if needs else ""
            if not arguments["columns"] and Path(arguments["data"]).suffix.lower() != ".txt":
                advice += " Where columns are called otherwise, name them with --column."
            raise DataError(f"{error}{advice}") from None
        questions, _ = read_prompts(arguments["data"])
        report(events.Warning(f"{arguments['data']}: read as questions without answers."))
    some = questions[: arguments["limit"]]
    asked = [  # whose answer is to come
        Row(Chat((*turns, Message("assistant", ""))), Source(arguments["data"], number))
        for number, turns in enumerate(some, 1)
    ]
    return Rows("chat", [], asked, None, False, "")


def _answered(splits: Splits, limit: int | None) -> Rows:
    dataset = splits.train.dataset
    labels = label_names(dataset.facts) if splits.kind.name == "labelled" else []
    places = np.arange(dataset.meta["rows"])[:limit]
    return Rows(splits.kind.name, labels, Subset(dataset, places), splits.train, True, dataset.id)


def teacher_of(
    arguments: dict[str, Any], around: Around, manner: Manner, budget: Budget, report: Report
) -> Teacher:  # fmt: skip
    """The model that is asked.

    Raises:
        ConfigError: an option is not for it.
    """
    name, prices = arguments["model"], parse_prices(arguments["price"])
    model, price = found(name), None
    if isinstance(model, RemoteModel):
        refuse_other_prices(prices, [model])
        price = price_of(prices, model.endpoint.url, model.model)
        if arguments["max_cost"] is not None and price is None:
            raise ConfigError(f"--max-cost: no price is known for {name}. Give --price IN,OUT.")
    elif prices or arguments["max_cost"] is not None or arguments["max_requests"] is not None:
        raise ConfigError(
            f"--price, --max-requests and --max-cost are for models behind a URL, and {name} is none. Leave them out."
        )
    return Teacher(name, model, around, manner, budget, price, arguments["chat_template"], arguments["device"], report)


def taught(
    rows: Rows, teacher: Teacher, arguments: dict[str, Any], tally: Tally, report: Report
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows that may be learned from, as they are written; ends where the budget does."""
    stream, total, samples = iter(rows), len(rows.asked), teacher.manner.samples
    while some := list(islice(stream, TOGETHER)):
        before = tally.asked + tally.unasked

        def heard(done: int, before: int = before) -> None:
            report(events.Pulse(f"{arguments['model']} answers", before * samples + done, total * samples))

        try:
            replies = teacher.replies(some, heard)
        except GivenUp as error:
            raise GivenUp(f"{error} What was answered is kept, and the same command goes on from there.") from None
        for row, own in zip(some, replies, strict=True):
            if own is None:
                tally.asked += 1
                tally.lose(row, "longer than the model takes")
            elif any(reply is None for reply in own):
                tally.unasked += 1
            else:
                tally.asked += 1
                for text in _kept(row, own, teacher, rows.answered, arguments["keep"], tally):
                    tally.rows += 1
                    yield written(row, text)
        if tally.unasked:
            tally.unasked = total - tally.asked
            return


def _kept(
    row: Row, replies: Iterable[Reply | None], teacher: Teacher, answered: bool, keep: str, tally: Tally
) -> list[str]:  # fmt: skip
    """What may be learned of the replies to one row."""
    texts: list[str] = []
    for reply in replies:
        assert reply is not None
        tally.hear(reply)
        if reply.refused and not tally.refused:
            tally.refused = f"{row.source}: {reply.refused}"
        text, why = teacher.answer(reply)
        if why:
            tally.lose(row, why)
            continue
        if answered:
            right = teacher.is_right(text, row)
            tally.known, tally.right = tally.known + 1, tally.right + right
            if keep == "right" and not right:
                tally.lose(row, "not what the row says")
                continue
        texts.append(text)
    if keep != "agreeing":
        return distinct(texts)
    one = agreed(texts, teacher.manner.samples)
    if one is None and texts:
        tally.lose(row, "fewer than half of the samples agree")
    return [] if one is None else [one]


def written(row: Row, text: str) -> dict[str, Any]:
    """A row of a file of chats: the row's own conversation, of which the answer alone is learned."""
    turns = without_weight(row_prompt(row))
    tools = row.tools if row.content.kind == "chat" else ()
    return Chat((*turns, Message("assistant", text)), tools).to_plain()


def ledger_of(
    arguments: dict[str, Any], around: Around, teacher: Teacher, rows: Rows, tally: Tally, budget: Budget, sha256: str
) -> dict[str, Any]:  # fmt: skip
    """What is told beside the rows: by what they were made, and what became of all that were asked about."""
    manner = teacher.manner
    agree = {"right": tally.right, "of": tally.known} if rows.labels or arguments["keep"] == "right" else None
    return {
        "made": now(), "model": arguments["model"], "how": teacher.how,
        "prompt": {"name": arguments["prompt"], **around.to_card()},
        "data": {"file": arguments["data"], "id": rows.id, "limit": arguments["limit"]},
        "options": {
            "max_new_tokens": manner.longest, "temperature": manner.temperature, "seed": manner.seed,
            "samples": manner.samples, "keep": arguments["keep"],
        },
        "rows": {
            "asked": tally.asked, "written": tally.rows, "not_asked": tally.unasked,
            "left_out": {why: {"count": n, "first": tally.places[why]} for why, n in tally.left_out.most_common()},
        },
        "agree": agree, "asked_now": tally.new, "prompt_tokens": tally.tokens[0], "answer_tokens": tally.tokens[1],
        "spent": budget.to_json(), "sha256": sha256, "told": tally.told(),
    }  # fmt: skip


def notes_of(tally: Tally, budget: Budget) -> Iterator[str]:
    """What is to be known of the rows."""
    if tally.unasked:
        yield (
            f"the budget ended it after {counted(budget.requests, 'request')} of this call and {budget.dollars:.4f} "
            f"dollars: {counted(tally.unasked, 'row')} were not asked about. What was answered is kept, and the same "
            "command with a larger budget goes on."
        )
    if tally.refused:
        yield f"questions that the server refuses are left out, the first of them {tally.refused}"
    if advice := _advice(tally):
        yield advice.strip()


def _advice(tally: Tally) -> str:
    """What to do where many answers were lost to their length."""
    cut = sum(count for why, count in tally.left_out.items() if why.startswith("cut off"))
    if 10 * cut < tally.asked or not cut:
        return ""
    return " Many answers were cut off: allow longer ones with --max-new-tokens."
