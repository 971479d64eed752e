"""Decoder layers compiled in the background: one graph for one row, one for several, for each kind of layer.

Until the graphs are ready, and where there is no C++ compiler, layers run uncompiled.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.infer.engine.compared import distance, tolerance
from tunesmith.infer.engine.graph import TRACED_POSITIONS, TRACED_ROWS, BlockGraph, Now
from tunesmith.infer.engine.linear import ForwardContext
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.slots import SlotCache

MOST_LAYER_KINDS = 4
LAYERS_A_GRAPH = 2
_names = itertools.count()


class LayerGraphs:
    """A twin of a network whose layers are compiled, made by a thread of its own.

    Attributes:
        network: the twin; None until it is ready.
        reason: why there will be none; empty as long as there may be.
    """

    def __init__(self, network: Network) -> None:
        self.network: Network | None = None
        self.reason = ""
        self._original, self._plain, self._twin = network, network.twin(), network.twin()
        trace_once()
        self._thread = threading.Thread(target=self._work, name="tunesmith-compile")
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the compiler is still at work."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Until it is ready, or known that it never will be."""
        self._thread.join()

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            install(self._twin, LAYERS_A_GRAPH if returns_tensor(self._plain) else 1)
            while not self._checked():
                pass  # weights changed meanwhile; what is compiled takes a moment
            self.network = self._twin
        except Exception as error:  # noqa: BLE001  whatever a compiler says, uncompiled layers still work
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            what = " ".join(said[:2])[:300]
            self.reason = f"layers are not compiled, which is slower: {type(error).__name__}: {what}"

    def _checked(self) -> bool:
        """Whether the logits agree; false if that cannot be told, since weights changed between the two.

        Raises:
            ValueError: they differ.
        """
        version = self._original.version
        try:
            check(self._twin, self._plain)
        except ValueError:
            if self._original.version == version:
                raise
            return False
        return True


def trace_once() -> None:
    """Let torch trace what its compiler traces once in a process, while no other thread computes.

    For these two milliseconds every call of a module, in whatever thread, fails as if it were part of what is traced.
    """
    from torch._inductor.loop_body import InterpreterShim

    getattr(InterpreterShim, "_dummy_gm", lambda: None)()  # kept from then on; other versions may not have it


def install(twin: Network, longest: int) -> None:
    """Let the decoder layers of `twin` run through graphs, block by block, when they read one token a row.

    Args:
        twin: changed.
        longest: most layers of a block.

    Raises:
        ValueError: its layers are of too many kinds.
    """
    layers = layers_of(twin.model)
    kinds = [kind_of(layer) for layer in layers]
    length = best_length(kinds, longest)
    graphs: dict[Any, tuple[BlockGraph, BlockGraph]] = {}
    for first in range(0, len(layers), length):
        block, kind = layers[first : first + length], tuple(kinds[first : first + length])
        if kind not in graphs:
            name = f"block_{next(_names)}"
            graphs[kind] = BlockGraph(block, f"{name}_alone"), BlockGraph(block, f"{name}_many")
        dispatch(block, first, *graphs[kind], twin.context)


def best_length(kinds: Sequence[Any], longest: int) -> int:
    """Layers of a block: as many as are no more work to compile than `longest` layers of one kind.

    Raises:
        ValueError: the layers are of too many kinds.
    """
    if len(set(kinds)) > MOST_LAYER_KINDS:
        raise ValueError(f"the model has more than {MOST_LAYER_KINDS} kinds of layers")

    def work(length: int) -> int:
        return length * len({tuple(kinds[first : first + length]) for first in range(0, len(kinds), length)})

    lengths = [length for length in range(1, longest + 1) if len(kinds) % length == 0]
    return max([length for length in lengths if work(length) <= longest], default=1)


def dispatch(
    block: Sequence[torch.nn.Module], first: int, alone: BlockGraph, many: BlockGraph, context: ForwardContext
) -> None:
    """Let the last layer of a block compute all of it, and those before hand on what they are given."""
    given: list[dict[int | str, Any]] = []
    weights = [dict(layer.named_parameters()) | dict(layer.named_buffers()) for layer in block]

    def replace(layer: torch.nn.Module, number: int) -> None:
        plain = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not context.one_each:
                return plain(*args, **kwargs)
            if number == 0:
                given.clear()
            given.append({**dict(enumerate(args)), **kwargs})
            if number < len(block) - 1:
                return args[0] if args else kwargs["hidden_states"]
            cache = next(value for value in given[-1].values() if isinstance(value, SlotCache))
            graph = alone if len(cache.places) == 1 else many
            try:
                return graph(weights, first, Now(cache, context.own, given))
            finally:
                given.clear()  # or it would keep the cache

        layer.forward = forward

    for number, layer in enumerate(block):
        replace(layer, number)


def returns_tensor(network: Network) -> bool:
    """Whether a layer returns its output alone, so that layers can be chained."""
    seen: list[bool] = []
    hook = layers_of(network.model)[0].register_forward_hook(
        lambda layer, inputs, output: seen.append(isinstance(output, torch.Tensor))
    )
    network.prefill(SlotCache(), 0, 0, torch.ones(1, 2, dtype=torch.long, device=network.device), [1], [-1])
    hook.remove()
    return all(seen)


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers: the longest list of modules that a model has.

    Raises:
        ValueError: it has none.
    """
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    if not lists:
        raise ValueError("the model has no list of layers")
    return list(max(lists, key=len))


def kind_of(layer: torch.nn.Module) -> Any:
    """What a graph takes for granted of a layer: everything but its number and its weights."""
    parts = []
    for name, part in layer.named_modules():
        settings = {key: value for key, value in vars(part).items()
                    if isinstance(value, int | float | str | None) and key != "layer_idx"}  # fmt: skip
        tensors = [(key, tensor.shape, tensor.dtype) for key, tensor in part.named_parameters(recurse=False)]
        tensors += [(key, tensor.shape, tensor.dtype) for key, tensor in part.named_buffers(recurse=False)]
        parts.append((name, type(part), tuple(sorted(settings.items())), tuple(tensors)))
    return tuple(parts)


def check(twin: Network, plain: Network) -> None:
    """Compile the graphs of `twin`, and compare its logits with those of the uncompiled network.

    Raises:
        ValueError: they differ.
    """
    caches = SlotCache(), SlotCache()
    words = plain.model.config.get_text_config().vocab_size
    ids = (
        torch.arange(TRACED_ROWS * TRACED_POSITIONS, device=plain.device).view(TRACED_ROWS, TRACED_POSITIONS)
        * 31
        % words
    )

    for network, cache in zip((twin, plain), caches, strict=True):
        cache.ensure(TRACED_ROWS, TRACED_POSITIONS)
        network.prefill(cache, 0, 0, ids, [TRACED_POSITIONS - 1] * TRACED_ROWS, [-1] * TRACED_ROWS)
    for rows, place, until in (
        (TRACED_ROWS, 30, TRACED_POSITIONS),
        (1, 30, TRACED_POSITIONS),
        (3, 36, 64),
        (1, 36, 64),
        (9, 37, 96),
    ):
        tokens, places = [(17 * row + place) % words for row in range(rows)], [place - row for row in range(rows)]
        for cache in caches:
            cache.ensure(rows, until)  # the last is longer than what the graphs have seen
        got, want = (
            network.decode(cache, tokens, places, [-1] * rows, until)
            for network, cache in zip((twin, plain), caches, strict=True)
        )
        if (off := distance(got, want)) > tolerance(got.dtype):
            raise ValueError(f"compiled layers compute other logits, {off:.1g} relative, with {rows} rows")
