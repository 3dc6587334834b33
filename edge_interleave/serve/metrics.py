"""The metrics of `GET /metrics`, for Prometheus: requests, queue, tokens, seconds by stage, cache, memory."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge_interleave.serve.engine import Engine
from edge_interleave.serve.handle import Ended
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by route and status.", ("route", "status"))
        self._tokens = self._counter(
            "tokens", "Tokens: prompt, visual (of the prompt), cached (of the prompt), answer.", ("model", "kind")
        )
        self._slid = self._counter(
            "slid_tokens", "KV entries of histories that slid: evicted, recomputed.", ("model", "kind")
        )
        self._slides = self._counter("slides", "Histories that slid.", ("model",))
        self._stage = self._counter("stage_seconds", "Seconds spent: encode, prefill, decode.", ("model", "stage"))
        self._wait = Histogram(
            "edge_interleave_queue_seconds", "Wait in the queue.", ("model",), registry=self.registry, buckets=_SECONDS
        )
        self._first = Histogram(
            "edge_interleave_first_token_seconds",
            "From a job's start to its first token.",
            ("model",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._loaded = Gauge("edge_interleave_model_loaded", "1: loaded.", ("model",), registry=self.registry)
        self._queue = Gauge("edge_interleave_queue_length", "Requests that wait.", ("model",), registry=self.registry)
        self._busy = Gauge("edge_interleave_busy", "1: works on a request.", ("model",), registry=self.registry)
        self._caches = Gauge("edge_interleave_kv_entries", "KV entries in use.", ("model",), registry=self.registry)
        self.windows = Gauge("edge_interleave_live_windows", "Live windows that are open.", registry=self.registry)
        for name, text, value in (
            ("memory_bytes", "Resident memory of this process.", memory_bytes),
            ("peak_memory_bytes", "The most it has been.", peak_memory_bytes),
        ):
            Gauge(f"edge_interleave_{name}", text, registry=self.registry).set_function(value)

    def request(self, route: str, status: int) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()

    def watch(self, model: str, engine: Engine) -> None:
        """Read a model's queue and KV caches at each scrape."""
        self._loaded.labels(model).set(0)
        self._queue.labels(model).set_function(lambda: engine.waiting)
        self._busy.labels(model).set_function(lambda: float(engine.running))
        self._caches.labels(model).set_function(lambda: engine.entries)

    def job_ended(self, model: str, waited_s: float, seconds: float) -> None:
        """See `engine.Observer`."""
        self._wait.labels(model).observe(max(0.0, waited_s))

    def loaded(self, model: str, loaded: bool) -> None:
        """See `engine.Observer`."""
        self._loaded.labels(model).set(int(loaded))

    def answered(self, model: str, ended: Ended) -> None:
        """Count a complete answer."""
        stats = ended.answer.stats
        for kind, count in (
            ("prompt", stats.prompt_tokens),
            ("visual", stats.visual_tokens),
            ("cached", stats.cached_tokens),
            ("answer", stats.answer_tokens),
        ):
            self._tokens.labels(model, kind).inc(count)
        for stage, seconds in (
            ("encode", stats.encode_s),
            ("prefill", stats.prefill_s),
            ("decode", ended.timings.decode_s),
        ):
            self._stage.labels(model, stage).inc(seconds)
        self._first.labels(model).observe(stats.first_token_s)
        if ended.slid.evicted:
            self._slides.labels(model).inc()
            self._slid.labels(model, "evicted").inc(ended.slid.evicted)
            self._slid.labels(model, "recomputed").inc(ended.slid.recomputed)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"edge_interleave_{name}", text, labels, registry=self.registry)
