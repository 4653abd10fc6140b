"""Options that several commands share, and how they become arguments of the library."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.output import UsageError, note
from pellucid.errors import ArgumentError, PellucidError, TokenizerError
from pellucid.weights import catalog
from pellucid.weights.store import size

if TYPE_CHECKING:
    from pellucid import Model

__all__ = [
    "DEFAULT",
    "Context",
    "Isa",
    "Json",
    "Kv",
    "ModelName",
    "Prompt",
    "Threads",
    "checked",
    "load",
    "naming",
    "read_all",
    "read_text",
    "size",
]

DEFAULT = catalog.DEFAULT
_MODEL_HELP = "A GGUF file, a Hugging Face folder, a catalogue name, or a name that was given to pull."

ModelName = Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help=_MODEL_HELP)]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Threads; default: the physical cores that the process may use. [env: PELLUCID_THREADS]"
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of tokens of prompt and text together; default: the model's own limit, at most 8192.",
    ),
]
Isa = Annotated[
    str | None,
    typer.Option(
        metavar="TIER", help="Instruction set; default: the best that this processor has. [env: PELLUCID_ISA]"
    ),
]
Kv = Annotated[str, typer.Option(metavar="TYPE", help="Type of cached keys and values: auto, f32, f16, bf16, int8.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT | -]",
        show_default=False,
        help="The text; without it, or with -, standard input is read as UTF-8, a final line end included.",
    ),
]

LONGEST_TEXT = 1 << 28  # bytes; an endless device or pipe is refused here

# What differs from the library's name in more than dashes.
_FLAGS = {
    "max_tokens": "-n/--max-tokens",
    "prompt": "PROMPT",
    "text": "TEXT",
    "PELLUCID_THREADS": "PELLUCID_THREADS",
}


@contextmanager
def naming(*names: str) -> Iterator[None]:
    """An argument of these names that the library refuses becomes a usage error under the option's name as typed."""
    try:
        yield
    except ArgumentError as error:
        if error.argument not in (*names, *_FLAGS):
            raise
        flag = _FLAGS.get(error.argument, "--" + error.argument.replace("_", "-"))
        raise UsageError(flag + error.found) from None


def load(source: str, **options: Any) -> Model:
    """Loads a model, with a progress bar on stderr where that is a terminal and loading takes a while."""
    from pellucid.cli.progress import progress
    from pellucid.model import Model

    with naming(*options), progress() as show:
        return Model.load(checked(source), progress=show, **options)


def checked(source: str) -> str:
    """The source. Prints what will be downloaded."""
    if os.path.exists(source):
        return source
    entry = catalog.find(source)
    if entry is not None and not entry.terms and not catalog.is_cached(source):
        note(f"fetching {entry.name} ({size(entry.size)}); licence: {entry.licence}")
    return source


def read_text(text: str | None, what: str = "prompt") -> str:
    """The argument, or standard input. UsageError where that is a terminal, TokenizerError where it is not UTF-8."""
    if text is not None and text != "-":
        return text
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise UsageError(f"no {what}: give one, or - to read it from standard input")
    data = read_all(sys.stdin.buffer, "standard input")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise TokenizerError(f"standard input is not UTF-8: byte 0x{byte:02x} at offset {error.start}") from None


def read_all(file: IO[bytes], name: str) -> bytes:
    """The rest of a text file; PellucidError where it is too long."""
    data = file.read(LONGEST_TEXT + 1)
    if len(data) > LONGEST_TEXT:
        raise PellucidError(f"{name}: expected a text of at most {LONGEST_TEXT} bytes")
    return data
