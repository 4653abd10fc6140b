"""`pellucid models`: the catalogue."""

from __future__ import annotations

from pellucid.cli import options, output
from pellucid.weights import catalog


def models(json: options.Json = False) -> None:
    """Lists the models of the catalogue, and which of them are in the cache."""
    found = [
        {
            "name": entry.name,
            "default": entry.name == catalog.DEFAULT,
            "description": entry.description,
            "licence": entry.licence,
            "terms": entry.terms or None,
            "bytes": entry.size,
            "cached": catalog.is_cached(entry.name),
            "path": str(catalog.path(entry.name)),
        }
        for entry in catalog.entries()
    ]
    if json:
        output.document(found)
        return
    rows = [["name", "size", "here", "licence", "what it is"]]
    rows += [
        [
            f"{m['name']} (default)" if m["default"] else str(m["name"]),
            options.size(int(str(m["bytes"]))),
            "yes" if m["cached"] else "no",
            str(m["licence"]),
            str(m["description"]),
        ]
        for m in found
    ]
    output.table(rows, right=(1,))
