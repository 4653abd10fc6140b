"""`pellucid pull`: downloads a model of the catalogue, from a hub, or from an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options, output
from pellucid.errors import FetchError
from pellucid.weights import catalog

if TYPE_CHECKING:
    from pellucid.weights.web import Limits


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A catalogue name; OWNER/NAME[@REVISION][:FILE] on a hub; the https:// address of a GGUF file.",
            autocompletion=options.pulled,
        ),
    ] = options.DEFAULT,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Accept the model's terms without being asked.")] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="SHA-256 that a file from a hub or an address must have.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Accept http:// without --sha256: anyone on the network can change the file."),
    ] = False,
    no_verify: Annotated[
        bool,
        typer.Option("--no-verify", help="Compare only the sizes of files in the cache, not their SHA-256."),
    ] = False,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Download at most this much, such as 20G or 500M; default: what the disk has room for,"
            " and at most 16G for a file whose size the server does not state.",
        ),
    ] = None,
    min_rate: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Stop a download slower than this per second, over 30 seconds; 0: never."),
    ] = "1K",
    json: options.Json = False,
) -> None:
    """Downloads a model into the cache and verifies it, or verifies the copy in the cache; prints its path.

    Shows the model's licence, and asks for consent if it has terms of use. HF_TOKEN: a token for a hub's private
    models; HF_ENDPOINT: another hub's address.
    """
    from pellucid.weights import hub

    most = None if max_bytes is None else options.nbytes("--max-bytes", max_bytes, least=1)
    rate = options.nbytes("--min-rate", min_rate)
    if catalog.find(name) is None and (hub.is_reference(name) or "/" in name):
        limits = hub.Limits(most, rate)
        shown = _from_hub(name, yes, sha256, insecure, not no_verify, limits)
    elif sha256 is not None:
        raise output.UsageError("--sha256 is for a hub's file or an address: the catalogue has its own")
    else:
        shown = _from_catalogue(name, yes, not no_verify, most)
    if json:
        output.document(shown)
    else:
        output.line(str(shown["path"]))


def _from_catalogue(name: str, yes: bool, verify: bool, most: int | None) -> dict[str, object]:
    from pellucid.cli.progress import progress

    path = catalog.path(name)  # raises an error that lists the names
    entry = catalog.find(name)
    assert entry is not None
    terms = f", {entry.terms}" if entry.terms else ""
    output.note(f"{name}: {entry.description}; {options.size(entry.size)}. Licence: {entry.licence}{terms}")
    if entry.terms and not catalog.is_cached(name):
        _accept(name, entry.licence, entry.terms, yes)
    with progress() as show:
        path = catalog.fetch(name, accept_terms=True, progress=show, verify=verify, max_bytes=most, told=output.note)
    return {"name": name, "path": str(path), "bytes": entry.size, "licence": entry.licence}


def _from_hub(
    reference: str, yes: bool, sha256: str | None, insecure: bool, verify: bool, limits: Limits
) -> dict[str, object]:
    from pellucid.cli.progress import progress
    from pellucid.weights import hub

    with options.naming("sha256"):
        listing = hub.ask(reference, sha256=sha256, insecure=insecure, told=output.note)
    size = "" if listing.size is None else f"; {options.size(listing.size)}"
    files = f", {len(listing.files)} files" if len(listing.files) > 1 else ""
    licence = listing.licence or "not stated, see the model's page"
    terms = f", {listing.terms}" if listing.terms else ""
    output.note(f"{reference}: {listing.main or 'a folder'}{files}{size}. Licence: {licence}{terms}")
    if listing.terms and hub.find(reference) is None:
        _accept(reference, listing.licence or "licence on its page", listing.terms, yes)
    with progress() as show:
        path = hub.fetch(listing, progress=show, verify=verify, limits=limits, told=output.note)
    whole = sum((listing.folder / name).stat().st_size for name, _ in listing.files)
    return {"name": reference, "path": str(path), "bytes": whole, "licence": listing.licence}


def _accept(name: str, licence: str, terms: str, yes: bool) -> None:
    """Asks on the terminal whether the terms are accepted; without a terminal, UsageError."""
    if yes or output.confirmed(f"Accept these terms ({terms})?"):
        return
    if not output.can_ask():
        raise output.UsageError(f"{name} has terms of use ({licence}, {terms}): give --yes to accept them")
    raise FetchError("the terms were not accepted: nothing was downloaded", name=name)
