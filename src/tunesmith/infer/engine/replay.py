"""Steps of decoding recorded once and replayed: what the GPU does, without what Python does.

A step of a small model is hundreds of kernels, each shorter than its launch from Python takes. Recorded as a CUDA graph
they are launched together. A graph holds for the shapes and addresses that it was recorded with: rows and positions are
rounded up, rows that pad write where nobody reads, and all graphs are dropped when weights or slots lie elsewhere.

A shape is recorded when it comes for the second time. It is replayed alone once a replay has said what the step itself
says, on other inputs than those that it was recorded with. Axes: B rows, V vocabulary, P positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch

from tunesmith.infer.engine.compared import distance, tolerance
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.model.recording import CudaRecorder

FEWEST_POSITIONS = 128  # that a recorded step reads, where the cache has them
FINE_ROWS, FINE_POSITIONS = 16, 128  # beyond these there are sizes halfway between powers of two
MOST_STEPS = 32  # recorded ones that are kept; each holds the logits of its rows
RECORDED_AT = 2  # times that a shape has come

Outputs = tuple[torch.Tensor, torch.Tensor]  # logits (B, V), and the likeliest token of each row (B)
Compute = Callable[[], Outputs]
Recorder = Callable[[Compute], tuple[Outputs, Callable[[], None]]]


def recorder_for(device: torch.device) -> Callable[[], Recorder] | None:
    """What makes a recorder for steps on a device; None where launches cost nothing worth it."""
    return partial(_recorder, device) if device.type == "cuda" else None


def _recorder(device: torch.device) -> Recorder:
    return partial(CudaRecorder(device), tried=True)


def rounded(count: int, fine: int) -> int:
    """The next power of two; beyond `fine` the numbers halfway between two of them count too."""
    power = 1 << (count - 1).bit_length()
    half = power * 3 // 4
    return half if fine < half and count <= half else power


class Step:
    """One token of each of so many rows, whose attention reads so many positions.

    Attributes:
        compute: does it, with the inputs that it was fed last.
        times: that it has been wanted.
        outputs: that a replay fills.
        replay: does the same as recorded; None before that.
        trusted: whether a replay has said what `compute` says.
    """

    def __init__(self, network: Network, cache: SlotCache, rows: int, until: int) -> None:
        self._input_3B = input_3B = torch.zeros(3, rows, dtype=torch.long, device=network.device)
        position_P = torch.arange(until, device=network.device)

        def compute() -> Outputs:
            token_B, place_B, own_B = input_3B
            logits_BV = network.read_one_each(cache, token_B, place_B, own_B, position_P)
            return logits_BV, logits_BV.argmax(-1)

        self.compute = compute
        self.times = 0
        self.outputs: Outputs | None = None
        self.replay: Callable[[], None] | None = None
        self.trusted = False

    def feed(self, tokens: Sequence[int], places: Sequence[int], adapters: Sequence[int], spare: int) -> None:
        """Set the inputs, in one copy. Rows that pad write to their slots at the position `spare`."""
        more = self._input_3B.shape[1] - len(tokens)
        inputs = [[*tokens, *[0] * more], [*places, *[spare] * more], [*adapters, *[-1] * more]]
        self._input_3B.copy_(torch.tensor(inputs, pin_memory=self._input_3B.is_cuda), non_blocking=True)


class Replays:
    """The steps of one batch, of many shapes.

    Attributes:
        reason: why nothing is replayed any more, as a sentence; empty if all is well.
        replayed: steps that were done by a replay alone.
    """

    def __init__(self, make_recorder: Callable[[], Recorder]) -> None:
        """Nothing is recorded yet.

        Args:
            make_recorder: a new one is made when all that another one has recorded was dropped.
        """
        self.reason = ""
        self.replayed = 0
        self._make_recorder = make_recorder
        self._recorder: Recorder | None = None
        self._steps: OrderedDict[tuple[int, int], Step] = OrderedDict()
        self._network: Network | None = None
        self._version = -1
        self._tensors: list[torch.Tensor] = []  # of the network, whose addresses are in what was recorded
        self._shapes: list[object] = []
        self._lies: list[object] = []  # all that must not change, and the addresses

    def forget(self) -> None:
        """Drop what was recorded."""
        self._steps.clear()
        self._recorder = None

    def decode(
        self,
        network: Network,
        cache: SlotCache,
        tokens: Sequence[int],
        places: Sequence[int],
        adapters: Sequence[int],
        spare: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `Network.decode` does; the logits (B, V) hold until the next call.

        Args:
            network: decodes.
            cache: large enough.
            tokens: one of each row.
            places: their positions.
            adapters: index of each row's adapter, -1 for none.
            spare: a position of the slots behind these rows that is written before it is read.

        Returns:
            The logits, and the likeliest token of each row (B) if it is known.
        """
        if self.reason:
            return network.decode(cache, list(tokens), list(places), list(adapters)), None
        self._drop_outdated(network, cache)
        count = len(tokens)
        step = self._step(network, cache, count, max(places) + 1)
        step.feed(tokens, places, adapters, spare)
        logits_BV, likeliest_B = self._run(step, count)
        return logits_BV[:count], likeliest_B[:count]

    def _run(self, step: Step, count: int) -> Outputs:
        """Replay what can be trusted; else compute, and come nearer to that."""
        step.times += 1
        if step.trusted and step.replay is not None and step.outputs is not None:
            step.replay()
            self.replayed += 1
            return step.outputs
        outputs = step.compute()
        if step.times >= RECORDED_AT:
            try:
                if step.replay is None:
                    self._recorder = self._recorder or self._make_recorder()
                    step.outputs, step.replay = self._recorder(step.compute)
                else:
                    self._compare(step, outputs[0][:count])
            except Exception as error:  # noqa: BLE001  whatever cannot be recorded can still be computed
                said = str(error).strip().splitlines() or [""]
                self.reason = f"steps are not replayed, which is slower: {type(error).__name__}: {said[0][:200]}"
                self.forget()
        return outputs

    def _compare(self, step: Step, want_BV: torch.Tensor) -> None:
        """Trust a step whose replay says the same as was just computed.

        Raises:
            ValueError: it says something else.
        """
        assert step.replay is not None
        assert step.outputs is not None
        step.replay()
        off = distance(step.outputs[0][: len(want_BV)], want_BV)
        if off > tolerance(want_BV.dtype):
            raise ValueError(f"a replay gives other logits ({off:.1g} relative)")
        step.trusted = True

    def _step(self, network: Network, cache: SlotCache, rows: int, positions: int) -> Step:
        """The one for at least so many rows and positions."""
        rows = min(rounded(rows, FINE_ROWS), cache.slots)
        until = min(rounded(max(positions, FEWEST_POSITIONS), FINE_POSITIONS), cache.positions)
        step = self._steps.get((rows, until))
        if step is None:
            self._steps[rows, until] = step = Step(network, cache, rows, until)
            if len(self._steps) > MOST_STEPS:
                self._steps.popitem(last=False)
        self._steps.move_to_end((rows, until))
        return step

    def _drop_outdated(self, network: Network, cache: SlotCache) -> None:
        """Forget all if a tensor lies elsewhere than when it was recorded, or looks different there."""
        if network is not self._network or network.version != self._version:
            self._network, self._version = network, network.version
            self._tensors = [*network.model.parameters(), *network.model.buffers()]
            self._shapes = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in self._tensors]
        stores = [*cache.keys.values(), *cache.values.values()]
        lies: list[object] = [network, cache, cache.slots, cache.positions, self._shapes]
        lies += [tensor.data_ptr() for tensor in (*self._tensors, *stores)]
        if lies != self._lies:
            self.forget()
        self._lies = lies
