"""Spans and metrics of generations, embeddings and scores for OpenTelemetry: `instrument`.

Needs the extra `otel`. Nothing is measured unless `instrument` is called.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError(f"pellucid.adapters.otel needs the extra otel: {error}") from None

from pellucid import observers
from pellucid.errors import PellucidError

__all__ = ["instrument", "uninstrument"]

# The names of OpenTelemetry's conventions for generative AI, 1.42. These are still in development.
OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHED_TOKENS, REASONS = "gen_ai.usage.cache_read.input_tokens", "gen_ai.response.finish_reasons"
INPUT, OUTPUT, TOKEN_TYPE, ERROR = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.token.type", "error.type"
OPTIONS = {
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stop": "gen_ai.request.stop_sequences",
}
SEED = "gen_ai.request.seed"
FINISHED = {"eos": "stop", "stop": "stop", "length": "length", "context": "length", "cancelled": "cancelled"}
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**i for i in range(14))

_lock = threading.Lock()


def instrument(tracer_provider: Any = None, meter_provider: Any = None, capture_content: bool = False) -> None:
    """Makes each generation of this process, and each call for embeddings or scores, give a span and add to metrics.

    tracer_provider, meter_provider: default: those that the program has set globally.
    capture_content: put the prompt, as the model reads it, and the new text on the span. They may be private.

    The span ``chat MODEL`` or ``text_completion MODEL`` is a child of the span in which the generation was requested,
    and has the children ``prefill`` and ``decode``. Each of `n` completions, or of several prompts, has its own span.
    A call for embeddings or scores has one, ``embeddings MODEL`` or ``score MODEL``, however many texts it has.
    Raises PellucidError if it has already been called: see `uninstrument`.
    """
    made = _Instruments(
        trace.get_tracer("pellucid", tracer_provider=tracer_provider),
        metrics.get_meter("pellucid", meter_provider=meter_provider),
        capture_content,
    )
    with _lock:
        if observers.begun is not None:
            raise PellucidError("instrument was called already; uninstrument ends it")
        observers.begun, observers.called = made.begin, made.call


def uninstrument() -> None:
    """Ends what `instrument` began. Running generations are still reported. May be called again."""
    with _lock:
        begun, observers.begun, observers.called = observers.begun, None, None
    made = getattr(begun, "__self__", None)
    if isinstance(made, _Instruments):
        made.sweep()


class _Instruments:
    def __init__(self, tracer: Any, meter: Any, content: bool) -> None:
        self.tracer, self.content = tracer, content
        self.left: deque[tuple[_Generation, int]] = deque()  # generations that nobody reads any more, and since when

        def histogram(name: str, unit: str, what: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=bounds)

        self.duration = histogram("gen_ai.server.request.duration", "s", "Duration of a generation", SECONDS)
        self.first = histogram("gen_ai.server.time_to_first_token", "s", "Time to the first new token", FIRST)
        self.each = histogram("gen_ai.server.time_per_output_token", "s", "Time of a new token after the first", EACH)
        self.tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens of a generation", TOKENS)

    def begin(self, job: Any) -> _Generation:
        self.sweep()
        return _Generation(self, job)

    @contextmanager
    def call(self, core: Any, operation: str, tokens: int) -> Iterator[None]:
        """The span of a call that does not generate."""
        common, start = _common(core, operation), time.time_ns()
        name = f"{operation} {common[REQUEST_MODEL]}"
        # Its errors are recorded by start_as_current_span.
        with self.tracer.start_as_current_span(name, attributes={**common, INPUT_TOKENS: tokens}) as span:
            try:
                yield
            except BaseException as error:
                common[ERROR] = type(error).__name__
                span.set_attribute(ERROR, common[ERROR])
                raise
            finally:
                self.duration.record((time.time_ns() - start) / 1e9, common)
                self.tokens.record(tokens, {**common, TOKEN_TYPE: "input"})

    def sweep(self) -> None:
        """Ends the spans of generations that nobody reads any more. Their finalizers cannot: the packages of
        OpenTelemetry have locks."""
        while self.left:
            with suppress(IndexError):
                one, end = self.left.popleft()
                one.emit(end, "cancelled", None)


class _Generation:
    """An `observers.Observer`."""

    def __init__(self, to: _Instruments, job: Any) -> None:
        self.to = to
        self.context = context.get_current()
        self.start = time.time_ns()
        self.job = job
        self.operation = "chat" if job.chat else "text_completion"

    def ended(self, job: Any) -> None:
        self.emit(time.time_ns(), FINISHED.get(job.finish, "stop"), None)

    def failed(self, error: Exception | None) -> None:
        if error is None:
            self.to.left.append((self, time.time_ns()))
        else:
            self.emit(time.time_ns(), "error", error)

    def emit(self, end: int, reason: str, error: Exception | None) -> None:
        job, to = self.job, self.to
        del self.job  # the job refers to this object
        timings, new = job.timings(), len(job.ids) - job.begun
        common = _common(job.core, self.operation)
        if error is not None:
            common[ERROR] = type(error).__name__
        usage = {INPUT_TOKENS: job.prompt_tokens, OUTPUT_TOKENS: new, CACHED_TOKENS: job.cached}
        span = to.tracer.start_span(
            f"{self.operation} {common[REQUEST_MODEL]}",
            context=self.context,
            kind=SpanKind.INTERNAL,
            attributes={**common, **usage, **_requested(job.options), REASONS: [reason]},
            start_time=self.start,
        )
        if span.is_recording():
            if to.content:
                span.set_attributes(_content(job, reason))
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, str(error)))
            within = trace.set_span_in_context(span, self.context)
            first = min(self.start + int(timings.first_token * 1e9), end)
            to.tracer.start_span("prefill", context=within, start_time=self.start).end(first)
            if job.first:
                to.tracer.start_span("decode", context=within, start_time=first).end(end)
        span.end(end)
        to.duration.record((end - self.start) / 1e9, common)
        for kind, number in (("input", job.prompt_tokens), ("output", new)):
            to.tokens.record(number, {**common, TOKEN_TYPE: kind})
        if error is None and job.first:
            to.first.record(timings.first_token, common)
            if timings.decode_tokens:
                to.each.record(timings.decode / timings.decode_tokens, common)


def _common(core: Any, operation: str) -> dict[str, Any]:
    model = core.facts.name or os.path.basename(core.facts.path)
    return {OPERATION: operation, PROVIDER: "pellucid", REQUEST_MODEL: model, RESPONSE_MODEL: model}


def _requested(options: Any) -> dict[str, Any]:
    given = {name: getattr(options, field) for field, name in OPTIONS.items()}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    if isinstance(options.seed, int) and options.seed < 2**63:  # attributes have 64 bits, signed
        found[SEED] = options.seed
    return {k: v for k, v in found.items() if v not in (None, []) and not (isinstance(v, float) and math.isinf(v))}


def _content(job: Any, reason: str) -> dict[str, str]:
    def message(role: str, ids: list[int], **more: str) -> str:
        text = job.core.detokenize(ids)
        return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}], **more}], ensure_ascii=False)

    if job.core.tokenizer is None:
        return {}
    at = job.begun - job.prompt_tokens
    return {
        INPUT: message("user", job.ids[at : job.begun]),
        OUTPUT: message("assistant", job.ids[job.begun :], finish_reason=reason),
    }
