"""`pellucid convert`: writes the model of a Hugging Face folder as a GGUF file."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.cli.progress import progress
from pellucid.cli.quantize import report


def convert(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="A Hugging Face folder, or the name of a pulled one.",
            autocompletion=options.pulled,
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    type: Annotated[
        str,
        typer.Option("-t", "--type", metavar="TYPE", help="The mixture of formats, such as BF16, Q8_0 or Q4_K_M."),
    ] = "BF16",
    imatrix: options.Imatrix = None,
    force: options.Force = False,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Writes the model of a Hugging Face folder as a GGUF file, with its tokenizer and chat template.

    Every key and tensor of the folder must be one that Pellucid reads; anything else is an error that names it. Norms
    and biases become F32.
    """  # fmt: skip
    from pellucid import weights
    from pellucid.making.convert import convert_folder
    from pellucid.weights.importance import read_importances
    from pellucid.weights.quantise import check_mixture

    with options.naming("type"):
        mixture = check_mixture(type)
    path = options.locate(folder)
    if not os.path.isdir(path):
        raise output.UsageError(f"{path}: this is not a folder; `pellucid quantize` takes GGUF files")
    options.check_target(out, force, path, imatrix)
    importances = None if imatrix is None else read_importances(imatrix)
    count = options.thread_count(threads)
    with weights.open_model(path) as file:
        before = sum(stamp.st_size for stamp in file.stamps())
    with progress() as bar, options.naming("imatrix"):
        made = convert_folder(path, out, mixture, importances=importances, threads=count, progress=bar)
    report(out, mixture, made, before, json)
