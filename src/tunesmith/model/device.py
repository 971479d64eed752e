"""What the device has left."""

from __future__ import annotations

import psutil
import torch

from tunesmith.exec.memory import memory_limit


def free_bytes(device: str) -> int:
    """Memory that is free now on this device, and that a container allows; what torch keeps unused is free."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min(psutil.virtual_memory().available, memory_limit())
