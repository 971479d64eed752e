"""Serving on this CPU: `tunesmith serve` beside other servers, all asked by the same users in the same run.

    python benchmarks/serve.py --write                # about eight minutes; -> benchmarks/RESULTS.md
    python benchmarks/serve.py --llama-cpp FOLDER     # llama.cpp's server too, compiled there (once, eight minutes)
    python benchmarks/serve.py --size tiny --seconds 2 --warm 1

vLLM is asked too where it is installed.

A Llama of 135 million random weights in bf16. Closed loop: 1, 8 and 32 users each ask again as soon as they are
answered (about 32 tokens of prompt, 64 new ones, greedy, streamed). Sixteen LoRA adapters of rank 16: users ask them in
turn.
Each server is warmed for a while first, since ours compiles in the background. Adapters are cold when the first one
asks for them: that first token is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
from results import put
from sft_cpu import SIZES, make_model
from start import processor
from with_llama_cpp import VERSION as LLAMA_VERSION
from with_llama_cpp import build_server, write_gguf

USERS = (1, 8, 32)
EACH_ITS_OWN = httpx.Limits(max_keepalive_connections=0)  # servers close kept ones as they like
NEW, ADAPTERS = 64, 16
OURS = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--workers", "0", "--log", "none"]
TUNESMITH, MANY, THEIRS, LLAMA = (
    "tunesmith serve",
    "tunesmith serve, 16 adapters",
    "transformers serve",
    "llama-server",
)
GOALS = {  # whose tokens/s are compared with whose
    (TUNESMITH, THEIRS): {1: 2.0, 8: 4.0, 32: 4.0},
    (TUNESMITH, LLAMA): {1: 0.8, 8: 1.3, 32: 1.3},
    (MANY, TUNESMITH): {1: 0.6, 8: 0.6, 32: 0.6},
}


@dataclass
class Measured:
    """What users met."""

    tokens: int = 0
    requests: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def make_adapters(folder: Path, count: int) -> list[Path]:
    """Adapters of the model in `folder`, with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.prompt.load import load_contract

    contract = load_contract(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False))
    made = []
    for number in range(count):
        torch.manual_seed(number)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.01)
        model.peft_config["default"].base_model_name_or_path = str(folder)
        target = folder.parent / f"adapter-{number}"
        model.save_pretrained(target)
        contract.save(target)
        made.append(target)
    return made


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Served:
    """A server in a process of its own."""

    def __init__(self, command: list[str], key: str = "") -> None:
        self.port, self.key = free_port(), key
        command = [*command, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        if not key:
            assert self.process.stdout is not None
            self.key = self.process.stdout.readline().split()[-1]
        deadline = time.monotonic() + 120
        while True:
            try:
                url = f"http://127.0.0.1:{self.port}/v1/models"
                httpx.get(url, headers=self.headers, timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                assert time.monotonic() < deadline, command
                time.sleep(0.2)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def memory(self) -> int:
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(one.memory_info().rss for one in processes)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ask(client: httpx.Client, url: str, model: str, number: int, measured: Measured, lock: threading.Lock) -> None:
    """One answer, streamed."""
    body = {
        "model": model, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": NEW,
        "messages": [{"role": "user", "content": f"Guest {number} asks when the pool opens, and who may swim there."}],
    }  # fmt: skip
    started, first, tokens, chunks = time.perf_counter(), None, 0, 0
    with client.stream("POST", url, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            piece = json.loads(line[6:])
            chunks += bool(piece.get("choices"))
            first = first or (time.perf_counter() - started if piece.get("choices") else None)
            tokens = (piece.get("usage") or {}).get("completion_tokens", tokens)
    with lock:
        measured.requests += 1
        measured.tokens += tokens or chunks
        measured.first.append(first or 0.0)
        measured.whole.append(time.perf_counter() - started)


def load(served: Served, models: list[str], users: int, seconds: float) -> Measured:
    """Users ask for so many seconds; what they have begun is finished and counted with its time."""
    measured, lock, begun = Measured(), threading.Lock(), time.perf_counter()
    url = f"http://127.0.0.1:{served.port}/v1/chat/completions"

    def user(number: int) -> None:
        with httpx.Client(headers=served.headers, timeout=300, limits=EACH_ITS_OWN) as client:
            turn = number
            while time.perf_counter() - begun < seconds:
                ask(client, url, models[turn % len(models)], turn, measured, lock)
                turn += users

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured.seconds, measured.memory = time.perf_counter() - begun, served.memory
    return measured


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[int, Measured]]:
    """Each contender under each load."""
    model = folder / "model"
    make_model(model, options.size)
    adapters = make_adapters(model, ADAPTERS)
    named = [part for n, path in enumerate(adapters) for part in ("--model", f"a{n}={path}")]
    ours = [*OURS, "--precision", "bf16", "--model", f"base={model}", *named]
    theirs = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--dtype", "bfloat16"]
    contenders: dict[str, tuple[list[str], str, list[str]]] = {
        TUNESMITH: (ours, "", ["base"]),
        MANY: (ours, "", [f"a{n}" for n in range(ADAPTERS)]),
        THEIRS: ([*theirs, "--device", "cpu"], "none", [str(model)]),
    }
    if options.llama_cpp:
        contenders[LLAMA] = (llama(Path(options.llama_cpp).absolute(), model), "none", ["base"])
    if find_spec("vllm") is not None:
        vllm = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--dtype", "bfloat16"]
        contenders["vLLM"] = (vllm, "none", [str(model)])
    found: dict[str, dict[int, Measured]] = {}
    for name, (command, key, models) in contenders.items():
        if options.only and name not in options.only:
            continue
        home = [] if key else ["--home", str(folder / f"home of {name}")]
        with Served([*command, *home], key) as served:
            if name == MANY:
                found["cold"] = {1: load_cold(served, models)}
            for users, share in ((8, 1.0), (1, 0.5)):  # graphs of one row and of many
                load(served, models, users, share * options.warm if key == "" else min(share * options.warm, 10.0))
            found[name] = {users: load(served, models, users, options.seconds) for users in options.users}
    return found


def load_cold(served: Served, models: list[str]) -> Measured:
    """Each adapter is asked once, when its base is there."""
    measured, lock, url = Measured(), threading.Lock(), f"http://127.0.0.1:{served.port}/v1/chat/completions"
    with httpx.Client(headers=served.headers, timeout=300) as client:
        ask(client, url, "base", 0, Measured(), lock)
        for number, model in enumerate(models):
            ask(client, url, model, number, measured, lock)
    return measured


def llama(folder: Path, model: Path) -> list[str]:
    """The command of llama.cpp's server for the same weights, with a slot for each user."""
    program = build_server(folder)
    sys.path.append(str(folder / "python"))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
    file = write_gguf(weights, model.parent / "model.gguf", AutoTokenizer.from_pretrained(model))
    most = max(USERS)
    slots = ["--parallel", str(most), "--ctx-size", str(512 * most), "--threads", str(os.cpu_count())]
    return [str(program), "--model", str(file), *slots]


def table(found: dict[str, dict[int, Measured]]) -> str:
    lines = [
        "| server | users | tokens/s | beside others (goal) | requests/s | first token, ms | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, loads in found.items():
        for users, one in loads.items() if name != "cold" else ():
            beside = [
                f"{one.rate / found[other][users].rate:.2f} of {other} ({goals.get(users, 0)})"
                for (mine, other), goals in GOALS.items()
                if mine == name and users in found.get(other, {})
            ]
            first = statistics.median(one.first) * 1e3
            rates = f"{one.rate:.0f} | {', '.join(beside)} | {one.requests / one.seconds:.2f}"
            lines.append(f"| {name} | {users} | {rates} | {first:.0f} | {one.memory / 1e6:.0f} |")
    if "cold" in found:
        first = found["cold"][1].first
        lines += ["", f"First token of a cold adapter: {statistics.median(first):.2f} s, at most {max(first):.2f} s."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="135m")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=80.0)
    parser.add_argument("--users", type=int, nargs="+", default=list(USERS))
    parser.add_argument("--llama-cpp", metavar="FOLDER", help="measure llama.cpp's server, compiled there if need be")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    here = f"2 cores of {processor()}, torch {version('torch')}, transformers {version('transformers')}"
    said = "transformers serve sends a first piece without a token at once; its first token comes later than that."
    if LLAMA in found:
        said += f" llama-server is that of llama-cpp-python {LLAMA_VERSION}, with a slot for each user."
    rest = f"{said}\n\n{here}, {datetime.now(UTC):%Y-%m-%d}, by `python benchmarks/serve.py`."
    text = f"## Serving\n\n{table(found)}\n{rest}\n"
    print(text)
    if options.write:
        put("serve", text)
    return text


if __name__ == "__main__":
    main()
