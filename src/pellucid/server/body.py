"""The body of a request: received within its limits, and read as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.types import Receive

from pellucid.server.failures import Disconnected, Failure

__all__ = ["parse", "receive_body"]

DEEPEST = 60
MOST_VALUES = 1_000_000  # lists, objects and the values in them


async def receive_body(receive: Receive, headers: Mapping[str, list[str]], most: int) -> bytes:
    """All bytes of the body. Raises Failure for a wrong content type or too many bytes, Disconnected."""
    kinds = headers.get("content-type", [])
    kind, _, parameters = (kinds[0] if len(kinds) == 1 else "").partition(";")
    given = [one.partition("=") for one in parameters.lower().split(";")]
    charsets = {value.strip(' "') for name, _, value in given if name.strip() == "charset"}
    if kind.strip().lower() != "application/json" or not charsets <= {"utf-8", "utf8"}:
        raise Failure(415, "expected the content type application/json", code="unsupported_media_type")
    if headers.get("content-encoding", ["identity"])[0].strip().lower() != "identity":
        raise Failure(415, "expected a body without Content-Encoding", code="unsupported_media_type")
    length = headers.get("content-length", [""])[0]
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_long(most, headers)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_long(most, headers)
        if not message.get("more_body", False):
            return bytes(body)


def _too_long(most: int, headers: Mapping[str, list[str]]) -> Failure:
    """The failure for a body that is too long. The rest of the body is dropped as it arrives: if the connection were
    closed during it, the client would not see the answer. A client that waits for `100 Continue` sends none."""
    more = {"Connection": "close"} if "expect" in headers else {}
    return Failure(413, f"the body is longer than {most} bytes", code="body_too_long", headers=more)


def parse(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises Failure if it is not a JSON object, or is nested too deeply."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(f"it is not UTF-8 (byte {error.start})") from None
    try:
        value = json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise _wrong(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # an integer with more digits than Python reads
        raise _wrong("a number with too many digits") from None
    if not isinstance(value, dict):
        raise _wrong("expected an object")
    _walk(value)
    return value


def _walk(value: Any) -> None:
    level, deep, values = [value], 0, 0
    while level:
        deep += 1
        if deep > DEEPEST:
            raise _too_deep()
        below: list[Any] = []
        for one in level:
            items = one.values() if isinstance(one, dict) else one
            values += len(one) + 1
            if values > MOST_VALUES:
                raise _wrong(f"it has more than {MOST_VALUES} values")
            for item in items:
                if type(item) is float and not math.isfinite(item):
                    raise _wrong("a number beyond the range of double precision")
                if type(item) in (dict, list):
                    below.append(item)
        level = below


def _constant(name: str) -> NoReturn:
    raise _wrong(f"{name} is not a JSON number")


def _too_deep() -> Failure:
    return _wrong(f"nested more than {DEEPEST} deep")


def _wrong(what: str) -> Failure:
    return Failure(400, f"the body is not the JSON that was expected: {what}", code="invalid_json")
