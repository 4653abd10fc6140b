"""HTTP requests whose answers are treated as hostile input: bounded in time and size, and refused with a reason.

urllib opens the connections, with the user's proxies and certificates (the environment's, the system's). Redirects, the
framing of the body and the rate are handled here. A token is sent only to the hub's own address, never to an address
that the hub redirects to.
"""

from __future__ import annotations

import email.utils
import http.client
import io
import ipaddress
import os
import re
import ssl
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from pellucid import errors
from pellucid.errors import FetchError, WrongValue, one_line
from pellucid.weights.store import MIN_RATE

_WINDOW = 30.0  # seconds of waiting over which the rate is measured
_TIMEOUT = 30.0  # seconds without a byte
_HEADER_SECONDS = 60.0  # for the status line and all headers
_HEADER_BYTES = 1 << 18
_DOCUMENT_SECONDS = 300.0  # for a JSON document
_CHUNK = 1 << 18
_LINE = 4096  # maximum bytes of a line between chunks
_MOST_REDIRECTS = 10
_TRIES = 5  # consecutive attempts that are too slow or make no progress
_FIRST_WAIT = 0.5  # seconds; doubled each time
_LONGEST_WAIT = 120.0  # seconds that a server may request
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 416, 429, 500, 502, 503, 504)


class Again(Exception):
    """A failure that may not occur in another attempt. ``code``: the status of the answer, or 0; ``retry_after``: its
    header of that name, or ""."""

    def __init__(self, message: str, code: int = 0, retry_after: str = "") -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


class Unreachable(FetchError):
    """No connection at all: offline, a wrong proxy, an untrusted certificate."""


class _TooSlow(Exception):
    """The server sends less than the minimum rate, or endless headers."""


# -- addresses ------------------------------------------------------------------------------------------------------


def hub() -> str:
    """The hub's address: HF_ENDPOINT, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def shown(url: str) -> str:
    """An address for an error message: printable, short, without credentials and query."""
    base, question, _ = url.partition("?")
    scheme, slashes, rest = base.partition("://")
    authority, slash, path = rest.partition("/")
    return one_line(f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}{question and '?...'}", 200)


def host(url: str) -> str:
    """The host and port of an address, for messages."""
    with suppress(ValueError):
        return one_line(urllib.parse.urlsplit(url).netloc.rpartition("@")[2], 100) or shown(url)
    return shown(url)


def scheme(url: str) -> str:
    """The scheme of an address in lower case, "" if it has none."""
    with suppress(ValueError):
        return urllib.parse.urlsplit(url).scheme
    return ""


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own."""
    with suppress(ValueError):
        name = urllib.parse.urlsplit(url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False


def is_hub(url: str) -> bool:
    """Whether the address is on the hub's own server."""
    own = _origin(hub())
    return own is not None and _origin(url) == own


def _origin(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _token(url: str) -> str:
    """The token for this address: HF_TOKEN for the hub, never unencrypted over a network; else ""."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token or not is_hub(url) or not (scheme(url) == "https" or is_loopback(url)):
        return ""
    if not re.fullmatch(r"[!-~]+", token):
        raise FetchError("HF_TOKEN contains characters that a token cannot have")
    return token


# -- connections ----------------------------------------------------------------------------------------------------


class _Wire(io.RawIOBase):
    """The bytes of a socket. The headers must be complete within a time and a size; after `start_body`, the body must
    arrive at a minimum rate (bytes per second, 0 for none), measured over the time spent waiting for it."""

    def __init__(self, sock: Any) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._deadline: float | None = time.monotonic() + _HEADER_SECONDS
        self._got, self._waited, self._rate = 0, 0.0, 0.0

    def start_body(self, rate: float) -> None:
        self._deadline, self._rate, self._got, self._waited = None, rate, 0, 0.0
        self._sock.settimeout(_TIMEOUT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start = time.monotonic()
        if self._deadline is not None:
            if self._got > _HEADER_BYTES:
                raise _TooSlow(f"sends headers of more than {_HEADER_BYTES >> 10} KB")
            self._sock.settimeout(max(0.001, min(_TIMEOUT, self._deadline - start)))
        try:
            got: int = self._raw.readinto(buffer) or 0
        except TimeoutError:
            self._check_deadline()
            raise
        self._check_deadline()
        self._got += got
        if self._rate and got:
            # A stopped process does not count as waiting: no wait is longer than the timeout.
            self._waited += min(time.monotonic() - start, _TIMEOUT)
            if self._waited >= _WINDOW:
                if self._got < self._rate * self._waited:
                    rate = self._got / self._waited
                    raise _TooSlow(
                        f"is too slow: {rate:.0f} bytes per second, less than the {self._rate:.0f} of --min-rate"
                    )
                self._got, self._waited = 0, 0.0
        return got

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise _TooSlow(f"sends no complete headers within {_HEADER_SECONDS:.0f} s")

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.wire = _Wire(sock)
        self.fp = io.BufferedReader(self.wire)


class _Plain(http.client.HTTPConnection):
    response_class = _Response


class _Encrypted(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(urllib.request.AbstractHTTPHandler):
    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Plain, request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Encrypted, request)


def _send(url: str, headers: dict[str, str]) -> _Response:
    """The response to one GET, whatever its status. Raises FetchError, Again."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(_Handler())
    try:
        request = urllib.request.Request(url, headers=headers)
        if token := _token(url):
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from None
    except (http.client.InvalidURL, ValueError, OverflowError) as error:
        raise FetchError(f"{shown(url)!r} is not an address that can be requested: {_reason(error)}") from None
    except (FetchError, _TooSlow, http.client.HTTPException, OSError) as error:
        raise _failed(url, error) from None
    if not isinstance(response, _Response):  # no handler knows the scheme
        raise FetchError(f"{shown(url)}: expected an http:// or https:// address, and a proxy of such an address")
    return response


def _reason(error: BaseException, limit: int = 200) -> str:
    return one_line(str(error), limit) or type(error).__name__


def _failed(url: str, error: BaseException) -> Exception:
    """Converts a failure of the connection or of its protocol."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, _TooSlow):
        return FetchError(f"{host(url)} {error}")
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        line = _value(str(getattr(error, "line", "")))
        return Again(f"{host(url)} answers with the status line {line}: expected HTTP/1.1 and a code")
    return Again(f"{host(url)} broke off: {_reason(error)}")


def _unreachable(url: str, reason: Any) -> Exception:
    if isinstance(reason, (TimeoutError, ConnectionResetError, BrokenPipeError)):
        return Again(f"{host(url)}: {_reason(reason)}")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unreachable(f"{host(url)}: its certificate is not trusted ({one_line(reason.verify_message, 200)})")
    text = one_line((getattr(reason, "strerror", None) or str(reason)).lower(), 200)
    return Unreachable(f"offline: {host(url)} cannot be reached ({text})")


# -- answers --------------------------------------------------------------------------------------------------------


def _value(text: str) -> str:
    """A header's value for an error message."""
    return repr(one_line(text.strip("\r\n"), 60))


class Answer:
    """A response whose headers are sound: ``status``, ``url`` (after redirects), ``length`` of the body in bytes or
    None, ``linked`` (the digest that a redirect named, or None), ``framed`` (whether the body says where it ends).

    A context manager. Raises FetchError for a header that is malformed or requires something that is not supported.
    """

    def __init__(self, response: _Response, url: str, linked: str | None = None) -> None:
        self._response, self.url, self.linked = response, url, linked
        self.status = response.status
        self.length: int | None = None
        try:
            encoding = self.header("Transfer-Encoding").lower()
            if encoding not in ("", "identity", "chunked"):
                self.refuse("Transfer-Encoding", encoding, "chunked")
            self._chunked = encoding == "chunked"
            length = self.header("Content-Length")
            if length and not re.fullmatch(r"[0-9]{1,19}", length):
                self.refuse("Content-Length", length, "a number of bytes")
            if length and not self._chunked:
                self.length = int(length)
        except FetchError:
            self.close()
            raise
        self.framed = self._chunked or self.length is not None

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._response.close()

    def header(self, name: str) -> str:
        """The header's value, "" if it is missing. Raises FetchError for several different values."""
        values = {str(value).strip() for value in self._response.headers.get_all(name, [])}
        if len(values) > 1:
            self.refuse(name, ", ".join(sorted(values)), "one value")
        return values.pop() if values else ""

    def refuse(self, name: str, value: str, expected: str) -> NoReturn:
        raise FetchError(f"{host(self.url)} answers with {name}: {_value(value)}; expected {expected}")

    def chunks(self, rate: float = MIN_RATE) -> Iterator[bytes]:
        """The body, piece by piece. Raises Again if it breaks off, FetchError if it is malformed or slower than
        ``rate`` bytes per second."""
        try:
            self._response.wire.start_body(rate)
            yield from self._by_chunks() if self._chunked else self._exactly(self.length)
        except (_TooSlow, http.client.HTTPException, OSError, ValueError) as error:
            raise _failed(self.url, error) from None

    def _exactly(self, length: int | None) -> Iterator[bytes]:
        """The next n bytes, or all up to the end of the connection."""
        left = length
        while left is None or left:
            data = self._response.fp.read1(_CHUNK if left is None else min(left, _CHUNK))
            if not data:
                if left:
                    raise Again(f"{host(self.url)} broke off after {(length or 0) - left} of {length} bytes")
                return
            if left is not None:
                left -= len(data)
            yield data

    def _line(self) -> str:
        line = self._response.fp.readline(_LINE)
        if not line.endswith(b"\n"):
            if len(line) == _LINE:
                raise FetchError(f"{host(self.url)} sends more than {_LINE} bytes where a line of a chunked body ends")
            raise Again(f"{host(self.url)} broke off within a chunked body")
        return str(line.decode("latin-1")).rstrip("\r\n")

    def _by_chunks(self) -> Iterator[bytes]:
        while True:
            line = self._line()
            size = re.fullmatch(r"([0-9a-fA-F]{1,15})[ \t]*(;.*)?", line)
            if size is None:
                raise FetchError(f"{host(self.url)} sends a chunk size of {_value(line)}; expected hexadecimal digits")
            if not (length := int(size[1], 16)):
                break
            yield from self._exactly(length)
            if line := self._line():
                raise FetchError(f"{host(self.url)} sends {_value(line)} at the end of a chunk; expected an empty line")
        for _ in range(100):  # trailers
            if not self._line():
                return
        raise FetchError(f"{host(self.url)} sends more than 100 trailers after a chunked body")


def open_url(url: str, headers: dict[str, str] | None = None) -> Answer:
    """The answer to GET, redirects followed: 200, or 206 if ``headers`` request a range.

    Raises FetchError for errors that another attempt would not change, Again for the rest.
    """
    sent = {"User-Agent": "pellucid", "Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
    linked, now = None, url
    for _ in range(_MOST_REDIRECTS + 1):
        answer = Answer(_send(now, sent), now, linked)
        if answer.status == 200 or (answer.status == 206 and "Range" in sent):
            return answer
        with answer:
            if answer.status not in _REDIRECTS:
                raise _refused(answer)
            # A hub names the digest of a large file in the answer that redirects to it.
            linked = answer.header("X-Linked-ETag") or linked
            now = _redirected(answer)
    raise FetchError(f"{host(url)} redirects without end (more than {_MOST_REDIRECTS} times): {shown(url)}")


def _redirected(answer: Answer) -> str:
    """The target of a redirect: an http or https address without credentials, never from https to http."""
    location = answer.header("Location")
    if not location:
        raise FetchError(f"{host(answer.url)} answers {answer.status} without a Location to redirect to")
    try:
        quoted = urllib.parse.quote(location, encoding="iso-8859-1", safe=string.punctuation)
        url = urllib.parse.urljoin(answer.url, quoted)
        parts = urllib.parse.urlsplit(url)
        credentials, _ = parts.username, parts.port
    except ValueError:
        answer.refuse("Location", location, "an address")
    if parts.scheme not in ("http", "https") or (parts.scheme == "http" and scheme(answer.url) == "https"):
        raise FetchError(f"{host(answer.url)} redirects to {one_line(parts.scheme, 40)}://, which is not followed")
    if credentials is not None or "@" in parts.netloc:
        raise FetchError(
            f"{host(answer.url)} redirects to an address with credentials at {host(url)}, which is not followed"
        )
    if not parts.hostname:
        answer.refuse("Location", location, "an address with a host")
    return url


def _refused(answer: Answer) -> Exception:
    url, code = answer.url, answer.status
    reason = one_line(" ".join(str(answer._response.reason).split()), 80) or "no reason given"
    what, page = f"{host(url)} answers {code} ({reason})", shown(url)
    if code in (401, 403):
        if not is_hub(url):
            return FetchError(f"{what} to {page}: it requires a permission")
        if os.environ.get("HF_TOKEN", "").strip():
            return FetchError(f"{what}: what HF_TOKEN allows does not include {page} (or its terms are not accepted)")
        return FetchError(f"{what}: {page} is private, requires accepting terms, or does not exist: set HF_TOKEN")
    if code in (404, 410):
        return FetchError(f"{what}: there is no {page}")
    if code in _TRANSIENT:
        return Again(what, code, answer.header("Retry-After"))
    return FetchError(f"{what} to {page}")


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header: a number or a date; infinity if either is beyond any calendar; None if it is
    neither."""
    if len(text) > 60:
        return float("inf")
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    try:
        fields = email.utils.parsedate_tz(text)
        return None if fields is None else max(0.0, email.utils.mktime_tz(fields) - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return float("inf")


def patiently(
    work: Callable[[], Any], told: Callable[[str], None], moved: Callable[[], int] = lambda: 0, rate: float = MIN_RATE
) -> Any:
    """``work()``, tried again while it raises Again. Five attempts in a row that are slower than ``rate`` bytes per
    second, waiting included, or make no progress, end in FetchError.

    told: called with what is being waited for. moved: the number of bytes so far.
    """
    tries, wait, most = 0, 0.0, moved()
    while True:
        start = time.monotonic()
        try:
            return work()
        except (Again, Unreachable) as error:
            if isinstance(error, Unreachable) and moved() == 0:
                raise  # immediately, except for a network that worked a moment ago
            gained = moved() - most  # a restarted draft does not count until it is longer than before
            most += max(gained, 0)
            tries = 1 if gained > 0 and gained >= rate * (time.monotonic() - start + wait) else tries + 1
            header = getattr(error, "retry_after", "")
            asked = _retry_after(header)
            if tries >= _TRIES or (asked or 0) > _LONGEST_WAIT:
                seconds = f"{asked:.0f} s" if asked and asked < 1e9 else "for ever"
                later = f"; it asks to wait {seconds} (Retry-After: {_value(header)})" if asked else ""
                raise FetchError(f"{error}{later}") from None
            wait = _FIRST_WAIT * 2 ** (tries - 1) if asked is None else asked
            told(f"waiting {wait:.0f} s: {error}" if wait >= 1 else str(error))
            time.sleep(wait)


@dataclass(frozen=True)
class Limits:
    """What a download may take. ``max_bytes``: of all files together; None: what the disk has room for, and 16 GB for
    a file whose size no one states. ``min_rate``: bytes per second over 30 s, below which it ends; 0 for none."""

    max_bytes: int | None = None
    min_rate: float = MIN_RATE

    def __post_init__(self) -> None:
        if self.max_bytes is not None and (type(self.max_bytes) is not int or self.max_bytes < 1):
            raise WrongValue("max_bytes", f"={errors.shown(self.max_bytes)}: expected a number of bytes")
        if not 0 <= self.min_rate < float("inf"):
            raise WrongValue("min_rate", f"={errors.shown(self.min_rate)}: expected bytes per second")


def get_json(url: str, told: Callable[[str], None], *, most: int = 16 << 20) -> Any:
    """A JSON document of at most ``most`` bytes. Raises FetchError."""
    import json

    def work() -> bytes:
        data, start = bytearray(), time.monotonic()
        with open_url(url) as answer:
            for chunk in answer.chunks():
                data += chunk
                if len(data) > most:
                    raise FetchError(f"{shown(url)}: the answer is longer than {most >> 20} MB")
                if time.monotonic() - start > _DOCUMENT_SECONDS:
                    raise FetchError(f"{shown(url)}: the answer takes longer than {_DOCUMENT_SECONDS:.0f} s")
        return bytes(data)

    data = patiently(work, told)
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    raise FetchError(f"{shown(url)}: the answer is not a JSON document")
