"""`pellucid info`: shows a model's sizes, and how it runs here and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.families import REFUSED, checked


def info(
    model: options.ModelName = options.DEFAULT,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    checkpoints: options.Checkpoints = None,
    quantize: options.Quantize = None,
    archs: Annotated[
        bool, typer.Option("--archs", help="List the supported families of models instead, and how each was checked.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Shows a model's sizes, the settings it runs with on this machine, and why.

    --archs lists which families run as a GGUF file or as a Hugging Face folder, on how many tiny models each was
    compared with transformers in float32 in either form, and which families are refused.
    """
    if archs:
        _families(json)
        return
    with options.load(
        model,
        threads=threads,
        context=context,
        isa=isa,
        kv=kv,
        cache_bytes=cache_bytes,
        checkpoints=checkpoints,
        quantize=quantize,
    ) as loaded:
        found = loaded.info()
    if json:
        output.document(found.to_dict())
    else:
        facts = {**found.to_dict(), "cache_shares": ", ".join(map(str, found.cache_shares))}
        output.table([[key.replace("_", " "), _show(key, value)] for key, value in facts.items()])


def _families(json: bool) -> None:
    if json:
        output.document({"families": [asdict(family) for family in checked()], "refused": [*REFUSED]})
        return
    rows = [["GGUF", "folders", "checked", "models"]]
    for family in checked():
        kinds = ", ".join([*family.model_types, *(f"{kind} (text)" for kind in family.wrappers)])
        rows.append([family.architecture, kinds, f"{family.folders}, {family.files}", family.name.replace("`", "")])
    output.table(rows)
    output.line("")
    output.sentence("checked: tiny models compared with transformers in float32, as folders and as GGUF files")
    output.sentence(f"refused: {'; '.join(REFUSED)}")


def _show(key: str, value: Any) -> str:
    if key == "formats":
        return ", ".join(f"{name}: {options.size(size)}" for name, size in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{name}: {state}" for name, state in value.items())
    if key == "suppressed":
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,} ({options.size(value)})" if "bytes" in key and value >= 1000 else f"{value:,}"
    return "" if value is None else str(value)
