"""The recipe: every section of a run, read from YAML. Parsing it needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option, read_yaml, validate, with_overrides
from tunesmith.core.errors import ConfigError
from tunesmith.data.config import DataConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import MethodConfig
from tunesmith.prompt.base import Base, context_length
from tunesmith.prompt.config import ModelConfig
from tunesmith.track.trackers import TrackConfig
from tunesmith.train.config import EvaluateConfig, NoPerturb, ObjectiveConfig, OptimConfig, PerturbConfig, SftConfig

LONGEST = 2048  # tokens of a row, when neither recipe nor model says less


class OutputConfig(Section):
    """The recipe's `output` section: where a run goes and what it leaves."""

    folder: str = option("runs", "Folder that holds the run folders.")
    name: str | None = option(
        None,
        "Name of the run folder; the recipe's file name if absent. A name in use gets -2, -3, ...",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    merge: bool = option(False, "Export the adapter folded into its base, as a full model.")
    checkpoint_every: int | None = option(
        None, "Steps between checkpoints; once an epoch, at most ten a run, if absent.", ge=1
    )
    keep_last: int = option(2, "Checkpoints that are kept.", ge=1)


class Recipe(Section):
    """A whole run."""

    model: ModelConfig = option(ModelConfig(), "The base model.")
    method: MethodConfig = option(LoraConfig(), "How the base model is changed; `tunesmith methods` lists them.")
    objective: ObjectiveConfig = option(
        SftConfig(),
        "What is learned: `sft`, `classify`, `token_classify`, `extract`, `seq2seq`, `pretrain`; from preferences "
        "`dpo`, `simpo`, `orpo`, `cpo`, `kto`, `bco` or `reward`; from rewards of its own answers `grpo`, `rloo` or "
        "`ppo`.",
    )
    data: DataConfig = option(..., "The rows, such as `data: {train: my-file.jsonl}`.")
    optim: OptimConfig = option(OptimConfig(), "How weights are updated.")
    perturb: PerturbConfig = option(NoPerturb(), "How embeddings are changed while training.")
    evaluate: EvaluateConfig = option(EvaluateConfig(), "What is measured.")
    output: OutputConfig = option(OutputConfig(), "Where the run goes.")
    track: TrackConfig = option(TrackConfig(), "Where metrics go besides the run's folder.")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Of matrix products. `auto` takes bf16 where a measured product is faster."
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "Compile the model's layers. `auto` does where the run is long enough to gain by it."
    )
    checkpointing: Literal["auto", "on", "off"] = option(
        "auto",
        "Compute layers again in the backward pass, to save memory. `auto` does where a micro-batch would not fit. It "
        "never changes the result.",
    )
    micro_tokens: Annotated[int, Field(ge=8)] | Literal["auto"] = option(
        "auto",
        "Most tokens of rows in one forward pass. `auto` is 4096 on a CPU and 16384 on a GPU, or what it holds. "
        "Without dropout it never changes the result.",
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where to compute; `auto` takes a CUDA device if there is one."
    )
    processes: int = option(1, "Processes that train together on this machine; on GPUs one for each.", ge=1, le=64)
    sharding: Literal["none", "full"] = option(
        "none", "With several processes: each holds all weights, or a part of every weight (FSDP2)."
    )
    seed: int = option(0, "Of the order of rows, the adapter's start and dropout.", ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _texts_are_documents(cls, values: Any) -> Any:
        """Where plain text is learned, absent means that paragraphs are read together, and cut into rows if long."""
        if not isinstance(values, Mapping):
            return values
        kind, data = type_of(values.get("objective")), values.get("data")
        if kind != "pretrain" or not isinstance(data, Mapping):
            return values
        return {**values, "data": {"over_long": "split", "documents": "sections", **data}}

    @model_validator(mode="before")
    @classmethod
    def _rewards_are_compared(cls, values: Any) -> Any:
        """Where a model learns from rewards, absent means that validations are compared by these."""
        if not isinstance(values, Mapping) or type_of(values.get("objective")) not in ("grpo", "rloo", "ppo"):
            return values
        evaluate = values.get("evaluate", {})
        if not isinstance(evaluate, Mapping):
            return values
        return {**values, "evaluate": {"metric": "reward", **evaluate}}


def type_of(objective: Any) -> Any:
    """What an `objective` section, as it is given, is to learn."""
    return objective.get("type") if isinstance(objective, Mapping) else getattr(objective, "type", objective)


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a YAML file, with some fields set otherwise.

    Args:
        path: the file.
        overrides: dotted keys or nested mappings.

    Raises:
        MissingError: there is no such file.
        ConfigError: with the field, what was found and what is allowed.
    """
    values = with_overrides(read_yaml(path), overrides or {}, Recipe)
    recipe = validate(Recipe, values, str(path))
    if recipe.output.name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "run"
        recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"name": name})})
    return recipe


def longest_row(recipe: Recipe, base: Base) -> int:
    """Tokens that a row may have: what the recipe says, within what the model takes."""
    takes, soft = context_length(base.folder), getattr(recipe.method, "tokens", 0)
    if takes is not None and soft >= takes:
        raise ConfigError(f"method.tokens = {soft}: {recipe.model.base} takes at most {takes} tokens in all.")
    takes = None if takes is None else takes - soft  # soft tokens stand before each row
    wanted = recipe.data.max_length or min(LONGEST, takes or LONGEST)
    if takes is not None and wanted > takes:
        raise ConfigError(f"data.max_length = {wanted}: {recipe.model.base} takes at most {takes} tokens.")
    return wanted
