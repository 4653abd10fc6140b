"""One file over HTTP: resumed where it broke off, complete and verified before anyone may use it.

urllib does the work, and with it come the user's proxies and certificates (the environment's, the system's). A token
goes to the hub's own address alone, never to where the hub redirects.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from pellucid.errors import FetchError

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # in a row that bring no byte
_FIRST_WAIT = 0.5  # seconds; doubled each time
_LONGEST_WAIT = 120.0  # seconds that a server may ask for
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file to bring. ``size`` in bytes and a digest where they are known beforehand, else None.

    ``git``: SHA-1 of the file as a git blob, which is what hubs tell of small files.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    git: str | None = None


class _Again(Exception):
    """What may go better next time. ``wait``: seconds that the server asks for, or None."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


# -- requests -------------------------------------------------------------------------------------------------------


def hub() -> str:
    """The hub's address: HF_ENDPOINT, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    request = urllib.request.Request(url, headers=headers)
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and _origin(url) == _origin(hub()):
        if not re.fullmatch(r"[!-~]+", token):
            raise FetchError("HF_TOKEN holds characters that no token has")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects of HTTP alone, never from https to http; each request decides anew whether the token is due.

    A hub tells the digest of a large file in the answer that redirects to it: ``linked`` keeps it.
    """

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (scheme == "http" and req.full_url.startswith("https:")):
            raise FetchError(f"{_host(req.full_url)} redirects to {scheme}://, which is not followed")
        new = _request(newurl, dict(req.headers))
        linked = headers.get("X-Linked-ETag") or getattr(req, "linked", None)
        new.linked = linked  # type: ignore[attr-defined]
        self.linked = linked
        return new


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """The answer to GET, redirects followed; its ``linked`` is the digest that a redirect told, or None.

    Raises FetchError for what trying again would not change, _Again for the rest.
    """
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    sent = {"User-Agent": "pellucid", "Accept-Encoding": "identity", **(headers or {})}
    try:
        response = opener.open(_request(url, sent), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(url, error) from None
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise FetchError(f"{url!r} is no address that can be fetched: {error}") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Again(f"{_host(url)}: {str(error) or type(error).__name__}") from None
    response.linked = getattr(redirects, "linked", None)
    return response


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2] or url


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    code = error.code
    what = f"{_host(error.url or url)} answers {code} ({' '.join(str(error.reason).split()) or 'no reason given'})"
    if code in (301, 302, 303, 307, 308):
        return FetchError(f"{_host(url)} redirects without end: {url}")
    if code in (401, 403):
        token = os.environ.get("HF_TOKEN", "").strip()
        if _origin(url) != _origin(hub()):
            return FetchError(f"{what} to {url}: it asks for a permission")
        if token:
            return FetchError(f"{what}: what HF_TOKEN allows does not include {url} (or its terms are not accepted)")
        return FetchError(f"{what}: {url} is private, asks to accept terms, or is not there: set HF_TOKEN to a token")
    if code in (404, 410):
        return FetchError(f"{what}: there is no {url}")
    if code in _TRANSIENT:
        return _Again(what, _retry_after(error.headers.get("Retry-After")))
    if code == 416:
        return _Again(what)
    return FetchError(f"{what} to {url}")


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


class Unreachable(FetchError):
    """No connection at all: offline, a wrong proxy, an untrusted certificate."""


def _unreachable(url: str, reason: Any) -> Exception:
    if isinstance(reason, (TimeoutError, ConnectionResetError, BrokenPipeError)):
        return _Again(f"{_host(url)}: {str(reason) or 'timed out'}")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unreachable(f"{_host(url)}: its certificate is not trusted ({reason.verify_message})")
    text = (getattr(reason, "strerror", None) or str(reason)).lower()
    return Unreachable(f"offline: {_host(url)} cannot be reached ({text})")


def patiently(work: Callable[[], Any], told: Callable[[str], None], moved: Callable[[], int] = lambda: 0) -> Any:
    """``work()``, tried again while it raises _Again: five times in a row without a new byte, and it is a FetchError.

    told: is given what is waited for. moved: bytes that are there; more than before, and the count starts anew.
    """
    tries, have = 0, moved()
    while True:
        try:
            return work()
        except (_Again, Unreachable) as error:
            if isinstance(error, Unreachable) and have == moved() == 0:
                raise  # said at once; but a network that was there a moment ago may come back
            if moved() > have:
                tries, have = 0, moved()
            tries += 1
            wait = getattr(error, "wait", None)
            if tries >= _TRIES or (wait or 0) > _LONGEST_WAIT:
                later = f"; it asks to wait {wait:.0f} s" if wait else ""
                raise FetchError(f"{error}{later}") from None
            wait = _FIRST_WAIT * 2 ** (tries - 1) if wait is None else wait
            told(f"waiting {wait:.0f} s: {error}" if wait >= 1 else str(error))
            time.sleep(wait)


# -- a file ---------------------------------------------------------------------------------------------------------


class Download:
    """A file on its way into ``folder``, under a name made of what identifies its content, so that a later run goes on
    where this one broke off."""

    def __init__(self, remote: Remote, folder: Path, show: Callable[[int, str], None]) -> None:
        """show: is given the bytes that are there, and a note ("" while they come)."""
        self.remote, self.folder, self.show = remote, folder, show
        self.draft: Path | None = None
        self.size = remote.size  # None until a server tells

    def run(self) -> tuple[Path, int]:
        """The verified file (still a draft) and its size. Raises FetchError, OSError of the disk."""
        try:
            draft: Path = patiently(self._attempt, lambda note: self.show(self._have(), note), self._have)
        finally:
            if self.draft is not None and self._have() == 0:
                self.draft.unlink(missing_ok=True)
        return draft, draft.stat().st_size

    def _have(self) -> int:
        try:
            return self.draft.stat().st_size if self.draft else 0
        except OSError:
            return 0

    def _attempt(self) -> Path:
        """One connection's worth (two where there is something to resume)."""
        url = self.remote.url
        response = open_url(url)
        with response:
            remote, etag = self._identify(response)
            self.draft = draft = self.folder / _draft_name(remote, etag)
            have = self._have()
            if remote.size is not None and have > remote.size:
                draft.unlink()
                have = 0
            if not have or not (etag or remote.sha256 or remote.git):
                return self._receive(response, draft, 0, remote)
        if have == remote.size:
            return self._verify(draft, remote)
        headers = {"Range": f"bytes={have}-", **({"If-Range": etag} if etag else {})}
        with open_url(url, headers) as rest:
            if rest.status != 206:
                return self._receive(rest, draft, 0, remote)
            wanted = rf"bytes {have}-\d+/({remote.size if remote.size is not None else '[0-9*]+'}|\*)"
            if not re.fullmatch(wanted, rest.headers.get("Content-Range", "")):
                draft.unlink()
                raise _Again(f"{_host(url)}: another range than was asked for")
            return self._receive(rest, draft, have, remote)

    def _identify(self, response: Any) -> tuple[Remote, str | None]:
        """What is known of the file once a server has answered; and its strong ETag."""
        remote = self.remote
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError(f"{remote.url} comes encoded ({response.headers['Content-Encoding']}), not as the file")
        told = response.headers.get("Content-Length")
        size = int(told) if told and told.isdecimal() else None
        if remote.size is not None and size is not None and size != remote.size:
            raise FetchError(f"{remote.url}: {_host(response.url)} sends {size} bytes, it should be {remote.size}")
        etag = response.headers.get("ETag")
        etag = etag if etag and re.fullmatch(r'"[^"]+"', etag) else None
        linked = response.linked or response.headers.get("X-Linked-ETag")
        if not linked and _origin(remote.url) == _origin(hub()):
            linked = etag
        digest = (linked or "").removeprefix("W/").strip('"').lower()
        if remote.sha256 is None and _SHA256.fullmatch(digest):
            remote = replace(remote, sha256=digest)
        remote = replace(remote, size=size if remote.size is None else remote.size)
        self.size = remote.size
        if remote.size is None and not (remote.sha256 or remote.git):
            raise FetchError(f"{remote.url}: the server tells neither size nor checksum: give --sha256")
        return remote, etag

    def _receive(self, response: Any, draft: Path, start: int, remote: Remote) -> Path:
        with open(draft, "r+b" if start else "wb") as out:
            out.seek(start)
            done = start
            self.show(done, "")
            while True:
                try:
                    chunk = response.read(_CHUNK)
                except (http.client.HTTPException, OSError) as error:
                    raise _Again(f"{_host(remote.url)} broke off: {str(error) or type(error).__name__}") from None
                if not chunk:
                    break
                if done == 0:
                    self._check_start(response, chunk, remote)  # before anything is written
                done += len(chunk)
                if remote.size is not None and done > remote.size:
                    raise self._wrong(draft, remote, f"more than {remote.size} bytes")
                out.write(chunk)
                out.flush()  # a process that is killed leaves what it had
                self.show(done, "")
        if remote.size is not None and done < remote.size:
            raise _Again(f"{_host(remote.url)} broke off after {done} of {remote.size} bytes")
        return self._verify(draft, remote)

    @staticmethod
    def _check_start(response: Any, chunk: bytes, remote: Remote) -> None:
        path = urllib.parse.urlsplit(remote.url).path
        if path.endswith(".gguf") and not chunk.startswith(b"GGUF"[: len(chunk)]):
            kind = response.headers.get("Content-Type", "no type told")
            raise FetchError(f"{remote.url} is no GGUF file: it starts with {chunk[:8]!r} ({kind})")

    def _verify(self, draft: Path, remote: Remote) -> Path:
        self.show(self._have(), "verifying")
        if remote.sha256 and (found := _digest(draft, hashlib.sha256())) != remote.sha256:
            raise self._wrong(draft, remote, f"sha256 {found}, not {remote.sha256}")
        if remote.git and not remote.sha256:
            start = hashlib.sha1(b"blob %d\0" % draft.stat().st_size, usedforsecurity=False)
            if (found := _digest(draft, start)) != remote.git:
                raise self._wrong(draft, remote, f"git blob {found}, not {remote.git}")
        return draft

    def _wrong(self, draft: Path, remote: Remote, what: str) -> FetchError:
        draft.unlink(missing_ok=True)
        return FetchError(f"the wrong checksum: what came from {remote.url} has {what}; nothing was kept: try again")


def _draft_name(remote: Remote, etag: str | None) -> str:
    identity = remote.sha256 or remote.git or f"{remote.url} {etag} {remote.size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _digest(path: Path, digest: Any) -> str:
    file: IO[bytes]
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return str(digest.hexdigest())


def get_json(url: str, told: Callable[[str], None], *, most: int = 64 << 20) -> Any:
    """A JSON document, of at most ``most`` bytes. Raises FetchError."""
    import json

    def work() -> bytes:
        with open_url(url) as response:
            try:
                data: bytes = response.read(most + 1)
            except (http.client.HTTPException, OSError) as error:
                raise _Again(f"{_host(url)} broke off: {str(error) or type(error).__name__}") from None
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and len(data) < min(int(length), most):
                raise _Again(f"{_host(url)} broke off")
            return data

    data = patiently(work, told)
    with suppress(ValueError, RecursionError):
        if len(data) <= most:
            return json.loads(data)
    raise FetchError(f"{url}: the answer is no JSON document")
