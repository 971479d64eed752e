"""The model card of a pushed model: a YAML header that the hub understands, then what people want to know."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import yaml

from tunesmith.core.errors import ConfigError
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.kinds.pair import DIRECTIONS
from tunesmith.data.kinds.schemes import labels_of, tag_names
from tunesmith.data.quality.ledger import OUTCOMES
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.base import EMBEDDED
from tunesmith.score.interval import show

QUESTION = "Hello, what can you help me with?"  # of the code, where nothing of the data may be quoted
OBJECTIVES = {
    "sft": "supervised fine-tuning", "classify": "learning to classify", "token_classify": "learning to tag words",
    "extract": "learning to find answers in passages", "seq2seq": "learning targets of sources",
    "pretrain": "continued pretraining", "dpo": "direct preference optimisation", "simpo": "SimPO on pairs of answers",
    "orpo": "ORPO on pairs of answers", "cpo": "CPO on pairs of answers", "kto": "KTO on answers found good or bad",
    "bco": "BCO on answers found good or bad", "reward": "learning rewards from pairs of answers",
}  # fmt: skip
PIPELINES = {  # of tasks, as the hub calls them: its "text2text-generation" has become a part of "text-generation"
    "causal": "text-generation", "classify": "text-classification", "token_classify": "token-classification",
    "extract": "question-answering", "seq2seq": "text-generation", "masked": "fill-mask", "spans": "text-generation",
    "reward": "text-classification",
}  # fmt: skip
NOUNS = {  # of tasks whose base has no trained head, so that it is not what their models are compared with
    "classify": "classifier of texts", "token_classify": "tagger of words", "extract": "finder of answers in passages",
    "reward": "reward model",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """All that a card is made of, with no path of this machine in it.

    Attributes:
        repo: owner/name.
        revision: branch that it lies on, None for the main one.
        record: contents of `tunesmith.json`.
        base: hub id of the base model; None if it lies on no hub.
        commit: of that base.
        adapter: whether it is an adapter, not a full model.
        with_samples: whether the first question of the report may be quoted.
        report: contents of report.json; None if it was not measured.
        ledgers: contents of ledger.json, or what the record holds of it; None if unknown.
        learning_rate: that was used; None if unknown.
        of_adapter: whether the report is about the adapter, from before it was folded into its base.
    """

    repo: str
    revision: str | None
    record: dict[str, Any]
    base: str | None
    commit: str | None
    adapter: bool
    with_samples: bool
    report: dict[str, Any] | None = None
    ledgers: list[dict[str, Any]] | None = None
    learning_rate: float | None = None
    of_adapter: bool = False

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe; empty if the record has none."""
        return self.record.get("recipe", {})

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.get("method", {}).get("type", "full")

    @property
    def objective(self) -> str:
        """The objective's name."""
        return self.recipe.get("objective", {}).get("type", "sft")

    @property
    def task(self) -> str:
        """What the model is loaded for."""
        return self.record.get("task", "causal")

    @property
    def prefix(self) -> str:
        """What stands before every source."""
        return self.record.get("contract", {}).get("prefix", "")

    @property
    def pipeline(self) -> str:
        """What the hub calls the model's task."""
        if self.task == "seq2seq" and self.record.get("facts", {}).get(DIRECTIONS):
            return "translation"
        return PIPELINES[self.task]

    @property
    def kind(self) -> str:
        """What people call such a model."""
        return {"seq2seq": "model that makes texts of texts", **NOUNS}.get(self.task, "language model")

    @property
    def labels(self) -> list[str]:
        """The classes, or the labels of words, that it knows."""
        if self.task == "reward":
            return ["reward"]
        known = {"text-classification": label_names, "token-classification": lambda facts: labels_of(facts["labels"])}
        return known[self.pipeline](self.record.get("facts", {})) if self.pipeline in known else []

    @property
    def outputs(self) -> int:
        """Numbers that its head gives."""
        facts = self.record.get("facts", {})
        return len(tag_names(facts["labels"])) if self.pipeline == "token-classification" else max(len(self.labels), 1)


def label_of(method: str) -> str:
    """What people call a method."""
    return METHODS[method].label if method in METHODS else method


def choice(section: Any) -> str:
    """A choice of the recipe, with its settings where it has some: `cosine`, `wsd (decay 0.2)`."""
    if not isinstance(section, Mapping):
        return str(section or "unknown")
    rest = ", ".join(f"{name} {value}" for name, value in section.items() if name != "type")
    return f"{section.get('type', 'unknown')}{f' ({rest})' if rest else ''}"


def write_card(facts: Facts) -> str:
    """The card as Markdown.

    Raises:
        ConfigError: a question of the data shall be quoted, and no report holds one.
    """
    header = yaml.safe_dump(make_header(facts), sort_keys=False, allow_unicode=True, width=1000)
    environment = jinja2.Environment(  # Markdown is no HTML: what stands in names is escaped by the two filters
        autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"plain": plain, "code": code}
    template = (files("tunesmith.deploy") / "card.md.jinja").read_text(encoding="utf-8")
    body = environment.from_string(template).render(
        facts=facts,
        title=facts.repo.partition("/")[2],
        method=label_of(facts.method),
        objective=OBJECTIVES.get(facts.objective, facts.objective),
        embedded=facts.record.get("base", {}).get("name") == EMBEDDED,
        base_name=facts.base or facts.record.get("base", {}).get("name", "unknown"),
        rows=facts.record.get("data", {}).get("rows"),
        question=repr(facts.prefix + question_for(facts)),
        against=facts.report["against"] if facts.report and facts.task in NOUNS else None,
        labels=", ".join(map(code, facts.labels)),
        options=f", revision={json.dumps(facts.revision)}" if facts.revision else "",
        of_adapter=facts.of_adapter,
        asked_with=facts.record.get("asked_with"),
        table=score_table(facts.report),
        facts_table=training_table(facts),
    )
    return f"---\n{header}---\n\n{body}\n"


def make_header(facts: Facts) -> dict[str, Any]:
    """What the hub reads. Licence and language are left out: no run records them."""
    header: dict[str, Any] = {}
    if facts.base is not None:
        header |= {"base_model": facts.base, "base_model_relation": "adapter" if facts.adapter else "finetune"}
    header |= {
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": facts.pipeline,
        "tags": ["tunesmith", facts.method, facts.objective],
    }
    if datasets := [name for name in map(hub_data, named(facts, "train")) if name]:
        header["datasets"] = datasets
    if facts.report is not None and (metrics := measured(facts.report)):
        header["model-index"] = [{"name": facts.repo.partition("/")[2], "results": [result_of(facts, metrics)]}]
    return header


def result_of(facts: Facts, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """An entry of the model index: measured on what, and how well."""
    assert facts.report is not None
    names = named(facts, "test") or named(facts, "train")
    known = [name for name in map(hub_data, names) if name]
    return {
        "task": {"type": facts.pipeline},
        "dataset": {
            "name": ", ".join(names) or facts.report["data"],
            "type": known[0] if len(known) == len(names) == 1 else facts.report["data"],
            "split": "test",
        },
        "metrics": metrics,
    }


def measured(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores as the model index has them; one that is not finite would not be taken."""
    return [
        {"type": score["metric"].lower().replace(" ", "_"), "name": score["metric"], "value": score["score"]["value"]}
        for score in report["scores"]
        if math.isfinite(score["score"]["value"])
    ]


def named(facts: Facts, part: str) -> list[str]:
    """The files that the recipe names for `train` or `test`; none where that is a share of the rows."""
    names = facts.recipe.get("data", {}).get(part)
    if isinstance(names, str):
        return [names]
    return list(names) if isinstance(names, list | dict) else []


def hub_data(name: str) -> str | None:
    """The hub id in `hf:owner/name:config:split`."""
    found = re.match(r"hf:([\w.-]+/[\w.-]+)(:|$)", name)
    return found[1] if found else None


def question_for(facts: Facts) -> str:
    """What the code of the card asks."""
    if not facts.with_samples:
        return QUESTION
    samples = (facts.report or {}).get("samples", [])
    asks = ("user", "text", "question", "source")
    said = [turn["content"] for turn in samples[0]["messages"] if turn["role"] in asks] if samples else []
    if not said:
        raise ConfigError("--with-samples: this model has no report with a question. Leave the option out.")
    return said[-1]


def score_table(report: dict[str, Any] | None) -> list[list[str]]:
    """A line for each metric: its name, its values with their intervals, and what the difference shows."""
    rows: list[list[str]] = []
    for score in report["scores"] if report else []:
        values = [score[part] for part in ("other", "score", "difference") if score.get(part)]
        shown = [f"{show(value['value'])} [{show(value['low'])}, {show(value['high'])}]" for value in values]
        rows.append([f"{plain(score['metric'])} ({plain(score['unit'])})", *shown, plain(score["verdict"])])
    return rows


def training_table(facts: Facts) -> list[tuple[str, str]]:
    """How it was trained, as far as it is recorded."""
    record, optim = facts.record, facts.recipe.get("optim", {})
    data, base = record.get("data", {}), record.get("base", {})
    method = {name: value for name, value in record.get("method", {}).items() if name != "type"}
    rate = facts.learning_rate or optim.get("learning_rate")
    pairs: list[tuple[str, Any]] = [
        ("method", f"{plain(label_of(facts.method))} {settings(method)}".strip()),
        ("objective", plain(OBJECTIVES.get(facts.objective, facts.objective))),
        ("rows trained on", data.get("rows")),
        ("files", file_names(facts)),
        ("rows of these files", counted(facts)),
        (
            "rows replayed beside them",
            f"{replay['rows']} {replay['what']}" if (replay := record.get("replay")) else None,
        ),
        ("epochs", None if optim.get("steps") else optim.get("epochs")),
        ("optimizer steps", record.get("steps") or optim.get("steps")),
        ("rows a step", optim.get("batch_size")),
        ("learning rate", plain(f"{rate:g}, {choice(optim.get('scheduler'))}") if rate else None),
        ("optimizer", plain(choice(optim["optimizer"])) if optim.get("optimizer") else None),
        ("seed", record.get("seed")),
        ("merged", f"no logit off by more than {merge['value']:.2g}" if (merge := merged(record)) else None),
        ("base model", code(facts.base) if facts.base else None),
        ("base model's commit", code(facts.commit) if facts.commit else None),
        ("base model's SHA-256", code(base["sha256"]) if base.get("sha256") else None),
        ("data id", code(data["id"]) if data.get("id") else None),
        ("prompt contract", code(record["contract"]["id"]) if record.get("contract") else None),
        ("versions", settings(record.get("versions", {}))),
    ]
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    return [(name, value if isinstance(value, str) else plain(str(value))) for name, value in known]


def merged(record: dict[str, Any]) -> dict[str, Any] | None:
    """Where and how far the model is off from the adapter that was folded into it; None if none was."""
    return record.get("merge", {}).get("largest_logit_difference")


def settings(values: dict[str, Any]) -> str:
    """`rank 16, alpha 32.0`; what is not set is left out."""
    return ", ".join(f"{plain(name)} {plain(str(value))}" for name, value in values.items() if value is not None)


def file_names(facts: Facts) -> str:
    """The files that were read, by their last names."""
    listed: Iterable[dict[str, Any]] = facts.ledgers or facts.record.get("data", {}).get("files", [])
    return ", ".join(code(entry["file"]) for entry in listed)


def counted(facts: Facts) -> str:
    """`999 read: 985 kept, 14 duplicate`, over all files."""
    counts: Counter[str] = Counter()
    for entry in facts.ledgers or facts.record.get("data", {}).get("files", []):
        known = entry.get("counts", entry)
        counts.update({name: known.get(name, 0) for name in ("read", *OUTCOMES)})
    ended = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
    return f"{counts['read']} read: {ended or 'none kept'}" if counts["read"] else ""


def plain(text: str) -> str:
    """Text that Markdown and HTML take as nothing but text, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text in a code span, also within a table, whatever it holds."""
    text = " ".join(text.split()).replace("|", "\u00a6")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"
