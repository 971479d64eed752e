"""What a prompt lacks: each rule finds what it is for, says it in a sentence, and changes the prompt."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from conftest import many_rows
from test_prompts import LABELS, knows, mails, options, said  # noqa: F401  fixtures
from tunesmith.cli.main import app
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.labelled import Labelled
from tunesmith.data.kinds.row import Row
from tunesmith.data.quality.ledger import Source
from tunesmith.evaluate.prompts import lint_words as words
from tunesmith.evaluate.prompts.edited import text_of
from tunesmith.evaluate.prompts.lint import Looked, Tokens
from tunesmith.evaluate.prompts.lint_rules import RULES, look
from tunesmith.evaluate.prompts.rows import PromptRows
from tunesmith.evaluate.prompts.versions import Prompt
from tunesmith.jobs.prompt_lint import lint_prompt
from tunesmith.prompt.messages import Message

GOOD = "You sort mails of guests. The labels are: {labels}. Answer with the label alone."
GERMAN = "Das Frühstück ist von sieben bis zehn, und der Pool ist nicht weit. Sie finden die Karte auf dem Zimmer."


def mail(text, label, line=1, second=None, **labels):
    return Row(Labelled(text, label, second), Source("mails.csv", line), labels)


def chat(question, answer, line=1):
    return Row(Chat((Message("user", question), Message("assistant", answer))), Source("chats.jsonl", line))


MAILS = [mail("Where may my dog sleep tonight?", "dog", 1), mail("When does the pool open in summer?", "pool", 2),
         mail("What is the password of the wifi?", "wifi", 3)]  # fmt: skip
HELD_OUT = [mail("May a cat of mine stay as well as a dog?", "dog", 17)]


def looked(prompt, training=MAILS, validation=HELD_OUT, labels=LABELS, kind="labelled", schema=None, pairs=False,
           shown=(), tokens=None):  # fmt: skip
    rows = PromptRows(kind, list(labels), list(training), list(validation), [], (1, 0), pairs, "c")
    return Looked(prompt, schema, rows, [list(shown) for _ in validation], tokens)


def chats(prompt, answer="It is.", **more):
    training = [chat(f"When {number}?", answer, number) for number in range(5)]
    return looked(prompt, training, [chat("Where is it?", answer, 9)], [], "chat", **more)


def made(lengths, *ids):
    """What a tokenizer makes of the labels."""
    return Tokens("ember", 512, lengths, dict(zip(LABELS, ids or ([1], [2], [3]), strict=True)))


def findings(one):
    return {found.name: found for found in look(one)}


TABLE = [
    ("no instruction", looked(Prompt(None, "")),
     "the prompt has no words of its own: there is no instruction.",
     "Say which label fits the text. The labels are: {labels}. Answer with the label alone."),
    ("no format", looked(Prompt(None, "You sort mails about {labels}.")),
     "the instruction does not say what an answer looks like.",
     "You sort mails about {labels}. Answer with the label alone."),
    ("no format", chats(Prompt(None, "You help guests."), "It is. Really."),
     "the instruction does not say what an answer looks like.",
     "You help guests. Answer in 2 sentences."),
    ("JSON not asked for", looked(Prompt(None, GOOD), schema={"type": "object"}),
     "answers must be JSON that fits a schema, and the instruction does not say so.",
     f"{GOOD} Answer with JSON alone."),
    ("no context", looked(Prompt("Which of {labels}?\n{text}\nLabel:", "")),
     "the template does not say who asks, who answers, or what the texts are.",
     "You are an expert in telling such texts apart.\n\nWhich of {labels}?\n{text}\nLabel:"),
    ("contradiction", looked(Prompt(None, "You sort mails. Answer with one of {labels}, one word. Explain it, too.")),
     "the instruction asks for the label or one word alone ('one word'), and for an explanation ('Explain').",
     "You sort mails. Answer with one of {labels}, one word."),
    ("contradiction", chats(Prompt(None, "You help guests in two sentences. Write three sentences.")),
     "the instruction asks for 'two sentences', and for 'three sentences'.",
     "You help guests in two sentences."),
    ("contradiction", looked(Prompt(None, "You sort mails into {labels}. Answer as JSON. Write plain text.")),
     "the instruction asks for JSON ('JSON'), and for plain words ('plain text').",
     "You sort mails into {labels}. Answer as JSON."),
    ("unused field", looked(Prompt("{instruction}\n{text}\nLabel:", GOOD), pairs=True),
     "rows are pairs of texts, and the template has no {text_pair}: the second text is not shown.",
     f"{GOOD}\n{{text}}\n{{text_pair}}\nLabel:"),
    ("unused field", looked(Prompt("{text}\nLabel:", GOOD)),
     "there is an instruction, and the template has no {instruction}: it is not shown.",
     f"{GOOD}\n\n{{text}}\nLabel:"),
    ("unused field", looked(Prompt(None, GOOD), validation=[mail("It leaks.", "dog", 4, subject="Water in our room")]),
     "rows also have 'subject', and the prompt shows nothing of it.", None),
    ("labels not named", looked(Prompt(None, "You sort mails. Answer with the label alone.")),
     "none of the 3 labels is named, neither in words nor by an example.",
     "You sort mails. Answer with the label alone. The labels are: {labels}."),
    ("labels not named", looked(Prompt(None, "You sort mails: dog or pool. Answer with the label alone.")),
     "1 of 3 labels is not named, such as 'wifi'.",
     "You sort mails: dog or pool. Answer with the label alone. The labels are: {labels}."),
    ("unknown labels", looked(Prompt(None, "You sort mails. Labels: dog, pool, wifi and 'parking'. One word.")),
     "the instruction lists 'parking', which is the label of no row.",
     "You sort mails. Labels: {labels}. One word."),
    ("one class", looked(Prompt(None, GOOD, 2, "random"), shown=[MAILS[0], mail("My dog again", "dog")]),
     "all 2 examples are of the class 'dog'.", GOOD),
    ("held-out rows", looked(Prompt(None, GOOD, 2, "random", 0, [["a", "pool"], [HELD_OUT[0].content.text, "dog"]]),
                             shown=[MAILS[1], HELD_OUT[0]]),
     "example 2 asks what a validation row (mails.csv:17) asks: its answer is given away.", GOOD),
    ("held-out rows", looked(Prompt(None, f"{GOOD} May a cat of mine stay as well as a dog? That is dog.")),
     "the instruction repeats the question of a validation row (mails.csv:17).", None),
    ("other language", chats(Prompt(None, "You are the desk, and you answer what guests ask in one sentence."), GERMAN),
     "the instruction is in English, the rows answer in German, and no language is asked for.",
     "You are the desk, and you answer what guests ask in one sentence. Answer in German."),
    ("other language", chats(Prompt(None, "You help guests. Answer in one sentence in English."), GERMAN),
     "the instruction asks for English, and the rows answer in German.",
     "You help guests. Answer in one sentence in German."),
    ("near the limit", looked(Prompt(None, GOOD, 4, "nearest"), tokens=made([300, 470])),
     "the longest row has 470 tokens with its answer, and ember takes 512: a longer one will not fit.", GOOD),
    ("near the limit", looked(Prompt(None, GOOD), tokens=made([600, 470])),
     "1 of 2 rows is longer than the 512 tokens that ember takes.", None),
    ("trailing space", looked(Prompt("{instruction}\n{text}\nLabel: ", GOOD)),
     "the template ends with a space, which tokenizers join with the word that comes next: answers begin unusually.",
     f"{GOOD}\n{{text}}\nLabel:"),
    ("labels begin alike", looked(Prompt(None, GOOD), labels=["late arrival", "late_checkout", "wifi"]),
     "2 labels begin with the same word as another, such as 'late arrival' and 'late_checkout'.", None),
    ("labels begin alike", looked(Prompt(None, GOOD), tokens=made([9], [1, 2], [1], [3])),
     "2 labels begin with the same token as another, such as 'dog' and 'pool'.", None),
    ("long labels", looked(Prompt(None, GOOD), tokens=made([9], [1], [2], [3] * 9)),
     "1 label has many tokens for ember: 'wifi' has 9.", None),
    ("politeness",
     looked(Prompt(None, "You sort mails. Could you please tell me the label alone: {labels}? Thank you!")),
     "the instruction asks as people do ('Could you'), which invites prose.",
     "You sort mails. The label alone: {labels}?"),
]  # fmt: skip


IDS = [f"{number}-{row[0]}" for number, row in enumerate(TABLE)]


@pytest.mark.parametrize(("name", "one", "sentence", "fixed"), TABLE, ids=IDS)
def test_each_rule_says_what_it_found_and_changes_the_prompt(name, one, sentence, fixed):
    found = findings(one)
    assert name in found
    assert found[name].found == sentence
    assert (None if found[name].fixed is None else text_of(found[name].fixed)) == fixed
    if fixed is not None and name != "no context":
        changed = looked(found[name].fixed, one.rows.training, one.rows.validation, one.rows.labels, one.rows.kind,
                         pairs=one.rows.pairs)  # fmt: skip
        assert name not in findings(changed)  # the advice is done


def test_every_rule_is_tried_and_says_what_to_do():
    assert {row[0] for row in TABLE} == {rule.name for rule in RULES}
    assert all(rule.advice.endswith(".") for rule in RULES)


def test_a_good_prompt_is_left_alone():
    assert findings(looked(Prompt(None, GOOD))) == {}
    assert findings(looked(Prompt("{instruction}\n\n{examples}\n\nText: {text}\nLabel:", GOOD, 2, "nearest"))) == {}
    short = chats(Prompt(None, "You are the front desk of a hotel. Answer in one sentence."))
    assert findings(short) == {}
    assert words.clash_in("Answer in one word and do not explain it.") is None
    assert words.clash_in("Answer with one sentence of ten words.") is None
    assert findings(looked(Prompt("", ""))).keys() == {"no instruction", "labels not named"}


def test_words():
    assert words.language_of([GERMAN]) == "German"
    assert words.language_of(["wifi"]) is None
    assert words.language_of(["Le petit déjeuner est dans la salle, et les chiens ne sont pas admis."]) == "French"
    assert words.listed_labels("The classes are: a, b or 'c d'.") == [("a, b or 'c d'", ["a", "b", "c d"])]
    assert words.listed_labels("The labels are: {labels}.") == []
    assert words.without_sentence("Only this, explain.", "explain") is None
    assert words.without_politeness("Please, sort it. Thanks!") == "Sort it."
    assert words.names_label("Is it a dog?", "dog")
    assert not words.names_label("dogma", "dog")


# With a model.


def asked(file, **changes):
    base = options(file, rows=12, into=None, version=None, gain=False, against="first")
    return {**base, **changes}


def test_advice_is_measured_on_validation_rows(mails, serve):  # noqa: F811
    def polite(request):  # a server that answers in prose where it is asked politely
        wanted = knows(request)[1]["choices"][0]["message"]["content"]
        head = request["body"]["messages"][0]["content"]
        return said(f"Of course: {wanted}" if "Please" in head else "dog" if "dogs" in wanted else wanted)

    server = serve(polite)
    instruction = "You sort mails. Please answer with one of the labels alone: {labels}."
    base = asked(mails, models=[f"{server.url}#small"], instruction=instruction)
    report = lint_prompt({**base, "gain": True}, silent)["report"]
    [finding] = report["findings"]
    assert finding["name"] == "politeness"
    assert finding["text"] == "You sort mails. Answer with one of the labels alone: {labels}."
    assert report["base"]["score"]["value"] == 0
    gain = finding["gain"]
    assert gain["difference"]["value"] == gain["score"]["value"] == 100
    assert gain["difference"]["low"] > 0
    assert gain["verdict"] in ("better", "too few rows")
    assert len(server.requests) == 2 * report["validation_rows"]
    alone = lint_prompt(base, silent)["report"]
    assert [one["gain"] for one in alone["findings"]] == [None]
    assert len(server.requests) == 2 * report["validation_rows"]


def test_tokens_of_a_local_model_are_counted(mails, tiny):  # noqa: F811
    report = lint_prompt(asked(mails, models=[str(tiny)], shots=[40], instruction=None), silent)["report"]
    found = {one["name"]: one["found"] for one in report["findings"]}
    assert "and" in found["near the limit"] or "longer than the 512 tokens" in found["near the limit"]
    gains = lint_prompt(asked(mails, models=[str(tiny)], shots=[60], gain=True), silent)["report"]
    assert "and the model takes 512" in gains["base"]["left_out"]


def test_the_command_lints_what_is_given_or_the_best(mails, serve, monkeypatch, in_process):  # noqa: F811
    monkeypatch.chdir(mails.parent)
    server = serve(knows)

    def run(*more):
        return CliRunner().invoke(app, ["prompts", "mails.jsonl", *more], catch_exceptions=False).stdout

    model = ["--models", f"{server.url}#small"]
    out = run("--lint", *model)
    assert f"the prompt for mails.jsonl, asked of {server.url}#small: 1 finding" in out
    assert "no context: the instruction does not say who asks, who answers, or what the texts are. Say it in" in out
    run(*model, "--shots", "0", "--rows", "9", "--validate-only")
    out = run("--lint", "--gain", "--json", "lint.json")
    assert "0001 for mails.jsonl" in out
    assert "no instruction: the prompt has no words of its own: there is no instruction." in out
    assert "done here: accuracy" in out
    assert read_json(mails.parent / "lint.json")["findings"][0]["fixed"]["instruction"].startswith("Say which label")
    (mails.parent / "good.txt").write_text("You sort mails: {labels}.\n{text}\nLabel:")
    assert "nothing to say against it" in run("--lint", "--template", "good.txt")
    wrong = CliRunner().invoke(app, ["prompts", "mails.jsonl", "--lint", "--from", "1", "--shots", "1"])
    assert str(wrong.exception) == "--from and --shots: a version says that itself. Give one of the two."


def test_chats_are_linted(write_rows, serve):
    file = write_rows(many_rows(40), "chats.jsonl")
    report = lint_prompt(asked(file, models=[f"{serve(knows).url}#small"], instruction="Be kind."), silent)["report"]
    assert [one["name"] for one in report["findings"]] == ["no format", "no context"]
