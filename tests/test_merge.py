"""Merging: the verification's numbers are true, what is not true is not exported, and what is exported loads."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from filelock import FileLock
from typer.testing import CliRunner

import tunesmith
from conftest import READS, many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import DataError, JobError, MissingError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, write_json, write_text
from tunesmith.data.split import load_splits
from tunesmith.jobs import merge as job
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.start import claim_folder
from tunesmith.jobs.verify_merge import NEAR_TIE, Trial, agree, without_rounding
from tunesmith.model.export import find_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.memory import weight_bytes
from tunesmith.train.recipe import read_recipe

OPTIONS = {"output": None, "data": None, "prompts": 4, "limit": 1e-3, "max_new_tokens": 4, "replace": False}


def run_here(folder: Path, base: Path, rows: Path, **changes) -> Path:
    """A whole run, in this process."""
    path = folder / "small.yaml"
    path.write_text(
        f"model: {{base: '{base}'}}\n"
        f"data: {{train: '{rows}'}}\n"
        "optim: {learning_rate: 5.0e-3, epochs: 2, batch_size: 8}\n"
        "evaluate: {max_new_tokens: 4}\n"
        "precision: fp32\n"
        f"output: {{folder: '{folder / 'runs'}'}}\n"
    )
    recipe = read_recipe(path, changes)
    run = claim_folder(recipe)
    write_text(run / "config.yaml", to_yaml(recipe))
    finetune({"folder": str(run)}, silent)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that holds rows out, on a base of its own."""
    folder = tmp_path_factory.mktemp("trained")
    base, rows = save_tiny(folder / "base"), folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in many_rows(60)))
    return run_here(folder, base, rows, data={"test": 0.3})


@pytest.fixture
def run(trained, tmp_path):
    """The same run, to do anything with."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "merg" in path.name and not path.name.endswith(".lock")}


def merge(run: Path, report=silent, **options):
    return job.merge({"run": str(run), **OPTIONS, **options}, report)


def logits_and_answers(model, tokenizer, rows):
    """Of each row the logits at all positions, which tokens are the answer, and the model's own answer."""
    found = []
    for row in rows:
        whole = tokenizer.apply_chat_template(row["messages"], return_tensors="pt")["input_ids"]
        asked = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_tensors="pt")
        stop = int((whole[0] == tokenizer.eos_token_id).nonzero()[-1])
        with torch.inference_mode():
            logits = model(whole).logits[0]
            said = model.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
        found.append((whole[0], asked["input_ids"].shape[1], stop, logits, said))
    return found


def scores_by_hand(tokenizer, rows, found):
    """Perplexity, token accuracy and BLEU."""
    from sacrebleu import corpus_bleu

    loss = tokens = hits = 0.0
    for ids, begin, stop, logits, _ in found:
        target, guess = ids[begin : stop + 1], logits[begin - 1 : stop]
        loss += float(torch.nn.functional.cross_entropy(guess, target, reduction="sum"))
        tokens += len(target)
        hits += int((guess.argmax(-1) == target).sum())
    said = [tokenizer.decode(answer, skip_special_tokens=True).strip() for *_, answer in found]
    wanted = [row["messages"][-1]["content"] for row in rows]
    bleu = corpus_bleu(said, [[text.strip() for text in wanted]]).score
    return {"perplexity": math.exp(loss / tokens), "token accuracy": 100 * hits / tokens, "BLEU": bleu}


def test_the_verification_says_what_transformers_and_peft_say(trained, tmp_path, write_rows):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunesmith.cli.merge import merge as command

    rows = many_rows(10)
    app = typer.Typer()
    app.command()(command)
    target, data = tmp_path / "full", write_rows([*rows, *many_rows(16)[10:]], "other.jsonl")
    arguments = [trained, "--output", target, "--data", data, "--prompts", "10", "--max-new-tokens", "8"]
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    verification = read_json(target / "verification.json")
    assert read_json(target / "tunesmith.json")["merge"] == verification
    assert f"compared on 10 rows of {data}" in done.output
    assert "10 of 10 the same" in done.output

    tokenizer = AutoTokenizer.from_pretrained(target)
    adapter = AutoPeftModelForCausalLM.from_pretrained(trained / "model", dtype=torch.float32).eval()
    theirs = logits_and_answers(adapter, tokenizer, rows)
    whole = logits_and_answers(AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32), tokenizer, rows)
    offs = [float((one[3] - other[3]).abs().max()) for one, other in zip(theirs, whole, strict=True)]
    off = verification["largest_logit_difference"]
    assert off["value"] == pytest.approx(max(offs), rel=0.2)  # of rounding, which another order of sums may change
    assert 0 < off["value"] < 1e-3
    assert verification["rows"]["count"] == 10
    assert verification["positions"] == sum(len(one[0]) for one in theirs)
    same = sum(torch.equal(one[4], other[4]) for one, other in zip(theirs, whole, strict=True))
    answers = verification["answers"]
    assert (answers["rows"], answers["same"], answers["different"]) == (10, same, 0)
    for part, found in (("other", theirs), ("score", whole)):
        by_hand = scores_by_hand(tokenizer, rows, found)
        scores = {score["metric"]: score[part]["value"] for score in verification["scores"]}
        assert {name: scores[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-4)
    for score in verification["scores"]:
        assert score["difference"]["low"] <= score["difference"]["value"] <= score["difference"]["high"]
        assert score["verdict"] == "no difference shown"


def test_a_merged_model_loads_elsewhere_and_answers_as_its_adapter(run):
    from transformers import pipeline

    events = []
    done = merge(run, events.append)
    assert done["folder"] == str(run / "merged")
    assert leftovers(run) == {"merged"}
    question = "Where is the pool? I am guest 5."
    pipe = pipeline("text-generation", model=str(run / "merged"), dtype=torch.float32, device="cpu")
    said = pipe([{"role": "user", "content": question}], max_new_tokens=20, do_sample=False)
    ours = tunesmith.load(run).generate(question, max_new_tokens=20)
    assert said[0]["generated_text"][-1]["content"].strip() == ours
    assert tunesmith.load(run / "merged").generate(question, max_new_tokens=20) == ours
    before, after = read_json(run / "model" / "tunesmith.json"), read_json(run / "merged" / "tunesmith.json")
    assert after == {**before, "merge": done["verification"]}
    assert find_model(str(run / "merged")).contract().id == before["contract"]["id"]
    assert {"phase", "pulse", "scores", "exported"} <= {event.kind for event in events}


def test_the_rows_are_the_held_out_ones_else_watched_ones_else_trained_ones(run):
    recipe = read_recipe(run / "config.yaml")
    contract = find_model(str(run)).contract()
    test = load_splits(recipe.data, contract, 512, READS).test
    assert 5 < len(test) < 32
    verification = merge(run, prompts=32)["verification"]
    assert verification["rows"]["what"] == "held-out test rows"
    assert verification["rows"]["count"] == len(test)
    for changes, part, word in (
        ({"test": 0}, "validation", "validation rows"),
        ({"test": 0, "validation": 0}, "train", "training rows"),
    ):
        splits = load_splits(recipe.data.model_copy(update=changes), contract, 512, READS)
        rows, what = job.rows_to_compare(splits)
        assert what.startswith(word)
        assert rows is getattr(splits, part)


@pytest.mark.parametrize(("harm", "words"), [(0.5, r"off by 0\.\d"), (math.nan, "off by inf")])
def test_a_damaged_merge_is_refused_and_leaves_nothing(run, monkeypatch, harm, words):
    def damaged(adapter, base, spec, merged=job.merged):
        model = merged(adapter, base, spec)
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[3, 5] += harm
        return model

    monkeypatch.setattr(job, "merged", damaged)
    with pytest.raises(
        ModelError, match=rf"{words}.* \(at token \d+ of row \S+rows\.jsonl:\d+\), above the limit of 0\.001"
    ):
        merge(run)
    assert leftovers(run) == set()
    with pytest.raises(ModelError) if math.isnan(harm) else contextlib.nullcontext():
        assert merge(run, limit=math.inf)["verification"]["largest_logit_difference"]["value"] > 0.1
    assert leftovers(run) == (set() if math.isnan(harm) else {"merged"})


def test_an_interrupted_merge_leaves_nothing_and_what_was_there_stays(run):
    merge(run)
    before = (run / "merged" / "verification.json").read_text()

    def interrupt(event):
        if getattr(event, "doing", "") == "logits of the merged model":
            raise Stopped("stopped.")

    with pytest.raises(Stopped):
        merge(run, interrupt, replace=True)
    assert leftovers(run) == {"merged"}
    assert (run / "merged" / "verification.json").read_text() == before
    (run / ".merged.merging").mkdir()  # as a kill leaves it
    merge(run, replace=True, prompts=3)
    assert read_json(run / "merged" / "verification.json")["rows"]["count"] == 3
    assert leftovers(run) == {"merged"}


def test_what_stands_in_the_way_is_left_alone(run, tmp_path):
    merge(run)
    with pytest.raises(ModelError, match=r"merged: is a merged model already, made 20.*--replace"):
        merge(run)
    for taken in ("model", "report"):
        with pytest.raises(ModelError, match=r"exists and is no merged model of tunesmith. Choose another --output"):
            merge(run, output=str(run / taken), replace=True)
    with FileLock(tmp_path / ".new.lock"), pytest.raises(JobError, match="another process is making it"):
        merge(run, output=str(tmp_path / "new"))
    assert (run / "model" / "adapter_config.json").exists()
    assert not (tmp_path / "new").exists()


def test_a_run_without_an_adapter_is_refused(run, tmp_path):
    merge(run)
    with pytest.raises(ModelError, match="is a full one already, so there is no adapter"):
        merge(run / "merged")
    shutil.rmtree(run / "model")
    with pytest.raises(MissingError, match="no model yet"):
        merge(run)
    (run / "merged").rename(run / "model")  # as a run of method full, or one that merged, leaves it
    with pytest.raises(ModelError, match="is a full one already"):
        merge(run)
    with pytest.raises(MissingError, match="no such run"):
        merge(tmp_path / "nowhere")
    with pytest.raises(MissingError, match="neither a run nor an adapter"):
        merge(tmp_path)


def test_a_changed_base_is_refused(run):
    config = find_model(str(run)).base.folder / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    try:
        with pytest.raises(ModelError, match=r"it has changed since .* was trained on it"):
            merge(run)
    finally:
        config.write_text(before)
    assert leftovers(run) == set()


def test_a_full_disk_is_seen_before_anything_is_written(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=65 << 20))
    with pytest.raises(ModelError, match=r"need [\d,]+ bytes .* and 68,157,440 are free. Make room"):
        merge(run)
    assert leftovers(run) == set()
    weights = sum(weight.numel() for weight in load(find_model(str(run)).base.folder, LoadSpec()).model.parameters())
    assert weight_bytes(find_model(str(run)).base.folder, torch.float32) == 4 * weights


def test_a_damaged_adapter_is_a_sentence(run):
    (run / "model" / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="the adapter's file is damaged"):
        merge(run)
    assert leftovers(run) == set()


def test_rows_that_are_gone_or_changed_are_told(run, tmp_path):
    card = read_json(run / "model" / "tunesmith.json")
    rows = tmp_path / "rows.jsonl"
    recipe = {**card["recipe"], "data": {**card["recipe"]["data"], "train": "rows.jsonl"}}
    write_json(run / "model" / "tunesmith.json", {**card, "recipe": recipe, "directory": str(tmp_path)})
    with pytest.raises(DataError, match=r"the run's rows cannot be read again: rows.jsonl: no such file.*--data"):
        merge(run)
    rows.write_text("".join(json.dumps(row) + "\n" for row in many_rows(70)))
    events = []
    merge(run, events.append, prompts=2)
    assert ["files have changed" in event.sentence for event in events if event.kind == "warning"] == [True]


def test_an_adapter_that_was_moved_away_merges_beside_itself(run, tmp_path):
    adapter = Path(shutil.move(run / "model", tmp_path / "mine"))
    assert merge(adapter, prompts=2)["folder"] == str(tmp_path / "mine-merged")


def test_plain_text_has_logits_and_no_answers(tmp_path, tiny):
    rows = tmp_path / "text.jsonl"
    rows.write_text("".join(json.dumps({"text": f"The pool of house {i} is blue."}) + "\n" for i in range(12)))
    run = run_here(tmp_path, tiny, rows, data={"test": 0, "validation": 0})
    verification = merge(run)["verification"]
    assert verification["rows"]["what"].startswith("training rows")
    assert (verification["answers"], verification["scores"]) == (None, [])
    assert verification["largest_logit_difference"]["value"] < 1e-3


def test_a_road_that_merges_by_itself_exports_with_the_same_verification(run):
    adapter = Path(shutil.move(run / "model", run / "adapter"))
    splits = load_splits(read_recipe(run / "config.yaml").data, find_model(str(adapter)).contract(), 512, READS)
    verification = job.export_merged(adapter, run / "model", job.rows_to_compare(splits), silent, Trial(prompts=4))
    assert read_json(run / "model" / "tunesmith.json")["merge"] == verification
    assert job.find_adapter(run) == adapter  # and it can be merged again, elsewhere
    again = merge(run, max_new_tokens=64)["verification"]
    for one in (verification, again):
        del one["made"]
    assert again == verification


def test_rounding_is_no_improvement():
    score = {"score": {"value": 42.9001}, "other": {"value": 42.9}, "verdict": "worse"}
    assert without_rounding(score)["verdict"] == "no difference shown"
    assert without_rounding({**score, "verdict": "too few rows"})["verdict"] == "too few rows"
    assert without_rounding({**score, "score": {"value": 44.0}})["verdict"] == "worse"


def test_a_flip_is_excused_only_at_a_near_tie(tiny):
    model = load(tiny, LoadSpec()).model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # no longer the embedding's
    prompts = [[5, 6, 7], [9, 8]]
    with torch.inference_mode():
        top = [model(torch.tensor([prompt])).logits[0, -1].topk(2) for prompt in prompts]
    (first, second), gap = top[0].indices.tolist(), float(top[0].values[0] - top[0].values[1])
    assert gap > NEAR_TIE
    same = [1, 2]
    before, after = [[first, 4], same], [[second, 4], same]
    found = agree(model, prompts, before, after)
    assert (found["rows"], found["same"], found["excused"], found["different"]) == (2, 1, 0, 1)
    assert found["flips"][0]["gap"] == pytest.approx(gap)
    with torch.no_grad():
        model.lm_head.weight[second] = model.lm_head.weight[first]
    found = agree(model, prompts, before, after)
    assert (found["same"], found["excused"], found["different"]) == (1, 1, 0)
    # An answer that goes on where the other ended parts from it at the stop token.
    found = agree(model, prompts, [[first, 4, 0], [1, 2, 0]], [[first, 4, 7, 0], [1, 2, 3, 0]])
    assert [flip["token"] for flip in found["flips"]] == [3, 3]
    assert np.isfinite([flip["gap"] for flip in found["flips"]]).all()
