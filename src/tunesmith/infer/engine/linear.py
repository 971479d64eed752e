"""Linear layers for decoding: weights in oneDNN's own layout, siblings in one product, LoRA of several adapters.

A step of decoding multiplies a few rows by every weight, and PyTorch hands oneDNN the weight in plain layout, which
is rearranged or read slowly at each call. Rearranged once, beforehand, it needs no compiler; layers that read the
same input (queries, keys and values; gate and up) become one product.

Axes: B rows, T tokens, I inputs, O outputs, N low-rank columns of all adapters together, R of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
PACKED_FOR_ROWS = 8  # oneDNN chooses its layout for so many

_packed: dict[int, torch.Tensor] = {}
_numbers = itertools.count()
_library = torch.library.Library("tunesmith", "DEF")
_library.define("packed_linear(Tensor x, Tensor handle, int outputs) -> Tensor")


def _packed_linear(x: torch.Tensor, handle: torch.Tensor, outputs: int) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, _packed[int(handle)], None, "none", [], "")


def _packed_linear_shape(x: torch.Tensor, handle: torch.Tensor, outputs: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


_library.impl("packed_linear", _packed_linear, "CPU")
_library.impl("packed_linear", _packed_linear_shape, "Meta")


class ForwardContext:
    """What the forward pass under way is about; all layers of a network share one.

    Attributes:
        one_each: whether it reads one token of each row, each at its own position.
        own: (B, 1, N), whether a low-rank column belongs to the row's adapter; None where no adapter is loaded.
    """

    def __init__(self) -> None:
        self.one_each = False
        self.own: torch.Tensor | None = None


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

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.outputs, self.readers = sum(len(weight) for weight in weights), len(weights)
        self.memory = Memory(next(_numbers))
        self.pack(weights)
        self.handle = torch.nn.Buffer(torch.tensor(self.memory.number), persistent=False)

    def pack(self, weights: Sequence[torch.Tensor]) -> None:
        """Rearrange the weights as they are now; the number stays."""
        whole = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach()
        _packed[self.memory.number] = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), PACKED_FOR_ROWS)

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
        down: (N, I), or None where no adapter changes this layer.
        up: (N, O), scaled.
        down_handle, up_handle: numbers of both in the processor's layout and in the weights' precision, as `Product`
            has one; None where the weights are not packed.
        rank: columns of each adapter.
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
        self.down_handle: torch.Tensor | None
        self.up_handle: torch.Tensor | None
        for name in ("down", "up", "down_handle", "up_handle"):
            self.register_buffer(name, None)
        self.rank = 0
        self.numbers: list[int] | None = None

    def set_low_rank(self, down: torch.Tensor | None, up: torch.Tensor | None, rank: int) -> bool:
        """Change what adapters do here; whether the numbers went where others were before."""
        if down is None and self.down is None:
            return True
        if down is not None and self.down is not None and (down.shape, rank) == (self.down.shape, self.rank):
            assert up is not None
            assert self.up is not None
            self.down.copy_(down)
            self.up.copy_(up)
            self._repack_low_rank()
            return True
        self.rank = rank
        self.down = None if down is None else torch.nn.Buffer(down)
        self.up = None if up is None else torch.nn.Buffer(up)
        self.down_handle = self.up_handle = None
        self.pack_low_rank(self.numbers)
        return False

    def pack_low_rank(self, numbers: list[int] | None) -> None:
        """Rearrange what adapters do here, too, from now on; new numbers are noted in `numbers`. Never if None."""
        self.numbers = numbers
        if numbers is None or self.down is None:
            return
        made = [next(_numbers), next(_numbers)]
        numbers += made
        self.down_handle, self.up_handle = (torch.nn.Buffer(torch.tensor(one), persistent=False) for one in made)
        self._repack_low_rank()

    def _repack_low_rank(self) -> None:
        if self.down is None or self.up is None or self.down_handle is None or self.up_handle is None:
            return
        for handle, factor in ((self.down_handle, self.down), (self.up_handle, self.up.T)):
            packed = factor.to(self.weight.dtype).contiguous()
            _packed[int(handle)] = torch.ops.mkldnn._reorder_linear_weight(packed, PACKED_FOR_ROWS)

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """The layer's output (B, T, O), each row with its own adapter."""
        y_BTO, own = self._base(x_BTI), self.context.own
        if self.down is None or self.up is None or own is None:
            return y_BTO
        if x_BTI.shape[0] * x_BTI.shape[1] == 1:
            return y_BTO + self._of_one(x_BTI, own).to(y_BTO.dtype)
        if self.down_handle is None or self.up_handle is None:
            low_BTN = x_BTI.to(self.down.dtype) @ self.down.T
            return y_BTO + (torch.where(own, low_BTN, 0.0) @ self.up).to(y_BTO.dtype)
        low_BTN = torch.ops.tunesmith.packed_linear(x_BTI, self.down_handle, self.down.shape[0])
        low_BTN = torch.where(own, low_BTN, 0.0)
        return y_BTO + torch.ops.tunesmith.packed_linear(low_BTN, self.up_handle, self.out_features)

    def _of_one(self, x_11I: torch.Tensor, own_11N: torch.Tensor) -> torch.Tensor:
        """What its own adapter adds for one token: only that one's columns are read."""
        assert self.down is not None
        assert self.up is not None
        mine = own_11N.view(-1, self.rank)[:, 0]
        place = mine.to(torch.int8).argmax(0, keepdim=True)
        down_RI = self.down.view(-1, self.rank, self.in_features).index_select(0, place)[0]
        up_RO = self.up.view(-1, self.rank, self.out_features).index_select(0, place)[0]
        low_R1 = (down_RI * x_11I.view(1, -1).to(down_RI.dtype)).sum(-1, keepdim=True)
        return ((low_R1 * up_RO).sum(0) * mine.any()).view(1, 1, -1)

    def _base(self, x_BTI: torch.Tensor) -> torch.Tensor:
        cpu = x_BTI.device.type == "cpu"
        if cpu and torch.compiler.is_dynamo_compiling() and x_BTI.shape[0] * x_BTI.shape[1] == 1:
            # One row: a sum that the compiler vectorises reads plain weights as fast as memory gives them. A strided
            # view keeps it from computing the input again for each output.
            x_I = torch.as_strided(x_BTI.float().reshape(-1), (self.in_features,), (1,))
            y_O = (self.weight.float() * x_I).sum(-1)
            y_O = y_O if self.bias is None else y_O + self.bias.float()
            return y_O.to(x_BTI.dtype).view(*x_BTI.shape[:-1], self.out_features)
        if self.product is None:
            return linear(x_BTI, self.weight, self.bias)
        y_BTO = self.product(x_BTI)[..., self.begin : self.begin + self.out_features]
        return y_BTO if self.bias is None else y_BTO + self.bias


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here and computes in this precision."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(network: torch.nn.Module) -> list[int]:
    """Give every `SlotLinear` of a network a packed weight, siblings a common one; return what `unpack` takes."""
    numbers: list[int] = []
    try:
        for parent in network.modules():
            children = {name: child for name, child in parent.named_children() if isinstance(child, SlotLinear)}
            for names in [*SIBLINGS, *((name,) for name in children)]:
                group = [children[name] for name in names if name in children and children[name].product is None]
                if not group or len(group) < len(names):
                    continue
                product = Product([layer.weight for layer in group])
                begin = 0
                for layer in group:
                    layer.product, layer.begin = product, begin
                    begin += layer.out_features
                numbers.append(product.memory.number)
        for layer in network.modules():
            if isinstance(layer, SlotLinear):
                layer.pack_low_rank(numbers)
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


def unpack(numbers: Sequence[int]) -> None:
    """Free packed weights."""
    for number in numbers:
        _packed.pop(number, None)
