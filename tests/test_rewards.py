"""Rewards as score functions: each kind where it is right, where it is wrong and where there is no score."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import nltk
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from preferences import asked
from rewarding import configs, rewards, sample, totals, value
from test_reward import begin, pair_rows
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.data.load import load_rows
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.finetune import finetune
from tunesmith.model.export import find_model
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message
from tunesmith.score.rewards.compare import last_number
from tunesmith.score.rewards.sample import READS, asked_of
from tunesmith.score.rewards.similar import common_subsequence

# Each kind -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "answer", "want"),
    [
        ({"pattern": "(?i)thank you"}, "Oh, Thank You!", 1.0),
        ({"pattern": "thank you"}, "Thanks", 0.0),
        ({"pattern": "[a-z]+", "match": "full"}, "abc", 1.0),
        ({"pattern": "[a-z]+", "match": "full"}, "abc.", 0.0),
        ({"pattern": "^9$", "input": "{{sample.output_json.a[1]}}"}, '{"a": [8, 9]}', 1.0),
        ({"pattern": "^9$", "input": "{{sample.output_json.a[1]}}"}, '{"a": [8]}', 0.0),
        ({"pattern": "", "input": "{{sample.output_json.a}}"}, "no JSON", None),
        ({"pattern": "x", "input": "{{item.missing}}"}, "x",
         "regex: objective.rewards.regex.input: the row has no field"),
    ],
)  # fmt: skip
def test_regex(given, answer, want):
    if want is None:
        with pytest.raises(ConfigError, match=r"rewards.0.pattern = '': must be"):
            value({"type": "regex", **given}, answer)
    elif isinstance(want, str):
        assert value({"type": "regex", **given}, answer).startswith(want)
    else:
        assert value({"type": "regex", **given}, answer) == want


@pytest.mark.parametrize(
    ("given", "answer", "want"),
    [
        ({}, " Paris\n", 1.0),
        ({"strip": False}, " Paris\n", 0.0),
        ({}, "paris", 0.0),
        ({"ignore_case": True}, "PARIS", 1.0),
        ({"operation": "not_equal"}, "Paris", 0.0),
        ({"operation": "not_equal"}, "Rome", 1.0),
        ({"operation": "contains"}, "It is Paris.", 1.0),
        ({"operation": "contains"}, "It is paris.", 0.0),
        ({"operation": "contains", "ignore_case": True}, "It is paRis.", 1.0),
        ({"reference": "{{item.n}}"}, "3", 1.0),
        ({"reference": "fixed"}, "fixed", 1.0),
        ({"reference": "{{item.empty}}"}, "", "string: objective.rewards.string.reference: {{item.empty}} is empty"),
        ({"reference": "{{item.refrence}}"}, "", "string: objective.rewards.string.reference: the row has no field "
         "'refrence'"),
    ],
)  # fmt: skip
def test_string(given, answer, want):
    assert value({"type": "string", **given}, answer, reference="Paris", n=3, empty=" ") == want


@pytest.mark.parametrize(
    ("answer", "reference", "want"),
    [
        ("So it is 1,234.50 euros.", "1234.5", 1.0),
        ("First 3, then 4.", "#### 3", 0.0),
        ("I do not know.", "3", 0.0),
        ("3", "three", "number: objective.rewards.number.reference: 'three' holds no number"),
        ("-2", "2", 0.0),
        ("\u22122", "-2", 1.0),
        ("7", 7, 1.0),
        ("0.33333", 0.3333333, 0.0),
    ],
)
def test_number(answer, reference, want):
    assert value({"type": "number"}, answer, reference=reference) == want


def test_numbers_may_be_apart():
    assert value({"type": "number", "tolerance": 0.01}, "0.33", reference=1 / 3) == 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [("5-3", 3), ("x = -3", -3), (".5", 0.5), ("1e-3", 0.001), ("v1.2.3", None), ("12km", 12), ("1,2", 2), ("", None),
     ("100,000,000", 1e8), ("It is 42.", 42), ("(-7)", -7), ("$5.25", 5.25), ("1,2345", 2345)],
)  # fmt: skip
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_json(tmp_path):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    plain, inline = {"type": "json"}, {"type": "json", "json_schema": schema}
    from_file = {"type": "json", "json_schema": str(tmp_path / "schema.json")}
    assert [value(plain, text) for text in ('{"a": 1}', "[]", "3", "{", "")] == [1, 1, 0, 0, 0]
    for one in (inline, from_file):
        assert [value(one, text) for text in ('{"n": 1}', '{"n": "1"}', "no")] == [1, 0, 0]
    with pytest.raises(MissingError, match=r"json_schema = .*none.json': no such file"):
        rewards({"type": "json", "json_schema": str(tmp_path / "none.json")})
    with pytest.raises(ConfigError, match="answers are not checked by 'typ': did you mean 'type'"):
        rewards({"type": "json", "json_schema": {"typ": "object"}})


def test_length(tiny):
    def of(length, **given):
        return value({"type": "length", **given}, " ".join(["w"] * length))

    assert [of(n, least=4, most=8) for n in (0, 2, 4, 8, 12, 16, 99)] == [0, 0.5, 1, 1, 0.5, 0, 0]
    assert [of(n, most=8, fall=2) for n in (0, 8, 9, 10, 11)] == [1, 1, 0.5, 0, 0]
    assert [of(n, unit="characters", most=3) for n in (1, 2, 3)] == [1, 1, pytest.approx(1 / 3)]
    count = len(load_contract(tiny).tokenizer("w w w").input_ids)
    assert of(3, unit="tokens", tokenizer=str(tiny), least=count, most=count, fall=1) == 1
    assert of(4, unit="tokens", tokenizer=str(tiny), least=count, most=count, fall=1) == 0
    for given, said in (
        ({}, "give least, most or both"),
        ({"least": 3, "most": 2}, "give most at least the value of least, 3"),
        ({"most": 3, "unit": "tokens"}, "give tokenizer"),
    ):
        with pytest.raises(ConfigError, match=said):
            rewards({"type": "length", **given})


TEXTS = [
    ("the cat sat on the mat", "the cat is on the mat"), ("a", "a"), ("x y z", "a b c"),
    ("Breakfast is served from seven to ten.", "We serve breakfast from 7 to 10, every day."),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reference"), TEXTS)
def test_similarities_are_those_of_the_libraries(answer, reference):
    scorer = RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL"], use_stemmer=True)
    rouge = {key: found.fmeasure for key, found in scorer.score(reference, answer).items()}
    want = {
        "bleu": BLEU(effective_order=True).sentence_score(answer, [reference]).score / 100,
        "chrf": CHRF().sentence_score(answer, [reference]).score / 100,
        "rouge_1": rouge["rouge1"], "rouge_2": rouge["rouge2"], "rouge_3": rouge["rouge3"], "rouge_l": rouge["rougeL"],
        "gleu": nltk.translate.gleu_score.sentence_gleu([reference.split()], answer.split()),
    }  # fmt: skip
    for metric, score in want.items():
        found = value({"type": "similarity", "metric": metric}, answer, reference=reference)
        assert found == pytest.approx(score, abs=1e-9), metric
    distance = nltk.edit_distance(answer, reference, substitution_cost=2)
    fuzzy = value({"type": "similarity", "metric": "fuzzy"}, answer, reference=reference)
    assert fuzzy == pytest.approx(1 - distance / (len(answer) + len(reference)))


def test_other_similarities():
    def of(metric, answer, reference):
        return value({"type": "similarity", "metric": metric}, answer, reference=reference)

    assert of("token_f1", "The cat!", "the dog") == 0.5
    # Banerjee and Lavie: 2 of 3 words are matched, the second by its stem, in one chunk of two.
    mean, penalty = (2 / 3) * (2 / 3) / (0.9 * 2 / 3 + 0.1 * 2 / 3), 0.5 * (1 / 2) ** 3
    assert of("meteor", "the cats sit", "the cat stood") == pytest.approx(mean * (1 - penalty))
    assert of("meteor", "", "the cat") == of("bleu", "", "the cat") == of("rouge_l", "", "the cat") == 0
    assert "{{item.reference}} is empty" in of("rouge_l", "words", "")
    assert "the row has no field 'reference'" in value({"type": "similarity"}, "words")


def test_the_longest_common_subsequence():
    chance = random.Random(0)
    for _ in range(50):
        one, other = ("".join(chance.choices("abc", k=chance.randint(0, 30))) for _ in range(2))
        distance = nltk.edit_distance(one, other, substitution_cost=2)
        assert common_subsequence(one, other) == (len(one) + len(other) - distance) / 2


# A reward model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    folder = begin(tmp_path_factory.mktemp("rewards") / "run", tiny, pair_rows(48))
    finetune({"folder": str(folder)}, lambda event: None)
    return folder


def test_a_reward_model(trained):
    texts = ["On the lower level.", "Why do you ask?", ""]
    turns = [[{"role": "user", "content": asked(1)}, {"role": "assistant", "content": text}] for text in texts]
    want = [one.reward for one in load_predictor(find_model(str(trained)), "cpu").predict(turns[:2])]
    for name in (trained, trained / "model"):
        made = rewards({"type": "model", "model": str(name)}, device="cpu")
        found = totals(made, *[sample(text, asked(1)) for text in texts])
        assert found[:2] == pytest.approx(want)
        assert found[2] is not None  # nothing is an answer, too
    [long] = made.score([sample("word " * 10_000, asked(1))])
    assert "the reward model cannot read it" in long.reason
    assert "tokens, and the model takes" in long.reason


def test_a_model_that_is_no_reward_model(tiny, tmp_path):
    with pytest.raises(
        ConfigError, match=r"rewards.model.model = .*: a model for the task causal, and no reward model"
    ):
        rewards({"type": "model", "model": str(tiny)})
    with pytest.raises(MissingError):
        rewards({"type": "model", "model": str(tmp_path / "none")})


# Together ------------------------------------------------------------------------------------------------------------


def test_the_total_is_the_sum_of_weighed_parts_or_nothing():
    made = rewards(
        {"type": "number", "weight": 2},
        {"type": "length", "name": "short", "most": 2, "weight": -0.5},
    )
    right, failed, empty = made.score(
        [sample("it is 3", reference="3"), sample("3", reference="none"), sample("", reference=4)]
    )
    assert right.parts == {"number": 1.0, "short": 0.5}
    assert right.total == 2 * 1 - 0.5 * 0.5
    assert (failed.total, failed.parts) == (None, {"number": None, "short": 1.0})
    assert failed.reason == "number: objective.rewards.number.reference: 'none' holds no number"
    assert (empty.total, empty.reason) == (-0.5, "")
    assert made.score([]) == []


def test_what_is_known_beforehand_is_refused():
    for given, said in (
        ([], "name at least one score"),
        (["json", "json"], "2 scores are called 'json'. Give each a name."),
        ([{"type": "regex", "pattern": "("}], r"rewards.regex.pattern = '\(': cannot be read"),
        ([{"type": "string", "input": "{{sample.text}}"}], "an answer has no 'text'; known: finish_reason"),
        ([{"type": "string", "input": "{{items.a}}"}], r"\{\{items.a\}\} names nothing. There are \{\{item.FIELD"),
        ([{"type": "string", "input": "{{sample.output_text.x}}"}], "names nothing"),
    ):
        with pytest.raises(ConfigError, match=said):
            rewards(*given)
    items = [{"answer": 3, "of": {"list": [{"a": 1}]}}, {"other": "x"}]
    rewards({"type": "string", "reference": "{{item.of.list[0].a}}"}).refuse(items)
    for given, said in (
        ({"type": "string", "reference": "{{item.anser}}"}, "no row has the field 'anser'; did you mean 'answer'"),
        ({"type": "string", "reference": "{{item.of.list[1].a}}"}, r"no row has the field 'of.list\[1\].a'"),
        ({"type": "number", "reference": "{{item.other}}"}, "holds a number in no row"),
    ):
        with pytest.raises(ConfigError, match=said):
            rewards(given).refuse(items)
    rewards("number").refuse([{"reference": "3"}, {"reference": "none"}])


def test_faults_of_a_section_in_the_list_name_their_field():
    for given, said in (
        ({"type": "regex"}, r"recipe rewards.0.pattern: missing. The expression"),
        ({"type": "rege"}, r"rewards.0.type = 'rege': must be one of regex, string"),
        ({"type": "regex", "pattern": "a", "pattren": "b"}, "rewards.0.pattren: unknown key; did you mean 'pattern'"),
        ("jso", "rewards.0.type = 'jso': must be one of"),
        (3, "rewards.0 = 3: must be one of .*, or a section with a type"),
        ({"type": "combined", "formula": "a", "scores": {"a": {"type": "number", "toler": 1}}},
         "rewards.0.scores.a.toler: unknown key; did you mean"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            configs(given)


def test_what_rows_ask(write_rows):
    given = [
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"},
                      {"role": "assistant", "content": "Hi."}], "mood": "good"},
        {"prompt": "Where?", "chosen": "In Paris.", "rejected": "No."},
        {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "answer": 4},
    ]  # fmt: skip
    rows = [load_rows(str(write_rows([one], f"{i}.jsonl")), READS).rows[0] for i, one in enumerate(given)]
    chat, pair, task = map(asked_of, rows)
    assert [turn.role for turn in chat[0]] == ["system", "user"]
    assert (chat[2], pair[2], task[2]) == (
        {"reference": "Hi.", "mood": "good"},
        {"reference": "In Paris."},
        {"answer": 4},
    )
    assert pair[0] == (Message("user", "Where?"),)
    assert task[:2] == ((Message("user", "What is 2 + 2?"),), ())
    own = replace(rows[0], labels={"reference": "mine"})
    assert asked_of(own)[2]["reference"] == "mine"
