"""LoRA: low-rank additions to linear layers, y = W x + (alpha / r) B A x (Hu et al., 2021, arXiv 2106.09685).

torch and peft are imported where they are used: recipes are read without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean
from tunesmith.model.methods.method import Method

if TYPE_CHECKING:
    import torch

STATE_SPACE = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}  # as peft has them
READ_BY_WEIGHT = {"conv1d", "out_proj", "x_proj", "dt_proj"}


class LoraConfig(Section):
    """Train low-rank additions to the linear layers and leave the base model frozen (Hu et al., 2021)."""

    type: Literal["lora"] = "lora"
    rank: int = option(16, "Rank r of each addition.", "Usually 8 to 64.", ge=1)
    alpha: float = option(32.0, "Scale: the addition is multiplied by alpha / rank.", "Usually twice the rank.", gt=0)
    dropout: float = option(0.0, "Dropout on the input of each addition.", ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = option(
        "all-linear", "Names of the layers to change, such as [q_proj, v_proj]; `all-linear` takes every linear layer."
    )
    continue_from: str | None = option(
        None, "A run or exported adapter of the same base, whose weights this one starts from; fresh ones if absent."
    )


def apply(model: torch.nn.Module, config: LoraConfig) -> Any:
    """The model with A and B beside its layers, B starting at zero, or both where an earlier adapter ended."""
    from peft import LoraConfig as PeftLora
    from peft import TaskType, get_peft_model

    from tunesmith.model.methods.continue_from import start_from_adapter

    if config.continue_from is not None:
        return start_from_adapter(model, config.continue_from, config.rank, config.alpha, config.dropout)
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
    import torch

    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


LORA = Method(
    LoraConfig,
    apply,
    learning_rate=2e-4,
    can=frozenset({"base_untouched", "merge"}),
)
