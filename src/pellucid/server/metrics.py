"""What /metrics shows, in Prometheus's form."""

from __future__ import annotations

import threading
from collections import Counter as Counted
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pellucid.server.models import Models
from pellucid.server.record import Record

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHORT = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 2.5, 5)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class _Counts:
    """The counters and histograms of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.prompt, self.new, self.disconnected, self.first, self.gap, self.whole, self.queue = (
            one.labels(name) for one in metrics.counted
        )


class Metrics:
    """The metrics of all models. models: the label of each is its name; what belongs to none has that of the only one,
    or "". running: returns the current requests."""

    def __init__(self, models: Models, running: Callable[[], Collection[Any]]) -> None:
        self._models = models
        self._running = running
        disable_created_metrics()  # twice as many lines, of no use here
        self.registry = CollectorRegistry(auto_describe=False)
        self._lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(f"pellucid_{name}", text, ["model", *labels], registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Any:
            return Histogram(f"pellucid_{name}", text, ["model"], registry=self.registry, buckets=buckets)

        self.counted = (
            counter("prompt_tokens", "Prompt tokens of requests that were answered, perhaps in part."),
            counter("generation_tokens", "New tokens."),
            counter("disconnected", "Requests whose client left before the end."),
            histogram("time_to_first_token_seconds", "From a request to its first token.", LONG),
            histogram("inter_token_latency_seconds", "Between two tokens of a request.", SHORT),
            histogram("e2e_request_latency_seconds", "From a request to the end of its answer.", LONG),
            histogram("request_queue_time_seconds", "From a request to its first pass.", LONG),
        )
        self._success = counter("request_success", "Requests that were answered, by finish reason.", "finish_reason")
        self._rejected = counter("rejected", "Requests that were answered with an error, by its code.", "reason")
        self._of = {one.name: _Counts(self, one.name) for one in models.all}
        self.registry.register(_Live(self._families))

    def _name(self, record: Record) -> str:
        return record.served or (self._models.all[0].name if len(self._models.all) == 1 else "")

    def _counts(self, record: Record) -> _Counts:
        name = self._name(record)
        if name not in self._of:
            self._of[name] = _Counts(self, name)
        return self._of[name]

    def text(self) -> bytes:
        with self._lock:
            return bytes(generate_latest(self.registry))

    # ---- while requests run -----------------------------------------------------------------------------------

    def first_token(self, record: Record) -> None:
        self._counts(record).first.observe(record.first - record.begun)

    def tokens(self, record: Record, n: int, seconds: float) -> None:
        """Counts n tokens of a request that came so many seconds after those before."""
        counts = self._counts(record)
        counts.new.inc(n)
        if seconds >= 0:
            for _ in range(min(n, 64)):
                counts.gap.observe(seconds / n)

    def ended(self, record: Record) -> None:
        counts, name = self._counts(record), self._name(record)
        if record.disconnected:
            counts.disconnected.inc()
        if record.reason:
            self._rejected.labels(name, record.reason).inc()
        if record.prompt and (record.first or record.finish):
            counts.prompt.inc(record.prompt)
            counts.queue.observe(record.queued)
        if record.finish and not record.reason and not record.disconnected:
            self._success.labels(name, record.finish).inc()
            counts.whole.observe(record.ended - record.begun)

    # ---- what is read when it is asked for --------------------------------------------------------------------

    def _families(self) -> Iterator[Metric]:
        models, running = self._models.all, list(self._running())
        waiting = Counted(self._name(one.record) for one in running if one.waits)
        every = Counted(self._name(one.record) for one in running)
        names = [one.name for one in models]
        names += [name for name in every if name not in names]
        text = "Requests that have begun to answer."
        yield _gauge("requests_running", text, {name: every[name] - waiting[name] for name in names})
        text = "Requests for which nothing was computed yet."
        yield _gauge("requests_waiting", text, {name: waiting[name] for name in names})
        yield _gauge("model_loaded", "1 if the model is loaded, else 0.", {m.name: m.model is not None for m in models})
        yield _counter("model_loads", "How often the model was loaded.", {m.name: m.loads for m in models})
        stats = {one.name: one.model.stats() for one in models if one.model is not None}
        used = {n: s.cache_bytes_used / s.cache_bytes_limit if s.cache_bytes_limit else 0.0 for n, s in stats.items()}
        yield _gauge("kv_cache_usage_ratio", "Used share of the memory for keys and values, 0 without a limit.", used)
        text = "Memory of keys and values that is used."
        yield _gauge("kv_cache_bytes", text, {name: s.cache_bytes_used for name, s in stats.items()})
        loaded = [one for one in models if one.loads]  # once, at least: what was counted stays
        for name, field, text in (
            ("prefix_cache_queries", "prefix_queries", "Prompt tokens looked up in the prefix cache."),
            ("prefix_cache_hits", "prefix_hits", "Prompt tokens found there."),
            ("num_preemptions", "preemptions", "Requests preempted for lack of memory, to be computed again."),
            ("drafted", "drafted_tokens", "Guesses at next tokens that passes verified."),
            ("accepted", "accepted_tokens", "Guesses that were right."),
            ("passes", "passes", "Forward passes."),
            ("pass_rows", "rows", "Tokens computed in forward passes."),
            ("pass_seconds", "pass_seconds", "Seconds of forward passes."),
        ):
            yield _counter(name, text, {m.name: m.past[field] + getattr(stats.get(m.name), field, 0) for m in loaded})


def _gauge(name: str, text: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"pellucid_{name}", text, labels=["model"]), values)


def _counter(name: str, text: str, values: Mapping[str, float]) -> Metric:
    return _filled(CounterMetricFamily(f"pellucid_{name}", text, labels=["model"]), values)


def _filled(family: Any, values: Mapping[str, float]) -> Metric:
    for model, value in values.items():
        family.add_metric([model], value)
    found: Metric = family
    return found


class _Live:
    """A collector of the registry."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()

    def describe(self) -> list[Metric]:
        return []
