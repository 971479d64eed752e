"""One decoder layer, compiled as a function of its weights, its slots and its inputs.

All layers of a kind share it: compiling thirty layers costs what one costs. Numbers of rows and of positions are
symbols, so nothing is compiled twice as a batch grows or shrinks.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch._functorch import config as functorch

from tunesmith.infer.linear import Rows, SlotLinear
from tunesmith.infer.slots import SlotCache, write_one

ROWS, POSITIONS = 7, 37  # of the first call: numbers that no other dimension of its inputs is likely to have
Forward = Callable[..., Any]
Code = Callable[[list[Any]], Sequence[Any]]
Weights = Mapping[str, torch.Tensor]


class Now(NamedTuple):
    """The inputs of a layer in one step.

    Attributes:
        cache: of all layers.
        own: as in `Rows`.
        given: what the model hands to the layer, by place or name.
    """

    cache: SlotCache
    own: torch.Tensor | None
    given: dict[int | str, Any]


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


class LayerGraph:
    """A layer's call as a function of its weights, its slots and its inputs.

    The first call compiles it, and shows in which order the compiled code takes its inputs. Later calls go straight
    there: the way through the compiler's front end takes as long as a third of the layer itself.
    """

    def __init__(self, layer: torch.nn.Module, name: str) -> None:
        self._template = shell_of(layer)
        self._rows = next((part.rows for part in self._template.modules() if isinstance(part, SlotLinear)), Rows())
        self._name = name
        self._code: Code | None = None
        self._took: list[Any] = []
        self._gave: Sequence[Any] = ()
        self._weights: dict[int, str] = {}
        self._readers: list[tuple[int, Reader]] = []
        self._fixed: dict[int, list[Any]] = {}
        self._result: Callable[[Sequence[Any]], Any] = tuple
        self._ready = False

    def __call__(self, weights: Weights, index: int, now: Now) -> Any:
        """What layer number `index` returns for its inputs `now`, a `SlotCache` among them."""
        if not self._ready:
            return self._first(weights, index, now)
        if index not in self._fixed:
            self._fixed[index] = [None] * (len(self._weights) + len(self._readers))
            for place, name in self._weights.items():
                self._fixed[index][place] = weights[name]
        inputs = self._fixed[index].copy()
        for place, read in self._readers:
            inputs[place] = read(now, index)
        assert self._code is not None
        return self._result(self._code(inputs))

    def _first(self, weights: Weights, index: int, now: Now) -> Any:
        """Compile, compute, and learn where each input goes.

        Raises:
            ValueError: an input of the compiled code comes from nowhere.
        """
        cache, own, given = now
        cached = [key for key, value in given.items() if isinstance(value, SlotCache)]
        others = {key: None if key in cached else value for key, value in given.items()}
        inputs = (weights, cache.keys[index], cache.values[index], cache.places, cache.age, own, others)
        mark(inputs)
        with functorch.patch(enable_autograd_cache=False):  # it would pass by `_build`
            result = torch.compile(self._function(cached), fullgraph=True, backend=self._build)(*inputs)
        names = {id(weight): name for name, weight in weights.items()}
        known = list(sources(now, index))
        for place, value in enumerate(self._took):
            if id(value) in names:
                self._weights[place] = names[id(value)]
            else:
                self._readers.append((place, reader_of(value, known)))
        self._result = result_from(result, self._gave)
        self._took, self._gave, self._ready = [], (), True
        return result

    def _function(self, cached: Sequence[int | str]) -> Forward:
        template, rows = self._template, self._rows

        def run(weights: Any, keys: Any, values: Any, places: Any, age: Any, own: Any, given: Any) -> Any:
            rows.own = own
            cache = LayerCache(keys, values, places, age.shape[-1])
            given = {key: cache if key in cached else value for key, value in given.items()}
            args = tuple(value for key, value in given.items() if isinstance(key, int))
            kwargs = {key: value for key, value in given.items() if isinstance(key, str)}
            return torch.func.functional_call(template, weights, args, kwargs)

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

        return compile_fx(graph, examples, inner_compile=inner, config_patches={"cpp_wrapper": self._name.endswith("alone")})


def sources(now: Now, index: int) -> Iterator[tuple[Any, Reader]]:
    """Everything that varies between calls, with what reads it from their inputs; numbers are those of a first call."""
    cache, own, given = now
    yield cache.keys[index], lambda now, index: now.cache.keys[index]
    yield cache.values[index], lambda now, index: now.cache.values[index]
    yield cache.places, lambda now, index: now.cache.places
    yield cache.age, lambda now, index: now.cache.age
    yield own, lambda now, index: now.own
    for key, value in given.items():
        yield value, lambda now, index, key=key: now.given[key]
        for place, part in enumerate(value if isinstance(value, tuple | list) else ()):
            yield part, lambda now, index, key=key, place=place: now.given[key][place]
    yield len(cache.places), lambda now, index: len(now.cache.places)
    yield cache.age.shape[-1], lambda now, index: now.cache.age.shape[-1]
    yield cache.slots, lambda now, index: now.cache.slots
    yield cache.positions, lambda now, index: now.cache.positions


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


def mark(inputs: tuple[Any, ...]) -> None:
    """Tell the compiler which dimensions of the inputs of a first call vary."""
    for tensor in inputs[1:3]:  # keys and values
        torch._dynamo.mark_dynamic(tensor, [0, 2])
    for tensor in tensors_in(inputs[3:]):
        for dimension, size in enumerate(tensor.shape):
            if size in (ROWS, POSITIONS):
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
