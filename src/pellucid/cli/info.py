"""`pellucid info`: a model's sizes, and how it runs here and why."""

from __future__ import annotations

from typing import Any

from pellucid.cli import options, output


def info(
    model: options.ModelName = options.DEFAULT,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    json: options.Json = False,
) -> None:
    """Shows a model's sizes, and how it runs here and why."""
    with options.load(model, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes) as loaded:
        facts = loaded.info().to_dict()
    if json:
        output.document(facts)
    else:
        output.table([[key.replace("_", " "), _show(key, value)] for key, value in facts.items()])


def _show(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {state}" for name, state in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,} ({options.size(value)})" if "bytes" in key and value >= 1000 else f"{value:,}"
    return "" if value is None else str(value)
