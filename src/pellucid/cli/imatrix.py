"""`pellucid imatrix`: measures the importances of a model's columns, for quantising it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.cli.progress import progress
from pellucid.errors import PellucidError
from pellucid.markup import count


def imatrix(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.MODEL_HELP, autocompletion=options.pulled)],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The file with the text; -: standard input.")],
    out: Annotated[str, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    chunk: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=1 << 20,
            help="Tokens that are run together, as one text; default: 512, or the model's context if that is less.",
        ),
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Run at most N chunks; default: the whole text.")
    ] = None,
    force: options.Force = False,
    threads: options.Threads = None,
    isa: options.Isa = None,
    json: options.Json = False,
) -> None:
    """Measures how much each column of a model's matrices matters, for quantize --imatrix.

    The text is run in chunks. For each matrix, the mean squares of the inputs that its columns are multiplied by are
    written. Use the original weights, and text like that the model is meant for: 100,000 tokens are plenty.
    """
    from pellucid.look.importance import importances
    from pellucid.making.forms import gguf_importances
    from pellucid.weights.importance import write_importances

    options.check_target(out, force, model, text)
    if text == "-":
        content = options.read_text(text)
    else:
        with open(text, "rb") as opened:
            content = options.read_all(opened, text)
    with options.load(model, threads=threads, context=chunk, isa=isa, flags={"context": "--chunk"}) as loaded:
        options.check_target(out, force, loaded.info().path)  # `model` may be a name
        core = loaded.core
        tokenizer = core.need_tokenizer()
        size = chunk or min(512, loaded.context_length)
        parts = _chunks(core.tokenize(content), tokenizer.bos if tokenizer.add_bos else None, size)
        parts = parts[:chunks]
        if not parts:
            raise PellucidError(f"{text}: no text of two tokens or more")
        with progress() as bar:
            found = importances(core, parts, None if bar is None else lambda done, total: bar(done, total, "tokens"))
        if not core.facts.format.startswith("GGUF"):
            found = gguf_importances(found, core.config)
    tokens = sum(map(len, parts))
    name = "standard input" if text == "-" else os.path.basename(text)
    write_importances(out, found, datasets=[name], chunk_size=size, chunks=len(parts))
    if json:
        output.document({"path": out, "tokens": tokens, "chunks": len(parts), "tensors": len(found)})
        return
    read = f"{count(tokens, 'token')} in {count(len(parts), 'chunk')}"
    output.line(f"{output.visible(out)}: {count(len(found), 'tensor')}, {read}")


def _chunks(ids: list[int], bos: int | None, size: int) -> list[list[int]]:
    """Parts of at most `size` tokens, each after BOS if the model has it; a part of one token is left out."""
    first = [] if bos is None else [bos]
    if ids[:1] == first:
        ids = ids[len(first) :]
    room = size - len(first)
    parts = [first + ids[start : start + room] for start in range(0, len(ids), room)]
    return [part for part in parts if len(part) > 1]
