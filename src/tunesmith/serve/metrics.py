"""`/metrics`: what the server does, in Prometheus's form and OpenTelemetry's names for generative models.

Names and buckets of `gen_ai_*` are those of OpenTelemetry's semantic conventions (1.41, in development), with dots
as underscores and units behind; what these have no word for begins with `tunesmith_`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from tunesmith.serve.audit import ASKING

DURATION = tuple(0.01 * 2**k for k in range(14))
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**k) for k in range(14))
LABELS = ("gen_ai_operation_name", "gen_ai_request_model")


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        """All are zero."""
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "From the request to the end of its answers.",
            (*LABELS, "error_type"), registry=own, buckets=DURATION,
        )  # fmt: skip
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "From the request to its first token.", LABELS,
            registry=own, buckets=FIRST,
        )  # fmt: skip
        self._each = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Between two tokens of an answer, after the first.",
            LABELS, registry=own, buckets=EACH,
        )  # fmt: skip
        self._queued = Histogram(
            "tunesmith_queue_seconds", "From the request to its turn.", LABELS, registry=own, buckets=DURATION
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage_tokens", "Tokens of prompts and of answers.", (*LABELS, "gen_ai_token_type"),
            registry=own, buckets=TOKENS,
        )  # fmt: skip
        self._cached = Counter(
            "tunesmith_prompt_tokens_cached", "Tokens of prompts that were known from others that begin alike.", LABELS,
            registry=own,
        )  # fmt: skip
        self._requests = Counter(
            "tunesmith_http_requests", "Requests that were answered.", ("method", "route", "status"), registry=own
        )
        self._running = Gauge("tunesmith_answers_running", "Answers under way.", registry=own)
        self._waiting = Gauge("tunesmith_requests_waiting", "Requests that wait for their turn.", registry=own)
        self._models = Gauge("tunesmith_models_loaded", "Models in memory, adapters among them.", registry=own)
        self._engines = Gauge("tunesmith_engines_loaded", "Bases in memory.", registry=own)

    def requested(self, scope: Any, status: int) -> None:
        """A request was answered."""
        route = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in ASKING else "none")
        self._requests.labels(scope["method"], route, str(status)).inc()

    def answered(self, answers: Any, seconds: float, error: str) -> None:
        """Answers are over, well or not.

        Args:
            answers: an `Answers`.
            seconds: from the request.
            error: of what kind; empty if there was none.
        """
        labels = (answers.operation, answers.model)
        self._duration.labels(*labels, error).observe(seconds)
        self._queued.labels(*labels).observe(answers.queued)
        if answers.first is None:
            return
        self._first.labels(*labels).observe(answers.first)
        count = max(1, answers.options.n)
        if answers.tokens > count:
            self._each.labels(*labels).observe((seconds - answers.first) * count / (answers.tokens - count))
        self._tokens.labels(*labels, "input").observe(answers.prompt_tokens)
        self._cached.labels(*labels).inc(answers.cached_tokens)
        self._tokens.labels(*labels, "output").observe(answers.tokens)

    def text(self, server: Any) -> bytes:
        """All of it, as Prometheus reads it."""
        self._running.set(server.turns.running)
        self._waiting.set(server.turns.waiting)
        self._models.set(len(server.engines.models))
        self._engines.set(server.engines.count)
        return generate_latest(self.registry)
