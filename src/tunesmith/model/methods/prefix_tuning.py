"""Prefix tuning: keys and values before every prompt, in each layer (Li and Liang, 2021, arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object
from tunesmith.model.methods.method import Method, State, Tensors
from tunesmith.model.methods.prompt_tuning import first_words, refuse_text

FIRST = "first "  # before the name of an attention layer: what its prefix was at first


class PrefixTuningConfig(Section):
    """Train what each layer's attention reads before every prompt (Li and Liang, 2021): more than words can say."""

    type: Literal["prefix_tuning"] = "prefix_tuning"
    tokens: int = option(20, "How many.", "8 to 100; each takes a position of the context.", ge=1, le=1024)
    init: Literal["vocabulary", "text", "random"] = option(
        "vocabulary", "Where they start: at what the base reads in words drawn at random, or in a text; or anywhere."
    )
    text: str | None = option(None, "For init: text. Repeated or cut to so many tokens.")
    projection: int | None = option(
        None, "Width of a network that makes them while they are trained, as in the paper; none if absent.", ge=1
    )
    continue_from: str | None = option(None, "A run or exported prefix of the same base to start from.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        refuse_text(self.init, self.text)
        return self


def apply(model: Any, config: PrefixTuningConfig) -> Any:
    """The model, frozen, with a prefix.

    Raises:
        ModelError: its attention cannot be given one, or what is to be continued is something else.
    """
    import torch

    from tunesmith.model.layout import ADAPTER, adapter_folder
    from tunesmith.model.prefix import KIND, give_prefix, read_prefix, read_states

    reads = read_states(model, first_words(model, config.tokens, config.init, config.text))
    first = [read.states for read in reads]
    if config.init == "random":
        first = [torch.randn(one.shape).to(one) * one.float().std() for one in first]
    if config.continue_from is not None:
        folder = adapter_folder(config.continue_from)
        if read_object(folder / ADAPTER).get("peft_type") != KIND:
            raise ModelError(f"{folder}: it is no prefix. Only prefixes can be started from here.")
        first = read_prefix(folder, reads)
        if (there := first[0].shape[2]) != config.tokens:
            raise ModelError(
                f"method.tokens = {config.tokens}, and the prefix in {folder} has {there}. Set method.tokens={there}."
            )
    return give_prefix(model, first, reads, config.projection)


def state(model: Any) -> State:
    """What the prefix was at first, where a network adds to that."""
    from tunesmith.model.prefix import MadePrefix

    made = {name: part for name, part in model.named_modules() if isinstance(part, MadePrefix)}
    return {FIRST + name: part.first.float() for name, part in made.items()}, {}


def restore(model: Any, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Add to the same again."""
    for name, first in tensors.items():
        part = model.get_submodule(name.removeprefix(FIRST))
        part.first.copy_(first)


def exported(config: PrefixTuningConfig, tensors: Tensors, first: Tensors) -> tuple[PrefixTuningConfig, Tensors]:
    """The prefix that the network makes, without it."""
    if config.projection is None:
        return config, tensors
    import torch

    from tunesmith.model.prefix import MadePrefix, Trunk

    trunk = Trunk(config.tokens, config.projection)
    shared = {name.partition(".trunk.")[2]: one.float() for name, one in tensors.items() if ".trunk." in name}
    trunk.load_state_dict(shared)
    made = {name: one for name, one in tensors.items() if ".soft_prefix." not in name}
    for key, start in first.items():
        name = key.removeprefix(FIRST)
        part = MadePrefix(start.float(), trunk)
        part.head.load_state_dict({kind: tensors[f"{name}.head.{kind}"].float() for kind in ("weight", "bias")})
        with torch.no_grad():
            made[f"{name}.weight"] = part()
    return config.model_copy(update={"projection": None}), made


PREFIX_TUNING = Method(
    PrefixTuningConfig,
    apply,
    learning_rate=3e-3,
    can=frozenset({"base_untouched", "continue", "quantize"}),
    state=state,
    restore=restore,
    exported=exported,
    label="prefix tuning",
    source="Li and Liang, 2021, arXiv 2101.00190",
    unfit="attention that transformers keeps to itself (Bloom), or that slides",
    whole=lambda config: True,
)
