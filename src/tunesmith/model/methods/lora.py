"""LoRA: low-rank additions to linear layers, y = W x + (alpha / r) B A x (Hu et al., 2021, arXiv 2106.09685).

With what has been found since: rsLoRA's scale alpha / sqrt(r) (Kalajdzievski, 2023, arXiv 2312.03732), DoRA's
magnitudes (Liu et al., 2024, arXiv 2402.09353), LoRA+'s faster B (Hayou et al., 2024, arXiv 2402.12354), and where A
and B start: at the base's own strongest directions (PiSSA, Meng et al., 2024, arXiv 2404.02948), at an orthonormal
basis (OLoRA, Büyükakyüz, 2024, arXiv 2406.01775), or at what the data excites (EVA, Paischer et al., 2024, arXiv
2410.07170).

PiSSA and OLoRA take what A and B start with out of the base. What is exported is plain LoRA of twice the rank on the
base as it was: W - s B0 A0 + s B A = W + s [B, -B0] [A; A0].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.added import CONTINUE_FROM, TARGETS, TRAIN_ALSO, Targets, add, has_turned_weights
from tunesmith.model.methods.method import Method, State, Tensors

FROM_BASE = ("pissa", "olora")
A, B = ".lora_A.", ".lora_B."
FIRST = "first "  # before the names of what A and B were at first


class LoraConfig(Section):
    """Train low-rank additions to the linear layers and leave the base model frozen (Hu et al., 2021)."""

    type: Literal["lora"] = "lora"
    rank: int = option(16, "Rank r of each addition.", "Usually 8 to 64.", ge=1)
    alpha: float = option(32.0, "Scale: the addition is multiplied by alpha / rank.", "Usually twice the rank.", gt=0)
    dropout: float = option(0.0, "Dropout on the input of each addition.", ge=0, lt=1)
    rank_pattern: dict[str, int] = option({}, "Other ranks for some layers, by name: {down_proj: 32}.")
    alpha_pattern: dict[str, float] = option({}, "Other alphas for some layers, by name.")
    rslora: bool = option(False, "Multiply by alpha / sqrt(rank) instead (rsLoRA).", "For ranks above 64.")
    dora: bool = option(False, "Train the length of each row of W apart from its direction (DoRA): better, slower.")
    init: Literal["zero", "gaussian", "orthogonal", "pissa", "olora", "eva"] = option(
        "zero",
        "Where A and B start: B at zero; A gaussian; both orthogonal; the base's strongest directions, taken out of it "
        "(pissa, olora); directions that the rows excite most (eva).",
    )
    b_rate: float = option(1.0, "Learning rate of B, as a multiple of A's (LoRA+).", "16 in the paper.", gt=0)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.continue_from is not None and self.init != "zero":
            raise ValueError("init says how fresh weights start, and with continue_from there are none: leave it out")
        if self.dora and self.init in (*FROM_BASE, "eva"):
            raise ValueError(f"with dora, init {self.init} is not possible: take zero, gaussian or orthogonal")
        return self


def apply(model: Any, config: LoraConfig) -> Any:
    """The model with A and B beside its layers, B starting at zero, or both where an earlier adapter ended.

    Raises:
        ModelError: a target is not there, or this start is not possible in such a model.
    """
    from peft import EvaConfig
    from peft import LoraConfig as PeftLora

    if config.init == "olora" and has_turned_weights(model):
        raise ModelError("method.init = olora: peft has it not for layers that store W transposed (GPT-2). Take pissa.")

    def make(common: dict[str, Any]) -> Any:
        if config.init == "eva":
            common = {**common, "eva_config": EvaConfig(rho=1.0)}  # the same rank for every layer
        return PeftLora(
            r=config.rank,
            lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  peft takes any number
            lora_dropout=config.dropout,
            rank_pattern=dict(config.rank_pattern),
            alpha_pattern=dict(config.alpha_pattern),
            use_rslora=config.rslora,
            use_dora=config.dora,
            init_lora_weights=True if config.init == "zero" else config.init,
            fan_in_fan_out=has_turned_weights(model),
            **common,
        )

    same = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora",
            "rank_pattern": "rank_pattern", "alpha_pattern": "alpha_pattern"}  # fmt: skip
    changed = add(model, config, "LoRA", make, same, "lora_dropout", bounded=True)
    if config.init in FROM_BASE:
        for weight in changed.parameters():
            weight.data = weight.data.contiguous()  # they come from a decomposition
        changed._first = {FIRST + name: weight.detach().float().clone() for name, weight in _factors(changed).items()}
    return changed


def _factors(model: Any) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if A in name or B in name}


def prepare(model: Any, config: LoraConfig, rows: Sequence[Any], steps: int) -> None:
    """EVA: let A start at the directions that the inputs of each layer vary most in."""
    if config.init != "eva" or not rows:
        return
    from peft import initialize_lora_eva_weights

    training = model.training
    initialize_lora_eva_weights(
        model.eval(), _Inputs(rows, model.device), prepare_layer_inputs_fn=_tokens_of, show_progress_bar=False
    )
    model.train(training)


def _tokens_of(layer_input: Any, model_input: Any, layer_name: str) -> Any:
    """What a layer reads of each token, whatever stands before the last axis; no row is padded."""
    first = layer_input[0] if isinstance(layer_input, tuple) else layer_input
    return first.flatten(0, -2)


class _Inputs:
    """Rows as the model reads them, one at a time."""

    def __init__(self, rows: Sequence[Any], device: Any) -> None:
        self._rows, self._device = rows, device

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        for row in self._rows:
            ids_1T = torch.from_numpy(row.ids.astype("int64"))[None].to(self._device)
            yield {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}


def rate(config: LoraConfig, name: str) -> float:
    """LoRA+: B learns faster than A."""
    return config.b_rate if B in name else 1.0


def state(model: Any) -> State:
    """What A and B were at first, where that was taken out of the base."""
    return getattr(model, "_first", {}), {}


def restore(model: Any, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Know again what was taken out of the base, and take out that."""
    if not tensors:
        return
    import torch

    first = model._first
    with torch.no_grad():
        for layer_name, layer in model.named_modules():
            down, up = (f"{FIRST}{layer_name}{kind}default.weight" for kind in (A, B))
            if down in tensors:
                scale, weight = layer.scaling["default"], layer.base_layer.weight
                was, now = (scale * (one[up] @ one[down]).to(weight.device) for one in (first, tensors))
                weight.copy_(weight.float() + _as_in(layer, was - now))
    model._first = dict(tensors)


def _as_in(layer: Any, change: Any) -> Any:
    return change.T if getattr(layer, "fan_in_fan_out", False) else change


def exported(config: LoraConfig, tensors: Tensors, first: Tensors) -> tuple[LoraConfig, Tensors]:
    """Plain LoRA on the base as it was."""
    if config.init not in FROM_BASE:
        return config, tensors
    import torch

    doubled: dict[str, Any] = {}
    for name, tensor in tensors.items():
        before = first.get(FIRST + name)
        if before is None:  # of a module that is trained as well
            doubled[name] = tensor
        else:
            before = before.to(tensor)
            doubled[name] = torch.cat([tensor, before]) if A in name else torch.cat([tensor, -before], 1)
    scale = 2**0.5 if config.rslora else 2.0
    ranks, alphas = config.rank_pattern, config.alpha_pattern
    twice = {
        "rank": 2 * config.rank, "alpha": scale * config.alpha, "init": "zero",
        "rank_pattern": {name: 2 * rank for name, rank in ranks.items()},
        "alpha_pattern": {name: scale * alpha for name, alpha in alphas.items()},
    }  # fmt: skip
    return config.model_copy(update=twice), doubled


LORA = Method(
    LoraConfig,
    apply,
    learning_rate=2e-4,
    label="LoRA",
    source="Hu et al., 2021, arXiv 2106.09685",
    can=frozenset({"base_untouched", "merge", "continue", "stack", "quantize"}),
    prepare=prepare,
    rate=rate,
    state=state,
    restore=restore,
    exported=exported,
    unfit="init: olora for GPT-2",
    whole=lambda config: config.init in (*FROM_BASE, "eva"),
)
