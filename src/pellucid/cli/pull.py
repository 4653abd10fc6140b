"""`pellucid pull`: brings a model of the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.weights import catalog


def pull(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A name of the catalogue.")] = options.DEFAULT,
    json: options.Json = False,
) -> None:
    """Brings a model of the catalogue into the cache, verified, and prints its path."""
    from pellucid.cli.progress import progress

    entry = catalog.find(name)
    if entry is not None:
        output.note(f"{entry.name}: {entry.description}; {options.size(entry.size)}. Licence: {entry.licence}")
    with progress() as show:
        path = catalog.fetch(name, progress=show)  # says which names there are
    if json:
        assert entry is not None  # else fetch has raised
        output.document({"name": name, "path": str(path), "bytes": entry.size, "licence": entry.licence})
    else:
        output.line(str(path))
