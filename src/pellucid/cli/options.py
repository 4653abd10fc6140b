"""Options that several commands share, and their translation into arguments of the library."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.output import UsageError, note
from pellucid.errors import ArgumentError, IsaError, PellucidError, TokenizerError, one_line
from pellucid.weights import catalog
from pellucid.weights.store import size

if TYPE_CHECKING:
    from pellucid import Model

__all__ = [
    "DEFAULT",
    "MODEL_HELP",
    "CacheBytes",
    "Checkpoints",
    "Context",
    "Draft",
    "Force",
    "Imatrix",
    "Isa",
    "Json",
    "Kv",
    "ModelName",
    "NoSpeculate",
    "PoolingKind",
    "Prediction",
    "Prompt",
    "Quantize",
    "Raw",
    "Share",
    "Template",
    "Threads",
    "announcement",
    "argument",
    "arguments",
    "check_place",
    "check_target",
    "check_unread",
    "lines_of",
    "load",
    "locate",
    "naming",
    "nbytes",
    "pulled",
    "read_all",
    "read_content",
    "read_template",
    "read_text",
    "removable",
    "size",
    "speculation",
    "thread_count",
]

DEFAULT = catalog.DEFAULT
MODEL_HELP = "A GGUF file, a Hugging Face folder, a catalogue name, or the name of a pulled model."


def pulled(incomplete: str) -> list[str]:
    """The names of models with this beginning, for the shell's completion: of the catalogue, and of pulled models."""
    from pellucid.weights import inventory

    names = [entry.name for entry in catalog.entries()]
    with suppress(PellucidError, OSError):  # a cache that cannot be read
        names += [held.name for held in inventory.pulled()]
    return [name for name in names if name.startswith(incomplete)]


def removable(incomplete: str) -> list[str]:
    """As `pulled`, but only models that are in the cache."""
    with suppress(PellucidError, OSError):
        return [n for n in pulled(incomplete) if catalog.find(n) is None or catalog.is_cached(n)]
    return []


def _among(*words: str) -> Any:
    """Completes one of the words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _isas(incomplete: str) -> list[str]:
    from pellucid import _engine

    return [name for name, built, runs in _engine.isas() if built and runs and name.startswith(incomplete)]


ModelName = Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help=MODEL_HELP, autocompletion=pulled)]
Imatrix = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Importances of columns, made by `pellucid imatrix` or by llama.cpp."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of threads; default: the physical cores that the process may use, without efficiency cores. "
        "[env: PELLUCID_THREADS]",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of tokens in a sequence, not counting a text's last new token; default: the "
        "model's own limit, at most 8192.",
    ),
]
Isa = Annotated[
    str | None,
    typer.Option(
        metavar="TIER",
        help="Instruction set; default: the best that this processor supports. [env: PELLUCID_ISA]",
        autocompletion=_isas,
    ),
]
Kv = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        help="Type of cached keys and values: auto, f32, f16, bf16, int8.",
        autocompletion=_among("auto", "f32", "f16", "bf16", "int8"),
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="default or high; high rounds layers' inputs less, for experiments.",
        autocompletion=_among("default", "high"),
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Convert matrices in F32, F16 and BF16 to this format while loading, such as q8_0 or q4_k_m.",
    ),
]
Share = Annotated[
    bool,
    typer.Option(
        "--share",
        help="Keep one copy of the packed weights for all processes of the user, in /dev/shm. [env: PELLUCID_SHARE=1]",
    ),
]
CacheBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory that the keys and values of all sequences may take, such as 2G or 500M; "
        "default: half of what is left after loading.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A smaller model with the same vocabulary that guesses next tokens; changes only the speed.",
        autocompletion=pulled,
    ),
]
NoSpeculate = Annotated[bool, typer.Option("--no-speculate", help="Do not guess next tokens; changes only the speed.")]
Prediction = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A text that the answer is expected to resemble; changes only the speed."),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for the earlier states of recurrent layers that a sequence can rewind to, such as 200M;"
        " default: eight states.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="TEXT | -",
        show_default=False,
        help="The text; without it, or with -, standard input is read as UTF-8, without its final line ending.",
    ),
]
Template = Annotated[
    str | None, typer.Option(metavar="FILE", help="A chat template (Jinja) instead of the model's own.")
]
PoolingKind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help='"last", "first" (token) or "mean"; default: what the model\'s files say.'),
]
Raw = Annotated[bool, typer.Option("--raw", help="Keep the final line ending of the input.")]

_LONGEST_TEMPLATE = 1 << 22  # bytes; longer templates are refused by their length
LONGEST_TEXT = 1 << 28  # bytes; an endless device or pipe is refused here

# Options whose names differ from the library's in more than dashes.
_FLAGS = {
    "max_tokens": "-n/--max-tokens",
    "megabytes": "--html-size",
    "prompt": "TEXT",
    "source": "the model's name",
    "text": "TEXT",
}


@contextmanager
def naming(*names: str, **flags: str) -> Iterator[None]:
    """Turns the library's error about an argument of these names into a usage error that names the option as typed:
    as `flags` says, if that differs. An error about an environment variable becomes one that names the variable."""
    try:
        yield
    except ArgumentError as error:
        name = error.argument
        if name.startswith("PELLUCID_"):
            raise UsageError(name + error.found) from None
        if name not in (*names, *flags, *_FLAGS):
            raise
        flag = {**_FLAGS, **flags}.get(name, "--" + name.replace("_", "-"))
        raise UsageError(flag + error.found) from None


def nbytes(option: str, text: str, least: int = 0) -> int:
    """A number of bytes: digits, and K, M, G or T for powers of 1000, KiB, MiB, GiB or TiB for powers of 1024."""
    from fractions import Fraction

    match = re.fullmatch(r"([0-9]{1,15})(\.[0-9]{1,9})?(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    value = -1
    if match is not None:
        power = "KMGT".index(match[3].upper()) + 1 if match[3] else 0
        value = int(Fraction(match[1] + (match[2] or "")) * (1024 if match[4] else 1000) ** power)
    if value < least:
        raise UsageError(f"{option}={one_line(text, 60)!r}: expected a number of bytes, such as 20G or 500M")
    return value


def locate(source: str) -> str:
    """The path of a model, given its path or its name."""
    from pellucid import weights

    with naming():
        return weights.locate("source", source)


def load(
    source: str,
    *,
    isa: str | None = None,
    cache_bytes: str | None = None,
    checkpoints: str | None = None,
    share: bool = False,
    flags: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = note,
    **options: Any,
) -> Model:
    """Loads a model, with a progress bar on stderr if that is a terminal and loading takes a while. flags: as for
    `naming`. say: called with a line when a download begins."""
    from pellucid.cli.progress import progress
    from pellucid.model import Model

    if cache_bytes is not None:
        options["cache_bytes"] = nbytes("--cache-bytes", cache_bytes, least=1)
    if checkpoints is not None:
        options["checkpoints"] = nbytes("--checkpoints", checkpoints, least=1)
    with naming(*options, **flags), progress(announcement(source), say) as show:
        try:
            return Model.load(source, progress=show, isa=isa, share=share or None, **options)
        except IsaError as error:
            raise UsageError(f"{'PELLUCID_ISA' if isa is None else '--isa'}: {error}") from None


def announcement(source: str) -> str:
    """The line shown when the download of a catalogue model begins; "" if nothing will be downloaded."""
    entry = None if os.path.exists(source) else catalog.find(source)
    if entry is None or entry.terms or catalog.is_cached(source):
        return ""
    return f"downloading {entry.name} ({size(entry.size)}); licence: {entry.licence}"


def read_content(text: str | None, file: str | None, raw: bool) -> tuple[str, str]:
    """The text of --file or TEXT -> (its name in errors, the text)."""
    if file is None:
        return "TEXT" if text not in (None, "-") else "standard input", read_text(text, raw=raw)
    if text is not None:
        raise UsageError(f"--file={file}: takes the place of TEXT; give one of them")
    if file == "-":
        return "standard input", read_text(file, raw=raw)
    with open(file, "rb") as opened:
        return file, read_all(opened, file, raw=raw)


def read_text(text: str | None, *, raw: bool = False) -> str:
    """The argument, or standard input. UsageError if that is a terminal and `text` is not "-"."""
    if text is not None and text != "-":
        return argument(text, "TEXT")
    if sys.stdin is None and text is not None:
        raise UsageError("standard input is closed: there is nothing to read")
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise UsageError("no TEXT: give one, or - to read it from standard input")
    return read_all(sys.stdin.buffer, "standard input", raw=raw)


def lines_of(text: str) -> list[tuple[int, str]]:
    """(number, from 1; line) for each line that is not empty, without its ending, which may be CR LF."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def argument(text: str, name: str) -> str:
    """A text from the command line. Bytes that the locale's encoding lacks, which Python turns into surrogates, are
    read as UTF-8; TokenizerError if they are not."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return _decoded(os.fsencode(text), name)


def arguments(texts: list[str] | None, name: str) -> tuple[str, ...]:
    """As `argument`, for an option that may be given several times."""
    return tuple(argument(text, name) for text in texts or ())


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise TokenizerError(f"{name} is not UTF-8: byte 0x{byte:02x} at offset {error.start}") from None


def read_all(file: IO[bytes], name: str, *, raw: bool = False) -> str:
    """The rest of a text file, without its final line ending, which programs and editors add; raw: with it.

    PellucidError if it is too long, TokenizerError if it is not UTF-8.
    """
    data = file.read(LONGEST_TEXT + 1)
    if len(data) > LONGEST_TEXT:
        raise PellucidError(f"{name}: expected a text of at most {LONGEST_TEXT} bytes")
    text = _decoded(data, name)
    if not raw and text.endswith("\n"):
        text = text[:-1].removesuffix("\r")
    return text


def speculation(no_speculate: bool, prediction: str | None) -> dict[str, Any]:
    """--no-speculate and --prediction as the library's options."""
    found: dict[str, Any] = {"speculate": False} if no_speculate else {}
    if prediction is not None:
        with open(prediction, "rb") as file:
            found["prediction"] = read_all(file, prediction, raw=True)
    return found


def read_template(path: str) -> str:
    from pellucid.errors import ChatTemplateError
    from pellucid.weights.base import read_file

    data = read_file(path, _LONGEST_TEMPLATE, "a chat template")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{path}: not UTF-8 at byte {error.start}; expected a chat template") from None


def check_place(path: str) -> None:
    """Raises UsageError or PellucidError, before anything is computed, if no file of this name can be written."""
    if not path:
        raise UsageError("the name of the file to write is empty")
    if os.path.isdir(path):
        raise UsageError(f"{path}: this is a folder; expected the name of a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: this is a device or a pipe; expected the name of a file to write")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise PellucidError(f"{path}: there is no folder {folder}")
    if not os.path.exists(path) and not os.access(folder, os.W_OK):
        raise PellucidError(f"{path}: no permission to write into {folder}")


def check_target(path: str, force: bool, *sources: str | None) -> None:
    """Raises UsageError for a file that must not be written: a source or one of a source's files or, without `force`,
    one that exists; otherwise raises as `check_place` does."""
    check_place(path)
    check_unread(path, *sources)
    if os.path.exists(path) and not force:
        raise UsageError(f"{path} exists; --force replaces it")


def check_unread(path: str, *sources: str | None) -> None:
    """Raises UsageError if the file to write is a source or one of a source's files."""
    if not os.path.exists(path):
        return
    for source in sources:
        if source is not None and any(os.path.samefile(path, read) for read in _files_of(source)):
            raise UsageError(f"{path}: this is a file that is read; give another name")


def _files_of(source: str) -> list[str]:
    """The files that a source consists of: in a folder, all except files that commands may have written beside the
    model; all parts of a split file."""
    if os.path.isdir(source):
        written = (".gguf", ".npy", ".jsonl", ".html")
        names = [os.path.join(source, name) for name in os.listdir(source) if not name.endswith(written)]
    else:
        from pellucid.weights.reference import parts_of

        names = parts_of(source)
    return [name for name in names if os.path.exists(name)]


def thread_count(threads: int | None) -> int:
    """The number of threads for work that needs no loaded model, by the same rules as for a model."""
    from pellucid.core import thread_count as count

    with naming("threads"):
        return count(threads)[0]
