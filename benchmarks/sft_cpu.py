"""Supervised fine-tuning on this CPU: tunesmith and TRL's SFTTrainer in turn, on the same rows, and the floor.

    python benchmarks/sft_cpu.py --rows alpaca.jsonl --write      # -> benchmarks/RESULTS.md
    python benchmarks/sft_cpu.py --size 10m --method full --steps 6
    python benchmarks/sft_cpu.py --method qlora --only tunesmith apart      # dora and qlora beside TRL's own
    python benchmarks/sft_cpu.py --unsloth-python --only tunesmith Unsloth  # lora and full beside Unsloth too

Unsloth pins other versions than the tests have, so it has an environment of its own: build/unsloth, which is made when
it is first asked for, or whatever Python is named.
Each contender runs in a process of its own, one after another, on the same random model, the same token ids and masks
and the same rows a step. Tokens/s are of real tokens (padding left out), of all steps but the first third, in which
memory is still being taken from the system; memory is the most that the process held. The floor is the model's matrix
products alone, in bf16, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor

SIZES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "vocab_size": 4096},
    "10m": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 1024, "vocab_size": 16384},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49152},
}  # fmt: skip
ROWS_A_STEP = 16
LONGEST = 512  # tokens of a row; longer ones are left out, or eight of them padded would not fit into memory
LEARNING_RATE = {"lora": 2e-4, "dora": 2e-4, "qlora": 2e-4, "full": 2e-5}
CONTENDERS = {
    "tunesmith": {},
    "TRL, its defaults (fp32, padded)": {"bf16": False},
    "TRL, bf16, packed apart (bfd)": {"bf16": True, "packing": True, "packing_strategy": "bfd"},
    "TRL, bf16, wrapped (rows read each other)": {"bf16": True, "packing": True, "packing_strategy": "wrapped"},
    "TRL, the same, weights in bf16, compiled": {
        "bf16": True, "packing": True, "packing_strategy": "wrapped", "torch_compile": True, "weights": "bfloat16",
    },
}  # fmt: skip
UNSLOTHS = {
    "Unsloth, bf16, rows in batches": {"bf16": True},
    "Unsloth, bf16, packed": {"bf16": True, "packing": True},
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ISOLATING = "TRL, bf16, packed apart (bfd)"


def make_model(folder: Path, size: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.load import load_contract

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=2048, eos_token_id=2, pad_token_id=0, bos_token_id=None,
                         tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    load_contract(resolve("ember").folder).save(folder)


def rows_in_order(folder: Path, names: str, steps: int) -> list[dict[str, Any]]:
    """Ids and masks of the rows in the order in which tunesmith takes them."""
    from tunesmith.data.config import DataConfig
    from tunesmith.data.pack import epoch_batches
    from tunesmith.data.split import load_splits
    from tunesmith.prompt.load import load_contract

    config = DataConfig(train=names, test=0, validation=0, near_duplicates="off", over_long="drop")
    rows = load_splits(config, load_contract(folder), LONGEST, frozenset({"chat", "text"})).train
    found: list[dict[str, Any]] = []
    epoch = 0
    while len(found) < steps * ROWS_A_STEP:
        for batch in epoch_batches(len(rows), ROWS_A_STEP, 0, epoch):
            found += [{"input_ids": rows[i].ids.tolist(), "completion_mask": rows[i].mask.astype(int).tolist()}
                      for i in batch]  # fmt: skip
        epoch += 1
    return found[: steps * ROWS_A_STEP]


def run_tunesmith(options: argparse.Namespace) -> dict[str, Any]:
    from tunesmith import finetune
    from tunesmith.core.files import read_lines

    home = Path(options.folder)
    recipe = home / "recipe.yaml"
    recipe.write_text(json.dumps({
        "model": {"base": str(home / "model"), "quantize": "nf4" if options.method == "qlora" else "none"},
        "method": {"type": "full"} if options.method == "full" else {"type": "lora", "dora": options.method == "dora"},
        "data": {"train": options.rows, "test": 0, "validation": 0, "near_duplicates": "off", "over_long": "drop",
                 "max_length": LONGEST},
        "optim": {"steps": options.steps, "batch_size": ROWS_A_STEP, "learning_rate": LEARNING_RATE[options.method],
                  "scheduler": "constant", "warmup": 0},
        "output": {"folder": str(home / "runs"), "checkpoint_every": 10**6},
        "evaluate": {"general_ability": "off"}, "compile": "on", "precision": options.precision,
    }))  # fmt: skip
    started = time.time()
    run = finetune(recipe, until="trained")
    steps = read_lines(run.folder / "metrics.jsonl")
    tokens = [step["tokens_per_second"] for step in steps[-(-options.steps // 3) :]]
    return {
        "tokens_per_second": statistics.harmonic_mean(tokens) if tokens else 0.0,
        "memory": max(step["memory_bytes"] for step in steps),
        "first_step": steps[0]["time"] - started,
        "losses": [step["loss"] for step in steps],
    }


def run_trl(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    started = time.time()
    settings = dict(settings)
    dtype = getattr(torch, settings.pop("weights", "float32"))
    if options.precision == "fp32":
        settings["bf16"], dtype = False, torch.float32
    dora = options.method == "dora"
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=dora)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        Path(options.folder) / "model", dtype=dtype,
        quantization_config=four_bits if options.method == "qlora" else None,
    )  # fmt: skip
    return train_with_trl(options, settings, model, None if options.method == "full" else lora, started)


def run_unsloth(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    from unsloth import FastLanguageModel  # before all that it changes; then it trains with TRL

    started = time.time()
    model, _ = FastLanguageModel.from_pretrained(
        f"{options.folder}/model", max_seq_length=2048, load_in_4bit=False, full_finetuning=options.method == "full"
    )
    if options.method == "lora":
        model = FastLanguageModel.get_peft_model(
            model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=LINEAR,
            use_gradient_checkpointing=False,
        )  # fmt: skip
    return train_with_trl(options, settings, model, None, started)


def train_with_trl(
    options: argparse.Namespace, settings: dict[str, Any], model: Any, lora: Any, started: float
) -> dict[str, Any]:
    """Train a model on the rows in the folder, with an adapter or as it is, and say what was measured."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    home = Path(options.folder)
    rows = json.loads((home / "rows.json").read_text())
    packed = settings.get("packing", False)
    tokens = sum(len(row["input_ids"]) for row in rows) / options.steps

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    config = SFTConfig(
        output_dir=str(home / "trl"), max_steps=options.steps, learning_rate=LEARNING_RATE[options.method],
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, report_to=[], logging_steps=1,
        save_strategy="no",
        per_device_train_batch_size=1 if packed else 8, gradient_accumulation_steps=1 if packed else ROWS_A_STEP // 8,
        max_length=2048, completion_only_loss=True, gradient_checkpointing=False, use_cpu=True, seed=0,
        dataset_kwargs={"skip_prepare_dataset": False}, disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = InOrder(
        model=model, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(home / "model"), peft_config=lora, callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    seen = [line.get("num_tokens") for line in logs]
    warm = -(-options.steps // 3) - 1
    done = seen[-1] - seen[warm] if None not in seen else tokens * (len(ends) - 1 - warm)
    return {
        "tokens_per_second": done / (ends[-1] - ends[warm]),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_step": ends[0] - started,
        "losses": [] if packed else [line["loss"] for line in logs],
    }


def run_floor(options: argparse.Namespace) -> dict[str, Any]:
    """The matrix products of one step of 2048 tokens, and the machine's rates."""
    import torch

    size, tokens = SIZES[options.size], 2048
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    width, inner, heads = size["hidden_size"], size["intermediate_size"], size["num_attention_heads"]
    narrow = width // heads * size["num_key_value_heads"]
    shapes = [(width, width), (width, narrow), (width, narrow), (width, width), (width, inner), (width, inner),
              (inner, width)] * size["num_hidden_layers"]  # fmt: skip

    def products(into: int, out: int, rows: int, by_weight: bool) -> float:
        """Seconds of the forward product and those of the backward pass, the best of three."""
        x, w, y = (torch.randn(*shape).to(dtype) for shape in ((rows, into), (out, into), (rows, out)))
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            x @ w.T
            y @ w
            if by_weight:
                y.T @ x
            best = min(best, time.perf_counter() - started)
        return best

    known: dict[tuple[int, int], float] = {}
    full = options.method == "full"
    for into, out in set(shapes):
        known[into, out] = products(into, out, tokens, full)
        if not full:
            known[into, out] += products(into, 16, tokens, True) + products(16, out, tokens, True)
    seconds = sum(known[shape] for shape in shapes)
    seconds += products(width, size["vocab_size"], int(0.7 * tokens), full)

    def rate(dtype: torch.dtype) -> float:
        a, b, best = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 2048).to(dtype), float("inf")
        for _ in range(5):
            started = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - started)
        return 2 * 2048 * 1024 * 2048 / best / 1e9

    return {"tokens_per_second": tokens / seconds, "bf16": rate(torch.bfloat16), "fp32": rate(torch.float32)}


def weights_in_four_bits(folder: Path) -> str:
    """What a base's weights take in memory beside which something is trained, in NF4 and in bf16."""
    from tunesmith.model.load import LoadSpec, load

    sizes = {}
    for kind in ("nf4", "none"):
        model = load(folder, LoadSpec(precision="bf16", quantize=kind)).model
        scales = (weight.quant_state for weight in model.parameters() if getattr(weight, "quant_state", None))
        beside = sum(one.numel() * one.element_size() for state in scales
                     for one in (state.absmax, state.code, state.state2.absmax, state.state2.code))  # fmt: skip
        sizes[kind] = beside + sum(weight.numel() * weight.element_size() for weight in model.parameters())
    in_mb = {kind: f"{size / 1e6:,.0f} MB" for kind, size in sizes.items()}
    ratio = sizes["nf4"] / sizes["none"]
    return f"Weights of the base, embedding and all: {in_mb['nf4']} in NF4, {in_mb['none']} in bf16: {ratio:.2f} of it."


def unsloths_python(given: str) -> str:
    """The Python that has Unsloth: the one that was given, or that of an environment that is made once."""
    if given != "make":
        return given
    folder = Path(__file__).resolve().parents[1] / "build" / "unsloth"
    python = str(folder / "bin" / "python")
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        torch = f"torch=={version('torch').partition('+')[0]}"
        subprocess.run([*pip, "install", torch, "unsloth>=2026.10", "unsloth_zoo>=2026.10"], check=True)
        # Text does without these two, which may be of another build of torch than this one.
        subprocess.run([*pip, "uninstall", "--yes", "torchvision", "xformers"], check=True)
        (folder / "made").touch()
    return python


def in_a_process(options: argparse.Namespace, name: str) -> dict[str, Any]:
    python = unsloths_python(options.unsloth_python) if name in UNSLOTHS else sys.executable
    command = [python, __file__, "--contender", name, "--folder", options.folder, "--size", options.size,
               "--method", options.method, "--steps", str(options.steps), "--rows", options.rows,
               "--precision", options.precision]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNESMITH_HOME": f"{options.folder}/home"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = f"{options.folder}/compiled"  # so that all compile anew
    environment["UNSLOTH_COMPILE_LOCATION"] = f"{options.folder}/unsloth"  # or it writes where it is called
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}"}
    if done.returncode:
        return {"failed": next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), "no word")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(options: argparse.Namespace, found: dict[str, dict[str, Any]]) -> str:
    ours, floor = found["tunesmith"], found["floor"]
    lines = [
        f"| {options.size} Llama, {options.method}, {options.precision} | tokens/s | ours is | memory | first step |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        if name == "floor":
            continue
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed'][:80]} | | | |")
            continue
        times = (
            "" if name == "tunesmith" else f"{ours['tokens_per_second'] / one['tokens_per_second']:.1f} times as fast"
        )
        name = name.replace("bf16", options.precision)
        memory, first = one["memory"] / 2**30, f"{one['first_step']:.0f} s"
        if "warm" in one:
            first += f", again {one['warm']:.0f} s"
        lines.append(f"| {name} | {one['tokens_per_second']:,.0f} | {times} | {memory:.1f} GB | {first} |")
    share = ours["tokens_per_second"] / floor["tokens_per_second"]
    lines.append(f"| the floor: matrix products alone | {floor['tokens_per_second']:,.0f} | at {share:.0%} of it | | |")
    lines += ["", f"This machine: {floor['bf16']:,.0f} GFLOP/s in bf16, {floor['fp32']:,.0f} in fp32."]
    if "memory" in found.get(ISOLATING, {}):
        lines.append(f"Memory: {ours['memory'] / found[ISOLATING]['memory']:.2f} of that of TRL's isolating best.")
    other = found.get("TRL, its defaults (fp32, padded)", {}).get("losses")
    if other:
        worst = max(abs(a - b) / b for a, b in zip(ours["losses"], other, strict=True))
        lines.append(f"Losses of the {len(other)} steps: within {worst:.1e} of TRL's in fp32.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="hotel", help="file of chats or instructions")
    parser.add_argument("--size", choices=SIZES, default="135m")
    parser.add_argument("--method", choices=LEARNING_RATE, default="lora")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of TRL's products and ours")
    parser.add_argument("--only", nargs="+", default=[], help="words; only contenders that hold one of them run")
    parser.add_argument(
        "--unsloth-python", nargs="?", const="make", default="", metavar="PATH",
        help="measure Unsloth too, with this Python or in an environment that is made for it",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name = options.contender
        work = {"tunesmith": run_tunesmith, "floor": run_floor}.get(name)
        peer = run_unsloth if name in UNSLOTHS else run_trl
        print(json.dumps(work(options) if work else peer(options, {**CONTENDERS, **UNSLOTHS}[name])))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        os.environ["TUNESMITH_HOME"] = f"{folder}/home"
        make_model(Path(folder) / "model", options.size)
        rows = rows_in_order(Path(folder) / "model", options.rows, options.steps)
        (Path(folder) / "rows.json").write_text(json.dumps(rows))
        unsloths = UNSLOTHS if options.unsloth_python and options.method in ("lora", "full") else {}
        names = [
            name for name in (*CONTENDERS, *unsloths) if not options.only or any(word in name for word in options.only)
        ]
        found = {name: in_a_process(options, name) for name in [*names, "floor"]}
        again = argparse.Namespace(**{**vars(options), "steps": 1})
        found["tunesmith"]["warm"] = in_a_process(again, "tunesmith")["first_step"]
        weights = weights_in_four_bits(Path(folder) / "model") if options.method == "qlora" else ""
    text = f"{table(options, found)}\n{weights}".strip()
    print(text)
    if options.write:
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl"))
        lead = f"{os.cpu_count()} cores of {processor()}, {versions}, {datetime.now(UTC).date()}."
        lead += f" {options.steps} steps of {ROWS_A_STEP} rows of {Path(options.rows).name}."
        kind = options.method if options.precision == "bf16" else f"{options.method}-{options.precision}"
        put(f"sft_cpu-{options.size}-{kind}", f"{lead}\n\n{text}")


if __name__ == "__main__":
    main()
