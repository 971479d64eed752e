"""Products of a few rows by weights that lie in the order in which they are read (`cpp/product.cpp`), in bf16."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence

import torch

from tunesmith.model.native import library

OUTPUTS, PANEL = 16, 3  # outputs that lie together, and how many such are read together
LARGE_PAGE = 2 << 20


class Room:
    """Memory for the weights of a model, in pages of 2 MB, as far as the system has them.

    Reading many weights once is a walk through memory; with pages of 4 KB a fifth of it goes into looking them up.
    """

    def __init__(self, numbers: int) -> None:
        """Room for so many numbers of four bytes; pages are taken when they are written to.

        Raises:
            OSError: the system does not give so much at once.
        """
        size = 4 * numbers + LARGE_PAGE
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, AttributeError):  # a system without such pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(memory, dtype=torch.int32)
        self._left = whole[-whole.data_ptr() % LARGE_PAGE // 4 :]

    def take(self, numbers: int) -> torch.Tensor:
        """So many of them, as they are; all of it is given back when nothing that was taken is there any more."""
        taken, self._left = self._left[:numbers], self._left[numbers:]
        return taken


class InOrder:
    """A weight in the order in which it is read.

    Attributes:
        outputs: of the weight.
        inputs: of the weight.
        address: where it lies, as long as this is there.
    """

    def __init__(self, weight_OI: torch.Tensor, room: Room | None = None) -> None:
        """Rearrange a weight that `can_multiply` takes; of its own memory, where no room is given."""
        self.outputs, self.inputs = weight_OI.shape
        numbers = numbers_of(weight_OI)
        self._words = torch.empty(numbers, dtype=torch.int32) if room is None else room.take(numbers)
        functions = library()
        assert functions is not None
        self._product, self.address = functions.product, self._words.data_ptr()
        self.set(weight_OI)

    @torch.inference_mode()
    def set(self, weight_OI: torch.Tensor) -> None:
        """Take another weight of the same shape."""
        pairs = self.inputs // 2
        filling = -self.outputs % OUTPUTS
        weight_OI = torch.nn.functional.pad(weight_OI, (0, 0, 0, filling)) if filling else weight_OI
        blocks = weight_OI.contiguous().view(torch.int32).view(-1, OUTPUTS, pairs)
        whole = len(blocks) // PANEL * PANEL
        for some in filter(len, (blocks[:whole].unflatten(0, (-1, PANEL)), blocks[whole:][None])):
            panels = some.permute(0, 3, 1, 2)
            begin = 0 if some.data_ptr() == blocks.data_ptr() else whole * OUTPUTS * pairs
            self._words[begin : begin + panels.numel()].view(panels.shape).copy_(panels)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x W^T, of any number of rows; a row's bits do not depend on the others."""
        if x.dtype != torch.bfloat16 or x.shape[-1] != self.inputs:
            raise TypeError(f"a product of {x.shape[-1]} inputs in {x.dtype}, by a weight of {self.inputs} in bf16")
        x, rows = x.contiguous(), x.numel() // self.inputs
        y = x.new_empty((*x.shape[:-1], self.outputs))
        threads = torch.get_num_threads()
        self._product(x.data_ptr(), self.address, y.data_ptr(), rows, self.inputs, self.outputs, threads)
        return y


def room_for(weights: Sequence[torch.Tensor]) -> Room | None:
    """Room for all of these once they are rearranged; None where they will not be, or find no room together."""
    if not all(map(can_multiply, weights)):
        return None
    with contextlib.suppress(OSError):
        return Room(sum(map(numbers_of, weights)))
    return None


def numbers_of(weight_OI: torch.Tensor) -> int:
    """Numbers of four bytes that a weight takes once it is rearranged."""
    return -(-weight_OI.shape[0] // OUTPUTS) * OUTPUTS * (weight_OI.shape[1] // 2)


def can_multiply(weight_OI: torch.Tensor) -> bool:
    """Whether a weight can be rearranged and multiplied here."""
    cpu = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.bfloat16
    return cpu and weight_OI.shape[1] % 2 == 0 and library() is not None
