"""Answers as JSON: what fits a schema, which fields are equal, local models kept to it, servers asked for it."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest

from conftest import chat_row
from test_prompts import LABELS, knows, mails, options, said  # noqa: F401  fixtures
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.events import silent
from tunesmith.data.prompting.schema import (
    as_answer,
    equal_fields,
    is_json,
    label_schema,
    read_schema,
    refuse_unknown,
    valid,
)
from tunesmith.evaluate.prompts.versions import Versions
from tunesmith.jobs.prompt_versions import score_prompt
from tunesmith.jobs.prompts import try_prompts

BOOKING = {
    "type": "object",
    "properties": {"room": {"type": "integer", "minimum": 1, "maximum": 4}, "dog": {"type": "boolean"}},
    "required": ["room", "dog"], "additionalProperties": False,
}  # fmt: skip
SCHEMAS = [
    True, False, {}, {"type": "integer"}, {"type": ["string", "null"]}, {"enum": [1, "a", None, [1]]},
    {"const": {"a": 1}},
    {"minLength": 2, "maxLength": 3, "pattern": "^a"}, {"minimum": 1, "exclusiveMaximum": 3}, {"multipleOf": 0.5},
    {"exclusiveMinimum": 1, "maximum": 2}, {"items": {"type": "number"}, "minItems": 1, "maxItems": 2},
    {"prefixItems": [{"type": "string"}], "items": False}, {"uniqueItems": True}, BOOKING,
    {"properties": {"a": {"type": "string"}}, "patternProperties": {"^x": {"type": "number"}},
     "additionalProperties": {"type": "null"}},
    {"multipleOf": 0.1}, {"multipleOf": 3}, {"$ref": "#/$defs/a%20b/anyOf/0", "$defs": {"a b": {"anyOf": [True]}}},
    {"minProperties": 1, "maxProperties": 1}, {"anyOf": [{"type": "string"}, {"minimum": 2}]},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}]}, {"allOf": [{"type": "number"}, {"not": {"const": 1}}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}}}},
    label_schema(["a b", "c"]),
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, 1.0, 1.5, 2, 3, -1, 0.3, 1e-10, 10**20,
    10**20 + 2, "", "a", "ab", "abcd", "b", [], [1], [1, 1.0], [True, 1], ["a", 1],
    ["a"],
    [1, 2, 3], {}, {"a": 1}, {"a": "b"}, {"a": {"a": {}}}, {"a": {"a": 1}}, {"x1": 2}, {"x1": "2"}, {"y": None},
    {"y": 1},
    {"room": 2, "dog": True}, {"dog": False, "room": 3}, {"room": 9, "dog": True}, {"room": 2},
    {"room": 2.0, "dog": True},
    {"label": "a b"}, {"label": "ab"}, {"label": "c", "more": 1},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_what_fits_is_what_another_library_says(schema):
    refuse_unknown(schema, "t")
    oracle = jsonschema_rs.Draft202012Validator(schema)
    for value in VALUES:
        assert valid(json.dumps(value), schema) == oracle.is_valid(value), value


def test_what_is_no_json_fits_nothing():
    for text in ("", "{", "NaN", '{"a": Infinity}', "1e400", "Sure: {}", "```json\n{}\n```"):
        assert not valid(text, {})
    assert valid(" {}\n", {})
    assert not valid("[" * 100_000, {})


def test_fields_are_compared_whatever_their_order():
    reference = '{"room": 2, "guests": [{"name": "Ann"}, {"name": "Bo"}], "dog": false}'
    assert equal_fields('{"dog": false, "guests": [{"name": "Ann"}, {"name": "Bo"}], "room": 2.0}', reference) == (4, 4)
    assert equal_fields('{"dog": 0, "guests": [{"name": "Bo"}, {"name": "Bo"}], "floor": 1}', reference) == (1, 5)
    assert equal_fields("two", reference) == (0, 4)
    assert equal_fields("{}", "{}") == (1, 1)
    assert [is_json(text) for text in ("{}", "[1]", "1", "a")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"--schema \S+: not JSON \(.*\)\."),
        ("[1]", r"--schema \S+: must hold a JSON schema, which is an object, such as {\.\.\.}\."),
        ('{"propertees": {}}', r"--schema \S+: answers are not checked by 'propertees': did you mean 'properties'\?"),
        ('{"type": "text"}', r"--schema \S+: type 'text': known: .*"),
        ('{"items": 3}', r"--schema \S+: 3 stands where a schema must\. Write an object\."),
        ('{"required": "a"}', r"--schema \S+: 'required' is \"a\", and must be a list of names\."),
        ('{"required": [{}]}', r"--schema \S+: 'required' is \[\{\}\], and must be a list of names\."),
        ('{"type": {}}', r"--schema \S+: 'type' is \{\}, and must be a name or a list of names\."),
        ('{"multipleOf": 0}', r"--schema \S+: 'multipleOf' is 0, and must be a number above 0\."),
        ('{"exclusiveMinimum": true}', r"--schema \S+: 'exclusiveMinimum' is true, and must be a number\."),
        ('{"uniqueItems": 0}', r"--schema \S+: 'uniqueItems' is 0, and must be true or false\."),
        ('{"minItems": 1.5}', r"--schema \S+: 'minItems' is 1\.5, and must be a whole number, 0 or more\."),
        ('{"$ref": "#name"}', r"--schema \S+: \$ref '#name' leads nowhere\. Name a part of it, such as .*"),
        ('{"$ref": "#/title", "title": "x"}', r'--schema \S+: "x" stands where a schema must\. Write an object\.'),
        ('{"$ref": "#/default", "default": {"typ": 1}}', r"--schema \S+: answers are not checked by 'typ': did .*"),
        ('{"pattern": "("}', r"--schema \S+: pattern '\(' cannot be read \(.*\)\."),
        ('{"$ref": "#/$defs/x"}', r"--schema \S+: \$ref '#/\$defs/x' leads nowhere\. Name a part of it, such as .*"),
    ],
)
def test_schemas_with_mistakes(tmp_path, text, sentence):
    (tmp_path / "schema.json").write_text(text)
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        read_schema(str(tmp_path / "schema.json"))
    with pytest.raises(MissingError, match=r"^--schema nowhere: no such file\.$"):
        read_schema("nowhere")


# Models.


def bookings(count):
    answers = [json.dumps({"room": number % 4 + 1, "dog": number % 3 == 0}) for number in range(count)]
    return [chat_row(f"Room {number % 4 + 1} for guest {number}, please.", one) for number, one in enumerate(answers)]


@pytest.fixture
def schema(tmp_path):
    (tmp_path / "booking.json").write_text(json.dumps(BOOKING))
    return str(tmp_path / "booking.json")


def scores_of(line):
    return {one["metric"]: one["score"]["value"] for one in line["scores"]}


def test_a_local_model_is_kept_to_a_schema(write_rows, tiny, schema):
    file = write_rows(bookings(60), "bookings.jsonl")
    free = try_prompts(options(file, models=[str(tiny)], max_new_tokens=24, rows=5), silent)["report"]
    asked = options(file, models=[str(tiny)], schema=schema, max_new_tokens=24, rows=5)
    found = try_prompts(asked, silent)["report"]
    [line], [loose] = found["validation"]["entries"], free["validation"]["entries"]
    assert line["prompt"] == "zero-shot, JSON"
    assert "the engine lets through nothing that does not fit" in line["how"]
    assert scores_of(line)["valid answers"] == 100
    assert found["metric"] == "equal fields"
    assert 0 <= scores_of(line)["equal fields"] <= 100
    assert all(json.loads(one).keys() == {"room", "dog"} for one in line["answers"])
    assert "valid answers" not in scores_of(loose)
    assert try_prompts(asked, silent)["report"]["validation"]["entries"][0]["asked_now"] == 0
    with pytest.raises(ConfigError, match="--answer is for rows with classes"):
        try_prompts({**asked, "answer": ["json"]}, silent)


def test_a_server_is_asked_for_a_schema_and_checked(write_rows, serve, schema):
    file = write_rows(bookings(60), "bookings.jsonl")
    answers = iter(['{"room": 1, "dog": true}', "Gladly!", '{"room": 7, "dog": false}'])
    server = serve(lambda request: said(next(answers, '{"dog": false, "room": 1}')))
    asked = options(file, models=[f"{server.url}#small"], schema=schema, rows=6, validate_only=True,
                    metric="valid answers")  # fmt: skip
    [line] = try_prompts(asked, silent)["report"]["validation"]["entries"]
    body = server.requests[0]["body"]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == BOOKING
    assert body["max_tokens"] == 256
    assert scores_of(line)["valid answers"] == pytest.approx(100 * (line["rows"] - 2) / line["rows"])


def test_a_server_without_schemas_is_left_out_with_its_words(write_rows, serve, schema, tiny):
    file = write_rows(bookings(60), "bookings.jsonl")
    server = serve(lambda request: (400, {"error": {"message": "response_format is not supported"}}))
    asked = options(file, models=[f"{server.url}#small", str(tiny)], schema=schema, rows=4, max_new_tokens=24)
    found = try_prompts(asked, silent)["report"]
    first, second = found["validation"]["entries"]
    assert first["left_out"] == (
        f"{server.url} does not take the JSON schema (400: response_format is not supported), which is sent as "
        "response_format. Ask this model without one, or give a simpler one."
    )
    assert scores_of(second)["valid answers"] == 100
    with pytest.raises(ConfigError, match=r"^nothing could be asked\. .* does not take the JSON schema \(400: "):
        try_prompts({**asked, "models": [f"{server.url}#small"]}, silent)


def test_classes_are_answered_as_json_beside_labels(mails, tiny, serve):  # noqa: F811
    wraps = {"n": 0}

    def answers(request):
        label = {"Wifi.": "wifi", "POOL": "pool"}.get(knows(request)[1]["choices"][0]["message"]["content"], "dog")
        wraps["n"] += "response_format" in request["body"]
        return said(as_answer(label) if "response_format" in request["body"] else label)

    server = serve(answers)
    models = [str(tiny), f"{server.url}#small"]
    asked = options(mails, models=models, shots=[2], examples=["balanced"], answer=["label", "json"])
    found = try_prompts(asked, silent)["report"]
    lines = {(line["model"], line["prompt"]): line for line in found["validation"]["entries"]}
    assert len(lines) == 2 * 4
    local, remote = (lines[model, "2 balanced, instruction, JSON"] for model in models)
    assert scores_of(local)["valid answers"] == 100
    assert set(local["answers"]) <= set(LABELS)
    assert scores_of(remote) | {"accuracy": 100, "valid answers": 100, "unmatched answers": 0} == scores_of(remote)
    turns = [turn["content"] for turn in remote["example"]]
    assert turns[0].startswith(
        "Say which label fits the text. The labels are: dog, pool, wifi. Answer with JSON alone, such as "
        '{"label": "dog"}.'
    )
    assert json.loads(turns[1]).keys() == {"label"}
    assert wraps["n"] > 0
    scored = lines[models[0], "2 balanced, instruction"]
    assert "valid answers" not in scores_of(scored)
    assert "labels scored" in scored["how"]
    with pytest.raises(ConfigError, match=r"--schema: these rows have classes\. --answer json asks for one of them"):
        try_prompts({**asked, "schema": "x.json"}, silent)
    with pytest.raises(ConfigError, match="--answer jason: did you mean 'json'"):
        try_prompts({**asked, "answer": ["jason"]}, silent)


def test_a_version_that_answers_in_json_is_asked_as_it_was(mails, serve, tmp_path):  # noqa: F811
    server = serve(lambda request: said(as_answer("dog")))
    asked = options(mails, models=[f"{server.url}#small"], shots=[1], answer=["json"], validate_only=True,
                    into=str(tmp_path / "v"))  # fmt: skip
    try_prompts(asked, silent)
    [kept] = Versions(tmp_path / "v").all
    assert kept.schema == label_schema(LABELS)
    assert json.loads(kept.prompt.chosen[0][1]).keys() == {"label"}
    before = len(server.requests)
    prompt = {**kept.prompt.to_plain(), "instruction": "Which of {labels}, as JSON?"}
    more = {**asked, "parent": "1", "prompt": prompt, "schema": kept.schema, "note": ""}
    parent, child = score_prompt(more, silent)["report"]["validation"]["entries"]
    assert parent["asked_now"] == 0
    first = server.requests[before]["body"]
    assert first["messages"][1]["content"] == kept.prompt.chosen[0][1]
    assert first["response_format"]
    assert scores_of(child)["valid answers"] == 100
