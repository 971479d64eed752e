"""How often a key may ask: a bucket of requests that fills up again all the time."""

from __future__ import annotations

import math
import threading
import time

from tunesmith.serve.errors import ApiError
from tunesmith.serve.keys import Key

MINUTE = 60.0


class Rates:
    """Counts the requests of keys in this process; safe from any thread."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # key -> requests left, and when that was so
        self._lock = threading.Lock()

    def take(self, key: Key) -> dict[str, str]:
        """Count a request; returns headers that say how many are left.

        Raises:
            ApiError: there are none, for now.
        """
        if key.per_minute is None:
            return {}
        each, moment = MINUTE / key.per_minute, time.monotonic()
        with self._lock:
            left, then = self._left.get(key.id, (float(key.per_minute), moment))
            left = min(float(key.per_minute), left + (moment - then) / each)
            taken = left >= 1.0
            self._left[key.id] = (left - taken, moment)
        headers = {
            "x-ratelimit-limit-requests": str(key.per_minute),
            "x-ratelimit-remaining-requests": str(int(left - taken)),
            "x-ratelimit-reset-requests": f"{(key.per_minute - left + taken) * each:.3f}s",
        }
        if not taken:
            wait = {"Retry-After": str(math.ceil((1.0 - left) * each))}
            message = f"This key may ask {key.per_minute} times a minute. Wait, or ask the operator for more."
            raise ApiError(429, message, code="rate_limit_exceeded", headers={**headers, **wait})
        return headers
