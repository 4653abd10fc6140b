"""`pellucid models`: lists the catalogue and the pulled models."""

from __future__ import annotations

from typing import Any

from pellucid.cli import options, output
from pellucid.weights import catalog


def models(json: options.Json = False) -> None:
    """Lists the models of the catalogue, which of them are in the cache, and all other pulled models."""
    from pellucid.weights import inventory

    found: list[dict[str, Any]] = [
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
    empty = {"default": False, "description": None, "licence": None, "terms": None}
    found += [
        {"name": held.name, **empty, "bytes": held.bytes, "cached": True, "path": str(held.path)}
        for held in inventory.pulled()
    ]
    if json:
        output.document(found)
        return
    rows = [["name", "size", "here", "what it is"]]
    for m in found:
        mark = " (default)" if m["default"] else ""
        what = "pulled" if m["description"] is None else f"{m['description']}. Licence: {m['licence']}"
        rows.append([m["name"] + mark, options.size(m["bytes"]), "yes" if m["cached"] else "no", what])
    output.table(rows, right=(1,))
