"""Looking inside: traces, the logit lens, attributions of logits, edits, experiments and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.look.attributions import Attributions
    from pellucid.look.draws import drawn
    from pellucid.look.experiments import Occlusion, Patching, occlusion, patching
    from pellucid.look.lens import Attribution, Guess, Lens
    from pellucid.look.pages import Page
    from pellucid.look.paths import Path, path
    from pellucid.look.score import Score
    from pellucid.look.table import LensTable
    from pellucid.look.trace import Token, Trace

__all__ = [
    "Attribution",
    "Attributions",
    "Guess",
    "Lens",
    "LensTable",
    "Occlusion",
    "Patching",
    "Page",
    "Path",
    "Score",
    "Token",
    "Trace",
    "drawn",
    "occlusion",
    "patching",
    "path",
]

_MODULES = {
    "Attributions": "attributions",
    "drawn": "draws",
    **dict.fromkeys(("Occlusion", "Patching", "occlusion", "patching"), "experiments"),
    **dict.fromkeys(("Attribution", "Guess", "Lens"), "lens"),
    "Page": "pages",
    **dict.fromkeys(("Path", "path"), "paths"),
    "Score": "score",
    "LensTable": "table",
    **dict.fromkeys(("Token", "Trace"), "trace"),
}


def __getattr__(name: str) -> Any:
    """A public name's module is loaded when the name is first used. If the package imported its modules, threads that
    begin with different modules would find some of them half loaded."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module 'pellucid.look' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"pellucid.look.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
