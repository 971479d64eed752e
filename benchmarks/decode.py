"""Decoding: tunesmith's engine beside transformers.generate, and others where they can be had.

    python benchmarks/decode.py --write                 # on this CPU -> benchmarks/RESULTS.md
    python benchmarks/decode.py --llama-cpp             # compiled for this (minutes)
    python benchmarks/decode.py --size tiny --dtype float32
    python benchmarks/decode.py --device cuda --size 1b --write     # on an NVIDIA GPU, in little more than a minute

A Llama of 135 million random weights answers 1, 8 and 32 prompts of 32 tokens at once, greedily, with 64 new tokens
each. Every contender runs in a process of its own, warm; each figure is the best of its rounds, prompts included.

On a GPU there are 128 new tokens, in bf16, and the weights are made in place: nothing is fetched or written. One
contender may take half a minute there; what it has not measured by then is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_cases import CASES, SHAPES
from gpu_cases import make_model as make_in_place
from results import put
from sft_cpu import SIZES, make_model
from start import processor
from with_llama_cpp import build_bindings, write_gguf

from tunesmith.exec.local import SETTINGS

TOGETHER = (1, 8, 32)
PROMPT = 32
NEW = {"cpu": 64, "cuda": 128}
ROUNDS = 2
LONGEST, ALL = 32, 68  # seconds that one contender may take on a GPU, and that they may take together
ENOUGH = 3.0  # seconds of one number of prompts, after which no further round is begun on a GPU
LAYERS, COMPILED = "tunesmith, slots and packed weights", "tunesmith, layers compiled"
LEVERS = ("tunesmith, slots alone", LAYERS, COMPILED)


def prompts(count: int, words: int) -> list[list[int]]:
    return [[(7919 * row + 31 * place + 5) % min(words, 4000) for place in range(PROMPT)] for row in range(count)]


def fastest(
    answer: Callable[[list[list[int]]], int],
    options: argparse.Namespace,
    words: int = 4000,
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Tokens/s for each number of prompts at once, told as soon as they are known.

    Args:
        answer: answers prompts, and says how many tokens it made.
        options: of the command line.
        words: token ids that there are.
        found: what is known already.
    """
    found, new = {} if found is None else found, options.new
    for count in (*TOGETHER[::2], *TOGETHER[1::2]):  # one and most first: on a GPU time is short
        asked, seconds = prompts(count, words), list[float]()
        for tried in range(ROUNDS + 1):  # the first one warms up
            if options.device == "cuda" and tried > 1 and sum(seconds) > ENOUGH:
                break
            started = time.perf_counter()
            tokens = answer(asked)
            seconds.append(time.perf_counter() - started)
            assert tokens == count * new, f"{tokens} tokens for {count} prompts"
        found[str(count)] = count * new / min(seconds)
        print(json.dumps(found), flush=True)
    return found


def load(options: argparse.Namespace) -> Any:
    """The model in the folder, or one made in place."""
    if options.folder is None:
        return make_in_place(next(case for case in CASES if (case.shape, case.method) == (options.size, "lora")))

    from tunesmith.model.load import LoadSpec, load

    return load(
        Path(options.folder) / "model", LoadSpec(precision="bf16" if options.dtype == "bfloat16" else "fp32")
    ).model


def run_transformers(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    model = load(options)
    model.generation_config.eos_token_id = None
    static = {"cache_implementation": "static", "disable_compile": True} if options.contender.endswith("static") else {}

    def answer(asked: list[list[int]]) -> int:
        ids = torch.tensor(asked, device=model.device)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=mask, max_new_tokens=options.new, do_sample=False, **static)
        return len(made[:, PROMPT:].flatten().tolist())

    return fastest(answer, options, model.config.vocab_size)


def run_tunesmith(options: argparse.Namespace) -> dict[str, Any]:
    from tunesmith.infer.engine import network
    from tunesmith.infer.generator import Options, answer_all
    from tunesmith.infer.local import LocalEngine

    if options.contender.endswith("slots alone"):
        network.PACKED_SHARE = 0.0  # no memory for packed weights
    if options.contender in (LAYERS, COMPILED):
        network.can_step = lambda model: False  # a step is not one call
    engine = LocalEngine(load(options), None, compile_after=None)
    found: dict[str, Any] = {"device": device_name()}
    if options.contender in ("tunesmith", COMPILED) and options.folder:
        started = time.perf_counter()
        engine.compile()
        found["compiled in"] = time.perf_counter() - started
        assert not engine.reason, engine.reason

    def answer(asked: list[list[int]]) -> int:
        completions = answer_all(engine, [(prompt, Options(max_new_tokens=options.new)) for prompt in asked])
        return sum(len(one.choice.ids) for one in completions)

    fastest(answer, options, engine.model.config.vocab_size, found)
    return found | ({"slower": engine.reason} if engine.reason else {})


def run_llama_cpp(options: argparse.Namespace) -> dict[str, Any]:
    """Through the C interface, which decodes several sequences in one batch."""
    sys.path.append(str(Path(options.folder) / "llama"))
    import llama_cpp as cpp
    import numpy as np

    settings = cpp.llama_context_default_params()
    most = max(TOGETHER)
    settings.n_ctx, settings.n_batch, settings.n_ubatch = most * (PROMPT + options.new), most * PROMPT, 512
    settings.n_seq_max, settings.n_threads, settings.n_threads_batch = most, os.cpu_count(), os.cpu_count()
    path = write_gguf(load(options), Path(options.folder) / f"{options.dtype}.gguf")
    quiet = cpp.llama_log_callback(lambda level, text, data: None)
    cpp.llama_log_set(quiet, None)
    path = write_gguf(load(options), Path(options.folder) / f"{options.dtype}.gguf")
    model = cpp.llama_model_load_from_file(bytes(path), cpp.llama_model_default_params())
    context = cpp.llama_init_from_model(model, settings)
    batch = cpp.llama_batch_init(most * PROMPT, 0, most)

    def decode(rows: list[list[int]], start: int) -> list[int]:
        """Read tokens of each row from position `start` on, and return the likeliest next ones."""
        batch.n_tokens = 0
        for row, tokens in enumerate(rows):
            for place, token in enumerate(tokens):
                i, batch.n_tokens = batch.n_tokens, batch.n_tokens + 1
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, start + place, 1, row
                batch.logits[i] = place == len(tokens) - 1
        assert cpp.llama_decode(context, batch) == 0
        lasts = np.cumsum([len(tokens) for tokens in rows]) - 1
        return [int(np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, int(i)), (49152,)).argmax()) for i in lasts]

    def answer(asked: list[list[int]]) -> int:
        cpp.llama_memory_clear(cpp.llama_get_memory(context), True)
        tokens = decode(asked, 0)
        for step in range(options.new - 1):
            tokens = decode([[token] for token in tokens], PROMPT + step)
        return len(asked) * options.new

    return fastest(answer, options)


def run_vllm(options: argparse.Namespace) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    model = LLM(str(Path(options.folder) / "model"), dtype=options.dtype, max_model_len=2048)
    greedy = SamplingParams(temperature=0.0, max_tokens=options.new, ignore_eos=True)

    def answer(asked: list[list[int]]) -> int:
        made = model.generate([{"prompt_token_ids": prompt} for prompt in asked], greedy, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in made)

    return fastest(answer, options)


CONTENDERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "transformers": run_transformers,
    "tunesmith, slots alone": run_tunesmith,
    LAYERS: run_tunesmith,
    COMPILED: run_tunesmith,
    "tunesmith": run_tunesmith,  # in bf16 on a CPU, a step is one call
    "llama.cpp": run_llama_cpp,
    "vLLM": run_vllm,
}
ON_A_GPU: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "tunesmith": run_tunesmith,
    "transformers": run_transformers,
    "transformers, cache static": run_transformers,
}


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores of {processor()}"


def in_a_process(options: argparse.Namespace, name: str, longest: float | None = None) -> dict[str, Any]:
    if name == "vLLM" and find_spec("vllm") is None:
        return {"failed": "not installed"}
    if name == "llama.cpp" and not (Path(options.folder) / "llama").exists():
        return {"failed": "not asked for (--llama-cpp)"}
    command = [sys.executable, __file__, "--contender", name, "--dtype", options.dtype, "--size", options.size,
               "--device", options.device, "--new", str(options.new)]  # fmt: skip
    command += ["--folder", options.folder] if options.folder else []
    environment = {**os.environ, **SETTINGS, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=longest)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode().strip().splitlines()
        return json.loads(said[-1]) if said else {"failed": f"not done after {longest:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in reversed(lines) if "Error" in line), f"exit {done.returncode}")
        return {"failed": f"failed: {said}".replace("|", " ")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(size: str, dtype: str, found: dict[str, dict[str, Any]]) -> str:
    base = found["transformers"]
    head = " | ".join(f"{count} at once" for count in TOGETHER)
    lines = [f"| {size} Llama, {dtype}, tokens/s | {head} |", "|---|" + "---|" * len(TOGETHER)]
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | {one['failed'][:90]} |" + " |" * (len(TOGETHER) - 1))
            continue
        lines.append(f"| {name} | {' | '.join(speed(one, base, str(count)) for count in TOGETHER)} |")
    compiled = max((one.get("compiled in", 0.0) for one in found.values()), default=0.0)
    if compiled:
        lines += ["", f"Layers were compiled in {compiled:.1f} s."]
    if "slower" in found["tunesmith"]:
        lines += ["", found["tunesmith"]["slower"]]
    return "\n".join(lines)


def speed(one: dict[str, Any], base: dict[str, Any], count: str) -> str:
    """A cell: tokens/s, and how many times as many as the base has, if both were measured."""
    if count not in one:
        return "no time was left"
    return f"{one[count]:,.0f}" + (f" ({one[count] / base[count]:.2f} times)" if count in base else "")


def on_a_gpu(options: argparse.Namespace) -> str:
    """The table, beginning with what was measured where."""
    deadline, found = time.monotonic() + ALL, dict[str, dict[str, Any]]()
    for name in ON_A_GPU:
        longest = min(LONGEST, deadline - time.monotonic())
        found[name] = in_a_process(options, name, longest) if longest > 5 else {"failed": "no time was left"}
    where = next((one["device"] for one in found.values() if "device" in one), "a GPU")
    return f"{where}, {lead(options)}\n\n{table(options.size, options.dtype, found)}"


def lead(options: argparse.Namespace) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (f"{versions}, {datetime.now(UTC).date()}; prompts of {PROMPT} tokens, {options.new} new ones, best of "
            f"{ROUNDS}.")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES | SHAPES), default="135m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="both, if not given")
    parser.add_argument(
        "--llama-cpp", nargs="?", const="compile", metavar="FOLDER",
        help="compile llama-cpp-python and measure it too, or take it from where it and gguf were installed",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--new", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.new = options.new or NEW[options.device]
    if options.contender:
        print(json.dumps((CONTENDERS | ON_A_GPU)[options.contender](options)))
        return
    if options.device == "cuda":
        if options.size not in SHAPES:
            parser.error(f"--device cuda takes --size {', '.join(SHAPES)}")
        options.dtype = "bfloat16"
        text = on_a_gpu(options)
        print(text, flush=True)
        if options.write:
            put(f"decode-cuda-{options.size}", text)
        return
    if options.size not in SIZES:
        parser.error(f"--device cpu takes --size {', '.join(SIZES)}")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        make_model(Path(folder) / "model", options.size)
        if options.llama_cpp == "compile":
            build_bindings(Path(folder) / "llama")
        elif options.llama_cpp:
            (Path(folder) / "llama").symlink_to(options.llama_cpp)
        for dtype in [options.dtype] if options.dtype else ["bfloat16", "float32"]:
            options.dtype = dtype
            names = [name for name in CONTENDERS if dtype == "bfloat16" or name not in LEVERS]
            text = table(options.size, dtype, {name: in_a_process(options, name) for name in names})
            print(text, end="\n\n", flush=True)
            if options.write:
                put(
                    f"decode-{dtype}" if options.size == "135m" else f"decode-{options.size}-{dtype}",
                    f"{device_name()}, {lead(options)}\n\n{text}",
                )


if __name__ == "__main__":
    main()
