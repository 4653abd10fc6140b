"""Looking inside: traces, what the model would have said after each layer, what pushed a token, edits, scores."""

from __future__ import annotations

from pellucid.look.trace import Trace

__all__ = ["Trace"]
