"""Graders of the API, as OpenAI's unmodified client meets them: looked at, and tried on answers."""

from __future__ import annotations

import json

import openai
import pytest

from conftest import made_once, save_tiny
from serving import Running
from test_remote import completion
from tunesmith.core.errors import ConfigError
from tunesmith.serve.names import read_graders

ITEM = {"reference_answer": "Paris", "n": 3}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("graders"), made_once(tmp_path_factory, "tiny", save_tiny))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def graders(running):
    return running.client().fine_tuning.alpha.graders


def check(operation, reference="{{item.reference_answer}}", text="{{sample.output_text}}", name="check"):
    return {"type": "string_check", "name": name, "operation": operation, "input": text, "reference": reference}


def similarity(metric, name="alike"):
    return {"type": "text_similarity", "name": name, "evaluation_metric": metric, "input": "{{ sample.output_text }}",
            "reference": "{{ item.reference_answer }}"}  # fmt: skip


def model(text="Rate: {{sample.output_text}}", name="model", served="tiny", **more):
    return {"type": "score_model", "name": name, "model": served, "input": [{"role": "user", "content": text}], **more}


def multi(formula, **graders):
    return {"type": "multi", "name": "multi", "graders": graders, "calculate_output": formula}


@pytest.mark.parametrize(
    ("grader", "answer", "reward"),
    [
        (check("eq"), "Paris", 1.0),
        (check("eq"), " Paris", 0.0),
        (check("ne"), "Rome", 1.0),
        (check("like"), "It is Paris.", 1.0),
        (check("like"), "It is paris.", 0.0),
        (check("ilike"), "It is paris.", 1.0),
        (check("eq", "3", "{{item.n}}"), "", 1.0),
        (check("eq", "9", "{{sample.output_json.a.b}}"), '{"a": {"b": 9}}', 1.0),
        (similarity("bleu"), "Paris", 1.0),
        (similarity("rouge_l"), "Paris or Rome", 0.5),
        (similarity("fuzzy_match"), "Pari", pytest.approx(8 / 9)),
        (similarity("gleu"), "Rome", 0.0),
        (similarity("meteor"), "Rome", 0.0),
    ],
)
def test_a_grader_is_tried(graders, grader, answer, reward):
    assert graders.validate(grader=grader).grader.name == grader["name"]
    found = graders.run(grader=grader, model_sample=answer, item=ITEM)
    assert found.reward == reward
    assert (found.metadata.name, found.metadata.type) == (grader["name"], grader["type"])
    assert found.metadata.scores == {grader["name"]: reward}
    assert not [name for name, flag in found.metadata.errors.to_dict().items() if flag]
    assert found.sub_rewards == found.api_model_grader_token_usage_per_model == {}


def flags(found):
    return {name for name, flag in found.metadata.errors.to_dict().items() if flag is True}


def test_what_goes_wrong_is_flagged(running):
    graders = running.as_client(running.client().api_key, strict=False).fine_tuning.alpha.graders

    def run(grader, answer="x", item=ITEM):
        return graders.run(grader=grader, model_sample=answer, item=item)

    missing = run(check("eq", "{{item.answer}}"))
    assert (missing.reward, missing.metadata.scores) == (0.0, {"check": None})
    assert flags(missing) == {"invalid_variable_error"}
    assert flags(run(check("eq", "1", "{{sample.output_json.a}}"))) == {"sample_parse_error"}
    assert flags(run(multi("1 / a", a=check("eq")))) == {"formula_parse_error"}
    for endless in ("1e999", "9 ** 9 ** 9", "-1e999 + a"):
        found = run(multi(endless, a=check("eq")))
        assert (found.reward, len(flags(found))) == (0.0, 1)
    assert flags(graders.run(grader=check("eq"), model_sample="Paris")) == {"invalid_variable_error"}


def test_several_graders_by_a_formula(running):
    graders = running.as_client(running.client().api_key, strict=False).fine_tuning.alpha.graders
    parts = {"right": check("eq"), "the alike": similarity("rouge_l")}
    both = multi("0.25 * right + 0.75 * max(the alike, 0.1)", **parts)
    assert graders.validate(grader=both).grader.name == "multi"
    found = graders.run(grader=both, model_sample="Paris or Rome", item=ITEM)
    assert found.reward == 0.75 * 0.5
    assert found.sub_rewards == {"right": 0.0, "the alike": 0.5}
    alone = {"type": "multi", "name": "one", "calculate_output": "2 * check", "graders": check("eq")}
    assert graders.run(grader=alone, model_sample="Paris", item=ITEM).reward == 2.0


def test_a_model_of_this_server_grades(graders, running):
    scored = graders.run(grader=model(range=[2, 5]), model_sample="Paris", item=ITEM)
    assert 2 <= scored.reward <= 5
    assert not flags(scored)
    assert scored.metadata.sampled_model_name == "tiny"
    [usage] = scored.api_model_grader_token_usage_per_model.values()
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == scored.metadata.token_usage
    labelled = {"type": "label_model", "name": "kind", "model": "tiny", "labels": ["good", "bad"],
                "passing_labels": ["good"], "input": [{"role": "developer", "content": [
                    {"type": "input_text", "text": "Is {{sample.output_text}} good?"}]}]}  # fmt: skip
    assert graders.run(grader=labelled, model_sample="Paris", item=ITEM).reward in (0.0, 1.0)
    cut = graders.run(grader=model(sampling_params={"max_completions_tokens": 1}), model_sample="a", item=ITEM)
    assert flags(cut) == {"model_grader_parse_error"}
    assert running.server_settings.turns.running == 0


def test_a_model_that_the_operator_names_grades(tmp_path, tiny, serve):
    elsewhere = serve(lambda request: (200, completion('{"score": 0.5}')))
    one = Running(tmp_path, tiny, graders={"judge": f"{elsewhere.url}#big"})
    try:
        found = one.client().fine_tuning.alpha.graders.run(grader=model(served="judge"), model_sample="a b", item=ITEM)
    finally:
        one.stop()
    assert (found.reward, found.metadata.sampled_model_name) == (0.5, "judge")
    [request] = elsewhere.requests
    assert request["body"]["model"] == "big"
    assert request["body"]["messages"][0]["content"].startswith("Rate: a b\n")


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ({"type": "python", "name": "p", "source": "def grade(sample, item): return 1.0"}, "no client runs code"),
        (similarity("cosine"), "it compares embeddings"),
        (check("eq", "{{items.a}}"), "names nothing"),
        (check("equal"), "Input should be"),
        (model(served="nope"), "does not exist"),
        (model(served="http://127.0.0.1:9/v1#x"), "does not exist"),
        (model(range=[1, 1]), "the first must be below the second"),
        ({**model(), "input": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}]}, "text alone"),
        (multi("a.b", a=check("eq")), "is no arithmetic"),
        (multi("b", a=check("eq")), "there is no score 'b'"),
        (multi("1", **{"1": check("eq")}), "no name for a formula"),
        (check("eq", "x" * 20_000), "at most 16384 characters"),
        ({"type": "label_model", "name": "l", "model": "tiny", "labels": ["a"], "passing_labels": ["b"],
          "input": [{"role": "user", "content": "x"}]}, "'b' is none of labels"),
        ({"type": "nonsense"}, "does not match any of the expected tags"),
    ],
)  # fmt: skip
def test_a_grader_that_cannot_be_is_refused(running, grader, said):
    graders = running.as_client(running.client().api_key, strict=False).fine_tuning.alpha.graders
    for ask in (lambda: graders.validate(grader=grader), lambda: graders.run(grader=grader, model_sample="x", item={})):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
            ask()
        assert said in json.loads(error.value.response.text)["error"]["message"]


def test_models_elsewhere_as_an_operator_writes_them():
    assert read_graders(["judge=https://host/v1#big"]) == {"judge": "https://host/v1#big"}
    for given in (["judge"], ["=https://host/v1"], ["judge=big"], ["a=https://host/v1", "a=https://host/v1"]):
        with pytest.raises(ConfigError, match="write NAME=https://host/v1#model"):
            read_graders(given)
