"""A generator of one's own is evaluated and chatted with, without a change anywhere else."""

from __future__ import annotations

from conftest import READS, many_rows
from tunesmith.core.events import silent
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.compare import compare
from tunesmith.evaluate.suite import evaluate_rows
from tunesmith.infer.chat import Chat
from tunesmith.infer.generator import Answered, Choice, Completion, Full, Generator, Scorer, Updatable, Usage
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract

# The toy: it knows one sentence, and has room for two prompts at a time.


class Parrot:
    def __init__(self) -> None:
        self.under_way: list[Late] = []

    def submit(self, prompt, options):
        self.under_way = [one for one in self.under_way if not one.over]
        if len(self.under_way) == 2:
            raise Full("two are enough.")
        self.under_way.append(Late(prompt[-1].content, options))
        return self.under_way[-1]


class Late:
    def __init__(self, question, options) -> None:
        words = ["On", "the", "lower", "level."][: options.max_new_tokens]
        self.over, self.question = False, question
        choice = Choice(" ".join(words), "stop" if len(words) == 4 else "length")
        self.answered = Answered(Completion([choice] * options.n, Usage(3, len(words)), 0.5))

    def result(self, timeout=None):
        self.over = True
        return self.answered.result()

    def __iter__(self):
        yield from self.answered

    def cancel(self):
        self.over = True


def test_the_suite_evaluates_it(write_rows):
    contract = load_contract(resolve("ember").folder)
    dataset = load_rows(str(write_rows(many_rows(12))))
    rows = list(prepare(dataset.rows, dataset.reading.ledgers, contract, 500, READS))
    parrot: Generator = Parrot()
    assert not isinstance(parrot, Scorer | Updatable)
    heard = []
    results = evaluate_rows(parrot, rows, 64, heard.append, "parrot")
    report = compare(results, evaluate_rows(Parrot(), rows, 2, silent, "brief"), ("parrot", "brief"), "id", rows)
    scores = {score.metric: score for score in report.scores}
    assert "perplexity" not in scores  # it does not score
    assert (scores["ends by itself"].score.value, scores["ends by itself"].other.value) == (100, 0)
    exact = sum(row.row.answer.strip() == "On the lower level." for row in rows)
    assert exact > 0
    assert scores["exact match"].score.value == 100 * exact / 12
    assert (results.speed.rows, results.speed.median) == (8, 0.5)
    assert [event.done for event in heard][-1] == 12
    assert not any(one.over is False for one in parrot.under_way)


def test_a_chat_is_held_with_it():
    chat = Chat(Parrot())
    assert chat.generate("Where is the pool?") == "On the lower level."
    assert list(chat.stream("Where is the pool?", max_new_tokens=3)) == ["On the lower"]
    completion = chat.complete("Where is the pool?", n=2)
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "stop"]
    assert completion.usage == Usage(3, 4)
