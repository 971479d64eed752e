"""Bottleneck adapters (Houlsby et al., 2019, arXiv 1902.00751; Pfeiffer et al., 2020, arXiv 2005.00247)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object
from tunesmith.model.methods.added import refuse_unknown_targets
from tunesmith.model.methods.method import Method


class AdapterConfig(Section):
    """Train a small network behind a part of each layer (Houlsby et al., 2019; Pfeiffer et al., 2020)."""

    type: Literal["adapter"] = "adapter"
    size: int = option(64, "Width of each network.", "8 to 256.", ge=1)
    placement: Literal["pfeiffer", "houlsby"] = option(
        "pfeiffer", "Behind the feed-forward part of each layer; `houlsby` puts one behind attention as well."
    )
    activation: Literal["relu", "gelu", "silu"] = option("gelu", "Between its two layers.")
    targets: list[str] = option([], "Names of the layers that it stands behind; those that end a part if empty.")
    continue_from: str | None = option(None, "A run or exported adapter of this kind to start from.")


def apply(model: Any, config: AdapterConfig) -> Any:
    """The model, frozen, with adapters.

    Raises:
        ModelError: there is nothing to put them behind, or what is to be continued is something else.
    """
    from tunesmith.model.bottleneck import bottlenecks, give_bottlenecks, own_weights, with_bottlenecks
    from tunesmith.model.layout import ADAPTER, adapter_folder

    names = layers_for(model, config)
    if config.continue_from is not None:
        folder = adapter_folder(config.continue_from)
        refuse_other(folder, read_object(folder / ADAPTER), config, names)
        model = with_bottlenecks(model, folder)
        for part in bottlenecks(model).values():
            for weight in own_weights(part).values():
                weight.requires_grad_(True)
        return model
    return give_bottlenecks(model, names, config.size, config.activation)


def layers_for(model: Any, config: AdapterConfig) -> list[str]:
    """Whole names of the layers that adapters stand behind.

    Raises:
        ModelError: there are none.
    """
    from tunesmith.model.bottleneck import ends_of_parts
    from tunesmith.model.layers import linear_layers

    layers = linear_layers(model)
    if config.targets:
        refuse_unknown_targets(config.targets, sorted({name.rpartition(".")[2] for name in layers}))
        names = [name for name in layers if any(f".{name}".endswith(f".{one}") for one in config.targets)]
    else:
        names = ends_of_parts(model, config.placement == "houlsby")
    if not names:
        raise ModelError(
            f"method.type = adapter: which layers of a {model.config.model_type} model end a part is not known. Name "
            f"them with method.targets. Its linear layers: {', '.join(sorted({n.rpartition('.')[2] for n in layers}))}."
        )
    return names


def refuse_other(folder: Any, found: dict[str, Any], config: AdapterConfig, names: list[str]) -> None:
    """Refuse to continue what was made with other settings.

    Raises:
        ModelError: with the setting.
    """
    if found.get("peft_type") != "BOTTLENECK":
        raise ModelError(
            f"{folder}: it is a {found.get('peft_type')} adapter. Only bottleneck adapters can be started from here."
        )
    for name in ("size", "activation"):
        asked, there = getattr(config, name), found.get(name)
        if asked != there:
            raise ModelError(
                f"method.{name} = {asked}, and the adapter in {folder} has {there}. Set method.{name}={there}."
            )
    if sorted(found.get("target_modules", [])) != sorted(names):
        there = sorted({name.rpartition(".")[2] for name in found.get("target_modules", [])})
        raise ModelError(
            f"method.placement = {config.placement}, and the adapter in {folder} stands behind other layers "
            f"({', '.join(there)}). Take the placement or the targets that it was trained with."
        )


ADAPTER = Method(
    AdapterConfig,
    apply,
    learning_rate=1e-3,
    can=frozenset({"base_untouched", "continue", "quantize"}),
    label="bottleneck adapters",
    source="Houlsby et al., 2019, arXiv 1902.00751; Pfeiffer et al., 2020, arXiv 2005.00247",
    whole=lambda config: config.continue_from is not None,
)
