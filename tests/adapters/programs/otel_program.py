"""Spans and metrics of generations, in OpenTelemetry's own exporters in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pellucid import Completion, Model
from pellucid.adapters.otel import instrument, uninstrument
from pellucid.errors import PellucidError

exporter, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
model = Model.load(sys.argv[1], threads=2)
name = model.info().name
messages = [{"role": "user", "content": "Name a colour."}]
OPTIONS: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
before = model.generate("The capital", **OPTIONS)
instrument(tracers, MeterProvider([reader]))


def spans() -> list[Any]:
    """The whole spans since the last call, and checks of their children."""
    found = exporter.get_finished_spans()
    exporter.clear()
    whole = [one for one in found if one.name not in ("prefill", "decode")]
    for one in whole:
        parts = [part for part in found if part.parent and part.parent.span_id == one.context.span_id]
        assert parts[0].name == "prefill" and parts[0].start_time == one.start_time, parts
        assert parts[-1].end_time <= one.end_time and len(parts) == 2
        assert parts[0].end_time == parts[1].start_time
    return whole


def check(span: Any, operation: str, done: Completion) -> None:
    at = span.attributes
    assert span.name == f"{operation} {name}" and at["gen_ai.operation.name"] == operation
    assert at["gen_ai.provider.name"] == "pellucid" and at["gen_ai.request.model"] == name
    assert at["gen_ai.usage.input_tokens"] == done.prompt_tokens
    assert at["gen_ai.usage.output_tokens"] == len(done.ids)
    assert at["gen_ai.response.finish_reasons"] == ({"eos": "stop"}.get(done.finish_reason, done.finish_reason),)
    assert not any("messages" in key for key in at), "content is off"


texts = ["The capital", "An owl hunts"]
model.score(texts)
model.embed(texts, pooling="mean")
for span, operation in zip(exporter.get_finished_spans(), ("score", "embeddings"), strict=True):
    assert span.name == f"{operation} {name}" and span.attributes["gen_ai.operation.name"] == operation
    assert span.attributes["gen_ai.usage.input_tokens"] == sum(len(model.tokenize(text)) for text in texts)
    assert span.start_time < span.end_time and not span.status.description
exporter.clear()

done = model.generate("The capital", **OPTIONS)
assert done.ids == before.ids
(one,) = spans()
check(one, "text_completion", done)
assert one.attributes["gen_ai.request.max_tokens"] == 6 and one.attributes["gen_ai.request.temperature"] == 0

stopped = model.chat(messages, stop=["e"], max_tokens=30, temperature=0)
(one,) = spans()
check(one, "chat", stopped)
assert one.attributes["gen_ai.request.stop_sequences"] == ("e",)

several = model.generate(["One", "Two", "Three"], n=2, seed=3, max_tokens=4)
found = spans()
assert sorted(one.attributes["gen_ai.request.seed"] for one in found) == sorted(done.seed for done in several)
for one in found:
    seed, tokens = one.attributes["gen_ai.request.seed"], one.attributes["gen_ai.usage.input_tokens"]
    check(one, "text_completion", next(d for d in several if (d.seed, d.prompt_tokens) == (seed, tokens)))

model.generate("One", seed=2**63 - 1, max_tokens=1)
model.generate("One", seed=2**63, max_tokens=1)  # which no attribute holds
assert [one.attributes.get("gen_ai.request.seed") for one in spans()] == [2**63 - 1, None]

mapped = list(model.map(["One", messages, "Three"], **OPTIONS))
assert sorted(one.attributes["gen_ai.usage.input_tokens"] for one in spans()) == sorted(d.prompt_tokens for d in mapped)

with model.context() as context:  # the second turn's prompt is what is new
    for text in ("Hello", " and"):
        turn = context.generate(text, **OPTIONS)
        check(spans()[0], "text_completion", turn)

tracer = tracers.get_tracer("program")
with tracer.start_as_current_span("mine") as mine:
    done = model.chat(messages, **OPTIONS)


async def together() -> None:
    with tracer.start_as_current_span("ours") as ours:
        await asyncio.gather(*(model.achat(messages, **OPTIONS) for _ in range(2)))
        async with model.achat(messages, stream=True, **OPTIONS) as pieces:
            assert [piece async for piece in pieces]
        await model.submit("Hi", **OPTIONS)
    parents = [one.parent.span_id for one in exporter.get_finished_spans() if one.name.endswith(f" {name}")]
    assert parents == [mine.context.span_id] + [ours.context.span_id] * 4


asyncio.run(together())
exporter.clear()

stop = threading.Event()
with model.stream("Once", max_tokens=500, ignore_eos=True) as stream:  # closed early
    next(stream)
closed = stream.result()
check(spans()[0], "text_completion", closed)
assert closed.finish_reason == "cancelled"
left: Any = model.stream("Once", max_tokens=500, ignore_eos=True)  # nobody reads it any more
next(left)
left = model.submit("Once", max_tokens=500, ignore_eos=True)
next(left)
del left
gc.collect()
model.generate("The capital", **OPTIONS)
reasons = [one.attributes["gen_ai.response.finish_reasons"] for one in spans()]
assert reasons == [("cancelled",), ("cancelled",), ("length",)], reasons

small = Model.load(sys.argv[1], threads=2, context=16)
try:
    small.generate("One two three four", max_tokens=100, ignore_eos=True, on_full="error")
except PellucidError as error:
    (one,) = spans()
    assert one.status.status_code.name == "ERROR" and one.attributes["error.type"] == type(error).__name__
    assert one.attributes["gen_ai.usage.output_tokens"] > 0
else:
    raise AssertionError("it fitted")

points: dict[str, list[Any]] = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        points |= {metric.name: list(metric.data.data_points) for metric in scope.metrics}
durations = points["gen_ai.server.request.duration"]
others = {"score": 0, "embeddings": 0}
for point in durations:
    if (operation := point.attributes["gen_ai.operation.name"]) in others:
        others[operation] += point.count
assert others == {"score": 1, "embeddings": 1}
requests = sum(point.count for point in durations) - 2
failed = sum(point.count for point in durations if "error.type" in point.attributes)
assert failed == 1 and requests > 20
assert sum(point.count for point in points["gen_ai.server.time_to_first_token"]) == requests - failed
assert 0 < sum(point.sum for point in points["gen_ai.server.time_per_output_token"]) < requests * 10
assert {p.attributes["gen_ai.token.type"] for p in points["gen_ai.client.token.usage"]} == {"input", "output"}

try:
    instrument()
except PellucidError as error:
    assert "already" in str(error)
uninstrument()
uninstrument()
model.generate("The capital", **OPTIONS)
assert spans() == []
instrument(tracers, capture_content=True)
done = model.chat(messages, **OPTIONS)
(one,) = spans()
asked, said = (json.loads(one.attributes[f"gen_ai.{way}.messages"]) for way in ("input", "output"))
assert "Name a colour." in asked[0]["parts"][0]["content"]
assert said[0]["parts"][0]["content"] == done.text and said[0]["finish_reason"] == "length"
print("fine")
