"""Looking inside: traces, the logit lens, attributions of logits, edits and scores."""

from __future__ import annotations

from pellucid.look.lens import Attribution, Guess, Lens
from pellucid.look.score import Score
from pellucid.look.trace import Token, Trace

__all__ = ["Attribution", "Guess", "Lens", "Score", "Token", "Trace"]
