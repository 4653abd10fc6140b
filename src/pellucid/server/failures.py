"""Errors as HTTP statuses and OpenAI's error objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pellucid.errors import (
    ArgumentError,
    BatchError,
    ChatTemplateError,
    ClosedError,
    ContextFullError,
    GrammarError,
    OutOfMemoryError,
    PellucidError,
    TokenizerError,
    UnsupportedModelError,
    one_line,
)
from pellucid.openai.refusal import Refused
from pellucid.schedule.room import NeverFits
from pellucid.server.record import Record
from pellucid.text.chat import NoTemplateError
from pellucid.text.grammar import NoGrammarsError

__all__ = [
    "STATUSES",
    "Disconnected",
    "Failure",
    "LoadError",
    "anthropic_body",
    "busy",
    "failing",
    "failure",
    "naming",
    "of_prompt",
    "refused",
    "stopping",
    "told",
]

# Every status that the server answers with.
STATUSES = frozenset({200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504})

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
    500: "server_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_WORD = re.compile(r"\w")
_PLACE = re.compile(r"[A-Za-z_]\w*(?:\[[^\[\]]{1,80}\]|\.\w+)*", re.ASCII)


class Disconnected(Exception):
    """The client has disconnected."""


class Failure(Exception):
    """An answer that is an error. param: the place in the request. more: further keys of the error object. headers:
    of the answer. cause: the error for the log."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}
        self.more = more or {}
        self.cause = cause

    @property
    def reason(self) -> str:
        """One word, for metrics."""
        return self.code or _TYPES.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """OpenAI's object."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.more}
        return {"error": error}


class LoadError(Exception):
    """A model, for which several requests may have waited, could not be loaded. cause: the error for the log."""

    def __init__(self, message: str, cause: BaseException) -> None:
        super().__init__(message)
        self.cause = cause


def told(error: Failure, record: Record) -> dict[str, Any]:
    """The object of an error in the form that a request's client expects: OpenAI's, Anthropic's or Ollama's."""
    if record.path.startswith("/api/"):
        return {"error": error.message}
    if record.anthropic:
        return anthropic_body(error, record.id)
    return error.body()


def anthropic_body(error: Failure, request_id: str) -> dict[str, Any]:
    kind, message = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error"), error.message
    if error.code == "context_length_exceeded":  # in words that its clients look for
        message = f"prompt is too long: {error.more['n_prompt_tokens']} tokens > {error.more['n_ctx']} maximum"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def refused(param: str, found: str, code: str | None = None) -> Failure:
    """A wrong field. found: follows its name, as in "=3: expected at most 2"."""
    place = _place(param + found)
    longer = place is not None and place.startswith(param)
    return Failure(400, one_line(param + found), param=place if longer else param, code=code)


def busy(status: int, message: str, code: str, seconds: float = 1.0) -> Failure:
    """A request that may be sent again, after about that many seconds."""
    wait = min(max(math.ceil(seconds), 1), 3600)
    return Failure(status, message, code=code, headers={"Retry-After": str(wait)})


def stopping() -> Failure:
    return busy(503, "the server is stopping", "shutting_down", 10)


@contextmanager
def failing(request_id: str, names: dict[str, str]) -> Iterator[None]:
    """Turns an endpoint's errors into Failures for its client. names: the client's names of options, by Pellucid's."""
    try:
        yield
    except (Disconnected, Failure):
        raise
    except Exception as error:
        raise failure(error, request_id, names) from error


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Makes errors about the fields that a request was translated to name the client's own fields. names: the client's
    names, by Pellucid's."""
    try:
        yield
    except ArgumentError as error:
        error.argument = _named(error.argument, names)
        raise
    except Failure as error:
        if error.param is not None:
            if error.message.startswith(error.param):
                error.message = _named(error.param, names) + error.message[len(error.param) :]
            error.param = _named(error.param, names)
        raise


@contextmanager
def of_prompt(i: int | None) -> Iterator[None]:
    """Makes errors about a prompt name it as number i of a list; None: it is the only one."""
    try:
        yield
    except ArgumentError as error:
        if i is not None and error.argument == "prompt":
            error.found = f"[{i}]{error.found}"
        raise
    except TokenizerError as error:
        if i is None or not error.message.startswith("prompt:"):
            raise
        raise TokenizerError(f"prompt[{i}]" + error.message[len("prompt") :], position=error.position) from None


def _named(text: str, names: Mapping[str, str]) -> str:
    """Replaces Pellucid's name of a place at the beginning of a text by the client's. An option may be a field of
    OpenAI's, and that one a field of another interface."""
    for _ in range(2):
        ours = max((one for one in names if _begins(text, one)), key=len, default="")
        if ours:
            text = names[ours] + text[len(ours) :]
        if ours.endswith("]"):  # the new name may look like another of Pellucid's
            break
    return text


def _begins(text: str, name: str) -> bool:
    return text.startswith(name) and (name[-1] == "]" or _WORD.match(text, len(name)) is None)


def failure(error: BaseException, request_id: str, names: dict[str, str]) -> Failure:
    """The Failure that a client gets for an error. names: the client's names of options, by Pellucid's."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, LoadError):
        return Failure(500, f"{error} (request {request_id})", code="load_failed", cause=error.cause)
    if isinstance(error, BatchError) and error.errors:
        return failure(error.errors[min(error.errors)], request_id, names)
    if isinstance(error, ContextFullError):
        return _context_full(error.needed, error.available, error, names)
    if isinstance(error, NeverFits):
        return _context_full(error.tokens, error.available, error, names)
    if isinstance(error, Refused):
        return refused(error.argument, error.found, error.code)
    if isinstance(error, ArgumentError):
        text = _named(error.argument, names) + error.found
        return Failure(400, one_line(text), param=_place(text), cause=error)
    if isinstance(error, GrammarError):
        return _grammar(error, names)
    if isinstance(error, NoTemplateError):
        text = "the model has no chat template: expected a prompt, at /v1/completions"
        return Failure(400, text, code="unsupported_by_model", param="model", cause=error)
    if isinstance(error, (TokenizerError, ChatTemplateError)):
        text = _named(str(error), names)
        known = text != str(error) or text.startswith(_OF_TEXT)
        return Failure(400, text, param=_place(text) if known else None, cause=error)
    if isinstance(error, UnsupportedModelError):  # it was loaded, but cannot do this
        return Failure(400, one_line(str(error)), code="unsupported_by_model", param="model", cause=error)
    if isinstance(error, NoGrammarsError):
        return Failure(400, str(error), code="unsupported_by_server", cause=error)
    retry = getattr(error, "retry_after", None)  # QueueFullError
    if retry is not None:
        return busy(429, str(error), "queue_full", retry)
    if isinstance(error, ClosedError):
        return busy(503, "the model is being unloaded", "shutting_down", 10)
    if isinstance(error, (ValueError, TypeError)) and not isinstance(error, PellucidError):
        place = _place(str(error))
        if place and re.split(r"[.\[]", place)[0] in _ARGUMENTS:
            text = _named(str(error), names)
            return Failure(400, one_line(text), param=_place(text), cause=error)
    if isinstance(error, (OutOfMemoryError, MemoryError)):
        return Failure(500, f"out of memory (request {request_id})", code="out_of_memory", cause=error)
    if isinstance(error, PellucidError):
        return Failure(500, f"{error} (request {request_id})", code="computation_failed", cause=error)
    return Failure(500, f"an internal error (request {request_id})", code="internal_error", cause=error)


def _place(text: str) -> str | None:
    """The place that an error's text begins with, as clients write it: messages[0].content."""
    found = _PLACE.match(text)
    return None if found is None else re.sub(r"\[(['\"])(\w+)\1\]", r".\2", found[0])


# How errors of texts begin.
_OF_TEXT = ("messages[", "prompt", "tools[", "documents[", "list[")
# Arguments whose errors may be a plain ValueError or TypeError that begins with the name.
_ARGUMENTS = ("messages", "tools", "documents", "variables", "logit_bias", "template", "prompt", "ids")


def _grammar(error: GrammarError, names: dict[str, str]) -> Failure:
    place = _named(error.place or "", names)
    return Failure(400, f"{one_line(place, 200)}: {one_line(error.message)}", param=place[:200] or None, cause=error)


def _context_full(needed: int, available: int, error: Exception, names: Mapping[str, str]) -> Failure:
    # Clients look for OpenAI's words and its code; llama-server's keys are added.
    message = (
        f"This model's maximum context length is {available} tokens. However, your messages resulted in "
        f"{needed} tokens. Please reduce the length of the messages."
    )
    more = {"n_prompt_tokens": needed, "n_ctx": available}
    param = names.get("context_length_exceeded", "messages")
    return Failure(400, message, code="context_length_exceeded", param=param, more=more, cause=error)
