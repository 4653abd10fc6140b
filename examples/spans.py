"""Shows the spans of generations: python examples/spans.py "The sky is"

What an application sends to a collector with OpenTelemetry, printed instead. Needs opentelemetry-sdk.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from pellucid import Model
from pellucid.adapters.otel import instrument


class Lines(SpanExporter):
    """Prints a line for each span; an application uses a BatchSpanProcessor with an OTLP exporter instead."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
            found = span.attributes or {}
            tokens = ""
            if "gen_ai.usage.input_tokens" in found:
                tokens = f", {found['gen_ai.usage.input_tokens']} tokens read, "
                tokens += f"{found['gen_ai.usage.output_tokens']} new tokens"
            print(f"{span.name}: {took:.1f} ms{tokens}")
        return SpanExportResult.SUCCESS


def main() -> None:
    parser = argparse.ArgumentParser(description="Shows the spans of generations.")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=16)
    arguments = parser.parse_args()

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines()))
    instrument(provider)
    with Model.load(arguments.model) as model, provider.get_tracer("example").start_as_current_span("all prompts"):
        for done in model.generate(arguments.prompts, max_tokens=arguments.max_tokens):
            print(repr(done.text))


if __name__ == "__main__":
    main()
