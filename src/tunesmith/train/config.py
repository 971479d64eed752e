"""The recipe's `objective` and `optim` sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option
from tunesmith.train.optimizers import MOST_RATE, AdamW, OptimizerConfig, ScheduleFree, Sgd
from tunesmith.train.policy_config import Rewarded
from tunesmith.train.preference_config import Preferring
from tunesmith.train.schedules import Constant, Cosine, SchedulerConfig


class SftConfig(Section):
    """Supervised fine-tuning: predict the trained tokens of each row."""

    type: Literal["sft"] = "sft"
    label_smoothing: float = option(
        0.0,
        "Share of each target that is spread over all words (Szegedy et al., 2016). Validation is without.",
        "0 to 0.1.",
        ge=0,
        lt=1,
    )


class ClassifyConfig(Section):
    """Say what class a text, or a pair of texts, has; which classes; or what number."""

    type: Literal["classify"] = "classify"
    label_smoothing: float = option(
        0.0,
        "Share of each target that is spread over all classes, of rows with one class. Validation is without.",
        "0 to 0.1.",
        ge=0,
        lt=1,
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "`balanced`: a row counts the more, the rarer its class is: rows / (classes x rows of its class)."
    )
    pool: Literal["own", "mean"] = option(
        "own",
        "State that the classes are read from: `own` is what the architecture's head reads, the first token or, of "
        "decoders, the last. `mean` puts a layer on an encoder that begins as the mean of all tokens.",
        "mean for encoders of sentences; with method.type=full.",
    )


class TokenClassifyConfig(Section):
    """Say of each word what tag it has: entities, slots, parts of speech."""

    type: Literal["token_classify"] = "token_classify"
    label_smoothing: float = option(
        0.0,
        "Share of each target that is spread over all tags. Validation is without.",
        "0 to 0.1.",
        ge=0,
        lt=1,
    )


class Seq2SeqConfig(Section):
    """Make one text of another: translate, sum up, correct; with an encoder-decoder such as T5, BART or Marian."""

    type: Literal["seq2seq"] = "seq2seq"
    prefix: str = option(
        "",
        "Text put before each source, as T5 is told what to do: 'translate English to German: '. It goes with the "
        "model.",
    )
    label_smoothing: float = option(
        0.0,
        "Share of each target token that is spread over all words. Validation is without.",
        "0 to 0.1.",
        ge=0,
        lt=1,
    )


class ExtractConfig(Section):
    """Find the answer to a question in a passage, or say that it holds none."""

    type: Literal["extract"] = "extract"
    max_answer_tokens: int = option(30, "Longest answer that is looked for, in tokens.", "15 to 60.", ge=1)


class PretrainConfig(Section):
    """Learn plain text: every token of it or, of an encoder, those that are hidden, of T5 stretches of it."""

    type: Literal["pretrain"] = "pretrain"
    masked: float = option(
        0.15, "Of encoders and T5: share of the tokens that are hidden, and predicted.", "0.15 to 0.4.", gt=0, lt=1
    )
    whole_words: bool = option(True, "Of encoders: hide all pieces of a word together.")
    span_length: float = option(3.0, "Of T5: tokens that are taken out at once, on average.", "3 to 10.", ge=1, le=100)


ObjectiveConfig = Annotated[
    SftConfig
    | ClassifyConfig
    | TokenClassifyConfig
    | ExtractConfig
    | Seq2SeqConfig
    | PretrainConfig
    | Preferring
    | Rewarded,
    Field(discriminator="type"),
]


class GroupConfig(Section):
    """How some weights learn otherwise than the rest."""

    rate: float = option(1.0, "Their learning rate, as a multiple of the run's.", "0.1 to 10.", ge=0)
    weight_decay: float | None = option(None, "Their weight decay; the run's if absent.", ge=0)


class OptimConfig(Section):
    """How weights are updated."""

    optimizer: OptimizerConfig = option(AdamW(), "The rule of the update.")
    learning_rate: float | None = option(
        None,
        "Peak learning rate; the method's tested default if absent (lora 2e-4, full 2e-5), fitted to the optimizer, "
        "and lower where something is learned from preferences (dpo a tenth of it).",
        "LoRA runs usually take 1e-4 to 5e-4, full ones 1e-5 to 5e-5; the tiny ember takes ten times that.",
        gt=0,
        le=MOST_RATE,
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
    layer_decay: float | None = option(
        None,
        "Learning rate of a layer over that of the one above it; embeddings are below the first. All alike if absent.",
        "0.75 to 0.95.",
        gt=0,
        le=1,
    )
    groups: dict[str, GroupConfig] = option(
        {},
        "Other rates and decays for weights whose names match a pattern: {'*embed*': {rate: 0.1, weight_decay: 0}}. "
        "The first that matches counts.",
    )
    clip: float = option(1.0, "Largest gradient norm; 0 for no clipping.", ge=0)
    warmup: float = option(0.03, "Warm-up from zero: a share of all steps if below 1, else a number of steps.", ge=0)
    scheduler: SchedulerConfig = option(Cosine(), "What the learning rate does after the warm-up.")
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

    @model_validator(mode="before")
    @classmethod
    def _no_schedule_is_constant(cls, values: Any) -> Any:
        """Without a schedule, absent means constant."""
        if not isinstance(values, Mapping) or "scheduler" in values:
            return values
        optimizer = values.get("optimizer")
        name = optimizer.get("type") if isinstance(optimizer, Mapping) else getattr(optimizer, "type", optimizer)
        return {**values, "scheduler": "constant"} if name == "schedule_free" else values

    @model_validator(mode="after")
    def _fits_together(self) -> OptimConfig:
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError("give warmup as a share below 1 or as a whole number of steps")
        if isinstance(self.optimizer, ScheduleFree):
            if not isinstance(self.scheduler, Constant):
                raise ValueError("give schedule_free the scheduler constant: it averages instead of falling")
            if self.ema is not None:
                raise ValueError("give schedule_free no ema: it has an average of its own, which is exported")
        if isinstance(self.optimizer, Sgd) and self.optimizer.nesterov and not self.optimizer.momentum:
            raise ValueError("give nesterov a momentum above 0")
        return self


class NoPerturb(Section):
    """Train on the embeddings as they are."""

    type: Literal["none"] = "none"


class Neftune(Section):
    """Add noise to the embeddings of each row (NEFTune; Jain et al., 2023)."""

    type: Literal["neftune"] = "neftune"
    alpha: float = option(5.0, "Size: the noise is within alpha / sqrt(tokens x width).", "5 to 15.", gt=0)


Norm = Literal["l2", "linf"]
EPSILON = option(0.1, "How far a row's embeddings are moved at most, in their norm.", "0.01 to 1.", gt=0)
NORM = option("l2", "How that is measured: over all numbers of a row together, or by the largest of them.")
STEP_SIZE = option(0.05, "Length of a step, in the same norm.", "About epsilon / steps.", gt=0)


class Fgm(Section):
    """Train half on embeddings moved once along the loss's gradient (FGM; Miyato et al., 2017)."""

    type: Literal["fgm"] = "fgm"
    epsilon: float = EPSILON
    norm: Norm = NORM


class Pgd(Section):
    """Train half on embeddings moved several times along the loss's gradient (PGD; Madry et al., 2018)."""

    type: Literal["pgd"] = "pgd"
    epsilon: float = EPSILON
    steps: int = option(3, "Steps along the gradient; each costs a pass and its way back.", "2 to 5.", ge=1, le=20)
    step_size: float = STEP_SIZE
    norm: Norm = NORM


class FreeLb(Section):
    """Train on every step of a walk along the loss's gradient from a random start (FreeLB; Zhu et al., 2020)."""

    type: Literal["freelb"] = "freelb"
    epsilon: float = EPSILON
    steps: int = option(3, "Passes that are learned from; all but the first are moved.", "2 to 5.", ge=2, le=20)
    step_size: float = STEP_SIZE
    norm: Norm = NORM


PerturbConfig = Annotated[NoPerturb | Neftune | Fgm | Pgd | FreeLb, Field(discriminator="type")]


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
    metric: str = option(
        "loss",
        "What validations are compared by: `loss`; `token_accuracy` of sft and seq2seq; `accuracy` of classify and "
        "extract; `token_accuracy` and `f1` of token_classify; `rewards/accuracies` and `rewards/margins` of all that "
        "learns from preferences; `reward` of grpo, rloo and ppo.",
    )
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
    baseline: str = option(
        "none",
        "What a model that does not chat is compared with beside the simplest guess: `all`, or of a classifier "
        "`tfidf`, a linear model on words and pieces of words, or `frozen`, one on what the base makes of the texts; "
        "both are trained on the same rows; of extract `no_answer`.",
    )
    general_ability: Literal["auto", "off"] | list[str] = option(
        "auto",
        "Files of general rows, scored with both models to show what was forgotten. `auto` takes tunesmith's own for "
        "ember, its plain texts for any model that learns plain text, and none for others.",
    )
