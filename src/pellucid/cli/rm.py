"""`pellucid rm`: removes a downloaded model."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.errors import PellucidError, one_line


def rm(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model in the cache, as `pellucid models` names it; or its path in the cache.",
            autocompletion=options.removable,
        ),
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Remove it without being asked.")] = False,
    json: options.Json = False,
) -> None:
    """Removes a downloaded model from the cache. Asks first; deletes nothing outside the cache."""
    from pellucid.weights import inventory

    held = inventory.find(name)
    size = held.bytes
    what = f"{one_line(held.name, 200)} ({options.size(size)})"
    if not yes and not output.confirmed(f"Remove {what}?"):
        if not output.can_ask():
            raise output.UsageError(f"no terminal to ask at; expected --yes to remove {what}")
        raise PellucidError("nothing was removed")
    inventory.remove(held, output.note)
    if json:
        output.document({"name": held.name, "path": str(held.path), "bytes": size})
    else:
        output.line(f"removed {what}")
