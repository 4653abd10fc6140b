"""Loaded models that adapters share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pellucid import Model, pickled

__all__ = ["loaded"]


def loaded(model: str | Model, load: Mapping[str, Any]) -> Model:
    """The model of a path or name and of options of ``Model.load``: the same one for the same, while it is in use. A
    model that is loaded already is itself. Raises what ``Model.load`` raises."""
    if isinstance(model, Model):
        return model
    path = os.path.abspath(model) if os.path.exists(model) else model
    found: Model = pickled.kept((path, repr(sorted(load.items()))), lambda: Model.load(path, **load))
    return found
