"""What the server counts, for Prometheus; a registry per application."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters, histograms and gauges under the prefix ``splitveil_``.

    Args:
        model: name, a label of ``splitveil_info``.
        digest: of the passport, likewise.
        version: of splitveil.
    """

    def __init__(self, model: str, digest: str, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "splitveil_requests", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "splitveil_request_seconds",
            "From the headers to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Counter("splitveil_rows", "Rows that the tail has answered.", registry=registry)
        self._batch_rows = Histogram("splitveil_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=registry)
        self._wait = Histogram(
            "splitveil_queue_seconds", "Wait of the first of a batch.", buckets=_SECONDS, registry=registry
        )
        self._run = Histogram("splitveil_tail_seconds", "Run of a batch.", buckets=_SECONDS, registry=registry)
        self._failures = Counter("splitveil_batch_failures", "Batches that raised an error.", registry=registry)
        self._received = Counter("splitveil_received_bytes", "Of bodies, as they came.", registry=registry)
        facts = Gauge("splitveil_info", "What is served.", ["model", "passport", "version"], registry=registry)
        facts.labels(model, digest, version).set(1)
        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def watch(self, queued_rows: Callable[[], float], running: Callable[[], float], ready: Callable[[], float]) -> None:
        """Gauges that are read when they are asked for."""
        for name, help_, value in (
            ("splitveil_queue_rows", "Rows that wait.", queued_rows),
            ("splitveil_running_batches", "Batches that run.", running),
            ("splitveil_ready", "1 while requests are welcome.", ready),
        ):
            Gauge(name, help_, registry=self._registry).set_function(value)

    def request_done(self, route: str, status: int, seconds: float, received_bytes: int) -> None:
        """Count one request."""
        key = (route, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(route, str(status))
        histogram = self._histograms.get(route)
        if histogram is None:
            histogram = self._histograms[route] = self._seconds.labels(route)
        counter.inc()
        histogram.observe(seconds)
        self._received.inc(received_bytes)

    def batch_done(self, rows: int, waited_s: float, run_s: float) -> None:
        """Count one batch."""
        self._rows.inc(rows)
        self._batch_rows.observe(rows)
        self._wait.observe(waited_s)
        self._run.observe(run_s)

    def batch_failed(self) -> None:
        """Count one batch that raised an error."""
        self._failures.inc()

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)
