"""`pellucid pull`: brings a model of the catalogue, of a hub, or from an address."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.errors import FetchError
from pellucid.weights import catalog


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="A name of the catalogue; OWNER/NAME[@REVISION][:FILE] of a hub; an https:// address of a GGUF file.",
        ),
    ] = options.DEFAULT,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Accept the model's terms without being asked.")] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Checksum that a file of a hub or address must have.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Brings a model into the cache, verified, and prints its path. Shows its licence, and asks where that has terms.

    HF_TOKEN: a token for a hub's private models; HF_ENDPOINT: another hub's address.
    """
    from pellucid.weights import hub

    if catalog.find(name) is None and hub.is_reference(name):
        shown = _from_hub(name, yes, sha256)
    elif sha256 is not None:
        raise output.UsageError("--sha256 is for a hub's file or an address: the catalogue has its own")
    else:
        shown = _from_catalogue(name, yes)
    if json:
        output.document(shown)
    else:
        output.line(str(shown["path"]))


def _from_catalogue(name: str, yes: bool) -> dict[str, object]:
    from pellucid.cli.progress import progress

    path = catalog.path(name)  # says which names there are
    entry = catalog.find(name)
    assert entry is not None
    terms = f", {entry.terms}" if entry.terms else ""
    output.note(f"{name}: {entry.description}; {options.size(entry.size)}. Licence: {entry.licence}{terms}")
    if entry.terms and not catalog.is_cached(name):
        _accept(name, entry.licence, entry.terms, yes)
    with progress() as show:
        path = catalog.fetch(name, accept_terms=True, progress=show)
    return {"name": name, "path": str(path), "bytes": entry.size, "licence": entry.licence}


def _from_hub(reference: str, yes: bool, sha256: str | None) -> dict[str, object]:
    from pellucid.cli.progress import progress
    from pellucid.weights import hub

    with options.naming("sha256"):
        listing = hub.ask(reference, sha256=sha256, told=output.note)
    size = "" if listing.size is None else f"; {options.size(listing.size)}"
    files = f", {len(listing.files)} files" if len(listing.files) > 1 else ""
    licence = listing.licence or "not told, see the model's page"
    terms = f", {listing.terms}" if listing.terms else ""
    output.note(f"{reference}: {listing.main or 'a folder'}{files}{size}. Licence: {licence}{terms}")
    if listing.terms and hub.find(reference) is None:
        _accept(reference, listing.licence or "licence on its page", listing.terms, yes)
    with progress() as show:
        path = hub.fetch(listing, progress=show)
    whole = sum((listing.folder / name).stat().st_size for name, _ in listing.files)
    return {"name": reference, "path": str(path), "bytes": whole, "licence": listing.licence}


def _accept(name: str, licence: str, terms: str, yes: bool) -> None:
    """Asks on the terminal whether the terms are accepted; without one, UsageError."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty() or sys.stderr is None:
        raise output.UsageError(f"{name} comes under terms ({licence}, {terms}): give --yes to accept them")
    sys.stderr.write(f"Accept these terms ({terms})? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise FetchError("the terms were not accepted: nothing was fetched", name=name)
