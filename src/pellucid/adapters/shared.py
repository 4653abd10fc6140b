"""Loaded models that adapters share, and checks for what their users may lack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pellucid import Model, pickled, weights
from pellucid.errors import ChatTemplateError
from pellucid.progress import reporting
from pellucid.weights import reference

__all__ = ["check_template", "closed", "loaded"]


def loaded(model: str | Model, load: Mapping[str, Any]) -> Model:
    """The model of a path or name, loaded with options of ``Model.load``. Equal arguments give the same model while it
    is in use and its file is not replaced. A loaded model is returned as it is. Raises what ``Model.load`` raises."""
    if isinstance(model, Model):
        return model
    source = os.path.abspath(model) if os.path.exists(model) else model
    path = _held(source)
    if path is None:
        with reporting(load.get("progress")) as report:
            path = weights.locate("source", source, report)
    try:
        file = pickled.identity(path)
    except OSError:
        return Model.load(source, **load)  # raises the right error
    found: Model = pickled.kept((file, repr(sorted(load.items()))), lambda: Model.load(source, **load))
    return found


def _held(source: str) -> str | None:
    """Where a model is on this machine; None for a name that would be downloaded, or does not exist."""
    if os.path.exists(source):
        return source
    if weights.catalog.find(source) is not None:
        return str(weights.catalog.path(source)) if weights.catalog.is_cached(source) else None
    found = reference.find(source) if reference.is_reference(source) else None
    return None if found is None else str(found)


def check_template(model: Model, template: str | None, way: str) -> None:
    """Raises ChatTemplateError if the model has no chat template and none is given. way: how to give the adapter one,
    as in "ChatPellucid(template=...)"."""
    tokenizer = model.tokenizer
    if template is None and tokenizer is not None and tokenizer.chat_template is None:
        raise ChatTemplateError(f"the model file has no chat template: give one, in Jinja, with {way}")


def closed(schema: Any) -> Any:
    """A schema whose objects may have only the keys that it declares, unless it says otherwise. An object without
    `properties`, such as a mapping, stays open."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
