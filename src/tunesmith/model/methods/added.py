"""What methods share that add weights beside a base's layers through peft: which layers, and what is wrong with them.

torch and peft are imported where they are used: recipes are read without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tunesmith.core.config import option
from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean

Targets = Literal["all-linear"] | list[str]
STATE_SPACE = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}  # as peft has them
READ_BY_WEIGHT = {"conv1d", "out_proj", "x_proj", "dt_proj"}
ALL_LINEAR = "Names of the layers to change, such as [q_proj, v_proj]; `all-linear` takes every linear layer."
CONTINUE = "A run or exported adapter of the same base, whose weights this one starts from; fresh ones if absent."
# Fields of every such method; each section has them after its own.
TARGETS = option("all-linear", ALL_LINEAR)
TRAIN_ALSO = option([], "Names of whole modules to train and save as well, such as [lm_head].", "For a new head.")
CONTINUE_FROM = option(None, CONTINUE)


def add(
    model: Any,
    config: Any,
    label: str,
    make: Callable[[dict[str, Any]], Any],
    same: Mapping[str, str],
    dropout: str = "",
    bounded: bool = False,
) -> Any:
    """The model with weights added beside its layers, fresh or from an earlier adapter.

    Args:
        model: a base, with none so far.
        config: its section, with `targets`, `train_also` and `continue_from`.
        label: what people call the method.
        make: peft's configuration from what all share (task, targets, modules to save).
        same: settings that an adapter that is continued must have been made with, by our names: peft's.
        dropout: peft's name of a rate that may be another when an adapter is continued.
        bounded: whether a rank above a layer's size adds nothing.

    Raises:
        ModelError: a target is not there, the method cannot be put there, or the earlier adapter does not fit.
    """
    from peft import TaskType, get_peft_model

    from tunesmith.model.heads import head_modules, task_type
    from tunesmith.model.layers import linear_layers
    from tunesmith.model.methods.continue_from import start_from_adapter

    head = head_modules(model)
    layers = {name: part for name, part in linear_layers(model).items() if not _is_within(name, head)}
    inner = sorted({name.rpartition(".")[2] for name in layers})
    names = sorted({*inner, *(name.rpartition(".")[2] for name in linear_layers(model, head=True))})
    refuse_unknown_targets(config.targets, names)
    refuse_read_by_weight(model, config.targets, inner)
    refuse_unknown_modules(model, config.train_also)
    targets = sorted(layers) if head and config.targets == "all-linear" else config.targets
    kind = task_type(model)
    wanted = make({
        "task_type": None if kind is None else TaskType[kind], "target_modules": targets,
        "modules_to_save": [*config.train_also, *head] or None,
    })  # fmt: skip
    if config.continue_from is not None:
        return start_from_adapter(model, config.continue_from, wanted, same, dropout)
    if bounded:
        refuse_rank(config.rank, {name: part for name, part in layers.items() if is_target(name, config.targets)})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lora with eva initialization")  # it follows, from the rows
            return get_peft_model(model, wanted)
    except (ValueError, RuntimeError, TypeError, NotImplementedError, KeyError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"method.targets = {config.targets}: {label} cannot be added to this model ({reason}). Its linear layers: "
            f"{', '.join(names) or 'none'}. `tunesmith methods` lists others."
        ) from None


def _is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether a layer is one of these modules, or inside of one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def is_target(name: str, targets: Targets) -> bool:
    """Whether a layer of this whole name is meant."""
    return targets == "all-linear" or any(name == one or name.endswith(f".{one}") for one in targets)


def has_turned_weights(model: Any) -> bool:
    """Whether its layers store W transposed, as GPT-2's do."""
    return any(type(part).__name__ == "Conv1D" for part in model.modules())


def refuse_unknown_targets(targets: Targets, names: Sequence[str]) -> None:
    """Refuse targets that match nothing.

    Raises:
        ModelError: with near names.
    """
    if not targets:
        raise ModelError(f"method.targets is empty: nothing would be trained. Linear layers: {', '.join(names)}.")
    for target in targets if isinstance(targets, list) else []:
        if target.rpartition(".")[2] not in names:
            raise ModelError(
                f"method.targets: no linear layer of the model is called {target!r}; "
                f"{did_you_mean(target, names)} Its linear layers: {', '.join(names)}."
            )


def refuse_unknown_modules(model: Any, modules: Sequence[str]) -> None:
    """Refuse modules to train that are not there.

    Raises:
        ModelError: with near names.
    """
    known = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if list(part.parameters())} - {""})
    for module in modules:
        if module.rpartition(".")[2] not in known:
            raise ModelError(f"method.train_also: the model has no module {module!r}; {did_you_mean(module, known)}")


def refuse_rank(asked: int, layers: Mapping[str, Any]) -> None:
    """Refuse a rank above what a layer can have: more columns could change nothing that fewer do not.

    Raises:
        ModelError: with the layer and its size.
    """
    from tunesmith.model.layers import size_of

    if not layers:
        return
    least, name, shape = min((min(size_of(part)), name, size_of(part)) for name, part in layers.items())
    if asked > least:
        raise ModelError(
            f"method.rank = {asked}: the layer {name} is {shape[0]} x {shape[1]}, so a rank above {least} adds "
            f"nothing. Set method.rank={least} or less, or name other method.targets."
        )


def refuse_read_by_weight(model: Any, targets: Targets, linear: Sequence[str]) -> None:
    """Refuse layers that a state-space model never calls: its kernels read their weights, and would miss an adapter.

    Raises:
        ModelError: with the layers that can be named instead.
    """
    kind = getattr(model.config, "model_type", None)
    if kind not in STATE_SPACE:
        return
    fit = [name for name in linear if name not in READ_BY_WEIGHT]
    if targets == "all-linear" or any(target.rpartition(".")[2] in READ_BY_WEIGHT for target in targets):
        raise ModelError(
            f"method.targets = {targets}: layers of a {kind} model called {', '.join(sorted(READ_BY_WEIGHT))} cannot "
            f"be adapted, since its kernels read their weights alone. Set method.targets=[{', '.join(fit)}], or "
            "method.type=full."
        )
