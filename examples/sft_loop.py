"""Supervised fine-tuning with LoRA, flat: everything that matters, in one file, without tunesmith.

    python examples/sft_loop.py MODEL_FOLDER rows.jsonl --steps 40

Reads chats (`{"messages": [...]}` a line), trains on the assistant's turns, prints a loss a step.
`tunesmith train` gives the same losses on the same rows (a test compares them to 1e-4): what it adds
is speed, checks, evaluation and a way back when something breaks.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    batch_size: int = 8
    learning_rate: float = 2e-4
    warmup: float = 0.03
    rank: int = 16
    alpha: float = 32.0
    clip: float = 1.0
    seed: int = 0


Row = tuple[list[int], list[bool]]  # token ids, and which of them are trained on


# 1. A chat becomes ids and a mask. The template renders the chat up to each assistant turn, with and
#    without that turn: what is new is the answer, its stop token included.
def render(tokenizer, messages) -> Row:
    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(turns, ask=False) -> str:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)

    ids = encode(text(messages))
    mask = [False] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = len(encode(text(messages[:i], ask=True)))
        end = len(encode(text(messages[: i + 1])))
        stop = max(place for place in range(begin, end) if ids[place] == tokenizer.eos_token_id)
        mask[begin : stop + 1] = [True] * (stop + 1 - begin)
    return ids, mask


# 2. An endless walk over the rows: each epoch in an order that depends on seed and epoch alone.
def batches(rows: list[Row], settings: Settings):
    epoch = 0
    while True:
        order = list(range(len(rows)))
        random.Random(f"{settings.seed}/{epoch}").shuffle(order)
        for start in range(0, len(rows), settings.batch_size):
            yield [rows[i] for i in order[start : start + settings.batch_size]]
        epoch += 1


# 3. Rows side by side, padded on the right. Labels of -100 do not count.
def pad(batch: list[Row]):
    longest = max(len(ids) for ids, _ in batch)
    ids_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    seen_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    labels_BT = torch.full((len(batch), longest), -100)
    for i, (ids, mask) in enumerate(batch):
        ids_BT[i, : len(ids)] = torch.tensor(ids)
        seen_BT[i, : len(ids)] = 1
        labels_BT[i, : len(ids)] = torch.where(torch.tensor(mask), torch.tensor(ids), -100)
    return ids_BT, seen_BT, labels_BT


# 4. The learning rate rises in a line, then falls along a cosine.
def rate(step: int, settings: Settings) -> float:
    rise = math.ceil(settings.warmup * settings.steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


# 5. The loop: the mean loss of the trained tokens, its gradient, a clipped AdamW step.
def train(model, rows: list[Row], settings: Settings) -> list[float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    losses = []
    model.train()
    for step, batch in zip(range(settings.steps), batches(rows, settings), strict=False):
        ids_BT, seen_BT, labels_BT = pad(batch)
        logits_BTV = model(input_ids=ids_BT, attention_mask=seen_BT).logits.float()
        # Position t predicts token t + 1.
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        print(f"step {step + 1}/{settings.steps}  loss {losses[-1]:.4f}")
    return losses


# 6. The base model, frozen, with low-rank additions to every linear layer.
def load(folder: str, settings: Settings):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(settings.seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear")
    return get_peft_model(model, config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Supervised fine-tuning with LoRA, flat.")
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    settings = Settings(steps=options.steps, learning_rate=options.learning_rate)

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lines = options.data.read_text(encoding="utf-8").splitlines()
    rows = [render(tokenizer, json.loads(line)["messages"]) for line in lines if line.strip()]
    model = load(options.model, settings)
    train(model, rows, settings)
    if options.output:
        model.save_pretrained(options.output)
        tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
