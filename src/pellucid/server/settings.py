"""What an operator can set, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pellucid.openai.limits import Limits as RequestLimits
from pellucid.openai.limits import Rules
from pellucid.server.access import Key

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True, slots=True)
class Limits(RequestLimits):
    """Limits for one client and for all together: bytes, seconds, numbers."""

    body: int = 8_000_000
    header: int = 32_768
    connections: int = 512
    waiting: int = 64  # requests; also completions of one request, if it is more than n and prompts
    waiting_tokens: int | None = None  # of the waiting prompts
    echoed: int = 2_000_000  # log probabilities of a request's prompts, with the likeliest tokens
    waiting_seconds: float = 120.0  # that computing the waiting prompts takes, at the measured speed
    computing: int = 2  # requests for embeddings and relevance that compute at the same time
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    stalled_seconds: float = 60.0  # of a client that reads nothing of what was sent to it
    idle_seconds: float = 75.0  # of a connection between two requests; proxies keep theirs for 60
    request_seconds: float = 600.0
    load_seconds: float = 120.0  # that a request waits for its model to be loaded
    ping_seconds: float = 15.0
    text_threads: int = 2

    def queue(self) -> dict[str, Any]:
        """What may wait, for ``Model.drive``."""
        return {
            "max_waiting": self.waiting,
            "max_wait": self.waiting_seconds,
            "max_waiting_tokens": self.waiting_tokens,
        }


@dataclass(frozen=True, slots=True)
class Settings(Rules):
    """An operator's settings. names: of the model, its own first; if several are served, `Source` has them. memory:
    bytes that all models may take; None: what the machine has left. keep_alive: seconds without use after which a model
    is unloaded; None: never. default_model: the model that answers requests for unknown names. keys: API keys; empty:
    none is needed. bound: host name or address that the server listens on, "" for a Unix socket. share_cache: all keys
    share the prefix cache. speculate: the default of this option. template: chat template, in Jinja, in place of the
    only model's own. cache_dir: folder that keeps the prefix caches of models that are not loaded, in at most
    cache_dir_bytes. hosts: further names that a Host header may have. origins: of pages that may call (CORS). strict:
    unknown fields are refused. grace: seconds that running requests have when the server is stopped. responses: answers
    of /v1/responses that are kept, to be continued. ui: serves the app and the look inside; look: serves only the look
    inside."""

    names: tuple[str, ...] = ("default",)
    memory: int | None = None
    keep_alive: float | None = None
    default_model: str | None = None
    keys: tuple[Key, ...] = ()
    bound: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    share_cache: bool = False
    speculate: Literal["auto", False] = "auto"
    template: str | None = None
    cache_dir: str | None = None
    cache_dir_bytes: int = 0
    grace: float = 30.0
    responses: int = 0
    log_json: bool = False
    ui: bool = False
    look: bool = False
    limits: Limits = field(default_factory=Limits)
