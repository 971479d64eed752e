"""Ways to change a base model, as a table over the peft library: one entry for each method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import TaskType, get_peft_model

from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean, look_up
from tunesmith.model.config import FullConfig, LoraConfig
from tunesmith.model.warm import start_from_adapter

STATE_SPACE = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}  # as peft has them
READ_BY_WEIGHT = {"conv1d", "out_proj", "x_proj", "dt_proj"}
Change = Callable[[torch.nn.Module, Any], torch.nn.Module]


@dataclass(frozen=True)
class Method:
    """A way to change a model.

    Attributes:
        apply: returns the model with its trainable weights marked (`requires_grad`).
        freezes_base: whether the base's own weights stay as they are.
        learning_rate: the tested default.
    """

    apply: Change
    freezes_base: bool
    learning_rate: float


def _full(model: torch.nn.Module, config: FullConfig) -> torch.nn.Module:
    return model.requires_grad_(True)


def _lora(model: torch.nn.Module, config: LoraConfig) -> torch.nn.Module:
    """LoRA: y = W x + (alpha / r) B A x, with B starting at zero, or both where an earlier adapter ended."""
    if config.start is not None:
        return start_from_adapter(model, config)
    peft_config = PeftLora(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  peft takes any number
        lora_dropout=config.dropout,
        target_modules=config.targets,
        fan_in_fan_out=any(type(part).__name__ == "Conv1D" for part in model.modules()),  # GPT-2 stores W transposed
    )
    linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if is_linear(part)})
    if not config.targets:
        raise ModelError(f"method.targets is empty: nothing would be trained. Linear layers: {', '.join(linear)}.")
    for target in config.targets if isinstance(config.targets, list) else []:
        if target.rpartition(".")[2] not in linear:
            raise ModelError(
                f"method.targets: no linear layer of the model is called {target!r}; "
                f"{did_you_mean(target, linear)} Its linear layers: {', '.join(linear)}."
            )
    refuse_read_by_weight(model, config.targets, linear)
    try:
        return get_peft_model(model, peft_config)  # pyright: ignore[reportArgumentType]
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"method.targets = {config.targets}: LoRA cannot be added to this model ({reason}). Its linear layers: "
            f"{', '.join(linear) or 'none'}."
        ) from None


def refuse_read_by_weight(model: Any, targets: str | list[str], linear: list[str]) -> None:
    """Refuse layers that a state-space model never calls: its kernels read their weights, and would miss an adapter.

    Raises:
        ModelError: with the layers that can be named instead.
    """
    kind = getattr(model.config, "model_type", None)
    if kind not in STATE_SPACE:
        return
    head = {name.rpartition(".")[2] for name, part in model.named_modules() if part is model.get_output_embeddings()}
    fit = [name for name in linear if name not in READ_BY_WEIGHT | head]
    if targets == "all-linear" or any(target.rpartition(".")[2] in READ_BY_WEIGHT for target in targets):
        raise ModelError(
            f"method.targets = {targets}: layers of a {kind} model called {', '.join(sorted(READ_BY_WEIGHT))} cannot "
            f"be adapted, since its kernels read their weights alone. Set method.targets=[{', '.join(fit)}], or "
            "method.type=full."
        )


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a layer is a matrix product, whatever its class is called (GPT-2 has its own)."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


METHODS: dict[str, Method] = {
    "full": Method(_full, freezes_base=False, learning_rate=2e-5),
    "lora": Method(_lora, freezes_base=True, learning_rate=2e-4),
}


def method_for(config: FullConfig | LoraConfig) -> Method:
    """The table's entry for a `method` section."""
    return look_up(METHODS, config.type, "method")


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
