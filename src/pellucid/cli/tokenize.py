"""`pellucid tokenize`: shows the tokens of a text."""

from __future__ import annotations

import json as json_
from typing import Annotated

import typer

from pellucid.cli import options, output


def tokenize(
    text: options.Prompt = None,
    model: options.ModelName = options.DEFAULT,
    ids: Annotated[bool, typer.Option("--ids", help="Print only the ids, on one line.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Read the spellings of special tokens as these tokens.")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Put BOS first, if the model has it.")] = True,
    raw: options.Raw = False,
    json: options.Json = False,
) -> None:
    """Shows the tokens of a text: ids and pieces. Reads only the vocabulary, no weights."""
    from pellucid.cli.progress import progress
    from pellucid.tokenizer import Tokenizer

    content = options.read_text(text, raw=raw)
    with options.naming(path="the model's name"), progress(options.announcement(model)) as show:
        tokenizer = Tokenizer.load(model, progress=show)
    found = tokenizer.encode(content, add_special=bos, parse_special=special)
    pieces = [tokenizer.piece(id, special=True) for id in found]
    if json:
        shown = [piece.decode("utf-8", "replace") for piece in pieces]
        output.document({"ids": found, "pieces": shown, "bytes": [piece.hex() for piece in pieces]})
    elif ids:
        output.line(" ".join(map(str, found)))
    else:
        width = len(str(tokenizer.vocab_size))
        for id, piece in zip(found, pieces, strict=True):
            output.line(f"{id:{width}}  {_show(piece)}")


def _show(piece: bytes) -> str:
    """A piece in quotes; a part of a character as its bytes."""
    try:
        return json_.dumps(piece.decode("utf-8"), ensure_ascii=False)
    except UnicodeDecodeError:
        return "bytes " + piece.hex(" ")
