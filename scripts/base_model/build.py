"""Build the embedded base model from nothing: text, tokenizer, training, files.

    python scripts/base_model/build.py prepare --tokens 31_000_000   # corpus -> tokenizer, token file
    python scripts/base_model/build.py train --steps 3600            # -> work/last/
    python scripts/base_model/build.py prepare --tokens 8_000_000 --seed 8 --dropout 0.15
    python scripts/base_model/build.py train --steps 900 --rate 2e-3 --go-on
    python scripts/base_model/build.py publish                       # -> src/tunesmith/assets/base/
    python scripts/base_model/build.py measure                       # prints the figures of docs/ember.md

The model is a small Llama (5.9 million parameters, 12 MB in bfloat16). It exists so that the
whole road can be walked with no download. It is trained with none of tunesmith's own code, on text
that `corpus/` writes, and never sees the demo's data.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) updates the matrices inside
the layers, AdamW everything else; warm-up, constant, linear decay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / "src" / "tunesmith" / "assets" / "base"
WORK = HERE.parents[1] / "build" / "base_model"

VOCABULARY = 4096
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
QUESTIONS = (
    "What time is breakfast?",
    "Where can I park my car?",
    "Is there a swimming pool?",
    "What is the opposite of cold?",
    "What is a kettle used for?",
    "Tell me a story about Anna.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(document: str | list[dict[str, str]]) -> str:
    """A document as the model reads it: plain text, or a chat in ChatML turns."""
    if isinstance(document, str):
        return document + END_OF_TEXT
    turns = (f"{TURN_START}{turn['role']}\n{turn['content']}{TURN_END}\n" for turn in document)
    return "".join(turns).removesuffix("\n")


def corpus(seed: int) -> Iterator[str]:
    sys.path.insert(0, str(HERE))
    from corpus import documents

    return map(render, documents(seed))


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def prepare(tokens: int, seed: int, dropout: float) -> None:
    """Write `tokens.bin` (uint16, documents one after another) and `ends.npy` (where each ends).

    With `dropout`, merges of the tokenizer are left out at random (BPE-dropout, Provilkov et al., 2020):
    the model meets every token of its vocabulary, so that it can also write words it was never taught.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    if not dropout:
        train_tokenizer(itertools.islice(corpus(seed=1), 60_000)).save_pretrained(WORK / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WORK / "tokenizer")
    tokenizer.backend_tokenizer.model.dropout = dropout or None
    ends, total, stream, started = [], 0, corpus(seed), time.time()
    with open(WORK / "tokens.bin", "wb") as file:
        while total < tokens:
            rows = tokenizer.backend_tokenizer.encode_batch_fast(list(itertools.islice(stream, 5000)))
            for row in rows:
                ids = row.ids[:1024]
                file.write(np.asarray(ids, dtype=np.uint16).tobytes())
                total += len(ids)
                ends.append(total)
    np.save(WORK / "ends.npy", np.asarray(ends))
    print(f"{len(ends)} documents, {total} tokens, {time.time() - started:.0f} s")


def batches(batch_tokens: int, seed: int, skip_last: int) -> Iterator[torch.Tensor]:
    """Endless (rows, length) id batches of near-equal lengths, padded with -1 on the right.

    Rows are sorted by length within a pool of 2048 documents: little padding, still well mixed.
    """
    tokens = np.memmap(WORK / "tokens.bin", dtype=np.uint16, mode="r")
    ends = np.load(WORK / "ends.npy")
    starts = np.concatenate([[0], ends[:-1]])
    rng = random.Random(seed)
    while True:
        order = list(range(len(ends) - skip_last))
        rng.shuffle(order)
        for pool_start in range(0, len(order), 2048):
            pool = sorted(order[pool_start : pool_start + 2048], key=lambda i: ends[i] - starts[i])
            chunks: list[list[int]] = [[]]
            for i in pool:
                longest = -(-int(ends[i] - starts[i]) // 32) * 32
                if longest * (len(chunks[-1]) + 1) > batch_tokens:
                    chunks.append([])
                chunks[-1].append(i)
            rng.shuffle(chunks)
            for chunk in filter(None, chunks):
                yield pad([tokens[starts[i] : ends[i]] for i in chunk])


def pad(rows: list[np.ndarray]) -> torch.Tensor:
    length = -(-max(map(len, rows)) // 32) * 32
    batch = torch.full((len(rows), length), -1, dtype=torch.long)
    for row, ids in zip(batch, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return batch


def loss_of(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token. Padding is on the right, so causality hides it."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.clamp(min=0), use_cache=False).logits[:, :-1]
    targets = batch[:, 1:]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)


def fresh_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=704,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def learning_rate_factor(step: int, steps: int, decay: float = 0.4) -> float:
    return min(1.0, (step + 1) / 100, (steps - step) / (steps * decay))


def train(steps: int, batch_tokens: int, seed: int, rate: float, go_on: bool) -> None:
    model = LlamaForCausalLM.from_pretrained(WORK / "last", dtype=torch.float32) if go_on else fresh_model()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    held_out = list(itertools.islice(batches(batch_tokens, seed=99, skip_last=0), 4))
    stream = batches(batch_tokens, seed, skip_last=0)
    for layer in model.model.layers:
        layer.compile(dynamic=True)
    seen, started = 0, time.time()

    def log(**values: float) -> None:
        with (WORK / "train.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    for step in range(steps):
        factor = learning_rate_factor(step, steps)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * factor
        batch = next(stream)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += int((batch >= 0).sum())
        if step % 20 == 0 or step == steps - 1:
            speed = seen / (time.time() - started)
            log(step=step, loss=round(loss.item(), 4), tokens=seen, speed=round(speed))
        if step % 200 == 199 or step == steps - 1:
            with torch.no_grad():
                value = torch.stack([loss_of(model, batch) for batch in held_out]).mean().item()
            log(step=step, seen_loss=round(value, 4))
            save(model, WORK / "last")


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write model and tokenizer as any Hugging Face tool reads them, in bfloat16."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0, do_sample=False)
    copy.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(WORK / "tokenizer").save_pretrained(folder)


def publish() -> None:
    ASSETS.mkdir(parents=True, exist_ok=True)
    for file in sorted((WORK / "last").iterdir()):
        shutil.copyfile(file, ASSETS / file.name)
        print(f"{file.stat().st_size:>10} {file.name}")


def measure() -> None:
    """Print what the published model is and can do: figures on unseen documents, and a few answers."""
    model = LlamaForCausalLM.from_pretrained(ASSETS, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ASSETS)
    texts = list(itertools.islice(corpus(seed=12345), 500))
    with torch.inference_mode():
        rows = [np.asarray(tokenizer(text)["input_ids"][:1024]) for text in texts]
        batches = [pad(rows[start : start + 25]) for start in range(0, 500, 25)]
        total = sum(loss_of(model, batch).item() * int((batch[:, 1:] >= 0).sum()) for batch in batches)
        count = sum(int((batch[:, 1:] >= 0).sum()) for batch in batches)
    print(f"parameters {sum(weight.numel() for weight in model.parameters()):,}")
    print(f"model.safetensors {(ASSETS / 'model.safetensors').stat().st_size:,} bytes")
    print(f"loss on 500 unseen documents {total / count:.3f} nats a token, perplexity {np.exp(total / count):.2f}")
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**inputs, max_new_tokens=60, do_sample=False)
        print(f"\n{question}\n  {tokenizer.decode(said[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build tunesmith's embedded base model.")
    parser.add_argument("stage", choices=["prepare", "train", "publish", "measure"])
    parser.add_argument("--tokens", type=int, default=31_000_000)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the tokenizer's merges, for prepare")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--go-on", action="store_true", help="train the last model further")
    options = parser.parse_args()
    if options.stage == "prepare":
        prepare(options.tokens, options.seed, options.dropout)
    elif options.stage == "train":
        train(options.steps, options.batch_tokens, options.seed, options.rate, options.go_on)
    elif options.stage == "publish":
        publish()
    else:
        measure()


if __name__ == "__main__":
    main()
