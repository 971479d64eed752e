"""Linear layers for decoding: weights as they are read, siblings in one product, LoRA of several adapters.

A step of decoding multiplies a few rows by every weight, and PyTorch hands oneDNN the weight in plain layout, which
is rearranged or read slowly at each call. So it is rearranged once, beforehand: for a product of our own in bf16
(`products`), else for oneDNN's. Layers that read the same input (queries, keys and values; gate and up) become one
product.

Axes: B rows, T tokens, I inputs, O outputs, A places of adapters, R low-rank columns of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from tunesmith.infer.engine.products import InOrder, Room, can_multiply, room_for

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
PACKED_FOR_ROWS = 8  # oneDNN chooses its layout for so many

Factors = tuple[torch.Tensor, torch.Tensor]  # A (R, I), and B (O, R) with the scaling in it

_packed: dict[int, torch.Tensor | InOrder] = {}
_numbers = itertools.count()
_library = torch.library.Library("tunesmith", "DEF")
_library.define("packed_linear(Tensor x, Tensor handle, int outputs) -> Tensor")


def _packed_linear(x: torch.Tensor, handle: torch.Tensor, outputs: int) -> torch.Tensor:
    weight = _packed[int(handle)]
    if isinstance(weight, InOrder):
        return weight.product(x)
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


def _packed_linear_shape(x: torch.Tensor, handle: torch.Tensor, outputs: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


_library.impl("packed_linear", _packed_linear, "CPU")
_library.impl("packed_linear", _packed_linear_shape, "Meta")


class ForwardContext:
    """What the forward pass under way is about; all layers of a network share one.

    Attributes:
        one_each: whether it reads one token of each row, each at its own position.
        own: (B), the place of each row's adapter, -1 for none; None where no adapter is loaded.
    """

    def __init__(self) -> None:
        self.one_each = False
        self.own: torch.Tensor | None = None
        self._spread: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def spread(self, own_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of `own`, made once for all layers: where each row's factors are (B), and whether it has none (B, 1, 1)."""
        if self._spread is None or self._spread[0] is not own_B:
            self._spread = own_B, own_B.clamp(min=0), (own_B < 0)[:, None, None]
        return self._spread[1:]


class Memory:
    """What a product knows besides its weights: its number, and for siblings what it computed last.

    No part of the module, whose attributes are slow to set.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.left = 0
        self.input: torch.Tensor | None = None
        self.output: torch.Tensor | None = None


class Product(torch.nn.Module):
    """x W^T for one or several weights that read the same input.

    A packed tensor has no shape that a compiler could trace; the graph knows it by number.

    Attributes:
        handle: the number, as a tensor, so that layers of one shape can share a graph.
    """

    def __init__(self, weights: Sequence[torch.Tensor], room: Room | None = None) -> None:
        super().__init__()
        self.outputs, self.readers = sum(len(weight) for weight in weights), len(weights)
        self.memory = Memory(next(_numbers))
        self.pack(weights, room)
        self.handle = torch.nn.Buffer(torch.tensor(self.memory.number), persistent=False)

    def pack(self, weights: Sequence[torch.Tensor], room: Room | None = None) -> None:
        """Rearrange the weights as they are now; the number stays."""
        whole = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach()
        before = _packed.get(self.memory.number)
        if isinstance(before, InOrder):
            before.set(whole)
        elif can_multiply(whole):
            _packed[self.memory.number] = InOrder(whole, room)
        else:
            packed = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), PACKED_FOR_ROWS)
            _packed[self.memory.number] = packed

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """The product; the siblings that come next with the same input get it without work."""
        if self.readers == 1:
            return torch.ops.tunesmith.packed_linear(x_BTI, self.handle, self.outputs)
        memory = self.memory
        if memory.input is not x_BTI:
            memory.output = torch.ops.tunesmith.packed_linear(x_BTI, self.handle, self.outputs)
            memory.input, memory.left = x_BTI, self.readers
        output = memory.output
        assert output is not None
        memory.left -= 1
        if memory.left == 0:
            memory.input = memory.output = None
        return output


class SlotLinear(torch.nn.Module):
    """Takes the place of a linear layer, whose weights it shares.

    Attributes:
        weight: (O, I).
        down: (A, R, I), with zeros below an adapter of a smaller rank; None where no adapter changes this layer.
        up: (A, R, O), scaled.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, context: ForwardContext) -> None:
        super().__init__()
        assert isinstance(weight, torch.nn.Parameter)
        self.weight, self.bias = weight, bias  # not copies: what is done to them in place is seen here
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        self.context = context
        self.product: Product | None = None
        self.begin = 0
        self.down: torch.Tensor | None
        self.up: torch.Tensor | None
        self.register_buffer("down", None)
        self.register_buffer("up", None)

    def put(self, place: int, factors: Factors | None, places: int, rank: int) -> bool:
        """Let the adapter at a place do this here from now on, and have room for so many places and columns of each.

        Returns:
            Whether the numbers went where others were before, so that whoever holds those has the new ones.
        """
        if factors is None and self.down is None:
            return True
        in_place = self.down is not None and self.down.shape[:2] == (places, rank)
        if not in_place:
            self.down = torch.nn.Buffer(self._roomier(self.down, places, rank, self.in_features))
            self.up = torch.nn.Buffer(self._roomier(self.up, places, rank, self.out_features))
        assert self.down is not None
        assert self.up is not None
        self.down[place], self.up[place] = 0, 0
        if factors is not None:
            down, up = factors
            self.down[place, : len(down)], self.up[place, : len(down)] = down, up.T
        return in_place

    def _roomier(self, old: torch.Tensor | None, places: int, rank: int, width: int) -> torch.Tensor:
        new = self.weight.new_zeros(places, rank, width)
        if old is not None:
            new[: old.shape[0], : old.shape[1]] = old
        return new

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """The layer's output (B, T, O), each row with its own adapter."""
        y_BTO, own_B = self._base(x_BTI), self.context.own
        if self.down is None or self.up is None or own_B is None:
            return y_BTO
        if x_BTI.device.type == "cuda":
            place_B, alone_B11 = self.context.spread(own_B)
            return add_low_rank(y_BTO, x_BTI, self.down[place_B], self.up[place_B], alone_B11)
        fused = torch.compiler.is_dynamo_compiling() and x_BTI.device.type == "cpu" and x_BTI.shape[1] == 1
        place_B, adapted_B11 = own_B.clamp(min=0), (own_B >= 0)[:, None, None]
        down_BRI, up_BRO = self.down[place_B], self.up[place_B]
        if fused:  # as sums, which the compiler turns into loops that read each row's own factors where they are
            x_B1I = _computed_once(x_BTI).view(-1, 1, self.in_features)
            low_BR1 = torch.where(adapted_B11, (down_BRI.float() * x_B1I).sum(-1, keepdim=True), 0.0)
            return y_BTO + (low_BR1 * up_BRO.float()).sum(1, keepdim=True).to(y_BTO.dtype)
        low_BTR = torch.where(adapted_B11, x_BTI @ down_BRI.transpose(1, 2), 0.0)
        return y_BTO + low_BTR @ up_BRO

    def _base(self, x_BTI: torch.Tensor) -> torch.Tensor:
        cpu = x_BTI.device.type == "cpu"
        if cpu and torch.compiler.is_dynamo_compiling() and x_BTI.shape[0] * x_BTI.shape[1] == 1:
            # One row: a sum that the compiler vectorises reads plain weights as fast as memory gives them.
            y_O = (self.weight.float() * _computed_once(x_BTI)).sum(-1)
            y_O = y_O if self.bias is None else y_O + self.bias.float()
            return y_O.to(x_BTI.dtype).view(*x_BTI.shape[:-1], self.out_features)
        if self.product is None:
            return linear(x_BTI, self.weight, self.bias)
        y_BTO = self.product(x_BTI)[..., self.begin : self.begin + self.out_features]
        return y_BTO if self.bias is None else y_BTO + self.bias


def add_low_rank(
    y_BTO: torch.Tensor, x_BTI: torch.Tensor, down_BRI: torch.Tensor, up_BRO: torch.Tensor, alone_B11: torch.Tensor
) -> torch.Tensor:
    """Add to `y`, in place, what each row's adapter does, in few kernels; nothing where a row has none."""
    low_BTR = (x_BTI @ down_BRI.transpose(1, 2)).masked_fill_(alone_B11, 0.0)
    return y_BTO.baddbmm_(low_BTR, up_BRO)


def _computed_once(x: torch.Tensor) -> torch.Tensor:
    """All numbers in fp32, as a strided view: it keeps the compiler from computing them again for each output."""
    return torch.as_strided(x.float().reshape(-1), (x.numel(),), (1,))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here and computes in this precision."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(network: torch.nn.Module) -> list[int]:
    """Give every `SlotLinear` of a network a packed weight, siblings a common one; return what `unpack` takes."""
    numbers: list[int] = []
    room = room_for([layer.weight for layer in network.modules() if isinstance(layer, SlotLinear)])
    try:
        for parent in network.modules():
            children = {name: child for name, child in parent.named_children() if isinstance(child, SlotLinear)}
            for names in [*SIBLINGS, *((name,) for name in children)]:
                group = [children[name] for name in names if name in children and children[name].product is None]
                if not group or len(group) < len(names):
                    continue
                product = Product([layer.weight for layer in group], room)
                begin = 0
                for layer in group:
                    layer.product, layer.begin = product, begin
                    begin += layer.out_features
                numbers.append(product.memory.number)
    except BaseException:
        unpack(numbers)
        raise
    return numbers


def repack(network: torch.nn.Module) -> None:
    """Rearrange all weights of a packed network anew; every twin and every graph of it uses them from now on."""
    groups: dict[Product, list[SlotLinear]] = {}
    for layer in network.modules():
        if isinstance(layer, SlotLinear) and layer.product is not None:
            groups.setdefault(layer.product, []).append(layer)
    for product, layers in groups.items():
        product.pack([layer.weight for layer in sorted(layers, key=lambda layer: layer.begin)])


def packed_of(layer: SlotLinear) -> torch.Tensor | InOrder | None:
    """The packed weight that a layer multiplies by, with its siblings; None if it has none."""
    return None if layer.product is None else _packed.get(layer.product.memory.number)


def unpack(numbers: Sequence[int]) -> None:
    """Free packed weights."""
    for number in numbers:
        _packed.pop(number, None)
