"""What is kept of a request for logs and metrics. Never its text."""

from __future__ import annotations

import json
import logging
import secrets
import time
from dataclasses import dataclass, field

__all__ = ["Record", "log"]

log = logging.getLogger("pellucid.server")


@dataclass(slots=True)
class Record:
    """One request. Times are of time.monotonic; finish: of its first choice. complete: the whole answer was sent;
    disconnected: the client left before that. anthropic: the client uses Anthropic's interface."""

    path: str = ""
    method: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    key: str = "-"
    model: str = ""
    served: str = ""  # that model's own name
    begun: float = field(default_factory=time.monotonic)
    first: float = 0.0
    ended: float = 0.0
    prompt: int = 0
    cached: int = 0
    new: int = 0
    drafted: int = 0
    accepted: int = 0
    queued: float = 0.0
    loading: float = 0.0  # seconds that it waited for its model to be loaded
    finish: str = ""
    status: int = 0
    reason: str = ""  # of a failure
    complete: bool = False
    disconnected: bool = False
    anthropic: bool = False

    def end(self) -> None:
        self.ended = time.monotonic()

    def values(self) -> dict[str, str | int | float]:
        """The values of its line in the log."""
        found: dict[str, str | int | float] = {
            "id": self.id,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "status": self.status,
        }
        if self.model:
            found |= {"model": self.model}
        if self.prompt:
            found |= {"prompt_tokens": self.prompt, "cached_tokens": self.cached, "new_tokens": self.new}
            found |= {"queued_seconds": round(self.queued, 3)}
        if self.loading > 0.01:
            found |= {"load_seconds": round(self.loading, 3)}
        if self.first:
            found |= {"first_seconds": round(self.first - self.begun, 3)}
        found |= {"seconds": round(self.ended - self.begun, 3)}
        if self.finish:
            found |= {"finish": self.finish}
        if self.reason:
            found |= {"error": self.reason}
        if self.disconnected:
            found |= {"disconnected": 1}
        return found

    def line(self, as_json: bool) -> str:
        values = self.values()
        if as_json:
            return json.dumps({"time": round(time.time(), 3), **values})
        head = f"{time.strftime('%H:%M:%S')} {values.pop('status')} {values.pop('method')} {values.pop('path')}"
        return head + "".join(f" {name}={value}" for name, value in values.items())
