"""Supervised fine-tuning on one GPU: tunesmith beside TRL, TRL with Liger kernels and Unsloth, on the same shapes.

    python benchmarks/sft_gpu.py --write            # every case, within 8 minutes; what has no time left says so
    python benchmarks/sft_gpu.py --case 1b-full-2048
    python benchmarks/sft_gpu.py --size tiny        # every line of it, on a CPU

Weights are random and made in place: nothing is fetched. Each contender runs in a process of its own, on rows of the
same lengths, every token trained, about the same number of tokens a step; one that is not installed is a line that says
so. TRL and Unsloth go without activation checkpointing, tunesmith as its plan says. Where all rows are as long as a
sequence, nothing is padded; the case `mixed` has shorter rows, which packing is for.

Utilisation is model FLOPs a second over the rate of a large bf16 matrix product (8192 x 8192 x 8192), measured first in
the same process. Counted are, for each token, 6 for each weight of a matrix that multiplies it (the output layer among
them, the embedding table not) in full fine-tuning, where forward and both backward products are needed; and in LoRA 4
for each such frozen weight and 6 for each of the adapters. Attention adds 6 L^2 times the width of all heads for each
layer and row of L tokens: two products forward and four backward, half of each, since no token looks ahead. Optimizer,
norms and what is computed twice count nothing.

Memory is the most that torch had allocated on the GPU (on a CPU, what the process held). TRL is given fp32 weights
under bf16 autocast for full fine-tuning and a bf16 base for LoRA, which is what tunesmith keeps too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results import put

LLAMA_3 = {"vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0}
SHAPES = {
    "1b": {**LLAMA_3, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
           "tie_word_embeddings": True},
    "8b": {**LLAMA_3, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
           "tie_word_embeddings": False},
    "tiny": {"vocab_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64,
             "num_hidden_layers": 2, "intermediate_size": 128, "tie_word_embeddings": True},
}  # fmt: skip
RANK, ALPHA = 16, 32
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATES = {"lora": 2e-4, "full": 2e-5}
ROWS_A_SEQUENCE = 5  # of mixed rows, which fill some nine tenths of it
LONGEST = 120  # seconds that one contender may take for one case
WARM, TIMED = 2, 5  # steps that are left out (compiling, finding kernels), and steps that count


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        shape: of the model.
        method: `lora` or `full`.
        length: tokens of a sequence, and of the longest row.
        together: sequences in one forward pass.
        passes: forward passes in one step.
        mixed: whether rows are of many lengths.
    """

    shape: str
    method: str
    length: int
    together: int
    passes: int
    mixed: bool = False

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.method}-{self.length}{'-mixed' if self.mixed else ''}"


CASES = [
    Case("1b", "full", 2048, 4, 4),
    Case("8b", "lora", 2048, 2, 4),
    Case("1b", "lora", 2048, 4, 4),
    Case("1b", "full", 8192, 1, 4),
    Case("1b", "lora", 2048, 4, 4, mixed=True),
    Case("tiny", "full", 64, 2, 2),
    Case("tiny", "lora", 64, 2, 2),
    Case("tiny", "lora", 64, 2, 2, mixed=True),
]


@dataclass(frozen=True)
class Contender:
    """Who trains.

    Attributes:
        run: does it, and returns what it measured.
        needs: packages without which it is not there.
        settings: of TRL's trainer.
        wants: the kind of rows it is for: `full`, `mixed` or `any`.
    """

    run: Callable[[Case, Contender, Path], dict[str, Any]]
    needs: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None
    wants: str = "any"


def rows_a_step(case: Case) -> int:
    return case.together * case.passes * (ROWS_A_SEQUENCE if case.mixed else 1)


def lengths_of(case: Case) -> list[int]:
    """Tokens of every row, the same for every contender."""
    draw, count = random.Random(0), rows_a_step(case) * (WARM + TIMED)
    if not case.mixed:
        return [case.length] * count
    drawn = (int(draw.lognormvariate(0, 0.8) * case.length / 8) for _ in range(count))
    return [min(max(length, 4), case.length) for length in drawn]


def rows_of(case: Case) -> list[list[int]]:
    """Random token ids of every row."""
    draw, vocabulary = random.Random(0), SHAPES[case.shape]["vocab_size"]
    return [draw.choices(range(3, vocabulary), k=length) for length in lengths_of(case)]


def flops_of(case: Case, lengths: list[int]) -> float:
    """Model FLOPs of training on rows once, counted as the head of this file says."""
    shape = SHAPES[case.shape]
    width, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    narrow = width // heads * shape["num_key_value_heads"]
    matrices = [(width, width), (width, narrow), (width, narrow), (width, width), (width, inner), (width, inner),
                (inner, width)]  # fmt: skip
    layers = shape["num_hidden_layers"]
    weights = layers * sum(a * b for a, b in matrices) + width * shape["vocab_size"]
    adapters = layers * sum(RANK * (a + b) for a, b in matrices) if case.method == "lora" else 0
    each = 6 * weights if case.method == "full" else 4 * weights + 6 * adapters
    return each * sum(lengths) + 6 * layers * width * sum(length**2 for length in lengths)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def product_rate() -> float:
    """FLOPs a second of a large bf16 matrix product, the median of ten after three that are left out."""
    import torch

    side = 8192 if device() == "cuda" else 512
    a, b = (torch.randn(side, side, device=device(), dtype=torch.bfloat16) for _ in range(2))
    seconds: list[float] = []
    for _ in range(13):
        started = now()
        a @ b
        seconds.append(now() - started)
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return 2 * side**3 / statistics.median(seconds[3:])


def now() -> float:
    """Seconds, when all work given to the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_model(case: Case) -> Any:
    """A Llama of random weights, on the device: in bf16 where a base stays frozen, else in fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    dtype = torch.float32 if case.method == "full" else torch.bfloat16
    config = LlamaConfig(**SHAPES[case.shape], max_position_embeddings=max(case.length, 2048), bos_token_id=None,
                         eos_token_id=1, pad_token_id=0, dtype=dtype)  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device()):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def make_tokenizer() -> Any:
    """TRL asks for one; it is needed for its padding token alone."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 2}, unk_token="<unknown>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>")


def measured(
    case: Case, lengths: list[int], ends: list[float], losses: list[float], rate: float, started: float
) -> dict[str, Any]:
    """What a contender says of itself.

    Args:
        case: what was trained.
        lengths: of the rows, in the order in which they were taken.
        ends: when each step ended.
        losses: of each step.
        rate: of the matrix product.
        started: when the first step began.
    """
    import torch

    timed = lengths[WARM * rows_a_step(case) :]
    seconds = ends[-1] - ends[WARM - 1]
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens_per_second": sum(timed) / seconds,
        "utilisation": flops_of(case, timed) / seconds / rate,
        "memory": memory,
        "first_step": ends[0] - started,
        "losses": losses,
        "rate": rate,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU",
    }


def run_tunesmith(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    """The road of `tunesmith train` from its plan to its last step, on a model and rows made in place."""
    import numpy as np

    from tunesmith.data.kinds.prepared import Prepared
    from tunesmith.data.kinds.row import Row
    from tunesmith.data.kinds.text import Text
    from tunesmith.data.pack import epoch_order
    from tunesmith.data.quality.ledger import Source
    from tunesmith.model.methods.full import FullConfig
    from tunesmith.model.methods.lora import LoraConfig
    from tunesmith.model.methods.table import METHODS
    from tunesmith.train.config import OptimConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.planner import Wishes, decide_layers, decide_loss, decide_packing, make_plan
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.state import TrainerState
    from tunesmith.train.weights.placed import Placed

    def prepared(ids: list[int], line: int) -> Prepared:
        source = Source("made in place", line)
        return Prepared(np.array(ids, dtype=np.int32), ((0, len(ids)),), source, Row(Text(""), source))

    def say(event: Any) -> None:
        if event.kind == "warning":
            print(event.sentence, file=sys.stderr)
        if event.kind == "step":
            ends.append(now())
            losses.append(event.loss)

    class Rows(list[Prepared]):
        """Rows in memory that tell their lengths, as those on disk do."""

        @property
        def lengths(self) -> np.ndarray:
            return np.array([len(row.ids) for row in self])

    rate, ends, losses = product_rate(), [], []
    rows = Rows(prepared(ids, line) for line, ids in enumerate(rows_of(case), 1))
    config = LoraConfig(rank=RANK, alpha=ALPHA) if case.method == "lora" else FullConfig()
    started = now()
    plan = make_plan("bf16", "auto", case.length * case.together)
    placed, objective = Placed(METHODS[case.method].apply(make_model(case), config), plan), make_sft()
    plan = decide_packing(plan, placed, objective, rows, say)
    plan = decide_loss(plan, placed, objective, rows, say)
    placed.model.train()
    wishes = Wishes("on", "off", rows_a_step(case), WARM + TIMED)
    plan = decide_layers(plan, wishes, placed, objective, rows, say)
    optim = OptimConfig(scheduler="constant", warmup=0)
    learner = Learner(placed, optim, RATES[case.method], WARM + TIMED)
    source, models = RowSource(rows, objective, plan, rows_a_step(case), WARM + TIMED), Models(learner.model, plan)
    settings = LoopSettings(WARM + TIMED, validate_every=10**6, checkpoint_every=10**6)
    train(objective, models, learner, source, settings, TrainerState(), [], lambda: None, say)
    order = epoch_order(len(rows), 0, 0)
    return measured(case, [len(rows[i].ids) for i in order], ends, losses, rate, started)


def run_trl(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    started = now()
    return train_with_trl(case, contender.settings or {}, make_model(case), folder, started)


def run_unsloth(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    """Unsloth loads from a folder alone, so the model is written to one first."""
    from unsloth import FastLanguageModel  # before TRL, which it changes

    make_model(case).bfloat16().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    started = now()
    model, _ = FastLanguageModel.from_pretrained(
        str(folder / "model"), max_seq_length=case.length, load_in_4bit=False, full_finetuning=case.method == "full"
    )
    if case.method == "lora":
        model = FastLanguageModel.get_peft_model(
            model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=LINEAR,
            use_gradient_checkpointing=False,
        )  # fmt: skip
    return train_with_trl(case, contender.settings or {}, model, folder, started)


def train_with_trl(
    case: Case, settings: dict[str, Any], model: Any, folder: Path, started: float
) -> dict[str, Any]:  # fmt: skip
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rate, ends = product_rate(), []

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    packing = settings.get("packing", False)
    together = 1 if packing else case.together  # packed sequences in one pass would need a mask between them
    config = SFTConfig(
        output_dir=str(folder / "trl"), max_steps=WARM + TIMED, learning_rate=RATES[case.method],
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_length=case.length,
        per_device_train_batch_size=together, gradient_accumulation_steps=case.together * case.passes // together,
        gradient_checkpointing=False, completion_only_loss=False, bf16=True, use_cpu=device() == "cpu", seed=0,
        report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, task_type="CAUSAL_LM")
    trainer = InOrder(
        model=model, args=config, processing_class=make_tokenizer(), callbacks=[Clock()],
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in rows_of(case)]),
        peft_config=lora if case.method == "lora" and not isinstance(model, PeftModel) else None,
    )  # fmt: skip
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    found = measured(case, lengths_of(case), ends, [line["loss"] for line in logs], rate, started)
    if packing:  # its steps hold other rows than were counted, so it is asked how many tokens they had
        speed = (logs[-1]["num_tokens"] - logs[WARM - 1]["num_tokens"]) / (ends[-1] - ends[WARM - 1])
        found["utilisation"] *= speed / found["tokens_per_second"]
        found["tokens_per_second"] = speed
    return found


CONTENDERS = {
    "tunesmith": Contender(run_tunesmith),
    "TRL, rows in batches": Contender(run_trl, ("trl",), {}, "full"),
    "TRL, packed": Contender(run_trl, ("trl",), {"packing": True}),
    "TRL with Liger, rows in batches": Contender(run_trl, ("trl", "liger_kernel"), {"use_liger_kernel": True}, "full"),
    "TRL with Liger, packed": Contender(
        run_trl, ("trl", "liger_kernel"), {"use_liger_kernel": True, "packing": True}, "mixed"
    ),
    "Unsloth": Contender(run_unsloth, ("unsloth", "trl"), {}, "full"),
    "Unsloth, packed": Contender(run_unsloth, ("unsloth", "trl"), {"packing": True}, "mixed"),
}


def in_a_process(case: Case, name: str, deadline: float) -> dict[str, Any]:
    """What a contender found, or why it found nothing."""
    absent = [package for package in CONTENDERS[name].needs if find_spec(package) is None]
    if absent:
        return {"failed": f"not installed ({', '.join(absent)})"}
    left = deadline - time.monotonic()
    if left < 5:
        return {"failed": "no time was left"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--contender", name, "--case", case.name, "--folder", folder]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNESMITH_HOME": f"{folder}/home"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False,
                                  timeout=min(left, LONGEST))  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {min(left, LONGEST):.0f} s"}
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:160].replace("|", " ")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def contenders_for(case: Case) -> list[str]:
    kind = "mixed" if case.mixed else "full"
    return [name for name, contender in CONTENDERS.items() if contender.wants in (kind, "any")]


def table(case: Case, found: dict[str, dict[str, Any]]) -> str:
    ours = found["tunesmith"]
    lines = [
        f"| {case.name} | tokens/s | tunesmith is | peak memory | model FLOPs utilisation | first step |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | {one['failed']} | | | | |")
            continue
        compared = name != "tunesmith" and "failed" not in ours
        times = f"{ours['tokens_per_second'] / one['tokens_per_second']:.2f} times as fast" if compared else ""
        lines.append(
            f"| {name} | {one['tokens_per_second']:,.0f} | {times} | {one['memory'] / 2**30:.1f} GiB | "
            f"{one['utilisation']:.0%} | {one['first_step']:.0f} s |"
        )
    there = [one for one in found.values() if "failed" not in one]
    if there:
        rates = sorted(one["rate"] / 1e12 for one in there)
        lines += ["", f"{there[0]['device']}: {rates[0]:,.1f} to {rates[-1]:,.1f} TFLOP/s in the matrix product."]
        steps = [f"{name} {one['losses'][0]:.3f} to {one['losses'][-1]:.3f}" for name, one in found.items()
                 if "failed" not in one]  # fmt: skip
        lines.append(f"Losses, first to last: {'; '.join(steps)}.")
    return "\n".join(lines)


def versions() -> str:
    said: list[str] = []
    for name in ("torch", "transformers", "peft", "trl", "liger-kernel", "unsloth"):
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["1b", "8b", "tiny"], help="the cases of one shape; 1b and 8b if absent")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="one case")
    parser.add_argument("--minutes", type=float, default=8, help="of all contenders together")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        case = next(case for case in CASES if case.name == options.case)
        contender = CONTENDERS[options.contender]
        print(json.dumps(contender.run(case, contender, options.folder)))
        return
    sizes = [options.size] if options.size else ["1b", "8b"]
    cases = [case for case in CASES if case.name == options.case or (not options.case and case.shape in sizes)]
    deadline = time.monotonic() + 60 * options.minutes
    for case in cases:
        text = table(case, {name: in_a_process(case, name, deadline) for name in contenders_for(case)})
        print(f"{text}\n", flush=True)
        if options.write:
            put(f"sft_gpu-{case.name}", f"{versions()}, {datetime.now(UTC).date()}.\n\n{text}")


if __name__ == "__main__":
    main()
