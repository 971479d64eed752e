from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from conftest import save_tiny
from tunesmith.core.errors import ConfigError, DataError, MissingError, ModelError
from tunesmith.core.events import Pulse, silent
from tunesmith.evaluate.harness import run_harness
from tunesmith.evaluate.harness_model import EngineModel
from tunesmith.infer.local import LocalEngine
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract

POSITIONS = 96  # few, so that texts and prompts with examples do not fit
WORDS = ["breakfast", "pool", "wifi", "dog", "key", "garden", "train", "towel", "lobby", "coffee", "ferry", "candle"]
UNTIL = ["a", "\n"]
BASE: dict[str, Any] = {
    "dataset_path": "json",
    "fewshot_split": "train",
    "test_split": "test",
    "metadata": {"version": 2.0},
}
TASKS: dict[str, dict[str, Any]] = {
    "hotel_choices": {
        "output_type": "multiple_choice",
        "description": "Questions about a hotel.\n\n",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "hotel_answers": {
        "output_type": "generate_until",
        "doc_to_text": "Say: {{question}} ",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": UNTIL, "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
    },
    "hotel_begun": {
        "output_type": "generate_until",
        "doc_to_text": "Say: {{question}}",
        "doc_to_target": "{{answer[0]}}",
        "gen_prefix": "I say",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 8},
        "filter_list": [
            {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "(\\w)"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match"}],
    },
    "hotel_last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "question",
        "doc_to_target": " {{choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "hotel_drawn": {
        "output_type": "multiple_choice",
        "doc_to_text": "!function draw.text",
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "likelihood", "aggregation": "!function draw.mean"}],
    },
    "hotel_texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
}
DRAW = """
import random
import numpy as np
def text(doc):
    return f"{random.random()} {np.random.rand()} {doc['question']}"
def mean(pairs):
    return sum(likelihoods[0] for right, likelihoods in pairs) / len(pairs)
"""
GROUP = {
    "group": "hotel",
    "task": ["hotel_choices", "hotel_answers"],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}, {"metric": "exact_match"}],
    "metadata": {"version": 1},
}
SETTINGS: dict[str, Any] = {"include": None, "limit": None, "few_shot": None, "chat": False, "report": silent}


def sentence(source: random.Random, length: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(length))


def make_rows(source: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{sentence(source, 3 + i % 9)}, guest {i}?",
            "choices": [sentence(source, 1 + j) for j in range(2 + i % 3)],
            "right": i % 2,
            "answer": sentence(source, 2),
            "text": sentence(source, 5 if i % 3 else 150),
        }
        for i in range(count)
    ]


def write_task(path: Path, task: dict[str, Any], folder: Path) -> Path:
    files = {split: f"{folder}/{split}.jsonl" for split in ("train", "test")}
    text = yaml.safe_dump({**BASE, "dataset_kwargs": {"data_files": files}, **task})
    path.write_text(text.replace("'!function ", "!function '"), encoding="utf-8")
    return path


def request(*arguments: Any, kind: str = "loglikelihood") -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("a_task", 0, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = save_tiny(tmp_path_factory.mktemp("tiny"), max_position_embeddings=POSITIONS)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), load_contract(folder)


@pytest.fixture
def engine(model):
    return LocalEngine(*model)


@pytest.fixture(scope="module")
def hflm(model):
    return HFLM(pretrained=model[0], tokenizer=model[1].tokenizer, batch_size=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, hflm):
    """Task files with their rows. Every other row's answer is what lm_eval's own class makes the model say."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    source = random.Random(0)
    rows = {"train": make_rows(source, 6), "test": make_rows(source, 11)}
    options = {"until": UNTIL, "max_gen_toks": 12}
    with contextlib.redirect_stderr(None):
        asked = [request(f"Say: {row['question']} ", options, kind="generate_until") for row in rows["test"]]
        said = hflm.generate_until(asked, disable_tqdm=True)
    for row, answer in list(zip(rows["test"], said, strict=True))[::2]:
        row["answer"] = answer
    for name, split in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split), encoding="utf-8")
    (folder / "draw.py").write_text(DRAW, encoding="utf-8")
    for name, task in TASKS.items():
        write_task(folder / f"{name}.yaml", {"task": name, **task}, folder)
    (folder / "group.yaml").write_text(yaml.safe_dump(GROUP), encoding="utf-8")
    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, str(folder / "cache")
    yield folder
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def oracle(hflm, folder, monkeypatch):
    """lm_eval's scores through its own class for Hugging Face models."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # asks pip, for seconds
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")

    def run(**settings: Any) -> dict[str, Any]:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found = simple_evaluate(hflm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=1000, **settings)
        assert found is not None
        return found

    return run


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours["tasks"]) == set(theirs["results"]) == set(TASKS)
    for name, scores in ours["tasks"].items():
        found = theirs["results"][name]
        assert (scores["rows"], scores["version"]) == (found["sample_len"], theirs["versions"][name])
        assert len(scores["metrics"]) == sum("," in key and "_stderr" not in key for key in found) > 0
        for entry in scores["metrics"]:
            metric, kept = entry["metric"], entry["filter"]
            assert entry["value"] == pytest.approx(found[f"{metric},{kept}"], rel=1e-5)
            error = found[f"{metric}_stderr,{kept}"]
            assert entry["standard_error"] == (None if error == "N/A" else pytest.approx(error, rel=1e-4))
            assert entry["higher_is_better"] == theirs["higher_is_better"][name][metric]


@pytest.mark.parametrize("few_shot", [0, 2])
def test_scores_equal_those_of_lm_evals_own_class(engine, model, folder, oracle, few_shot: int):
    ours = run_harness(engine, model[1], list(TASKS), **{**SETTINGS, "include": folder, "few_shot": few_shot})
    theirs = oracle(num_fewshot=few_shot)
    assert_same(ours, theirs)
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours
    assert ours["chat_template"] is False
    assert ours["lm_eval"].startswith("0.")
    for name, scores in ours["tasks"].items():
        assert scores["few_shot"] == (0 if name == "hotel_texts" else theirs["n-shot"][name])
    values = {(name, entry["metric"]): entry for name, scores in ours["tasks"].items() for entry in scores["metrics"]}
    assert 0 < values["hotel_choices", "acc"]["value"] < 1
    assert values["hotel_choices", "acc"]["standard_error"] > 0
    assert values["hotel_last_word", "perplexity"]["standard_error"] > 0
    assert values["hotel_texts", "bits_per_byte"]["standard_error"] is None
    if few_shot == 0:
        assert 0.5 <= values["hotel_answers", "exact_match"]["value"] < 1


def test_scores_through_the_chat_template_equal_those_of_lm_evals_own_class(engine, model, folder, oracle):
    ours = run_harness(engine, model[1], list(TASKS), **{**SETTINGS, "include": folder, "few_shot": 1, "chat": True})
    assert_same(ours, oracle(num_fewshot=1, apply_chat_template=True, fewshot_as_multiturn=True))
    assert ours["chat_template"] is True


def test_conversations_are_written_as_by_lm_evals_own_class(engine, model, hflm):
    ours = EngineModel(engine, model[1], silent)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the pool?"},
        {"role": "assistant", "content": "The pool is"},
    ]
    for asked, ask in ((turns[:2], True), (turns, False), (turns[1:], False)):
        assert ours.apply_chat_template(asked, ask) == hflm.apply_chat_template(asked, ask)


def with_bos(contract: Contract) -> Contract:
    """The same tokenizer, but one that begins every text with a token of its own."""
    tokenizer = copy.deepcopy(contract.tokenizer)
    tokenizer.bos_token = "<|endoftext|>"
    post = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = post
    return replace(contract, tokenizer=tokenizer)


@pytest.mark.parametrize("bos", [False, True])
def test_each_request_is_answered_as_by_lm_evals_own_class(model, bos: bool):
    network, contract = model
    contract = with_bos(contract) if bos else contract
    theirs = HFLM(pretrained=network, tokenizer=contract.tokenizer, batch_size=1)
    ours = EngineModel(LocalEngine(network, contract), contract, silent)
    assert ours.longest == theirs.max_length == POSITIONS
    assert ours.prefix == theirs.prefix_token_id == (0 if bos else 2)
    source = random.Random(1)
    long = sentence(source, 300)
    pairs = [
        ("Where is the pool?", " Downstairs."),
        ("Where is the pool? \n ", "Downstairs."),
        ("Where is the po", "ol? Downstairs."),
        ("", "Downstairs."),
        ("", " x"),
        ("", "<|endoftext|><|im_end|>Downstairs."),
        ("<|endoftext|>Zürich", " 🙂 Grüße"),
        ("<|im_end|>Zürich", "!"),
        (long, " Downstairs."),
        (long, f" {sentence(source, 20)}"),
        ("x", contract.tokenizer.decode(contract.tokenizer.encode(long)[: POSITIONS - 4])),
    ]
    requests = [request(*pair) for pair in pairs]
    found, wanted = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    for pair, (likelihood, greedy), (want, want_greedy) in zip(pairs, found, wanted, strict=True):
        assert likelihood == pytest.approx(want, abs=1e-4), pair
        assert greedy == want_greedy, pair
    texts = [request(text, kind="loglikelihood_rolling") for text in ("Where?", long, long[:400], "<|endoftext|>x", "")]
    rolled = ours.loglikelihood_rolling(texts)
    assert rolled == pytest.approx(theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-3, rel=1e-6)
    assert (rolled[-1] == 0) is not bos  # an empty text
    asked = [
        request(context, options, kind="generate_until")
        for context in ("Where is the pool?", "<|endoftext|>Where?", long, "Say: ")
        for options in ({"until": UNTIL, "max_gen_toks": 12}, {"max_gen_toks": 20}, {"until": "e", "max_tokens": 5})
    ]
    answers = ours.generate_until(asked)
    assert answers == theirs.generate_until(asked, disable_tqdm=True)
    assert len(set(answers)) > 6


def test_a_first_choice_is_told(model):
    network, contract = model
    ours = EngineModel(LocalEngine(network, contract), contract, silent)
    context = "Where is the pool?"
    [said] = ours.generate_until([request(context, {"max_gen_toks": 1})])
    assert [greedy for _, greedy in ours.loglikelihood([request(context, said), request(context, " Zürich")])] == [
        True,
        False,
    ]


def test_a_sampled_prompt_that_repeats_is_drawn_anew(model):
    network, contract = model
    ours = EngineModel(LocalEngine(network, contract, batch_size=1), contract, silent)
    options = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 6}
    answers = ours.generate_until([request("Where is the pool?", options) for _ in range(4)])
    assert len(set(answers)) == 4
    assert answers == ours.generate_until([request("Where is the pool?", options) for _ in range(4)])


def test_a_limit_a_group_and_one_file(engine, model, folder):
    both = run_harness(engine, model[1], ["hotel"], **{**SETTINGS, "include": folder, "limit": 4})
    assert {name: scores["rows"] for name, scores in both["tasks"].items()} == {"hotel_choices": 4, "hotel_answers": 4}
    group = {entry["metric"]: entry["value"] for entry in both["groups"]["hotel"]["metrics"]}
    assert group["acc"] == both["tasks"]["hotel_choices"]["metrics"][0]["value"]
    assert both["groups"]["hotel"]["version"] == "1"
    settings = {**SETTINGS, "include": folder / "hotel_choices.yaml", "limit": 4}
    alone = run_harness(engine, model[1], ["hotel_choices"], **settings)
    assert alone["tasks"]["hotel_choices"] == both["tasks"]["hotel_choices"]
    assert alone["groups"] == {}


def test_only_the_report_is_heard(engine, model, folder, capfd):
    heard: list[Pulse] = []

    def listen(event: Pulse) -> None:
        heard.append(event)
        sys.stderr.write("heard\n")

    settings = {**SETTINGS, "include": folder, "few_shot": 2, "report": listen}
    run_harness(engine, model[1], ["hotel_last_word", "hotel_texts"], **settings)
    out, err = capfd.readouterr()
    assert (out, set(err.splitlines())) == ("", {"heard"})
    assert {event.kind for event in heard} == {"pulse"}
    last = {event.doing: (event.done, event.of) for event in heard}
    assert last["loading tasks"] == (2, 2)
    assert last["scoring answers"] == (11, 11)
    assert last["scoring texts"][0] == last["scoring texts"][1] > 11
    assert not {"DISABLE_MULTIPROC", "HF_EVALUATE_OFFLINE"} & set(os.environ)


CHOICE = TASKS["hotel_choices"]
ANSWER = TASKS["hotel_answers"]
FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unsafe": ({**ANSWER, "unsafe_code": True}, ConfigError, "code that the model writes"),
    "program": (
        {**ANSWER, "metric_list": [{"metric": "meteor"}]},
        ConfigError,
        "'meteor', which lm_eval would download",
    ),
    "told": ({**ANSWER, "metric_list": [{"metric": "bleu", "hf_evaluate": True}]}, ConfigError, "would download"),
    "image": ({**ANSWER, "doc_to_image": ["picture"]}, ConfigError, "images or sound"),
    "beams": ({**ANSWER, "generation_kwargs": {"num_beams": 4}}, ConfigError, "num_beams = 4 is nothing"),
    "length": ({**ANSWER, "generation_kwargs": {"max_gen_toks": 96}}, ConfigError, "Give 1 to 95"),
    "library": ({**ANSWER, "doc_to_text": "!function no_such_library.text"}, ConfigError, "is not installed"),
    "metric": ({**CHOICE, "metric_list": [{"metric": "brier_score"}]}, ConfigError, "cannot compute the metrics"),
    "shots": ({**CHOICE, "num_fewshot": 50}, ConfigError, "with 50 worked examples"),
    "column": ({**CHOICE, "doc_to_text": "{{nowhere}}"}, MissingError, "'nowhere' is undefined"),
    "away": ({**CHOICE, "dataset_path": "nobody/nothing", "dataset_kwargs": {}}, MissingError, "fetch their data"),
    "no file": ({**CHOICE, "dataset_kwargs": {"data_files": {"test": "none.jsonl"}}}, MissingError, "none.jsonl"),
    "no text": ({**TASKS["hotel_last_word"], "doc_to_target": ""}, DataError, "has 0 tokens"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_task_is_one_sentence(engine, model, folder, tmp_path: Path, fault: str):
    task, kind, phrase = FAULTS[fault]
    path = write_task(tmp_path / "faulty.yaml", {"task": "faulty", **task}, folder)
    with pytest.raises(kind) as error:
        run_harness(engine, model[1], ["faulty"], **{**SETTINGS, "include": path, "limit": 4})
    assert phrase in str(error.value)
    assert "\n" not in str(error.value)
    assert "faulty" in str(error.value) or fault == "no text"


def test_a_perplexity_too_large_for_a_number_is_one_sentence(engine, model, folder, tmp_path: Path):
    (tmp_path / "endless.jsonl").write_text(json.dumps({"text": "".join(WORDS) * 9}) + "\n", encoding="utf-8")
    settings = {"dataset_kwargs": {"data_files": {"test": f"{tmp_path}/endless.jsonl"}}, "fewshot_split": "test"}
    path = write_task(tmp_path / "endless.yaml", {"task": "endless", **TASKS["hotel_texts"], **settings}, folder)
    with pytest.raises(ModelError, match="too large for a number"):
        run_harness(engine, model[1], ["endless"], **{**SETTINGS, "include": path})


def test_an_unknown_task_names_the_nearest(engine, model, folder):
    with pytest.raises(ConfigError, match=r"unknown task 'arc_eazy': did you mean 'arc_easy'\?$"):
        run_harness(engine, model[1], ["hotel_choices", "arc_eazy"], **{**SETTINGS, "include": folder})


def test_a_file_that_is_no_task_is_one_sentence(engine, model, folder):
    for name in ("train.jsonl", "nothing.yaml"):
        with pytest.raises(MissingError, match=f"{name}: no task file"):
            run_harness(engine, model[1], ["hotel_choices"], **{**SETTINGS, "include": folder / name})


def test_without_the_library_the_extra_is_named(engine, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'tunesmith\[harness\]'"):
        run_harness(engine, model[1], ["arc_easy"], **SETTINGS)


REQUESTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
ALONE = f"""
import sys
from pathlib import Path
asked = []
sys.addaudithook(lambda event, details: asked.append(event) if event in {REQUESTS} else None)
from tunesmith.evaluate.harness import run_harness
from tunesmith.infer.generator import RowScore
from tunesmith.prompt.load import load_contract
base, folder = map(Path, sys.argv[1:])
class Fair:
    def score(self, rows):
        return [RowScore([-1.0] * sum(mask), 0) for ids, mask in rows]
settings = dict(include=folder, limit=3, few_shot=1, chat=True, report=print)
found = run_harness(Fair(), load_contract(base), ["hotel_choices"], **settings)
assert found["tasks"]["hotel_choices"]["rows"] == 3
print(asked)
import datasets
datasets.config.S3_DATASETS_BUCKET_PREFIX = "http://127.0.0.1:9"
datasets.load.increase_load_count("json")  # what it would have done, had it not been told otherwise
print("socket.connect" in asked)
"""


def test_a_local_task_asks_nobody(model, folder, tmp_path: Path):
    """In a process of its own: the tests' is told to stay offline, so that nothing could be seen here."""
    model[1].save(tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), str(folder)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]


def test_a_metric_that_is_a_program_is_never_fetched(engine, model, folder, tmp_path: Path, monkeypatch):
    asked: list[str] = []
    sys.addaudithook(lambda event, details: asked.append(event) if event in REQUESTS else None)
    import evaluate

    monkeypatch.setattr("evaluate.config.HUB_EVALUATE_URL", "http://127.0.0.1:9/{path}/{name}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.py").write_text("import evaluate\nmetric = evaluate.load('no_metric')\n", encoding="utf-8")
    task = {"task": "hotel", **ANSWER, "metric_list": [{"metric": "!function metrics.metric"}]}
    path = write_task(tmp_path / "hotel.yaml", task, folder)
    with pytest.raises(MissingError, match="programs are never fetched"):
        run_harness(engine, model[1], ["hotel"], **{**SETTINGS, "include": path})
    assert asked == []
    with pytest.raises(FileNotFoundError):
        evaluate.load("no_metric")
    assert "socket.connect" in asked
