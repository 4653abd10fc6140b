"""Access control: the Host header, API keys, origins of pages."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pellucid.errors import PellucidError, one_line
from pellucid.server.failures import Failure

__all__ = ["Hosts", "Key", "Keys", "is_host", "is_loopback", "is_origin", "read_keys"]

MOST_BYTES = 1 << 20  # of a file of keys
_COMMENT = re.compile(rb"(?:^|\s)#")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. digest: its SHA-256. name: unique; identifies its owner in logs, and what is kept for it. priority:
    the most urgent priority that its requests may have."""

    digest: bytes
    name: str = "default"
    priority: int = 0

    @classmethod
    def of(cls, key: str, name: str = "default", priority: int = 0) -> Key:
        return cls(_digest(key.encode()), name, priority)

    def __repr__(self) -> str:
        return f"<Key {self.name}>"


ANYONE = Key(b"", "-")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(path: str) -> tuple[Key, ...]:
    """The keys in a file: one line each, `KEY [NAME [PRIORITY]]`; a word that begins with # begins a comment. A key
    without a name is named after its place. Raises OSError if the file cannot be read, PellucidError naming the line
    that is wrong, never the key."""
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    shown = one_line(path, 200)
    if len(data) > MOST_BYTES:
        raise PellucidError(f"{shown}: longer than {MOST_BYTES} bytes")
    keys: dict[bytes, Key] = {}
    names: set[str] = set()  # unique: what is kept for a key is found by its name
    for number, line in enumerate(data.split(b"\n"), 1):
        words = _COMMENT.split(line)[0].split()
        if not words:
            continue
        place = f"{shown}, line {number}"
        if len(words) > 3 or any(not 32 < byte < 127 for word in words for byte in word):
            raise PellucidError(f"{place}: expected KEY [NAME [PRIORITY]] in ASCII")
        texts = [word.decode("ascii") for word in words]
        name = texts[1] if len(texts) > 1 else ""
        try:
            priority = int(texts[2]) if len(texts) > 2 else 0
        except ValueError:
            raise PellucidError(f"{place}: the priority must be an integer, such as -1") from None
        key = Key(_digest(words[0]), name, priority)
        if key.digest in keys:
            raise PellucidError(f"{place}: the same key as an earlier line")
        if name and name in names:
            raise PellucidError(f"{place}: the same name as an earlier line")
        keys[key.digest] = key
        names.add(name)
    if not keys:
        raise PellucidError(f"{shown}: contains no key")
    return tuple(
        key if key.name else replace(key, name=_free(f"key{n}", names)) for n, key in enumerate(keys.values(), 1)
    )


def _free(name: str, names: set[str]) -> str:
    """A name that is not in `names`, to which it is added."""
    while name in names:
        name += "_"
    names.add(name)
    return name


class Keys:
    """Finds the key of a request."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def find(self, headers: Mapping[str, list[str]]) -> Key:
        """The key of a request. Raises Failure (401) without a known key. Every key is compared, even after a match."""
        if not self._keys:
            return ANYONE
        given = None
        kind, _, rest = (headers.get("authorization") or [""])[0].strip().partition(" ")
        if kind.lower() == "bearer":
            given = rest.strip()
        given = given or (headers.get("x-api-key") or [""])[0].strip()
        digest = _digest(given.encode("utf-8", "surrogateescape"))
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            what = "a wrong API key" if given else "no API key: send it as `Authorization: Bearer KEY`"
            raise Failure(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return found


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_host(name: str) -> bool:
    """Whether a Host header may have this name or address."""
    return _address(name) is not None or (":" not in name and _name(name) is not None)


def is_origin(text: str) -> bool:
    """Whether a browser may send this as the origin of a page: a scheme and a host in lower case, without a path."""
    return text == "null" or _ORIGIN.fullmatch(text) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _plain(host: str) -> str:
    """A name in lower case, or an address in its canonical spelling, without its zone."""
    address = _address(host.partition("%")[0])
    if address is not None:
        return str(address)
    try:
        return socket.inet_ntoa(socket.inet_aton(host))  # 0 and 127.1 are addresses, too
    except (OSError, ValueError):
        return host.lower().rstrip(".")


class Hosts:
    """Checks the Host header, so that a web page whose name suddenly resolves to this machine (DNS rebinding) gets
    nothing.

    Loopback names, the one that the server is bound to, and those in `more` are allowed. If it is bound to every
    address, so are all addresses, which no page can rebind, and the machine's name. bound: "" for a Unix socket, with
    which any is allowed.
    """

    def __init__(self, bound: str, more: Iterable[str]) -> None:
        self._names = {_plain(name) for name in (bound, *more)}
        self._any_address = (address := _address(_plain(bound))) is not None and address.is_unspecified
        if self._any_address:
            self._names.add(socket.gethostname().lower())
        self._unchecked = not bound

    def check(self, headers: Mapping[str, list[str]]) -> None:
        """Raises Failure for a wrong name."""
        given = headers.get("host", [])
        if self._unchecked:
            return
        if len(given) != 1:
            raise Failure(400, f"expected one Host header, not {len(given)}", code="invalid_host")
        host = _name(given[0])
        if host is None:
            raise Failure(400, "the Host header is not a host name", code="invalid_host")
        if host in self._names or is_loopback(host) or (self._any_address and _address(host) is not None):
            return
        raise Failure(403, f"the name {one_line(host, 80)!r} is not allowed: see --allow-host", code="host_not_allowed")


def _name(header: str) -> str | None:
    """The name or address of a Host header, in lower case, without its port."""
    host = header.strip().lower()
    if host.startswith("["):
        inner, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port[1:].isdigit()) or (port and port[0] != ":"):
            return None
        return _plain(inner) if _address(inner) is not None else None
    name, colon, port = host.partition(":")
    if colon and not (port.isascii() and port.isdigit()):
        return None
    name = name.rstrip(".")
    if not name or not name.isascii() or not all(c.isalnum() or c in ".-_" for c in name):
        return None
    return name
