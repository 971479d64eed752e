"""Jobs that learn from preferences and from graders, through OpenAI's unmodified client, to an answer."""

from __future__ import annotations

import json

import openai
import pytest
import yaml

from conftest import QUESTIONS, made_once, save_tiny
from preferences import asked, pair_rows
from serving import OURS, Running, wait_for_end
from tunesmith.exec.queue.control import find_job

CHECK = {"type": "string_check", "name": "check", "operation": "ilike", "input": "{{sample.output_text}}",
         "reference": "{{item.wanted}}"}  # fmt: skip
SHORT = {"tunesmith": {**OURS["tunesmith"], "objective": {"sampling": {"max_new_tokens": 6}}}}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("serve"), made_once(tmp_path_factory, "tiny", save_tiny))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


def upload(client, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=("rows.jsonl", text), purpose="fine-tune").id


def preferences(count):
    """Pairs as OpenAI's files have them."""

    def says(text):
        return [{"role": "assistant", "content": text}]

    return [
        {"input": {"messages": [{"role": "user", "content": row["prompt"]}]}, "preferred_output": says(row["chosen"]),
         "non_preferred_output": says(row["rejected"])}
        for row in pair_rows(count)
    ]  # fmt: skip


def tasks(count):
    """Prompts with what their grader needs."""
    return [
        {"messages": [{"role": "user", "content": f"{QUESTIONS[i % 4]} I am {i}."}], "wanted": "aeiou"[i % 5]}
        for i in range(count)
    ]


def recipe_of(running, job):
    files = find_job(running.stores.records, job.id).inputs
    return yaml.safe_load(b"".join(running.stores.blobs.read(files["config.yaml"][0])))


def answer_of(client, model):
    messages = [{"role": "user", "content": asked(1)}]
    done = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=8, logprobs=True)
    return [token.logprob for token in done.choices[0].logprobs.content]


def test_preferences_become_a_model_that_answers(client, running):
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.3, "learning_rate_multiplier": 2}}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, preferences(16)), method=method, extra_body=OURS
    )
    assert (job.method.type, job.method.dpo.hyperparameters.beta, job.hyperparameters.n_epochs) == ("dpo", 0.3, 2)
    recipe = recipe_of(running, job)
    assert (recipe["objective"]["type"], recipe["objective"]["beta"]) == ("dpo", 0.3)
    assert recipe["optim"]["learning_rate"] == pytest.approx(2 * 2e-5)  # a tenth of LoRA's
    done = wait_for_end(client, job.id)
    assert (done.status, done.error) == ("succeeded", None)
    assert answer_of(client, done.fine_tuned_model) != answer_of(client, "tiny")


def test_rows_of_another_sort_end_in_a_failed_job(client):
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, tasks(12)), method=method, extra_body=OURS
    )
    done = wait_for_end(client, job.id)
    assert (done.status, done.error.code) == ("failed", "invalid_training_file")


def test_a_grader_teaches_a_model_that_answers(client, running):
    asked_for = {"n_epochs": 1, "compute_multiplier": 0.5, "learning_rate_multiplier": 30}
    method = {"type": "reinforcement", "reinforcement": {"grader": CHECK, "hyperparameters": asked_for}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, tasks(16)), validation_file=upload(client, tasks(2)), method=method,
        extra_body=SHORT,
    )  # fmt: skip
    told = job.method.reinforcement
    assert (told.grader.reference, told.hyperparameters.compute_multiplier) == ("{{item.wanted}}", 0.5)
    objective = recipe_of(running, job)["objective"]
    assert (objective["type"], objective["samples"], objective["sampling"]["max_new_tokens"]) == ("grpo", 4, 6)
    [reward] = objective["rewards"]
    assert (reward["operation"], reward["ignore_case"], reward["strip"]) == ("contains", True, False)
    done = wait_for_end(client, job.id)
    assert (done.status, done.error) == ("succeeded", None)
    assert answer_of(client, done.fine_tuned_model) != answer_of(client, "tiny")
    metrics = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    assert [one["train_mean_reward"] for one in metrics if "train_loss" in one]
    assert all(0 <= one.get("train_mean_reward", one.get("valid_mean_reward")) <= 1 for one in metrics)


def test_a_base_of_this_server_grades_a_job(client, running):
    judge = {"type": "score_model", "name": "judge", "model": "gpt-3.5-turbo",
             "sampling_params": {"max_completions_tokens": 100},
             "input": [{"role": "user", "content": "Rate: {{sample.output_text}}"}]}  # fmt: skip
    both = {"type": "multi", "name": "both", "calculate_output": "judge + check", "graders": {"judge": judge,
            "check": CHECK}}  # fmt: skip
    method = {"type": "reinforcement", "reinforcement": {"grader": both, "hyperparameters": {
        "n_epochs": 1, "compute_multiplier": 0.25, "batch_size": 5}}}  # fmt: skip
    client = running.as_client(client.api_key, strict=False)  # which knows no graders by name inside of multi
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, tasks(10)), method=method, extra_body=SHORT
    )
    [reward] = recipe_of(running, job)["objective"]["rewards"]
    assert reward["scores"]["judge"]["model"].startswith("inputs/rewards/0/")
    done = wait_for_end(client, job.id)
    assert (done.status, done.error) == ("succeeded", None), done.error


def rewarded(grader=CHECK, **ours):
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    return {"model": "tiny", "training_file": "file-x", "method": method, "extra_body": {"tunesmith": ours}}


PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1.0"}
JUDGE = {"type": "score_model", "name": "m", "input": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("request_body", "said"),
    [
        (rewarded(PYTHON), "no client runs code"),
        (rewarded({**JUDGE, "model": "http://127.0.0.1:9/v1#x"}), "does not exist"),
        (rewarded({**CHECK, "reference": "{{wanted}}"}), "names nothing"),
        ({**rewarded(), "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}}, "hyperparameters.beta"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(client, request_body, said):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=said):
        client.fine_tuning.jobs.create(**request_body)


@pytest.mark.parametrize(
    ("rewards", "fine"),
    [
        ([{"type": "number", "reference": "{{item.wanted}}"}], True),
        ([{"type": "judge", "model": "http://127.0.0.1:9/v1#x"}], False),
        ([{"type": "function", "file": "/etc/passwd"}], False),
        ([{"type": "json", "json_schema": "/etc/passwd"}], False),
        ([{"type": "model", "model": "/somewhere"}], False),
        ([{"type": "length", "unit": "tokens", "tokenizer": "/somewhere", "most": 3}], False),
        ([{"type": "combined", "formula": "a", "scores": {"a": {"type": "model", "model": "/somewhere"}}}], False),
    ],
)
def test_a_client_reaches_for_nothing_by_rewards_of_its_own(client, rewards, fine):
    body = rewarded(objective={"rewards": rewards}) | {"training_file": upload(client, tasks(10))}
    if fine:
        job = client.fine_tuning.jobs.create(**body)
        client.fine_tuning.jobs.cancel(job.id)
    else:
        with pytest.raises(openai.BadRequestError, match=r"objective.rewards cannot be set by a client"):
            client.fine_tuning.jobs.create(**body)
