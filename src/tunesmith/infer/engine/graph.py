"""A block of decoder layers, compiled as a function of their weights, their slots and their inputs.

All blocks of a kind share it: compiling thirty layers costs what one block costs. Numbers of rows and of positions
are symbols, so nothing is compiled twice as a batch grows or shrinks.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch

from tunesmith.infer.engine.linear import SlotLinear
from tunesmith.infer.engine.slots import SlotCache, write_one

TRACED_ROWS, TRACED_POSITIONS = 7, 37  # of the first call: numbers that no other dimension is likely to have
Forward = Callable[..., Any]
Code = Callable[[list[Any]], Sequence[Any]]
Weights = Sequence[Mapping[str, torch.Tensor]]


class Now(NamedTuple):
    """The inputs of a block in one step.

    Attributes:
        cache: of all layers.
        own: as in `ForwardContext`.
        given: what the model hands to each layer, by place or name.
    """

    cache: SlotCache
    own: torch.Tensor | None
    given: Sequence[Mapping[int | str, Any]]


Reader = Callable[[Now, int], Any]


class LayerCache:
    """One layer's slots, within a graph."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor, until: int) -> None:
        self.keys, self.values, self.places, self.until = keys, values, places, until

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `SlotCache.update`."""
        return write_one(self.keys, self.values, key_states, value_states, self.places, self.until)


class BlockGraph:
    """A block's call as a function of its weights, its slots and its inputs.

    The first call compiles it, and shows in which order the compiled code takes its inputs. Later calls go straight
    there: the way through the compiler's front end takes a good part of the time of a layer.
    """

    def __init__(self, layers: Sequence[torch.nn.Module], name: str) -> None:
        self._templates = [shell_of(layer) for layer in layers]
        self._name = name
        self._code: Code | None = None
        self._took: list[Any] = []
        self._gave: Sequence[Any] = ()
        self._weights: dict[int, tuple[int, str]] = {}
        self._readers: list[tuple[int, Reader]] = []
        self._fixed: dict[int, list[Any]] = {}
        self._result: Callable[[Sequence[Any]], Any] = tuple
        self._ready = False

    def __call__(self, weights: Weights, first: int, now: Now) -> Any:
        """What the last layer of a block returns.

        Args:
            weights: of each layer, by name.
            first: number of the first layer.
            now: what the first layer is given, the `SlotCache` among it, and the same for the others.
        """
        if not self._ready:
            return self._first(weights, first, now)
        if first not in self._fixed:
            self._fixed[first] = [None] * (len(self._weights) + len(self._readers))
            for place, (layer, name) in self._weights.items():
                self._fixed[first][place] = weights[layer][name]
        inputs = self._fixed[first].copy()
        for place, read in self._readers:
            inputs[place] = read(now, first)
        assert self._code is not None
        return self._result(self._code(inputs))

    def _first(self, weights: Weights, first: int, now: Now) -> Any:
        """Compile, compute, and learn where each input goes.

        Raises:
            ValueError: an input of the compiled code comes from nowhere.
        """
        from torch._functorch import config as functorch

        cache, own, given = now
        cached = [key for key, value in given[0].items() if isinstance(value, SlotCache)]
        others = [{key: None if key in cached else value for key, value in one.items()} for one in given]
        layers = range(first, first + len(given))
        stores = [cache.keys[layer] for layer in layers], [cache.values[layer] for layer in layers]
        inputs = (weights, *stores, cache.places, cache.relative, own, others)
        mark(stores, inputs[3:])
        with functorch.patch(enable_autograd_cache=False):  # it would pass by `_build`
            result = torch.compile(self._function(cached), fullgraph=True, backend=self._build)(*inputs)
        names = {id(weight): (i, name) for i, layer in enumerate(weights) for name, weight in layer.items()}
        known = list(sources(now, first))
        for place, value in enumerate(self._took):
            if id(value) in names:
                self._weights[place] = names[id(value)]
            else:
                self._readers.append((place, reader_of(value, known)))
        self._result = result_from(result, self._gave)
        self._took, self._gave, self._ready = [], (), True
        return result

    def _function(self, cached: Sequence[int | str]) -> Forward:
        templates = self._templates
        contexts = [part.context for layer in templates for part in layer.modules() if isinstance(part, SlotLinear)]

        def run(weights: Any, keys: Any, values: Any, places: Any, relative: Any, own: Any, given: Any) -> Any:
            for context in contexts:
                context.own = own
            result = None
            for i, template in enumerate(templates):
                inputs = dict(given[i])
                for key in cached:
                    inputs[key] = LayerCache(keys[i], values[i], places, relative.shape[-1])
                if i:  # the one before has made its input
                    inputs[0 if 0 in inputs else "hidden_states"] = result
                args = tuple(value for key, value in inputs.items() if isinstance(key, int))
                kwargs = {key: value for key, value in inputs.items() if isinstance(key, str)}
                result = torch.func.functional_call(template, weights[i], args, kwargs)
            return result

        # What was compiled is found by code object: this graph needs one of its own.
        code = run.__code__.replace(co_name=self._name)
        return FunctionType(code, run.__globals__, self._name, None, run.__closure__)

    def _build(self, graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        """Inductor, with an eye on what its code is given and returns at the first call."""

        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def inner(*args: Any, **kwargs: Any) -> Any:
            whole: Any = compile_fx_inner(*args, **kwargs)
            self._code = whole.current_callable

            def watched(inputs: list[Any]) -> Sequence[Any]:
                self._took = list(inputs)
                self._gave = whole(inputs)
                return self._gave

            boxed: Any = watched
            boxed._boxed_call = True  # inputs come as one list
            return boxed

        return compile_fx(graph, examples, inner_compile=inner)


def sources(now: Now, first: int) -> Iterator[tuple[Any, Reader]]:
    """Everything that varies between calls, with what reads it from their inputs; numbers are those of a first call."""
    cache, own, given = now
    for i in range(len(given)):
        yield cache.keys[first + i], lambda now, first, i=i: now.cache.keys[first + i]
        yield cache.values[first + i], lambda now, first, i=i: now.cache.values[first + i]
    yield cache.places, lambda now, first: now.cache.places
    yield cache.relative, lambda now, first: now.cache.relative
    yield own, lambda now, first: now.own
    for i, one in enumerate(given):
        for key, value in one.items():
            yield value, lambda now, first, i=i, key=key: now.given[i][key]
            for place, part in enumerate(value if isinstance(value, tuple | list) else ()):
                yield part, lambda now, first, i=i, key=key, place=place: now.given[i][key][place]
    yield len(cache.places), lambda now, first: len(now.cache.places)
    yield cache.relative.shape[-1], lambda now, first: now.cache.relative.shape[-1]
    yield cache.slots, lambda now, first: now.cache.slots
    yield cache.positions, lambda now, first: now.cache.positions


def reader_of(value: Any, known: Sequence[tuple[Any, Reader]]) -> Reader:
    """What reads an input of the compiled code: a tensor is known by identity, a size by its unusual number.

    Raises:
        ValueError: it comes from nowhere.
    """
    tensor = isinstance(value, torch.Tensor)
    for candidate, reader in known:
        if candidate is value if tensor else type(candidate) is int and candidate == value:
            return reader
    raise ValueError("an input of a compiled layer comes from nowhere")


def result_from(result: Any, outputs: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
    """What makes a layer's result of the outputs of the compiled code.

    Raises:
        ValueError: there is more to it than tensors.
    """
    places = {id(output): place for place, output in enumerate(outputs)}
    if isinstance(result, torch.Tensor) and id(result) in places:
        return operator.itemgetter(places[id(result)])
    if isinstance(result, tuple) and all(part is None or id(part) in places for part in result):
        parts = [None if part is None else places[id(part)] for part in result]
        return lambda outputs: tuple(None if part is None else outputs[part] for part in parts)
    raise ValueError("a compiled layer's result cannot be told from its outputs")


def shell_of(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy without numbers in it: a graph that found a layer's own tensors there would keep to those."""
    empty: dict[int, Any] = {}
    for tensor in [*layer.parameters(), *layer.buffers()]:
        shell = torch.empty_like(tensor, device="meta")
        weight = isinstance(tensor, torch.nn.Parameter)
        empty[id(tensor)] = torch.nn.Parameter(shell, requires_grad=False) if weight else torch.nn.Buffer(shell)
    return copy.deepcopy(layer, empty)


def mark(stores: Any, inputs: Any) -> None:
    """Tell the compiler which dimensions of slots and of other inputs of a first call vary."""
    for tensor in tensors_in(stores):
        torch._dynamo.mark_dynamic(tensor, [0, 2])
    for tensor in tensors_in(inputs):
        for dimension, size in enumerate(tensor.shape):
            if size in (TRACED_ROWS, TRACED_POSITIONS):
                torch._dynamo.mark_dynamic(tensor, dimension)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
