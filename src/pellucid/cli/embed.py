"""`pellucid embed`: embeddings of texts."""

from __future__ import annotations

import io
from json import dumps
from typing import Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.errors import PellucidError
from pellucid.markup import count


def embed(
    text: options.Prompt = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="Embed the text of this file instead; -: standard input."),
    ] = None,
    model: options.ModelName = options.DEFAULT,
    lines: Annotated[
        bool, typer.Option("--lines", help="Embed each line as a text of its own; empty lines are skipped.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE.npy", help="Write the array, float32 (texts, width), to this NumPy file."
        ),
    ] = None,
    pooling: options.PoolingKind = None,
    dimensions: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the first N columns; default: as the model says, or all.")
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The name of one of the model's prompts, or a text to put before each text."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Divide each embedding by its length.")
    ] = True,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    quantize: options.Quantize = None,
    raw: options.Raw = False,
    json: options.Json = False,
) -> None:
    """Turns texts into embeddings: a line of JSON for each text, or a NumPy file.

    A line has "text" and "embedding". With --json, all are in one document.
    """
    name, content = options.read_content(text, file, raw)
    texts = [line for _, line in options.lines_of(content)] if lines else [content]
    if not texts or not texts[0]:
        raise PellucidError(f"{name} contains no text")
    if out is not None and json:
        raise output.UsageError("--output replaces --json; give one of them")
    if out is not None and not out.endswith(".npy"):
        raise output.UsageError(f"--output={out}: expected the name of a .npy file")
    if out is not None:
        options.check_place(out)
        options.check_unread(out, file)
    instruction = None if instruction is None else options.argument(instruction, "--instruction")
    known: Any = pooling  # the library refuses an unknown one
    with options.load(
        model, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes, quantize=quantize
    ) as loaded:
        if out is not None:
            options.check_unread(out, loaded.info().path)
        with options.naming("pooling", "dimensions", "instruction"):
            found = loaded.embed(
                texts, pooling=known, dimensions=dimensions, instruction=instruction, normalize=normalize
            )
    if out is not None:
        _save(found, out)
        output.note(f"{count(len(found), 'embedding')} of {count(found.shape[1], 'column')}: {out}")
        return
    entries = [{"text": text, "embedding": row.tolist()} for text, row in zip(texts, found, strict=True)]
    if json:
        output.document({"width": found.shape[1], "embeddings": entries})
        return
    for entry in entries:
        output.line(dumps(entry))


def _save(found: Any, path: str) -> None:
    """Writes the file whole or not at all."""
    import numpy as np

    from pellucid.weights.writer import whole_file

    data = io.BytesIO()  # NumPy's own errors do not say that a disk is full
    np.save(data, found)
    with whole_file(path) as file:
        file.write(data.getbuffer())
