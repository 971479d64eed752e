"""Models that answer: loaded when they are first asked, and let go when others are asked more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST_LOADED = 2  # models in memory


class Engines:
    """Answering models by name; safe from any thread."""

    def __init__(self, most: int = MOST_LOADED) -> None:
        """Nothing is loaded; at most `most` models will be at once."""
        self._most = most
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._loading = threading.Lock(), dict[str, threading.Lock]()

    def get(self, name: str, load: Callable[[], Any]) -> Any:
        """The engine of a model; loaded by the first who asks, while others who ask for it wait."""
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            with self._lock:
                if name in self._loaded:
                    return self._loaded[name]
            engine = load()
            with self._lock:
                self._loaded[name] = engine
                while len(self._loaded) > self._most:  # who still uses the oldest one keeps it until it is done
                    self._loaded.popitem(last=False)
            return engine

    def forget(self, name: str) -> None:
        """Let a model go."""
        with self._lock:
            self._loaded.pop(name, None)
