"""A model rebuilt for decoding in slots: transformers' own modules, with layers of ours in a few places.

The copy shares every weight with the model that it is made from, which stays as it is. Linear layers become
`SlotLinear`, attention goes through `slot_attention`. Whether all that computes what the model computes is not
assumed: `why_logits_differ` (`compared.py`) compares them before the copy is used. What was copied all the same,
weights in the processor's layout and adapters, `refresh` and `put` copy again.

Axes: B rows, T tokens, V vocabulary, P positions.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from tunesmith.infer.engine.adapters import Adapter, CannotStack, fit
from tunesmith.infer.engine.family import can_step
from tunesmith.infer.engine.fused import replace_norms
from tunesmith.infer.engine.library import cache_argument
from tunesmith.infer.engine.linear import ForwardContext, SlotLinear, can_pack, pack, repack, unpack
from tunesmith.infer.engine.slots import POSITION_MULTIPLE, SLOTS, SlotCache
from tunesmith.infer.engine.step import WholeStep
from tunesmith.model.device import free_bytes

SEVERAL = 8  # places for adapters, once there is more than one
PACKED_SHARE = 0.25  # most of the free memory that packed weights may take


class Network:
    """The copy, and the two passes that decoding needs.

    Attributes:
        model: transformers' model with our layers.
        device: where it computes.
        bytes_per_position: of a row's cache, in all layers; known once logits were compared.
        whole: what computes a step in one call, so that nothing has to be compiled; None where nothing does.
    """

    def __init__(self, model: Any, adapters: Sequence[Adapter]) -> None:
        """Copy `model`, without its adapters, and put `adapters` in.

        Raises:
            CannotStack: an adapter does not fit.
        """
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self.model = copy.deepcopy(base, shared(base)).eval()
        for part in self.model.modules():  # what was compiled to be trained would call what it is a copy of
            vars(part).pop("forward", None)
        self.device: torch.device = base.device
        self._argument = cache_argument(base)
        self.context = ForwardContext()
        self._changes = [0]  # of this and all twins
        replace_linear(self.model, self.context)
        if self.device.type == "cuda":
            replace_norms(self.model, base.dtype)
        self.bytes_per_position = 0
        self.whole: WholeStep | None = None
        self._places = self._rank = 0  # of adapters, and columns of each
        for place, adapter in enumerate(adapters):
            self.put(place, adapter)
        self.model.set_attn_implementation(SLOTS)
        self._pack()
        self.whole = WholeStep(self.model) if self._packs is not None and can_step(self.model) else None

    @property
    def version(self) -> int:
        """Grows whenever weights or adapters change, before and after they do."""
        return self._changes[0]

    def put(self, place: int, adapter: Adapter) -> bool:
        """Have an adapter at this place, instead of the one that may be there.

        Places grow by doubling, and columns with the largest adapter: shapes change seldom, however many come.

        Returns:
            Whether its numbers went where others were before, so that what was compiled knows them too.

        Raises:
            CannotStack: it does not fit.
        """
        layers = self._layers()
        fit(adapter, layers)
        self._change()
        self._places, self._rank = self._room(place, adapter)
        in_place = [layer.put(place, adapter.factors.get(name), self._places, self._rank)
                    for name, layer in layers.items()]  # fmt: skip
        self._changes[0] += 1
        return all(in_place)

    def _change(self) -> None:
        """Weights or adapters are about to be others."""
        self._changes[0] += 1
        if self.whole is not None:
            self.whole.forget()

    def more_bytes(self, place: int, adapter: Adapter) -> int:
        """That putting it there would take."""
        places, rank = self._room(place, adapter)
        size = 0
        for name, layer in self._layers().items():
            have = 0 if layer.down is None else self._places * self._rank
            need = places * rank if layer.down is not None or name in adapter.factors else 0
            size += (need - have) * (layer.in_features + layer.out_features) * layer.weight.element_size()
        return size

    def _room(self, place: int, adapter: Adapter) -> tuple[int, int]:
        """Places and columns that there must be for it."""
        places = self._places
        while places <= place:
            places = max(SEVERAL, 2 * places) if places else 1
        return places, max(self._rank, adapter.rank)

    def _layers(self) -> dict[str, SlotLinear]:
        return {name: part for name, part in self.model.named_modules() if isinstance(part, SlotLinear)}

    def refresh(self, model: Any) -> None:
        """Take the weights that `model` has now, adapters apart, here and in all twins.

        Args:
            model: the one that this network was made from.

        Raises:
            CannotStack: it has other weights than it had, by their names or shapes.
        """
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        named = dict(parameters_of(base))
        named |= {name.replace(".base_layer.", "."): weight for name, weight in named.items()}
        self._change()
        for name, weight in parameters_of(self.model):
            source = named.get(name)
            if source is not weight:
                take_over(name, weight, source)
        for name, layer in self.model.named_modules():
            if isinstance(layer, SlotLinear) and layer.weight.shape != (layer.out_features, layer.in_features):
                raise CannotStack(changed(f"{name}.weight"))
        if self._packs is not None:
            repack(self.model)
        self._changes[0] += 1

    def _pack(self) -> None:
        weights = [layer.weight for layer in self.model.modules() if isinstance(layer, SlotLinear)]
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        fits = self.device.type == "cpu" and size <= PACKED_SHARE * free_bytes("cpu")
        self._packs: _Packs | None = None
        if fits and all(can_pack(weight.dtype) for weight in weights):
            self._packs = _Packs()
            weakref.finalize(self._packs, unpack, pack(self.model))

    def twin(self) -> Network:
        """Another copy over the same tensors, for another thread, whose layers can be compiled."""
        other = copy.copy(self)
        other.whole = None
        other.model = copy.deepcopy(self.model, shared(self.model))
        other.context = next(part.context for part in other.model.modules() if isinstance(part, SlotLinear))
        return other

    def prefill(
        self, cache: SlotCache, first: int, start: int, tokens: torch.Tensor, last: Sequence[int], adapters: list[int]
    ) -> torch.Tensor:
        """Read several tokens of each of some neighbouring rows.

        Args:
            cache: large enough for them.
            first: slot of the first row.
            start: position of the first token.
            tokens: ids (B, T), or embeddings (B, T, width); what follows a shorter row is not looked at.
            last: index among T of the token of each row whose logits are wanted.
            adapters: index of each row's adapter, -1 for none.

        Returns:
            Logits (B, V).
        """
        count, length = tokens.shape[:2]
        until = start + length
        place_T = torch.arange(start, until, device=self.device)
        relative_11TP = (place_T[:, None] - torch.arange(until, device=self.device))[None, None]
        cache.aim(first, count, relative_11TP, start)
        self.context.one_each = False
        wanted = sorted(set(last))
        logits_BWV = self._run(
            cache,
            tokens,
            relative_11TP,
            place_T[None].expand(count, -1),
            torch.tensor(adapters, device=self.device),
            torch.tensor(wanted, device=self.device),
        )
        return logits_BWV[torch.arange(count), [wanted.index(index) for index in last]]

    def decode(
        self, cache: SlotCache, tokens: list[int], places: list[int], adapters: list[int], until: int = 0
    ) -> torch.Tensor:
        """Read one token of each of the first rows, each at its own position, and return the logits (B, V).

        Args:
            cache: large enough for them.
            tokens: one of each row.
            places: their positions.
            adapters: index of each row's adapter, -1 for none.
            until: positions that attention reads; a multiple of `POSITION_MULTIPLE` that covers all places if 0.
        """
        until = until or min(-(-(max(places) + 1) // POSITION_MULTIPLE) * POSITION_MULTIPLE, cache.positions)
        token_B, place_B, own_B = (torch.tensor(one, device=self.device) for one in (tokens, places, adapters))
        return self.read_one_each(cache, token_B, place_B, own_B, self._positions(until))

    def read_one_each(
        self,
        cache: SlotCache,
        token_B: torch.Tensor,
        place_B: torch.Tensor,
        own_B: torch.Tensor,
        position_P: torch.Tensor,
    ) -> torch.Tensor:
        """As `decode`, from tensors alone, without waiting for the device.

        Args:
            cache: as there.
            token_B: the tokens.
            place_B: their positions.
            own_B: the adapters.
            position_P: positions that attention reads: 0, 1, 2 and so on.
        """
        relative_B11P = (place_B[:, None] - position_P)[:, None, None]
        cache.aim(0, len(token_B), relative_B11P, place_B)
        if self.whole is not None and cache.keys and self.whole.is_ready(self.version):
            self.context.own = own_B if self._places else None
            return self.whole(cache, token_B, place_B, self.context.own)
        self.context.one_each = True
        return self._run(cache, token_B[:, None], relative_B11P, place_B[:, None], own_B, 1)[:, -1]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of token ids."""
        return self.model.get_input_embeddings()(ids)

    def _positions(self, until: int) -> torch.Tensor:
        if getattr(self, "_range", None) is None or len(self._range) < until:
            self._range = torch.arange(2 * until, device=self.device)
        return self._range[:until]

    def _run(
        self,
        cache: SlotCache,
        tokens: torch.Tensor,
        relative: torch.Tensor,
        places: torch.Tensor,
        own: torch.Tensor,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        self.context.own = own if self._places else None
        given = {"inputs_embeds": tokens} if tokens.is_floating_point() else {"input_ids": tokens}
        return self.model(
            **given,
            attention_mask=relative,
            position_ids=places,
            use_cache=True,
            logits_to_keep=keep,
            **{self._argument: cache},
        ).logits


class _Packs:
    """Stands for packed weights; they are freed with the last network that uses them."""


def parameters_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """All parameters, by every name that they have."""
    return list(model.named_parameters(remove_duplicate=False))


def take_over(name: str, weight: torch.nn.Parameter, source: torch.nn.Parameter | None) -> None:
    """Let a weight of the copy be the tensor that the model has in its place, turned if the copy turned it.

    Raises:
        CannotStack: there is none of that shape and kind.
    """
    views = [] if source is None else [source.detach()]
    if source is not None and source.ndim == 2:
        views.append(source.detach().T)
    for tensor in views:
        kinds = [(one.shape, one.stride(), one.dtype, one.device) for one in (tensor, weight)]
        if kinds[0] == kinds[1]:
            weight.data = tensor
            return
    raise CannotStack(changed(name))


def changed(name: str) -> str:
    """What to say of a weight that cannot be refreshed."""
    return f"the model's weight {name!r} is not what it was when the first answer was given"


def shared(model: torch.nn.Module) -> dict[int, Any]:
    """What a deep copy of a model must not copy."""
    kept: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return kept


def replace_linear(model: torch.nn.Module, context: ForwardContext) -> None:
    """Put a `SlotLinear` in the place of every linear layer, with or without LoRA around it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            layer: Any = child.base_layer if isinstance(child, LoraLayer) else child
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, SlotLinear(layer.weight, layer.bias, context))
            elif type(layer).__name__ == "Conv1D":  # GPT-2 stores W transposed
                turned = torch.nn.Parameter(layer.weight.detach().T, requires_grad=False)
                setattr(parent, name, SlotLinear(turned, layer.bias, context))


def why_alone(config: Any) -> str | None:
    """Why rows of such a model cannot share a batch of slots, though a short comparison would not show it."""
    if any(kind == "longrope" or "dynamic" in kind for kind in rope_types(config)):
        return "its rotary positions depend on the longest row of a batch"
    strange = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return f"it has layers of {', '.join(sorted(strange))}" if strange else None


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary positions that a configuration names, for all layers or for each kind of them."""
    found: set[str] = set()
    for name in ("rope_parameters", "rope_scaling"):
        settings = getattr(config, name, None) or {}
        for one in [settings, *settings.values()]:
            if isinstance(one, dict):
                found.add(str(one.get("rope_type") or one.get("type")))
    return found
