"""A model that judges answers, behind a real server."""

from __future__ import annotations

import pytest

from rewarding import rewards, sample, totals
from test_remote import completion, then
from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.infer.endpoint import Retry
from tunesmith.score.rewards import judge as judging


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(judging, "PATIENCE", Retry(tries=2, seconds=5, first=0.01))


def judge(server, **given):
    return rewards({"type": "judge", "model": f"{server.url}#small", **given})


def test_a_judge_is_asked_with_the_rubric_and_a_schema(serve):
    server = serve(lambda request: (200, completion('{"score": 0.75}')))
    made = judge(server, rubric="Q: {{prompt}}\nA: {{sample.output_text}}\nRight: {{item.reference}}")
    assert totals(made, sample("Rome {{item.secret}}", "Where?", reference="Paris", secret="x")) == [0.75]
    body = server.requests[0]["body"]
    [turn] = body["messages"]
    assert turn["content"].startswith("Q: Where?\nA: Rome {{item.secret}}\nRight: Paris\n\nSay how much")
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    assert (body["model"], body["temperature"]) == ("small", 0.0)


@pytest.mark.parametrize(
    ("said", "want"),
    [
        ("3", 3.0),
        (' {"score": 7}\n', 7.0),
        ('```json\n{"score": 2.5}\n```', 2.5),
        ("I would say 3", "the judge answers 'I would say 3', and not {\"score\": number}"),
        ('{"score": "3"}', "the judge answers"),
        ('{"score": true}', "the judge answers"),
        ('{"score": 3, "why": 1}', "the judge answers"),
        ('{"score": NaN}', "the judge answers"),
        ("11", "the judge says 11, outside 0 to 10"),
        ("1" + "0" * 400, "the judge says 10000000000000000000, outside 0 to 10"),
        ("", "the judge answers ''"),
    ],
)
def test_what_a_judge_says_is_read_strictly(serve, said, want):
    made = judge(serve(lambda request: (200, completion(said))), most=10)
    [found] = made.score([sample("a")])
    assert found.total == want if isinstance(want, float) else found.total is None and want in found.reason


def test_a_judge_without_schemas_is_asked_without_from_then_on(serve):
    def respond(request):
        if "response_format" in request["body"]:
            return 400, {"error": {"message": "response_format is not supported"}}
        return 200, completion("1")

    server = serve(respond)
    made = judge(server, concurrency=1)
    assert totals(made, sample("a")) == totals(made, sample("b")) == [1.0]
    assert ["response_format" in one["body"] for one in server.requests] == [True, False, False]


def test_answers_keep_their_order_and_one_that_fails_is_alone(serve):
    def respond(request):
        text = request["body"]["messages"][0]["content"]
        number = int(text.split("number ")[1].split("\n")[0])
        return 200, completion("nonsense" if number == 3 else str(number / 10))

    made = judge(serve(respond))
    found = totals(made, *[sample(f"number {i}") for i in range(10)])
    assert found == [None if i == 3 else i / 10 for i in range(10)]


def test_a_judge_that_is_gone_or_refuses_gives_no_score(serve):
    server = serve(then((200, completion("1")), (503, {})))
    made = judge(server, concurrency=1)
    found = made.score([sample(str(i)) for i in range(20)])
    assert [one.total for one in found] == [1.0, *[None] * 19]
    assert all("answers 503" in one.reason for one in found[1:])
    assert len(server.requests) < 20  # the others are not waited for
    refused = judge(serve(lambda request: (401, {})))
    assert "wants a key (401)" in refused.score([sample("a")])[0].reason
    nobody = rewards({"type": "judge", "model": "http://127.0.0.1:9/v1#x"})
    assert "cannot connect" in nobody.score([sample("a")])[0].reason
    with pytest.raises(ConfigError, match=r"rewards.judge: the judge was tried, and cannot connect"):
        nobody.refuse([{"reference": "a"}])


def test_judges_that_cannot_be_are_refused(serve):
    for given, said in (
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "http://127.0.0.1:9/v1#x", "rubric": [{"role": "user"}]}, "give each turn of the rubric a role"),
        ({"model": "http://127.0.0.1:9/v1#x", "least": 2}, "give most a value above least, 2"),
        ({"model": "http://127.0.0.1:9/v1#x", "rubric": "{{item}}"}, r"\{\{item\}\} names nothing"),
    ):
        with pytest.raises((ConfigError, MissingError), match=said):
            rewards({"type": "judge", **given})
    tried = judge(serve(lambda request: (200, completion("Great answer!"))))
    with pytest.raises(ConfigError, match=r"the judge was tried, and the judge answers 'Great answer!'"):
        tried.refuse([{}])
    judge(serve(lambda request: (200, completion("0")))).refuse([{}])


def test_turns_and_labels(serve):
    server = serve(then((200, completion('{"label": "good"}')), (200, completion("bad")), (200, completion("so so"))))
    rubric = [{"role": "system", "content": "Be strict."}, {"role": "assistant", "content": "{{sample.output_text}}"}]
    made = judge(server, rubric=rubric, labels={"good": 1, "bad": 0.25})
    found = [made.score([sample("a")])[0] for _ in range(3)]
    assert [one.total for one in found] == [1.0, 0.25, None]
    assert "the judge answers 'so so', and none of good, bad" in found[2].reason
    body = server.requests[0]["body"]
    assert [turn["role"] for turn in body["messages"]] == ["system", "assistant", "user"]
    assert body["messages"][2]["content"].startswith("Say which of these it is: good, bad, as JSON")
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["good", "bad"]


def test_a_judge_of_this_machine(tiny):
    made = rewards({"type": "judge", "model": str(tiny), "max_new_tokens": 100, "least": 2, "most": 4}, device="cpu")
    found = made.score([sample(str(i)) for i in range(3)])
    assert all(one.total is not None and 2 <= one.total <= 4 for one in found), found
