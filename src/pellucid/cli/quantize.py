"""`pellucid quantize`: writes a GGUF file in another weight format."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.cli.progress import progress


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A GGUF file, a catalogue name, or the name of a pulled model.",
            autocompletion=options.pulled,
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    type: Annotated[
        str,
        typer.Option("-t", "--type", metavar="TYPE", help="The mixture of formats, such as Q4_K_M, Q8_0 or IQ4_XS."),
    ] = "Q4_K_M",
    imatrix: options.Imatrix = None,
    force: options.Force = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Writes a GGUF file's model in another weight format, with its metadata and tokenizer.

    A search finds the scale of each block with the least squared error; --imatrix weights the errors by how much a
    column matters. Mixtures such as Q4_K_M give more bits to the same tensors as llama.cpp does. Start from F32, F16 or
    BF16 weights if you can: precision that was lost earlier cannot be restored.
    """
    from pellucid import weights
    from pellucid.weights.importance import read_importances
    from pellucid.weights.quantise import check_mixture, quantize_file

    with options.naming("type"):
        mixture = check_mixture(type)
    path = options.locate(model)
    options.check_target(out, force, path, imatrix)
    importances = None if imatrix is None else read_importances(imatrix)
    with weights.open_model(path) as file, progress() as bar:
        if not file.format.startswith("GGUF"):
            raise output.UsageError(
                f"{path}: this is a Hugging Face folder; `pellucid convert` makes a GGUF file from it"
            )
        before = sum(stamp.st_size for stamp in file.stamps())
        with options.naming("imatrix"):
            made = quantize_file(
                file, out, mixture, importances=importances, threads=options.thread_count(threads), progress=bar
            )
    report(out, mixture, made, before, json)


def report(out: str, mixture: str, made: dict[str, str], before: int, json: bool) -> None:
    """Describes a new file on stdout. made: name of a tensor -> its format; before: bytes of the files that it was
    made from."""
    nbytes = os.path.getsize(out)
    formats: dict[str, int] = {}
    for format in made.values():
        formats[format] = formats.get(format, 0) + 1
    if json:
        output.document({"path": out, "type": mixture, "bytes": nbytes, "formats": formats})
        return
    counts = ", ".join(f"{n} {format}" for format, n in sorted(formats.items(), key=lambda item: -item[1]))
    output.line(f"{output.visible(out)}: {mixture}, {options.size(nbytes)} ({options.size(before)} before); {counts}")
