"""Looking inside: traces, the logit lens, attributions of logits, edits, experiments and scores."""

from __future__ import annotations

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
