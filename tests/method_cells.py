"""One method on one family of models: trained, resumed, exported, read by plain peft, continued, merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from conftest import many_rows
from tunesmith.core.config import to_yaml, validate
from tunesmith.core.errors import ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_lines, read_object, write_text
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.model.export import find_model
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.recipe import Recipe

SHAPE = {
    "vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 256, "initializer_range": 0.2, "eos_token_id": 2,
    "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": 4096, "n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": None,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip
BLOOM = {"vocab_size": 4096, "hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, "eos_token_id": 2,
         "pad_token_id": 0, "bos_token_id": None}  # fmt: skip
ALL_HEADS = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
OPT = {**ALL_HEADS, "ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": 0.2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", SHAPE),
    "Mistral": ("Mistral", {**SHAPE, "sliding_window": None}),
    "Qwen2": ("Qwen2", SHAPE),
    "Gemma": ("Gemma", {**SHAPE, "head_dim": 16}),
    "Phi-3": ("Phi3", SHAPE),
    "GPT-2": ("GPT2", GPT2),
    "GPT-NeoX": ("GPTNeoX", ALL_HEADS),
    "OPT": ("OPT", OPT),
    "Bloom": ("Bloom", BLOOM),
}
CELLS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "freeze": {"type": "freeze", "last": 1},
    "bitfit": {"type": "bitfit"},
    "layernorm": {"type": "layernorm"},
    "lora": {"type": "lora", "rank": 8},
    "lora, rsLoRA and LoRA+": {"type": "lora", "rank": 8, "rslora": True, "b_rate": 4.0},
    "lora, DoRA": {"type": "lora", "rank": 8, "dora": True},
    "lora, PiSSA": {"type": "lora", "rank": 8, "init": "pissa"},
    "lora, OLoRA": {"type": "lora", "rank": 8, "init": "olora"},
    "lora, EVA": {"type": "lora", "rank": 8, "init": "eva"},
    "adalora": {"type": "adalora", "first_rank": 8, "rank": 4},
    "vera": {"type": "vera"},
    "loha": {"type": "loha", "rank": 4},
    "lokr": {"type": "lokr", "rank": 4},
    "ia3": {"type": "ia3"},
    "oft": {"type": "oft", "block": 8},
    "prompt_tuning": {"type": "prompt_tuning", "tokens": 8},
    "p_tuning": {"type": "p_tuning", "tokens": 8, "hidden": 32},
    "p_tuning, LSTM": {"type": "p_tuning", "tokens": 8, "hidden": 32, "encoder": "lstm"},
    "prefix_tuning": {"type": "prefix_tuning", "tokens": 8},
    "prefix_tuning, projection": {"type": "prefix_tuning", "tokens": 8, "projection": 32},
    "adapter": {"type": "adapter", "size": 16},
    "adapter, Houlsby": {"type": "adapter", "size": 16, "placement": "houlsby", "activation": "relu"},
}
RATES = {
    "full": 1e-3,
    "vera": 1e-1,
    "ia3": 1e-1,
    "bitfit": 1e-1,
    "layernorm": 5e-2,
    "oft": 1e-2,
    "adalora": 5e-2,
    "prompt_tuning": 1e-1,
}
NOT_COMPILED = {"lora, DoRA", "loha", "lokr"}  # peft's layers of these have what the compiler cannot follow
UNFIT = {  # what peft cannot, or what such models have not
    ("Llama", "bitfit"), ("Mistral", "bitfit"), ("Gemma", "bitfit"), ("Phi-3", "bitfit"),
    ("GPT-2", "loha"), ("GPT-2", "lokr"), ("GPT-2", "oft"), ("GPT-2", "lora, OLoRA"), ("Phi-3", "ia3"),
    ("Bloom", "prefix_tuning"), ("Bloom", "prefix_tuning, projection"),
}  # fmt: skip


def save_model(family: str, folder: Path) -> Path:
    """A small model of a family, with ember's tokenizer."""
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_contract(resolve("ember").folder).save(folder)
    return folder


def try_cell(
    family: str, cell: str, folder: Path, quantize: str = "none", compiled: bool = False, tokens: Sequence[str] = ()
) -> dict[str, str]:
    """What was seen; an AssertionError, or an error of the library, where something is not as it is claimed.

    Args:
        family: of `FAMILIES`.
        cell: of `CELLS`.
        folder: for all that it writes.
        quantize: how the base is kept while it trains.
        compiled: whether its layers are compiled.
        tokens: that are new.
    """
    base, method = save_model(family, folder / "base"), CELLS[cell]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(24)))

    def begin(name: str, **more: Any) -> Path:
        values = {
            "model": {"base": str(base), "quantize": quantize, "add_tokens": list(tokens)},
            "method": {**method, **more},
            "data": {"train": str(folder / "rows.jsonl"), "test": 0, "validation": 0},
            "optim": {"batch_size": 8, "epochs": 3, "learning_rate": RATES.get(cell, 1e-2)},
            "output": {"folder": str(folder / "runs"), "name": name, "checkpoint_every": 3},
            "precision": "bf16" if family == "Llama" and cell != "ia3" else "fp32",
            "compile": "on" if compiled else "off",
        }  # fmt: skip
        run = folder / "runs" / name
        run.mkdir(parents=True)
        write_text(run / "config.yaml", to_yaml(validate(Recipe, values, "cell")))
        return run

    def go(run: Path, until: str = "exported", after: int = 0, **more: Any) -> None:
        left = iter(range(after - 1))
        finetune({"folder": str(run), "until": until, **more}, silent, lambda: bool(after) and next(left, None) is None)

    whole = begin("whole")
    if (family, cell) in UNFIT:
        try:
            go(whole)
        except ModelError as error:
            return {"refused": str(error)}
        raise AssertionError("it was to be refused")
    go(whole)
    losses = [line["loss"] for line in read_lines(whole / "metrics.jsonl")]
    assert losses[-1] < losses[0], losses
    broken = begin("broken")
    try:
        go(broken, after=4)
    except Stopped:
        go(broken, resume=True)
    states = [load_file(all_checkpoints(run / "checkpoints")[-1] / "trainable.safetensors") for run in (whole, broken)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    seen = {"loss": f"{losses[0]:.2f} to {losses[-1]:.2f}", "resumed": "exactly"}
    plan = read_object(whole / "plan.json")
    assert bool(plan["compiled"]) == (compiled and cell not in NOT_COMPILED), plan["reasons"]
    seen["compiled"] = "not asked" if not compiled else "no" if cell in NOT_COMPILED else "yes"
    seen["packed"] = "yes" if plan["packing"] else "no"
    read_elsewhere(whole)
    can = METHODS[method["type"]].can
    if "continue" in can and method.get("init", "zero") == "zero":
        further = begin("further", continue_from=str(whole))
        go(further, until="trained")
        first = next(iter(read_lines(further / "metrics.jsonl")))["loss"]
        assert first < losses[0], (first, losses)
        seen["continued"] = "yes"
    if "merge" in can:
        asked = {"run": str(whole), "output": None, "data": str(folder / "rows.jsonl"), "replace": False, "prompts": 4,
                 "limit": 1e-3, "max_new_tokens": 8}  # fmt: skip
        off = merge(asked, silent)["verification"]["largest_logit_difference"]["value"]
        seen["merged"] = f"within {off:.0e}"
    return seen


def read_elsewhere(run: Path) -> None:
    """transformers and peft alone generate what our engine answers; a flip is allowed between two near logits."""
    found = find_model(str(run))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(found.base.folder if found.base else found.folder)
    if (found.folder / "new_tokens.safetensors").exists():
        put_new_tokens(model, found.folder, found.contract().tokenizer)
    if found.base is not None:
        model = put_bottlenecks(model, found.folder) or PeftModel.from_pretrained(model, str(found.folder))
    prompts = [[5, 6, 7, 8, 9], [70, 80, 90]]
    engine = LocalEngine(found.load("cpu"), found.contract())
    answers = answer_all(engine, [(prompt, Options(max_new_tokens=8)) for prompt in prompts])
    assert not engine.reason or model.config.model_type in ("bloom", "opt"), engine.reason
    for prompt, answer in zip(prompts, answers, strict=True):
        want = answer.choice.ids
        got = generated(model, prompt)
        if got[: len(want)] != want:
            place = next(i for i, (one, other) in enumerate(zip(got, want, strict=False)) if one != other)
            top = next_logits(model, prompt + want[:place]).topk(2).values
            assert top[0] - top[1] < 1e-3, (got, want)


def generated(model: Any, prompt: list[int]) -> list[int]:
    """What the library goes on with, after each token anew where it is a prompt that was trained.

    With its own cache, peft 0.21 forgets after the first token that soft tokens take positions; and a prefix it gives
    under a name that newer versions of transformers do not look at while they generate.
    """
    if getattr(model, "active_peft_config", None) and model.active_peft_config.is_prompt_learning:
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(next_logits(model, ids).argmax()))
        return ids[len(prompt) :]
    ids = torch.tensor([prompt])
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    return made[0, len(prompt) :].tolist()


def next_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Of the token after these."""
    given = torch.tensor([ids])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Position ids are not supported")
        warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1]


def put_new_tokens(model: Any, folder: Path, tokenizer: Any) -> None:
    """What docs/methods.md says to do for the library before an adapter is put on."""
    rows = load_file(folder / "new_tokens.safetensors")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_input_embeddings().weight.data[-len(rows["input"]) :] = rows["input"]
    model.get_output_embeddings().weight.data[-len(rows["input"]) :] = rows.get("output", rows["input"])


def put_bottlenecks(model: Any, folder: Path) -> Any:
    """The library's model with bottleneck adapters hooked on, from their files alone; None if it is another adapter."""
    config = read_object(folder / "adapter_config.json")
    if config["peft_type"] != "BOTTLENECK":
        return None
    tensors = load_file(folder / "adapter_model.safetensors")

    def hook(name: str) -> Any:
        def change(layer: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
            own = {kind: tensors[f"{name}.{kind}"] for kind in ("down.weight", "down.bias", "up.weight", "up.bias")}
            inner = getattr(torch.nn.functional, config["activation"])(output @ own["down.weight"].T + own["down.bias"])
            return output + inner @ own["up.weight"].T + own["up.bias"]

        return change

    for name in config["target_modules"]:
        model.get_submodule(name).register_forward_hook(hook(name))
    return model
