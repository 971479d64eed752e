"""Pushing to the hub: what is sent, to a server that speaks as the hub does; what never is; and every refusal."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.numpy import load_file, save_file

from conftest import many_rows, save_tiny
from fake_hub import fake_hub
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Interrupted, silent, to_attempts
from tunesmith.core.files import read_json, write_json
from tunesmith.deploy.bundle import pack, reduced
from tunesmith.deploy.card import QUESTION, code, plain
from tunesmith.deploy.hub import send
from tunesmith.score.metrics import METRICS

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 over httpx2
TOKEN = "hf_VeryWellKeptSecret"
COMMAND = """
from tunesmith.cli import main
from tunesmith.cli.push import push
if push not in [command.callback for command in main.app.registered_commands]:
    main.app.command()(push)
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
main.run()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two real runs on a local base and local rows: `lora` and `full`; and the base's folder."""
    from tunesmith.jobs.finetune import finetune
    from tunesmith.train.recipe import Recipe

    place = tmp_path_factory.mktemp("private")
    base = save_tiny(place / "tiny")
    rows = place / "guests.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
    for name, method in (("lora", {"type": "lora"}), ("full", {"type": "full"})):
        recipe = Recipe.model_validate(
            {
                "model": {"base": str(base)},
                "method": method,
                "data": {"train": str(rows), "validation": 0, "test": 0.3},
                "optim": {"learning_rate": 1e-3, "steps": 2, "batch_size": 8},
                "evaluate": {"max_new_tokens": 4},
                "output": {"folder": str(place / "runs"), "name": name},
                "precision": "fp32",
            }
        )
        folder = place / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(recipe))
        finetune({"folder": str(folder)}, silent)
    return place


@pytest.fixture
def runs(made, tmp_path):
    """The runs, to be changed at will."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def on_hub_base(run: Path, name: str, commit: str) -> Path:
    """Make an adapter's run say that its base came from the hub."""
    for file, keys in (("adapter_config.json", ("base_model_name_or_path", "revision")), ("tunesmith.json", ())):
        value = read_json(run / "model" / file)
        if keys:
            value |= dict(zip(keys, (name, commit), strict=True))
        else:
            value["base"] |= {"name": name, "commit": commit}
            value["recipe"]["model"]["base"] = name
        write_json(run / "model" / file, value)
    return run


@pytest.fixture
def hub():
    with fake_hub() as hub:
        hub.tokens = {TOKEN: ("me", "write"), "hf_reader": ("me", "read")}
        yield hub


def environment(hub, home, **changes):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **changes,
    }


def push(hub, home, *arguments, **changes):
    """The command line in a process of its own; returns (exit code, standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "push", *map(str, arguments)],
        env=environment(hub, home, **changes), cwd=home, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(hub, monkeypatch, tmp_path):
    """This process as one that may push to the fake."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def files_on(hub, repo, branch="main"):
    found = dict(hub.repos[repo].branches[branch][-1].files)
    found.pop(".gitattributes")
    return found


def sent(hub):
    """Everything that clients sent but the token's header, readable."""
    said = []
    for request in hub.requests:
        headers = {name: value for name, value in request.headers.items() if name != "authorization"}
        said.append(f"{request.path} {headers}".encode() + request.body)
        if "/commit/" in request.path:
            lines = [json.loads(line)["value"] for line in request.body.splitlines()]
            said += [base64.b64decode(line["content"]) for line in lines if "content" in line]
    return b"\n".join(said)


def test_a_full_model_arrives_whole_in_one_commit(hub, made, tmp_path):
    run = made / "runs" / "full"
    status, out, error = push(hub, tmp_path, run, "me/hotel", "--message", "the first")
    assert status == 0, error
    head = hub.repos["me/hotel"].branches["main"][-1]
    assert out.splitlines() == [f"{hub.address}/me/hotel", f"commit {head.id}", "False"]  # torch was not needed
    assert [commit.message for commit in hub.repos["me/hotel"].branches["main"]] == ["initial commit", "the first"]
    assert hub.repos["me/hotel"].private
    files = files_on(hub, "me/hotel")
    local = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    assert set(files) == {*local, "README.md"}
    assert [name for name in local if files[name] != local[name]] == ["tunesmith.json"]
    record, told = read_json(run / "model" / "tunesmith.json"), json.loads(files["tunesmith.json"])
    assert (told["base"]["name"], told["recipe"]["data"]["train"]) == ("tiny", "guests.jsonl")
    assert told["recipe"]["output"]["folder"] == "runs"
    assert told["base"]["sha256"] == record["base"]["sha256"]
    assert {k: told[k] for k in ("method", "contract", "seed", "versions")} == {
        k: record[k] for k in ("method", "contract", "seed", "versions")
    }
    everything = sent(hub)
    for secret in (TOKEN, str(made), str(tmp_path), str(Path.home()) + "/", str(Path.cwd()), "I am guest", "guest 1"):
        assert secret.encode() not in everything, secret
    assert TOKEN not in out + error
    assert str(made).encode() in (run / "model" / "tunesmith.json").read_bytes()  # so there was something to reduce


def test_cards_are_valid_and_say_what_was_measured(here, made, runs):
    full, adapter = pack(str(made / "runs" / "full"), "me/full"), None
    commit = "a" * 40
    adapter = pack(str(on_hub_base(runs / "lora", "some/tiny", commit)), "me/lora")
    report = read_json(made / "runs" / "full" / "report" / "report.json")
    data = ModelCard(full.card).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (None, "transformers", "text-generation")
    assert data.tags == ["tunesmith", "full", "sft"]
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        score["metric"]: score["score"]["value"] for score in report["scores"]
    }
    assert {(result.dataset_name, result.dataset_type) for result in data.eval_results} == {
        ("guests.jsonl", report["data"])
    }
    assert (data.license, data.language) == (None, None)
    data = ModelCard(adapter.card).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("some/tiny", "adapter", "peft")
    assert data.tags == ["tunesmith", "lora", "sft"]
    for words in (commit, "some/tiny", "rank 16", "40 read: 40 kept", "0.001, cosine", "| seed | 0 |", "torch"):
        assert words in adapter.card, words
    assert f"Measured on {report['rows']} held-out rows" in full.card
    assert re.search(r"\| perplexity .*\| \d+ \[\d+, \d+\] \| \d+ \[\d+, \d+\] \| -?\d+ \[.*\| better \|", full.card)
    assert "guest" not in full.card.replace("guests.jsonl", "")


def test_the_code_of_a_card_answers_as_tunesmith_does(here, made, runs, tmp_path):
    """Both kinds of model, loaded from the hub by the code that their cards show."""
    import tunesmith

    base = {path.name: path.read_bytes() for path in (made / "tiny").iterdir()}
    eager = b'{"do_sample": true, "temperature": 1.9, "eos_token_id": 2}'  # the base would answer at random
    here.create("some/tiny", private=False, files=base | {"generation_config.json": eager})
    commit = here.repos["some/tiny"].branches["main"][-1].id
    here.commit("some/tiny", "main", "another model", {"config.json": b"{}"})  # the adapter names the one before
    expected, programs = [], []
    for name, repo in (("full", "me/full"), ("lora", "me/lora")):
        expected.append(tunesmith.load(runs / name).generate(QUESTION, max_new_tokens=128))
        if name == "lora":
            on_hub_base(runs / name, "some/tiny", commit)
        bundle = pack(str(runs / name), repo)
        send(bundle)
        programs.append(re.search(r"```python\n(.*?)```", bundle.card, re.DOTALL)[1])
    assert "me/full" in programs[0]
    assert "me/lora" in programs[1]
    script = "\nprint('=====')\n".join(programs)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(here, tmp_path), cwd=tmp_path, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [said.strip() for said in done.stdout.split("=====")] == expected
    assert here.asked(f"some/tiny/resolve/{commit}/model.safetensors")


def test_a_dry_run_shows_all_and_asks_nobody(hub, made, tmp_path):
    run = made / "runs" / "full"
    status, out, error = push(hub, tmp_path, run, "me/hotel", "--dry-run", HF_TOKEN="", HF_HUB_OFFLINE="1")
    assert (status, error, hub.requests) == (0, "", [])
    assert out.startswith(pack(str(run), "me/hotel").card)
    for path in (run / "model").iterdir():
        if path.name != "tunesmith.json":
            assert f"{path.stat().st_size:,}  {path.name}\n" in out
    assert re.search(r"[\d,]+  README\.md\n", out)


def test_pushing_again_updates_the_same_repository(here, runs):
    adapter = on_hub_base(runs / "lora", "some/tiny", "a" * 40)
    first = send(pack(str(adapter), "me/hotel"))
    again = send(pack(str(adapter), "me/hotel"), public=True)
    assert (first.changed, again.changed, again.commit) == (True, False, first.commit)
    assert again.private  # as it was made
    history = here.repos["me/hotel"].branches["main"]
    assert len(history) == 2
    weights = load_file(adapter / "model" / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, adapter / "model" / "adapter_model.safetensors")
    third = send(pack(str(adapter), "me/hotel"), message="better")
    assert (third.changed, third.removed, len(history)) == (True, [], 3)
    changed = [name for name, content in history[2].files.items() if history[1].files[name] != content]
    assert (history[2].message, changed) == ("better", ["adapter_model.safetensors"])
    fourth = send(pack(str(runs / "full"), "me/hotel"))
    assert fourth.removed == ["adapter_config.json", "adapter_model.safetensors"]
    assert set(files_on(here, "me/hotel")) == set(pack(str(runs / "full"), "me/hotel").files)


def test_a_branch_is_made_and_the_main_one_stays(here, made):
    run = str(made / "runs" / "full")
    send(pack(run, "me/hotel"))
    main = files_on(here, "me/hotel")
    bundle = pack(run, "me/hotel", revision="trial/2")
    pushed = send(bundle, branch="trial/2", message="a trial")
    assert pushed.url == f"{here.address}/me/hotel/tree/trial/2"
    assert files_on(here, "me/hotel") == main
    assert 'model="me/hotel", revision="trial/2")' in files_on(here, "me/hotel", "trial/2")["README.md"].decode()
    with pytest.raises(TunesmithError, match=r"refused with 400 \(Invalid reference.*Nothing was pushed"):
        send(bundle, branch="refs/pr/1")


def test_large_files_go_by_xet_where_it_is(hub, made, tmp_path):
    hub.xet = str(tmp_path / "xet")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    model = made / "runs" / "full" / "model"
    status, out, error = push(hub, tmp_path, model, "me/hotel", HF_HUB_DISABLE_XET="0", HF_TOKEN="")
    assert status == 0, error
    assert TOKEN not in out + error
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert files_on(hub, "me/hotel")["model.safetensors"] == f"sha256 {digest}".encode()
    assert not hub.asked("PUT")
    assert sum(path.stat().st_size for path in Path(hub.xet).rglob("*") if path.is_file()) > 1e6


def lost_interrupted(run):
    to_attempts(run)(Interrupted())


def lost_model(run):
    shutil.rmtree(run / "model")


def lost_weights(run):
    (run / "model" / "model.safetensors").unlink()


def path_inside(run):
    write_json(run / "model" / "config.json", {**read_json(run / "model" / "config.json"), "x": f"{Path.home()}/y"})


@pytest.mark.parametrize(
    ("run", "repo", "change", "words"),
    [
        ("lora", "me/hotel", None, r"the local folder .*tiny, which nobody.*tunesmith merge .*lora.*merge=true"),
        ("full", "me/hotel", lost_interrupted, r"this run is interrupted.*--resume .*or name .*full/model to push"),
        ("full", "me/hotel", lost_model, r"this run has no model yet.*tunesmith show"),
        ("full", "me/hotel", lost_weights, r"no weights"),
        ("full", "me/hotel", path_inside, r"config\.json: it names .* must not leave"),
        ("none", "me/hotel", None, r"no run and no model"),
        ("full", "hotel", None, r"'hotel' cannot be a repository. Give owner/name"),
        ("full", "me/ho tel", None, r"cannot be a repository"),
        ("full", "https://huggingface.co/me/hotel", None, r"cannot be a repository"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_refused_before_anybody_is_asked(here, runs, run, repo, change, words):
    if change is not None:
        change(runs / run)
    with pytest.raises(TunesmithError, match=words):
        pack(str(runs / run), repo)
    assert here.requests == []


def test_an_adapter_of_ember_is_refused_and_a_stopped_run_can_be_named_by_its_model(here, runs):
    record = read_json(runs / "lora" / "model" / "tunesmith.json")
    record["base"]["name"] = "ember"
    write_json(runs / "lora" / "model" / "tunesmith.json", record)
    with pytest.raises(TunesmithError, match="an adapter of the embedded model ember"):
        pack(str(runs / "lora"), "me/hotel")
    lost_interrupted(runs / "full")
    bundle = pack(str(runs / "full" / "model"), "me/hotel")
    assert "## Scores" in bundle.card
    shutil.move(runs / "full" / "model", runs / "alone")
    card = pack(str(runs / "alone"), "me/hotel").card
    assert "It was not measured." in card
    assert "40 read: 40 kept" in card
    with pytest.raises(TunesmithError, match="no report with a question"):
        pack(str(runs / "alone"), "me/hotel", with_samples=True)


def refusal(bundle, **options):
    with pytest.raises(TunesmithError) as caught:
        send(bundle, **options)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_the_hub_s_refusals_say_what_to_do(here, made, monkeypatch):
    bundle = pack(str(made / "runs" / "full"), "me/hotel")
    elsewhere = pack(str(made / "runs" / "full"), "you/hotel")
    assert "--message is empty" in refusal(bundle, message=" ")
    assert "you/hotel: the repository is not yours: you is neither me" in refusal(elsewhere)
    here.create("you/hotel", private=False)
    assert "you/hotel is public. Add --public" in refusal(elsewhere)
    assert "you/hotel: the repository is not yours" in refusal(elsewhere, public=True)
    here.repos["you/hotel"].private = True
    here.before = lambda request: (409, "conflict") if "/preupload/" in request.path else None
    assert "me/hotel is there, but it is not yours" in refusal(bundle)
    here.before = lambda request: (403, "no") if "/preupload/" in request.path else None
    assert "me/hotel: this token may not write there" in refusal(bundle)
    here.before = lambda request: None
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "this token may read and not write" in refusal(bundle)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert f"{here.address} does not know this token" in refusal(bundle)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN} \x01")
    assert "characters that no token has" in refusal(bundle)
    monkeypatch.delenv("HF_TOKEN")
    assert "no token for the hub. Set HF_TOKEN" in refusal(bundle)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(bundle)
    assert [commit.message for repo in here.repos.values() for commit in repo.branches["main"]] == [
        "initial commit"
    ] * 2


def test_a_model_of_others_is_not_overwritten(here, made):
    here.create("me/hotel", files={"model.safetensors": b"other"})
    assert "a model that tunesmith did not push" in refusal(pack(str(made / "runs" / "full"), "me/hotel"))
    assert files_on(here, "me/hotel") == {"model.safetensors": b"other"}


def test_an_upload_that_fails_leaves_nothing(here, made, monkeypatch):
    bundle = pack(str(made / "runs" / "full"), "me/hotel")
    here.before = lambda request: (400, "disk full") if request.method == "PUT" else None
    assert "refused with 400 (disk full). Nothing was pushed." in refusal(bundle)
    here.before = lambda request: (500, "oh") if "/commit/" in request.path else None
    assert "refused with 500 (oh). Nothing was pushed." in refusal(bundle)

    def drop(request):
        if "/commit/" in request.path:
            raise ConnectionError

    here.before = drop
    assert re.search(r"cannot be reached .* Nothing was pushed\.$", refusal(bundle))
    assert set(here.repos["me/hotel"].branches["main"][-1].files) == {".gitattributes"}
    here.before, here.after = lambda request: None, drop
    said = refusal(bundle)
    assert said.endswith(f"The commit was made all the same: {here.repos['me/hotel'].branches['main'][-1].id}.")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert re.search(r"127\.0\.0\.1:9 cannot be reached .*HF_ENDPOINT.* Nothing was pushed\.$", refusal(bundle))


def test_ctrl_c_says_that_nothing_was_published(hub, made, tmp_path):
    child = None

    def stop(request):
        if request.method == "PUT":
            child.send_signal(signal.SIGINT)

    hub.before = stop
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "push", str(made / "runs" / "full"), "me/hotel"],
        env=environment(hub, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted. Nothing was pushed." in error
    assert "Traceback" not in error
    assert len(hub.repos["me/hotel"].branches["main"]) == 1


def test_mistakes_are_one_sentence_on_the_terminal(hub, runs, tmp_path):
    (runs / "full" / "model" / "notes.txt").write_text("mine")
    status, out, error = push(hub, tmp_path, runs / "full", "me/hotel", HF_TOKEN="")
    assert (status, out) == (1, "left out: notes.txt\nFalse\n")
    assert error.startswith("error: no token for the hub.")
    assert error.count("\n") == 1


def test_paths_are_reduced_wherever_they_stand():
    value = {
        "base": {"name": "models/tiny", "commit": None, "sha256": "ab/cd"},
        "parent": {"name": "~/models/one", "card": {"base": {"name": "org/tiny", "commit": "c" * 40}}},
        "directory": "/home/jane",
        "data": {
            "ledgers": [
                {"file": "chats/b.jsonl", "counts": {"read": 3}, "entries": [{"found": "a row said: hello"}]},
                "/srv/x y/c.jsonl",
            ],
            "sentence": "read '/home/jane/data/c.jsonl' and ~/d/e.csv: 40 rows (see /srv/f.txt, or https://a.b/c/d).",
        },
        "recipe": {
            "model": {"base": "models/tiny"},
            "method": {"type": "lora", "continue_from": "work/runs/first"},
            "track": {"mlflow": "https://jane:word@track.org"},
            "data": {
                "train": {"/home/jane/a/x.jsonl": 1.0, "/home/jane/b/x.jsonl": 2.0, "hf:org/set": 1.0},
                "validation": ["../more/v.jsonl", "hotel"],
                "test": "https://jane:word@data.org/t.jsonl?key=secret",
                "system": "Be kind to guests of mine.",
            },
            "output": {"folder": "work/runs", "name": "a"},
            "words": "Say yes/no and/or either.",
            "store": ["postgresql://jane:word@db/one", "sqlite:////home/jane/two.db", "file:///home/jane/three"],
        },
        "seed": 3,
    }
    assert reduced(value, {"models/tiny"}) == {
        "base": {"name": "tiny", "commit": None, "sha256": "ab/cd"},
        "parent": {"name": "one", "card": {"base": {"name": "org/tiny", "commit": "c" * 40}}},
        "directory": "jane",
        "data": {
            "ledgers": [{"file": "b.jsonl", "counts": {"read": 3}}, "c.jsonl"],
            "sentence": "read 'c.jsonl' and e.csv: 40 rows (see f.txt, or https://a.b/c/d).",
        },
        "recipe": {
            "model": {"base": "tiny"},
            "method": {"type": "lora", "continue_from": "first"},
            "data": {
                "train": {"x.jsonl": 1.0, "x.jsonl+": 2.0, "hf:org/set": 1.0},
                "validation": ["v.jsonl", "hotel"],
                "test": "https://data.org/t.jsonl",
            },
            "output": {"folder": "runs", "name": "a"},
            "words": "Say yes/no and/or either.",
            "store": ["postgresql://db/one", "two.db", "three"],
        },
        "seed": 3,
    }


def test_a_merged_model_has_the_scores_of_its_adapter_while_that_is_there(runs):
    adapter, merged = runs / "lora" / "model", runs / "merged"
    shutil.copytree(runs / "full" / "model", merged)
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    verification = {
        "adapter": {"folder": str(adapter), "sha256": digest},
        "largest_logit_difference": {"value": 1.5e-5, "limit": 1e-3, "row": "chats/x.jsonl:3", "position": 2},
    }
    write_json(merged / "tunesmith.json", {**read_json(adapter / "tunesmith.json"), "merge": verification})
    bundle = pack(str(merged), "me/hotel")
    report = read_json(runs / "lora" / "report" / "report.json")
    data = ModelCard(bundle.card).data
    assert data.library_name == "transformers"
    assert data.eval_results[0].metric_value == report["scores"][0]["score"]["value"]
    assert "those of the adapter, before it was folded into its base." in bundle.card
    assert "| merged | no logit off by more than 1.5e-05 |" in bundle.card
    told = json.loads(bundle.files["tunesmith.json"])["merge"]
    assert (told["adapter"]["folder"], told["largest_logit_difference"]["row"]) == ("model", "x.jsonl:3")
    (adapter / "adapter_model.safetensors").write_bytes(b"trained on since")
    assert "It was not measured." in pack(str(merged), "me/hotel").card


def test_a_model_that_its_run_merged_has_the_run_s_scores_wherever_all_of_it_lies(made, runs, tmp_path):
    """As `output.merge` leaves it, and after the run's folder was moved."""
    model, adapter = runs / "lora" / "model", runs / "lora" / "adapter"
    model.rename(adapter)
    shutil.copytree(runs / "full" / "model", model)
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    verification = {
        "adapter": {"folder": str(adapter), "sha256": digest},
        "largest_logit_difference": {"value": 0.0, "limit": 1e-3, "row": "x.jsonl:3", "position": 2},
    }
    write_json(model / "tunesmith.json", {**read_json(adapter / "tunesmith.json"), "merge": verification})
    shutil.copytree(model, runs / "lora" / "merged")  # as `tunesmith merge` makes another one
    (runs / "lora").rename(tmp_path / "moved")
    value = read_json(made / "runs" / "lora" / "report" / "report.json")["scores"][0]["score"]["value"]
    for name, of_adapter in (("moved", False), ("moved/model", False), ("moved/merged", True)):
        card = pack(str(tmp_path / name), "me/hotel").card
        assert ModelCard(card).data.eval_results[0].metric_value == value, name
        assert ("those of the adapter" in card) is of_adapter, name


def test_settings_that_were_changed_on_the_way_are_reduced_like_the_settings_themselves():
    changes = [
        {"name": "data.train", "before": "work/a.jsonl", "now": ["/srv/b.jsonl", "work/c.jsonl"]},
        {"name": "data.train.work/a.jsonl", "before": 1.0, "now": 2.0},
        {"name": "data.system", "before": "Be kind to guests of mine.", "now": None},
        {"name": "optim.learning_rate", "before": 0.1, "now": 0.2},
        {"name": "versions.torch", "before": "2.11", "now": "2.13"},
    ]
    assert reduced({"resumed": [{"step": 3, "changes": changes}]})["resumed"][0]["changes"] == [
        {"name": "data.train", "before": "a.jsonl", "now": ["b.jsonl", "c.jsonl"]},
        {"name": "data.train.a.jsonl", "before": 1.0, "now": 2.0},
        {"name": "data.system", "before": "(left out)", "now": "(left out)"},
        {"name": "optim.learning_rate", "before": 0.1, "now": 0.2},
        {"name": "versions.torch", "before": "2.11", "now": "2.13"},
    ]


def test_a_place_that_a_library_wrote_into_a_config_is_reduced(runs):
    config = runs / "full" / "model" / "config.json"
    written = {**read_json(config), "_name_or_path": "/srv/models/tiny"}
    write_json(config, written)
    sent = pack(str(runs / "full"), "me/hotel").files["config.json"]
    assert json.loads(sent) == {**written, "_name_or_path": "tiny"}


ODD = 'a: b\n---\n# <img src=x> | `tick` ``two`` "q" {x: [y]} %s \u2028 é.jsonl'


def test_odd_names_and_questions_break_neither_header_nor_table_nor_code(made, runs):
    run = runs / "full"
    record, report = read_json(run / "model" / "tunesmith.json"), read_json(run / "report" / "report.json")
    record["recipe"]["data"]["train"] = [ODD, "hf:org/guests:default"]
    record["recipe"]["method"]["type"] = record["method"]["type"] = ODD
    record["method"]["rank"] = "|\n---\n"
    question = 'He said: "```\n---\nWhat?" \\ \' {{ x }} {% if %}\ud800'
    report["samples"][0]["messages"] = [{"role": "user", "content": question}]
    report["scores"][0]["metric"], report["scores"][1]["score"]["value"] = ODD, float("nan")
    (run / "ledger.json").write_text(json.dumps([{"file": ODD, "counts": {"read": 1, "kept": 1}}]))
    (run / "model" / "tunesmith.json").write_text(json.dumps(record))
    (run / "report" / "report.json").write_text(json.dumps(report))
    text = pack(str(run), "me/hotel", with_samples=True).card
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(header)["tags"][1] == ODD
    data = ModelCard(text).data
    assert data.datasets == ["org/guests"]
    assert data.eval_results[0].dataset_name == f"{ODD}, hf:org/guests:default"
    assert [result.metric_name for result in data.eval_results] == [ODD, *(metric.name for metric in METRICS[2:])]
    program = re.search(r"```python\n(.*?)\n```\n", body, re.DOTALL)[1]
    assert question in [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    outside = body.replace(program, "")
    assert "\n---\n" not in outside
    assert "<img" not in re.sub(r"(`+).*?\1", "", outside.replace("\\<", ""))
    lines = [line for line in outside.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert columns == {3, 6}


def test_text_in_markdown_is_only_text():
    assert plain("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    assert code("a`b``c|") == "```a`b``c¦```"
    assert code("`x`") == "`` `x` ``"


def test_the_first_question_is_quoted_only_when_asked_for(made):
    run = str(made / "runs" / "full")
    question = read_json(made / "runs" / "full" / "report" / "report.json")["samples"][0]["messages"][-1]["content"]
    without, quoting = pack(run, "me/hotel").card, pack(run, "me/hotel", with_samples=True).card
    assert (question in without, QUESTION in without) == (False, True)
    assert (quoting.count(question), QUESTION in quoting) == (1, False)
