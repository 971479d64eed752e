"""The prompt contract: same ids as the library, the right mask, no control tokens from content."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import MissingError, ModelError, TunesmithError
from tunesmith.prompt.base import Base, context_length, resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message, plain
from tunesmith.prompt.templates import TEMPLATES


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]), min_size=1, max_size=30)
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=3)


def conversation(pairs, system=None):
    head = [Message("system", system)] if system else []
    return tuple(
        head + [Message(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    )


@settings(max_examples=150, deadline=None)
@given(exchanges, st.none() | words)
def test_ids_equal_the_librarys_and_the_mask_equals_a_character_reference(pairs, system):
    contract = load_contract(resolve("ember").folder)
    chat = conversation(pairs, system)
    rendered = contract.render(chat)
    assert rendered.ids.tolist() == contract.tokenizer.apply_chat_template(plain(chat), return_dict=False)
    # The reference: decode each stretch of trained tokens; it must be the answers, each with its stop token.
    stretches, current = [], []
    for i, marked in zip(rendered.ids, rendered.mask, strict=True):
        if marked:
            current.append(i)
        if marked and i in contract.stop_ids:
            stretches.append(current)
            current = []
    assert not current
    said = [contract.tokenizer.decode(ids, skip_special_tokens=False) for ids in stretches]
    assert said == [answer + "<|im_end|>" for _, answer in pairs]


@pytest.mark.parametrize("template", [None, *sorted(set(TEMPLATES) - {"llama3"})])
def test_a_prompt_is_what_training_saw_before_the_answer(template):
    contract = load_contract(resolve("ember").folder, template)
    chat = conversation([("Hi?", "Hello."), ("Where is it?", "On the left.")], "Be kind.")
    rendered, asked = contract.render(chat), contract.prompt(chat[:-1])
    assert rendered.ids[: len(asked)].tolist() == asked
    assert rendered.mask[len(asked)]
    answer = [i for i, marked in zip(rendered.ids[len(asked) :], rendered.mask[len(asked) :], strict=True) if marked]
    assert answer[-1] in contract.stop_ids
    assert contract.decode(answer).strip() == "On the left."


def test_train_on_and_weight_choose_the_turns():
    folder = resolve("ember").folder
    chat = conversation([("Hi?", "Hello."), ("Bye?", "Goodbye.")])
    trained = {name: load_contract(folder, train_on=name).render(chat).trained for name in ("assistant", "last", "all")}
    assert 0 < trained["last"] < trained["assistant"] < trained["all"]
    unweighted = (chat[0], Message("assistant", "Hello.", weight=0), *chat[2:])
    assert load_contract(folder).render(unweighted) == load_contract(folder, train_on="last").render(chat)


def test_content_never_yields_control_tokens(contract):
    for token, control in contract.control_tokens.items():
        for text in (token, f"a{token}b", f"{token}{token}", f"x {token}"):
            chat = (Message("user", text), Message("assistant", f"You said {text}."))
            rendered = contract.render(chat)
            clean = contract.render((Message("user", "a"), Message("assistant", "b")))
            assert rendered.ids.count(control) == clean.ids.count(control)
            shown = contract.tokenizer.decode(rendered.ids, skip_special_tokens=False)
            assert shown == contract.text(chat)  # the text is all there
            trained = [i for i, marked in zip(rendered.ids, rendered.mask, strict=True) if marked]
            assert trained[-1] in contract.stop_ids
            assert contract.tokenizer.decode(trained[:-1], skip_special_tokens=False) == f"You said {text}."


def test_a_template_that_rewrites_earlier_turns_is_refused(contract, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    template = (folder / "chat_template.jinja").read_text()
    kept = "(message['content'] if loop.last or message['role'] == 'user' else 'gone')"
    rewriting = template.replace("message['content']", kept)
    (folder / "chat_template.jinja").write_text(rewriting)
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        load_contract(folder).render(conversation([("Hi?", "Hello."), ("Bye?", "Goodbye.")]))
    (folder / "chat_template.jinja").write_text(template.replace("<|im_end|>", "."))
    with pytest.raises(ModelError, match="would never stop"):
        load_contract(folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    with pytest.raises(ModelError, match="refuses this conversation"):
        load_contract(folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"Choose one with model\.template: alpaca, chatml, llama3"):
        load_contract(folder)
    with pytest.raises(ModelError, match="did you mean 'plain'"):
        load_contract(folder, "plan")
    assert load_contract(folder, "plain").id != load_contract(folder, "zephyr").id


def test_a_template_cannot_reach_outside_its_sandbox(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ModelError, match="refuses"):
        load_contract(folder)


def test_a_tokenizer_that_was_saved_with_truncation_or_padding_loses_and_adds_nothing(contract, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    written["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    written["padding"] = {"strategy": {"Fixed": 900}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(written))
    chat = conversation([("What time is breakfast?", "From seven to ten.")])
    cut = load_contract(folder)
    assert cut.render(chat) == contract.render(chat)
    assert cut.render_many([cut.draft(chat)]) == [contract.render(chat)]


BROKEN = [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 3000]


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "config.json", "tokenizer.json"])
def test_a_small_file_that_is_broken_is_a_sentence(tiny, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    for content in BROKEN:
        (folder / name).write_bytes(content)
        with pytest.raises(TunesmithError):
            context_length(folder) if name == "config.json" else load_contract(folder)


@pytest.mark.parametrize("value", ["2", -1, 2.5, True, ["2"], [None], [[2]], {"a": 2}])
def test_a_stop_token_must_be_the_number_of_one(tiny, tmp_path, value):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id = .*must be the number of a token"):
        load_contract(folder)
    for allowed, stops in ((None, (2,)), (0, (2, 0)), ([], (2,)), ([2, 5], (2, 5))):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": allowed}))
        assert load_contract(folder).stop_ids == stops


@pytest.mark.parametrize("key", ["eos_token", "chat_template", "added_tokens_decoder", "model_max_length", "bos_token"])
def test_odd_values_in_the_tokenizer_s_config_are_taken_or_a_sentence(tiny, tmp_path, key):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for value in (None, "2", -1, 2.5, True, ["2"], [None], {}, {"a": 1}):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, key: value}))
        with contextlib.suppress(TunesmithError):  # any other error fails
            load_contract(folder)


@pytest.mark.parametrize("change", [{"max_position_embeddings": "512"}, {"max_position_embeddings": -1}, {"n_ctx": [1]},
                                    {"text_config": ["x"]}, {"text_config": {"n_positions": 1.5}}])  # fmt: skip
def test_a_length_that_is_none_is_named(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps(change))
    with pytest.raises(ModelError, match=r"config\.json: .* must be"):
        context_length(tmp_path)


def test_names_resolve_or_say_what_to_do(tmp_path, tiny):
    ember = resolve("ember")
    assert ember.folder == resolve("ember").folder
    assert ember.folder.name.startswith("ember-")
    assert resolve(str(tiny)) == Base(str(tiny), tiny.resolve())
    assert resolve(str(tiny)).fingerprint() != ember.fingerprint()
    for name, words in (("./none", "no such folder"), ("llama", "no such folder"), ("a/b", "not in the cache"),
                        ("a b/c", "neither a folder")):  # fmt: skip
        with pytest.raises(MissingError, match=words):
            resolve(name)
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="Pickled weights are never loaded"):
        resolve(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    with pytest.raises(ModelError, match="no tokenizer"):
        resolve(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_contract(resolve(str(tmp_path)).folder)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP as a download needs: one model, one gated one."""

    folder = None

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        path = self.path.split("?")[0]
        commit = "a" * 40
        if "/gated" in path:
            return self.reply(403, b"{}", body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "no"})
        if "team/small" not in path:
            return self.reply(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in self.folder.iterdir()
            ]
            tree.append({"type": "file", "path": "evil.bin", "size": 1, "oid": "evil"})
            return self.reply(200, json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
        if path.startswith("/api/models/"):
            names = [{"rfilename": file.name} for file in sorted(self.folder.iterdir())]
            names.append({"rfilename": "evil.bin"})
            info = {"id": "team/small", "sha": commit, "siblings": names, "tags": [], "downloads": 0, "private": False}
            return self.reply(200, json.dumps(info).encode(), body, {"Content-Type": "application/json"})
        data = (self.folder / path.rsplit("/", 1)[1]).read_bytes()
        return self.reply(200, data, body, {"ETag": f'"{len(data)}"', "X-Repo-Commit": commit})

    def reply(self, code, data, body, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tiny, tmp_path):
    Hub.folder = tiny
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_downloaded_without_files_that_could_run_code(hub, tmp_path):
    """In a process of its own, since the hub's library reads its settings when it is imported."""
    code = """
import sys
from tunesmith.core.errors import MissingError
from tunesmith.prompt.base import resolve
print(resolve("team/small").folder)
for name in ("team/gated", "team/none"):
    try:
        resolve(name)
    except MissingError as error:
        print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment.pop("HF_TOKEN", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder, gated, missing = done.stdout.splitlines()
    names = {file.name for file in Path(folder).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "evil.bin" not in names
    assert "gated. Accept its licence on its hub page, then set HF_TOKEN" in gated
    assert "no such folder here and no such model on the hub" in missing
