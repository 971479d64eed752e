"""Models that answer, in memory: all adapters of one base share its weights and one running batch.

An engine is a base and its prompt contract, with places for adapters; a model that cannot be stacked has one of its
own. The least recently used engine, and the least recently used adapter of an engine, make room for others, unless
somebody is being answered by them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.infer.engine.adapters import Adapter, read_adapter
from tunesmith.infer.generator import Full
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.vllm import VllmEngine, VllmServer
from tunesmith.model.export import ExportedModel
from tunesmith.model.load import Precision
from tunesmith.prompt.base import Base, resolve
from tunesmith.prompt.contract import Contract

Make = Callable[[ExportedModel, Contract], "LocalEngine | VllmEngine"]
MOST_LOADED = 2  # engines in memory
MOST_ADAPTERS = 64  # of one engine, where there is memory for them


@dataclass(frozen=True)
class Serving:
    """What answers for a model.

    Attributes:
        engine: a `LocalEngine` or a `VllmEngine`.
        adapter: of the engine; "" for none, None for the one that its model came with.
    """

    engine: Any
    adapter: str | None


@dataclass
class Loaded:
    """An engine in memory.

    Attributes:
        engine: a `LocalEngine` or a `VllmEngine`.
        adapters: that it has, the least recently used one first.
        users: how many are being answered, by adapter ("" for none).
        stop: ends the thread that computes.
    """

    engine: Any
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    users: Counter[str] = field(default_factory=Counter[str])
    stop: threading.Event = field(default_factory=threading.Event)


def local(precision: Precision = "auto") -> Make:
    """What makes engines of this machine; of weights in `fp32` or `bf16`, or, `auto`, in what the device takes best."""

    def make(exported: ExportedModel, contract: Contract) -> LocalEngine:
        return LocalEngine(exported.load(precision=precision), contract)

    return make


def by_vllm(server: VllmServer, bases: Mapping[str, str]) -> Make:
    """What makes engines of those bases that a vLLM server has.

    Args:
        server: that computes.
        bases: of ours, by the names that clients know.
    """

    def make(exported: ExportedModel, contract: Contract) -> VllmEngine:
        if exported.base is not None:
            raise ModelError(
                f"{exported.name}: vLLM takes adapters that are plain LoRA, and this is none. `tunesmith merge` makes "
                "a model of it that vLLM can be started with."
            )
        names = [exported.name, str(exported.folder)]
        for alias, name in bases.items():  # a job brings a copy of its base along, which is the same by its content
            base = resolve(name)
            if name == exported.name or base.fingerprint() == _fingerprint(exported):
                names = [name, alias, str(base.folder), *names]
        return server.engine(names, contract)

    return make


class Engines:
    """Answering models by name; safe from any thread."""

    def __init__(self, most: int = MOST_LOADED, most_adapters: int = MOST_ADAPTERS, make: Make | None = None) -> None:
        """Nothing is loaded.

        Args:
            most: engines at once.
            most_adapters: of one engine at once.
            make: an engine of an exported model and its contract; of this machine, `local()`, if None.
        """
        self._most, self._most_adapters, self._make = most, most_adapters, make or local()
        self._heard: Callable[[], None] = lambda: None
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._places: dict[str, tuple[str, str | None]] = {}  # model -> engine and adapter
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called after each step of any engine, by the thread that computes."""
        self._heard = heard

    @property
    def models(self) -> list[str]:
        """Names of the models that are loaded."""
        with self._lock:
            return [name for name, (key, adapter) in self._places.items() if self._is_there(key, adapter)]

    @property
    def count(self) -> int:
        """Engines in memory."""
        return len(self._loaded)

    @contextlib.contextmanager
    def borrow(self, name: str, find: Callable[[], Any]) -> Generator[Serving]:
        """What answers for a model, loaded if it is not yet, and kept as long as the block runs.

        Args:
            name: of the model.
            find: brings it here; returns an `ExportedModel`.

        Raises:
            Full: all places are in use.
            TunesmithError: it cannot be loaded.
        """
        if (key := self._taken(name)) is None:
            with self._loading:  # one at a time: each needs all the processor's cores
                while (key := self._taken(name)) is None:
                    self._load(name, find())
        loaded, adapter = self._loaded[key], self._places[name][1]
        try:
            yield Serving(loaded.engine, adapter)
        finally:
            with self._lock:
                loaded.users[adapter or ""] -= 1

    def forget(self, name: str) -> None:
        """A model is no more: its place is the first to be taken."""
        with self._lock:
            key, adapter = self._places.pop(name, ("", None))
            if (loaded := self._loaded.get(key)) is not None and adapter in loaded.adapters:
                loaded.adapters.move_to_end(adapter, last=False)

    def close(self) -> None:
        """Let the threads end that compute."""
        with self._lock:
            for loaded in self._loaded.values():
                loaded.stop.set()

    def _is_there(self, key: str, adapter: str | None) -> bool:
        loaded = self._loaded.get(key)
        return loaded is not None and (not adapter or adapter in loaded.adapters)

    def _taken(self, name: str) -> str | None:
        """The engine of a model, with one more user; None if it is not there."""
        with self._lock:
            key, adapter = self._places.get(name, ("", None))
            if not self._is_there(key, adapter):
                return None
            self._loaded.move_to_end(key)
            if adapter:
                self._loaded[key].adapters.move_to_end(adapter)
            self._loaded[key].users[adapter or ""] += 1
            return key

    def _load(self, name: str, exported: Any) -> None:
        contract = exported.contract()
        if exported.base is not None:
            key = f"{exported.card.get('base', {}).get('sha256') or exported.base.fingerprint()} {contract.id}"
            try:
                if exported.to_answer().quantize != "none":
                    raise ModelError("adapters beside a quantised base are not stacked")
                self._add(name, key, exported, contract)
                return
            except ModelError:  # it cannot be stacked: it gets an engine of its own
                key = str(exported.folder)
        else:
            key = f"{_fingerprint(exported)} {contract.id}"
        if key not in self._loaded:
            self._engine(key, exported, contract)
        with self._lock:
            self._places[name] = (key, "" if exported.base is None else None)

    def _add(self, name: str, key: str, exported: Any, contract: Any) -> None:
        """Put an adapter beside those of its base.

        Raises:
            ModelError: it cannot be stacked, or the base is another.
        """
        adapter = read_adapter(name, exported.folder)  # before the base is loaded for it
        if key not in self._loaded:
            base = exported.base
            if not base.commit and base.fingerprint() != key.partition(" ")[0]:
                raise ModelError(
                    f"{base.folder}: it has changed since {exported.folder} was trained on it. Restore it."
                )
            self._engine(key, ExportedModel(base.name, base.folder, None, {}), contract)
        loaded = self._loaded[key]
        instead = self._leaving(loaded, name, adapter)
        try:
            loaded.engine.add_adapter(name, exported.folder, instead)
        except BaseException:
            with self._lock:
                if instead is not None:  # it is still there
                    loaded.adapters[instead] = None
                    loaded.adapters.move_to_end(instead, last=False)
            raise
        with self._lock:
            loaded.adapters[name] = None
            self._places[name] = (key, name)

    def _leaving(self, loaded: Loaded, name: str, adapter: Adapter) -> str | None:
        """The adapter that must leave for another, the least recently used one; None where there is room.

        Raises:
            Full: all are in use.
        """
        with self._lock:
            have = len(loaded.adapters)
            if name in loaded.adapters or (have < self._most_adapters and loaded.engine.has_room(adapter)):
                return None
            idle = [one for one in loaded.adapters if not loaded.users[one]]
            if not idle and have:
                raise Full(f"all {have} adapters of this base that memory is for are in use. Try again in a moment.")
            if not idle:
                raise Full("there is no memory for an adapter beside its base. Try again when other models have left.")
            del loaded.adapters[idle[0]]
            return idle[0]

    def _engine(self, key: str, exported: Any, contract: Any) -> None:
        """Load a model, and let a thread compute for it."""
        self._make_room()
        loaded = Loaded(self._make(exported, contract))
        loaded.engine.listen(self._heard)
        threading.Thread(target=loaded.engine.drive, args=(loaded.stop,), name="engine", daemon=True).start()
        with self._lock:
            self._loaded[key] = loaded

    def _make_room(self) -> None:
        with self._lock:
            while len(self._loaded) >= self._most:
                idle = [key for key, loaded in self._loaded.items() if not loaded.users.total()]
                if not idle:
                    raise Full(f"all {self._most} models that memory is for are in use. Try again in a moment.")
                self._loaded.pop(idle[0]).stop.set()


def _fingerprint(exported: Any) -> str:
    return Base(exported.name, exported.folder).fingerprint()
