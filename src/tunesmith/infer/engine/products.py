"""Products of a few rows by weights that lie in the order in which they are read (`cpp/product.cpp`), in bf16."""

from __future__ import annotations

import torch

from tunesmith.infer.engine.native import library

OUTPUTS = 16  # that lie together


class InOrder:
    """A weight in the order in which it is read.

    Attributes:
        words: pairs of inputs as one number each, (O / 16, I / 2, 16); outputs are filled up with zeros.
        outputs: of the weight.
        inputs: of the weight.
    """

    def __init__(self, weight_OI: torch.Tensor) -> None:
        """Rearrange a weight that `can_multiply` takes."""
        self.outputs, self.inputs = weight_OI.shape
        filling = -self.outputs % OUTPUTS
        weight_OI = torch.nn.functional.pad(weight_OI, (0, 0, 0, filling)) if filling else weight_OI
        pairs = weight_OI.contiguous().view(torch.int32).view(-1, OUTPUTS, self.inputs // 2)
        self.words = pairs.transpose(1, 2).contiguous()
        functions = library()
        assert functions is not None
        self._product, self._address = functions.product, self.words.data_ptr()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x W^T, of any number of rows; a row's bits do not depend on the others."""
        x, rows = x.contiguous(), x.numel() // self.inputs
        y = x.new_empty((*x.shape[:-1], self.outputs))
        threads = torch.get_num_threads()
        self._product(x.data_ptr(), self._address, y.data_ptr(), rows, self.inputs, self.outputs, threads)
        return y


def can_multiply(weight_OI: torch.Tensor) -> bool:
    """Whether a weight can be rearranged and multiplied here."""
    cpu = weight_OI.device.type == "cpu" and weight_OI.dtype == torch.bfloat16
    return cpu and weight_OI.shape[1] % 2 == 0 and library() is not None
