"""HTTP responses that no server should send, to a download of an address."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from unittest import mock

from pellucid.errors import FetchError
from pellucid.weights import hub, reference, web
from tests.weights.server import Raw

URL = "http://models.invalid/x.gguf"
DIGITS: tuple[bytes, ...] = (
    b"0",
    b"-1",
    b"-5",
    b"+5",
    b"5.0",
    b"1e3",
    b"0x10",
    b"1_0",
    b" 12 ",
    b"12, 12",
    b"12, 13",
    b"nan",
    b"\xb2\xb3",
)
DIGITS += (b"", b"9" * 5000, b"%d" % 2**60, b"%d" % 2**63, b"%d" % 2**64, b"1152921504606846976000")
CODES: tuple[bytes, ...] = (
    b"206",
    b"206",
    b"100",
    b"101",
    b"204",
    b"301",
    b"302",
    b"304",
    b"308",
    b"401",
    b"403",
    b"404",
)
CODES += (b"416", b"429", b"503", b"999", b"-1", b"9" * 50, b"", b"2 0")
VERSIONS: tuple[bytes, ...] = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/", b"ICY", b"", b"\0", b"H" * 70_000)
DATES: tuple[bytes, ...] = (
    b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
    b"Fri, 99 Dec 2030 99:99:99 GMT",
    b"soon",
    b"Fri, 31 Dec 9999",
)
PLACES: tuple[bytes, ...] = (
    b"/x.gguf",
    b"file:///etc/passwd",
    b"ftp://a/x",
    b"data:,x",
    b"//u:p@a.invalid/x.gguf",
    b"http://[::1/x.gguf",
)
PLACES += (b"https://b.invalid/x.gguf", b"http://a.invalid:99999/x.gguf", b"javascript:1", b"", b"\xff\xfe", b"http://")
RANGES: tuple[bytes, ...] = (
    b"bytes 0-1/2",
    b"bytes 100-99/5",
    b"bytes */5",
    b"bytes 1-2/*",
    b"bytes 5-" + b"9" * 400 + b"/9",
    b"lines 1-2/3",
)


def _mostly(rng: random.Random, sound: bytes, others: tuple[bytes, ...]) -> bytes:
    return sound if rng.random() < 0.85 else rng.choice(others)


def _headers(rng: random.Random, body: bytes, chunked: bool) -> list[bytes]:
    lines = []
    if chunked:
        encodings = (b"CHUNKED", b"gzip, chunked", b"chunked, chunked", b"identity", b"br", b"\0")
        lines.append(b"Transfer-Encoding: " + _mostly(rng, b"chunked", encodings))
    elif rng.random() < 0.9:
        near = tuple(b"%d" % (len(body) + more) for more in (-1, 1, 1000))
        lines.append(b"Content-Length: " + _mostly(rng, b"%d" % len(body), DIGITS + near))
    etag = rng.choice((b'"a"', b'W/"a"', b"a", b'""', b'"' + b"f" * 64 + b'"', b'"' + b"x" * 9000 + b'"', b'"\xff"'))
    odd = [
        b"ETag: " + etag,
        b"X-Linked-ETag: " + etag,
        b"Retry-After: " + rng.choice((*DIGITS, *DATES)),
        b"Location: " + rng.choice(PLACES),
        b"Content-Range: " + rng.choice(RANGES),
        b"Content-Encoding: " + rng.choice((b"gzip", b"identity", b"", b"\0\x1b[2J", b"deflate, gzip")),
        b"Content-Length: " + rng.choice(DIGITS),
        b"Content-Type: " + rng.choice((b"multipart/mixed", b"text/html; charset=\xff", b"\x1b]0;x\x07")),
        rng.choice(
            (b"no colon", b" continued", b":", b": x", b"A: " + b"x" * 70_000, b"\0: \0", b"\xe9: \xe9", b"a\rb: c")
        ),
        b"\r\n".join(b"X-%d: y" % i for i in range(rng.choice((10, 99, 300)))),
    ]
    lines += rng.sample(odd, rng.choice((0, 0, 0, 1, 1, 2, 3)))
    rng.shuffle(lines)
    return lines


def _chunks(rng: random.Random, body: bytes) -> bytes:
    out, step = b"", rng.choice((100, 3000, 10_000))
    while body:
        piece, body = body[:step], body[step:]
        size = rng.choice(DIGITS) if rng.random() < 0.02 else b"%x" % len(piece)
        out += (
            size
            + rng.choice((b"",) * 8 + (b";a=b", b" ", b";" * 9000))
            + rng.choice((b"\r\n",) * 8 + (b"\n", b"\r", b""))
        )
        out += piece + rng.choice((b"\r\n",) * 60 + (b"", b"xx\r\n"))
    return out + rng.choice((b"0\r\n\r\n",) * 6 + (b"", b"0\r\n", b"0\r\n" + b"A: b\r\n" * 200, b"-0\r\n\r\n"))


def known() -> dict[str, bytes]:
    """Headers and chunks whose numbers were once not checked."""
    head = b"HTTP/1.1 200 OK\r\n"
    found = {
        "a length of 5,000 digits": head + b"Content-Length: " + b"9" * 5000,
        "a length of 2**60": head + b"Content-Length: %d" % 2**60,
        "a negative length": head + b"Content-Length: -1",
        "a retry in a year of 20 digits": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: " + DATES[0],
        "a negative chunk size": head + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nGGUF",
        "a redirect to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd",
        "a redirect to itself": b"HTTP/1.1 302 Found\r\nLocation: /x.gguf",
    }
    return {name: data + b"\r\n\r\nGGUF" for name, data in found.items()}


def mutate(rng: random.Random) -> bytes:
    """A raw HTTP response: one that is right but for a few of its parts, and at times for a few of its bytes."""
    body = _mostly(rng, b"GGUF", (b"<html>", b"GG", b"")) + rng.randbytes(rng.choice((0, 1, 100, 9000)))
    chunked = rng.random() < 0.4
    interim = rng.choice((b"",) * 9 + (b"HTTP/1.1 100 Continue\r\n\r\n" * 3,))
    status = (
        _mostly(rng, b"HTTP/1.1", VERSIONS)
        + b" "
        + _mostly(rng, b"200", CODES)
        + rng.choice((b" OK", b" \x1b[2J\xff", b"", b" " + b"x" * 9000))
    )
    lines = [interim + status, *_headers(rng, body, chunked)]
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + (_chunks(rng, body) if chunked else body))
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def run(data: bytes) -> None:
    """Serves the response to every request of one download, from this machine. Raises FetchError where the download
    fails, and AssertionError where a file got its name that is not whole, or a failure left one."""
    with Raw(data) as server, tempfile.TemporaryDirectory() as cache:
        # Whatever host a redirect names, the proxy answers: nothing leaves this machine.
        proxies = {"http_proxy": server.url, "https_proxy": server.url, "no_proxy": ""}
        with (
            mock.patch.dict(os.environ, {**proxies, "PELLUCID_CACHE": cache, "HF_TOKEN": ""}),
            mock.patch.object(os, "fsync"),  # no power cut is tried
            mock.patch.multiple(web, _FIRST_WAIT=0.0, _LONGEST_WAIT=0.0, _TIMEOUT=5.0, _HEADER_SECONDS=5.0),
        ):
            folder, _ = reference.place(URL)
            try:
                path = hub.fetch(hub.ask(URL, insecure=True))
            except FetchError as error:
                assert not folder.exists() or not any(folder.iterdir()), "a failed download left a file"
                text = str(error)
                assert text.isprintable() and len(text) <= 500, text
                raise
            content = path.read_bytes()
            assert content.startswith(b"GGUF"[: len(content)]), content[:20]
            assert content in data or b"hunked" in data or b"HUNKED" in data, "not what was sent"
            assert [p for p in Path(cache).rglob("*.parts/*")] == []
