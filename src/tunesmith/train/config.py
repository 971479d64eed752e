"""The recipe's `objective` and `optim` sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option


class SftConfig(Section):
    """Supervised fine-tuning: predict the trained tokens of each row."""

    type: Literal["sft"] = "sft"


ObjectiveConfig = SftConfig


class OptimConfig(Section):
    """How weights are updated: AdamW (Loshchilov and Hutter, 2019) under a learning-rate schedule."""

    name: Literal["adamw", "adamw_8bit"] = option(
        "adamw", "`adamw_8bit` keeps AdamW's two moments in 8 bits: 2 bytes a weight instead of 8, and slower on a CPU."
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate; the method's tested default if absent (lora 2e-4, full 2e-5).",
        "LoRA runs usually take 1e-4 to 5e-4, full ones 1e-5 to 5e-5; the tiny ember takes ten times that.",
        gt=0,
        le=0.1,
    )
    epochs: float = option(3.0, "Passes over the training rows; a part of one is possible.", gt=0)
    steps: int | None = option(None, "Optimizer steps; overrides epochs.", ge=1)
    batch_size: int = option(16, "Rows in one optimizer step.", "Usually 8 to 128.", ge=1)
    accumulation: int | None = option(
        None,
        "Micro-batches in one step; as many as memory needs if absent. Without dropout it never changes the result.",
        ge=1,
    )
    weight_decay: float = option(0.0, "Decoupled weight decay; norms and biases are left out.", ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = option(
        (0.9, 0.999), "AdamW's decay rates of the first and second moment."
    )
    clip: float = option(1.0, "Largest gradient norm; 0 for no clipping.", ge=0)
    warmup: float = option(0.03, "Warm-up from zero: a share of all steps if below 1, else a number of steps.", ge=0)
    scheduler: Literal["constant", "linear", "cosine"] = option(
        "cosine", "After the warm-up: stay, fall in a line to zero, or fall along a cosine to zero."
    )
    ema: float | None = option(
        None,
        "Decay of a moving average of the weights, which is then what is validated and exported; none if absent.",
        "Usually 0.99 to 0.9999.",
        gt=0,
        lt=1,
    )
    spikes: Literal["warn", "skip", "rollback", "off"] = option(
        "warn",
        "When a loss stands far out: say so, leave the update out, or go back to the last checkpoint and leave out the "
        "batches since.",
    )

    @model_validator(mode="after")
    def _a_warmup_is_a_share_or_whole_steps(self) -> OptimConfig:
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError("give warmup as a share below 1 or as a whole number of steps")
        return self


class EvaluateConfig(Section):
    """The recipe's `evaluate` section: what is measured during training and at its end."""

    every: int | None = option(
        None,
        "Steps between validations. If absent, ten a run, or as many as take a tenth of the training.",
        ge=1,
    )
    validation_rows: int | None = option(
        None,
        "Rows of a validation, always the same ones. If absent, all where `every` is given, else as many as keep "
        "validation within a tenth of the training.",
        ge=1,
    )
    metric: Literal["loss", "token_accuracy"] = option("loss", "What validations are compared by.")
    patience: int | None = option(
        None, "Validations without a better value before the run ends; never if absent.", ge=1
    )
    export: Literal["last", "best"] = option("last", "Export the weights of the last step, or of the best validation.")
    rows: int | None = option(
        None,
        "Most test rows used for the comparison with the base model. If absent, 200, or as many as take a quarter of "
        "the training's time.",
        ge=1,
    )
    max_new_tokens: int = option(128, "Longest answer generated for the comparison.", ge=1)
    samples: int = option(5, "Questions shown with both models' answers.", ge=0)
    general_ability: Literal["auto", "off"] | list[str] = option(
        "auto",
        "Files of general rows, scored with both models to show what was forgotten. `auto` takes tunesmith's own for "
        "ember and none for other models.",
    )
