"""One task with one architecture and one method: trained, resumed, exported, and read by the library alone.

A new task is an entry of `TASKS`: bases of each architecture that it claims, rows, and how the library loads and asks
what was exported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import load_file

import classifiers
import masked_texts
import preferences
import spans
import writers
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_lines, read_object, write_text
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.model.export import find_model
from tunesmith.model.layers import inside
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.recipe import read_recipe

METHODS: dict[str, dict[str, Any]] = {"full": {"type": "full"}, "lora": {"type": "lora", "rank": 4}}
TEXT = "where is the dog please"


@dataclass(frozen=True)
class TaskCells:
    """What a task claims.

    Attributes:
        kinds: the architectures, by the names that `save` knows.
        save: writes a small base of a kind to a folder.
        rows: of a kind, that are trained on.
        settings: of a recipe of this kind.
        library: the class of transformers that loads a full or merged model of a kind, and its arguments.
        adapted: the class of peft that loads an adapter of a kind, and its arguments.
        outputs: what a model computes of a text, given the tokenizer of its folder.
        pipeline: of a kind what asks transformers' pipeline for a folder, and compares with what ours predicts; None
            where there is none.
    """

    kinds: tuple[str, ...]
    save: Callable[[Path, str], Path]
    rows: Callable[[str], list[dict[str, Any]]]
    settings: Callable[[str], dict[str, Any]]
    library: Callable[[str], Any]
    adapted: Callable[[str], tuple[Any, dict[str, Any]]]
    outputs: Callable[[Any, Any], torch.Tensor]
    pipeline: Callable[[str], Callable[[Path, Any], None] | None] = lambda kind: None
    rate: dict[str, float] = field(default_factory=lambda: {"full": 3e-3, "lora": 1e-2})


def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """Of a text, as anybody asks for them."""
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits


def same_classes(folder: Path, ours: Any) -> None:
    """Each class has the probability in the library's pipeline that ours has."""
    said = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)([TEXT])[0]
    [own] = ours.predict([TEXT])
    for one in said:
        assert math.isclose(one["score"], own.probabilities[one["label"]], abs_tol=1e-4), (said, own)


def same_words(folder: Path, ours: Any) -> None:
    """Each of the best words has the probability in the library's pipeline that ours has."""
    text = TEXT.replace("dog", ours.mask)
    said = transformers.pipeline("fill-mask", model=str(folder), device="cpu")(text)
    [own] = ours.predict([text])
    known = dict(own.masks[0])
    for one in said:
        if one["token_str"]:  # small bases have embeddings for more tokens than there are
            assert math.isclose(one["score"], known[one["token_str"]], abs_tol=1e-4), (said, own)


def _peft(name: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    import peft

    return getattr(peft, name), settings


def same_tags(folder: Path, ours: Any) -> None:
    """Each word that is tagged has the tag in the library's pipeline that it has in ours."""
    said = transformers.pipeline("token-classification", model=str(folder), device="cpu")(TEXT)
    [own] = ours.predict([TEXT])
    tagged = [(word, tag) for word, tag in zip(own.words, own.tags, strict=True) if tag != "O"]
    assert [(one["word"].removeprefix("Ġ"), one["entity"]) for one in said] == tagged


def answers_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """How much each token begins and ends an answer; peft 0.21 loses the types of tokens, unless it is stepped over."""
    with torch.no_grad():
        found = inside(model)(**tokenizer("where is my room", TEXT, return_tensors="pt"))
    return torch.stack([found.start_logits, found.end_logits])


def next_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """The logits of a target that is the source."""
    inputs = tokenizer("say : one two three", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**inputs, decoder_input_ids=inputs["input_ids"]).logits


def text_task(kind: str) -> tuple[Any, str]:
    """How the library loads what has learned plain text, and peft its adapters."""
    if kind in masked_texts.ALL:
        return transformers.AutoModelForMaskedLM, "AutoPeftModel"
    if kind in writers.FAMILIES:
        return transformers.AutoModelForSeq2SeqLM, "AutoPeftModelForSeq2SeqLM"
    return transformers.AutoModelForCausalLM, "AutoPeftModelForCausalLM"


def save_base(folder: Path, kind: str) -> Path:
    """A small base of any kind."""
    return (writers if kind in writers.FAMILIES else classifiers).save_base(folder, kind)


def digit_classes(count: int) -> list[dict[str, Any]]:
    """Rows of digits, whose class is told by the first."""
    names = ("low", "middle", "high")
    rows = writers.digit_rows(count, most=12)
    return [{"text": f"say : {row['source']}", "label": names[int(row["target"][0]) // 4]} for row in rows]


def texts_for(kind: str) -> list[dict[str, Any]]:
    """Plain texts of the words that a kind's tokenizer knows."""
    if kind not in writers.FAMILIES:
        return masked_texts.text_rows(48)
    return [{"text": f"say : {row['source']}"} for row in writers.digit_rows(48, most=12)]


TASKS: dict[str, TaskCells] = {
    "classify": TaskCells(
        kinds=(*classifiers.KINDS, *classifiers.PADDED, "t5", "bart"),
        save=save_base,
        rows=lambda kind: digit_classes(48) if kind in writers.FAMILIES else classifiers.class_rows(48),
        settings=lambda kind: {"objective": {"type": "classify"}},
        library=lambda kind: transformers.AutoModelForSequenceClassification,
        adapted=lambda kind: _peft("AutoPeftModelForSequenceClassification", num_labels=3),
        outputs=logits_of,
        pipeline=lambda kind: same_classes,
    ),
    "token_classify": TaskCells(
        kinds=(*classifiers.KINDS, *classifiers.PADDED),
        save=classifiers.save_base,
        rows=lambda kind: spans.tagged_rows(48),
        settings=lambda kind: {"objective": {"type": "token_classify"}},
        library=lambda kind: transformers.AutoModelForTokenClassification,
        adapted=lambda kind: _peft("AutoPeftModelForTokenClassification", num_labels=7),
        outputs=logits_of,
        pipeline=lambda kind: same_tags,
    ),
    "extract": TaskCells(
        kinds=masked_texts.ALL,
        save=classifiers.save_base,
        rows=lambda kind: spans.passage_rows(48),
        settings=lambda kind: {"objective": {"type": "extract"}},
        library=lambda kind: transformers.AutoModelForQuestionAnswering,
        adapted=lambda kind: _peft("AutoPeftModelForQuestionAnswering"),
        outputs=answers_of,
    ),
    "seq2seq": TaskCells(
        kinds=writers.FAMILIES,
        save=writers.save_base,
        rows=lambda kind: writers.digit_rows(48),
        settings=lambda kind: {"objective": {"type": "seq2seq"}},
        library=lambda kind: transformers.AutoModelForSeq2SeqLM,
        adapted=lambda kind: _peft("AutoPeftModelForSeq2SeqLM"),
        outputs=next_of,
    ),
    "pretrain": TaskCells(
        kinds=(*masked_texts.ALL, "llama", "gpt2", "t5"),
        save=save_base,
        rows=texts_for,
        settings=lambda kind: {
            "objective": {"type": "pretrain", **({"masked": 0.3} if kind in masked_texts.ALL else {})},
            **({"template": "plain"} if kind in ("llama", "gpt2") else {}),
        },
        library=lambda kind: text_task(kind)[0],
        adapted=lambda kind: _peft(text_task(kind)[1]),
        outputs=lambda model, tokenizer: (next_of if model.config.is_encoder_decoder else logits_of)(model, tokenizer),
        pipeline=lambda kind: same_words if kind in masked_texts.ALL else None,
    ),
}


def preferring(
    objective: str, rows: Callable[[int], list[dict[str, Any]]], kinds: tuple[str, ...] = ("gpt2",)
) -> TaskCells:  # fmt: skip
    """What learning from preferences claims, of models that write."""
    return TaskCells(
        kinds=kinds,
        save=classifiers.save_base,
        rows=lambda kind: rows(48),
        settings=lambda kind: {"objective": {"type": objective}, "template": "plain"},
        library=lambda kind: transformers.AutoModelForCausalLM,
        adapted=lambda kind: _peft("AutoPeftModelForCausalLM"),
        outputs=logits_of,
        rate={"full": 5e-4, "lora": 5e-3},  # or a model of random weights soon says nothing at all
    )


TASKS |= {
    **{name: preferring(name, preferences.word_pairs, ("llama", "gpt2")) for name in ("dpo", "simpo")},
    **{name: preferring(name, preferences.word_pairs) for name in ("orpo", "cpo")},
    **{name: preferring(name, preferences.word_verdicts) for name in ("kto", "bco")},
    "reward": TaskCells(
        kinds=("llama", "gpt2", "bert", "roberta", "distilbert"),
        save=classifiers.save_base,
        rows=lambda kind: preferences.word_pairs(48),
        settings=lambda kind: {"objective": {"type": "reward"}, "template": "plain"},
        library=lambda kind: transformers.AutoModelForSequenceClassification,
        adapted=lambda kind: _peft("AutoPeftModelForSequenceClassification", num_labels=1),
        outputs=logits_of,
    ),
}


def begin(task: str, kind: str, method: str, folder: Path, base: Path) -> Path:
    """A run's folder, ready to be trained."""
    cells = TASKS[task]
    folder.mkdir(parents=True)
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in cells.rows(kind)))
    own = dict(cells.settings(kind))
    template = {"template": own.pop("template")} if "template" in own else {}
    values = {
        "model": {"base": str(base), **template},
        "method": METHODS[method],
        "data": {"train": str(rows), "test": 0, "validation": 0, "near_duplicates": "off", "duplicates": "keep",
                 "replay": "off"},
        "optim": {"learning_rate": cells.rate[method], "epochs": 6, "batch_size": 12, "warmup": 0},
        "output": {"folder": str(folder.parent), "name": folder.name, "checkpoint_every": 4},
        "precision": "fp32",
        "compile": "off",
        **own,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
    return folder


def try_cell(task: str, kind: str, method: str, folder: Path) -> dict[str, str]:
    """What was seen; an AssertionError, or an error of the library, where something is not as it is claimed.

    Args:
        task: of `TASKS`.
        kind: of its architectures.
        method: of `METHODS`.
        folder: for all that it writes.
    """
    cells = TASKS[task]
    base = cells.save(folder / kind, kind)
    whole, broken = (begin(task, kind, method, folder / name, base) for name in ("whole", "broken"))
    finetune({"folder": str(whole), "until": "exported"}, silent)  # what it exports is read back, and equal
    losses = [line["loss"] for line in read_lines(whole / "metrics.jsonl")]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < first, losses
    left = iter(range(5))
    try:
        finetune({"folder": str(broken), "until": "trained"}, silent, lambda: next(left, None) is None)
        raise AssertionError("it was to be stopped")
    except Stopped:
        finetune({"folder": str(broken), "until": "trained", "resume": True}, silent)
    states = [load_file(all_checkpoints(run / "checkpoints")[-1] / "trainable.safetensors") for run in (whole, broken)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    plan = read_object(whole / "plan.json")
    seen = {"loss": f"{first:.2f} to {last:.2f}", "resumed": "exactly", "reloaded": "equal"}
    return {**seen, "packed": "yes" if plan["packing"] else "no", **read_elsewhere(cells, kind, method, whole)}


def read_elsewhere(cells: TaskCells, kind: str, method: str, run: Path) -> dict[str, str]:
    """The library's classes, and its pipeline where there is one, say what ours does; an adapter merged too."""
    found = find_model(str(run))
    tokenizer = found.contract().tokenizer
    ours = cells.outputs(found.load("cpu"), tokenizer)
    seen, place = {"Auto class": "equal"}, run / "model"
    if method == "full":
        theirs = cells.library(kind).from_pretrained(place)
    else:
        adapted, arguments = cells.adapted(kind)
        theirs = adapted.from_pretrained(place, **arguments)
    torch.testing.assert_close(cells.outputs(theirs.eval(), tokenizer), ours, rtol=1e-4, atol=1e-4)
    if method != "full":
        asked = {"run": str(run), "output": None, "data": None, "replace": False, "prompts": 4, "limit": 1e-3,
                 "max_new_tokens": 8}  # fmt: skip
        place = Path(merge(asked, silent)["folder"])
        merged = cells.library(kind).from_pretrained(place).eval()
        torch.testing.assert_close(cells.outputs(merged, tokenizer), ours, rtol=1e-3, atol=1e-3)
        seen["merged"] = "equal"
    if (ask := cells.pipeline(kind)) is not None:
        ask(place, load_predictor(found, "cpu"))
        seen["pipeline"] = "equal"
    return seen
