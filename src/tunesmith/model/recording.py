"""What a GPU computes, recorded once and launched at once from then on: a CUDA graph.

A graph holds for the shapes and addresses that it was recorded with. Whoever replays one writes new numbers where its
kernels look for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Outputs = TypeVar("Outputs")

_recording = threading.Lock()  # a process can record one thing at a time
_streams: dict[torch.device, Any] = {}  # where it does: libraries keep memory for each stream that they have seen


class CudaRecorder:
    """Records as CUDA graphs, which share their memory: none may be replayed while another one is."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is recorded yet.

        Args:
            device: a GPU.
        """
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Outputs], tried: bool = False) -> tuple[Outputs, Callable[[], None]]:
        """Record a computation.

        Args:
            compute: reads and writes the same memory each time.
            tried: whether it may be computed once before it is recorded, so that libraries find their kernels and
                allocate what they keep.

        Returns:
            Its outputs, which hold nothing yet, and what fills them anew.
        """
        graph = torch.cuda.CUDAGraph()
        with _recording:
            if self._device not in _streams:
                _streams[self._device] = torch.cuda.Stream(self._device)
            stream, current = _streams[self._device], torch.cuda.current_stream(self._device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):  # it comes back to the stream before, even where recording fails
                if tried:
                    compute()
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    outputs = compute()
            current.wait_stream(stream)
        return outputs, graph.replay
