"""What `sft_gpu.py` trains, how its FLOPs are counted and how its machine is measured; one model for all contenders."""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
