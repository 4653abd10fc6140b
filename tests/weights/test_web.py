"""Answers that no server should send: headers, framing, redirects, and endless answers."""

from __future__ import annotations

import hashlib
import shutil
import socket
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.errors import FetchError
from pellucid.weights import catalog, download, hub, web
from pellucid.weights.web import Limits
from tests.weights.pulls import DATA, FILE, REF, fails, kept, pull
from tests.weights.server import Hub, Raw, instead, redirect, status

OK = b"HTTP/1.1 200 OK\r\n"
LISTING = "/api/models/owner/toy/revision/main"


@pytest.fixture(autouse=True)
def _hub(served: Hub) -> None:
    """The environment without proxies, an empty cache, short waits."""


def refusal(*answers: bytes | Callable[[socket.socket], None], limits: Limits | None = None, **options: Any) -> str:
    """The line of the FetchError raised when pulling from this server; nothing is kept."""
    with Raw(*answers) as server, pytest.raises(FetchError) as caught:
        listing = hub.ask(f"{server.url}/x.gguf", insecure=True, **options)
        hub.fetch(listing, limits=limits)
    text = str(caught.value)
    assert text.isprintable() and len(text) <= 500, text
    assert kept() == []
    return text


# -- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Content-Length: " + "9" * 5000, "Content-Length: '9999"),
        ("Content-Length: -1", "Content-Length: '-1'; expected a number of bytes"),
        ("Content-Length: 0x10", "Content-Length: '0x10'"),
        ("Content-Length: 1_000", "Content-Length: '1_000'"),
        ("Content-Length: \xb2", "Content-Length: '"),
        ("Content-Length: 5\r\nContent-Length: 6", "Content-Length: '5, 6'; expected one value"),
        ("Transfer-Encoding: gzip, chunked", "Transfer-Encoding: 'gzip, chunked'; expected chunked"),
        ("Content-Encoding: gzip\r\nContent-Length: 5", "encoded (gzip), not as it is: Content-Encoding"),
        ("Content-Encoding: \x1b[2J\r\nContent-Length: 5", "encoded (\\x1b[2J)"),
        ("A: " + "x" * 70_000, "more than 65536 bytes"),
        ("\r\n".join(f"X-{i}: y" for i in range(200)), "more than 100 headers"),
    ],
)
def test_malformed_headers(header: str, words: str) -> None:
    assert words in refusal(OK + header.encode("latin-1") + b"\r\n\r\nGGUFx")


@pytest.mark.parametrize("line", [b"HTTP/1.1 99999999999 x", b"HTTP/1.1 -1 x", b"ICY 200 OK", b"\0", b"HTTP/1.1"])
def test_malformed_status_lines(line: bytes) -> None:
    assert "answers with the status line" in refusal(line + b"\r\n\r\n")


@pytest.mark.parametrize("size", [b"-5", b"-1", b"0x5", b"1_0", b"+5", b" 5", b"", b"f" * 16, b"x" * 3000])
def test_malformed_chunk_sizes(size: bytes) -> None:
    """Without a check, -1 would mean "read everything" into memory."""
    text = refusal(
        OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nGGUF\r\n" + size + b"\r\n" + b"x" * 5 + b"\r\n0\r\n\r\n"
    )
    assert "sends a chunk size of" in text


@pytest.mark.parametrize(
    "body", [b"4\r\nGGUFx\r\n0\r\n\r\n", b"4;" + b"x" * 9000, b"4\r\nGGUF\r\n0\r\n" + b"A: b\r\n" * 200]
)
def test_malformed_chunks(body: bytes) -> None:
    refusal(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)


@pytest.mark.parametrize("body", [b"4\r\nGGUF\r\n", b"4\r\nGG", b"4", b"4\r\nGGUF\r\n0\r\n", b""])
def test_chunks_that_break_off(body: bytes) -> None:
    assert "broke off" in refusal(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)


def test_chunks_say_where_a_file_ends() -> None:
    with Raw(OK + b"Transfer-Encoding: Chunked\r\n\r\n4;a=b\r\nGGUF\r\n3\nabc\r\n0\r\nA: b\r\n\r\n") as server:
        assert pull(f"{server.url}/x.gguf").read_bytes() == b"GGUFabc"


@pytest.mark.parametrize(
    "value", ["Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "9" * 20, "9" * 400, "9" * 5000, "4000"]
)
def test_waits_that_nobody_can(value: str) -> None:
    text = refusal(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: " + value.encode() + b"\r\n\r\n")
    assert "503 (Busy); it asks to wait" in text and f"Retry-After: '{value[:20]}" in text


def test_headers_without_end() -> None:
    assert "headers of more than 256 KB" in refusal(lambda to: flood(to, b"HTTP/1.1 100 Continue\r\n\r\n"))


def flood(to: socket.socket, piece: bytes, first: bytes = b"") -> None:
    to.sendall(first)
    while True:  # until the client hangs up
        to.sendall(piece)


def drip(to: socket.socket, data: bytes, each: float = 0.02, first: bytes = b"") -> None:
    to.sendall(first)
    for i in range(len(data)):
        to.sendall(data[i : i + 1])
        time.sleep(each)


def test_headers_that_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_HEADER_SECONDS", 0.3)
    assert "no complete headers within" in refusal(lambda to: drip(to, OK + b"A: b\r\n" * 1000))


# -- how much, and how fast -----------------------------------------------------------------------------------------


def test_a_body_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_WINDOW", 0.3)
    length = b'ETag: "a"\r\nContent-Length: 300\r\n\r\n'
    with Raw(lambda to: drip(to, b"GGUF" * 75, 0.005, OK + length)) as server:
        url = f"{server.url}/x.gguf"
        with pytest.raises(FetchError, match=r"is too slow: \d+ bytes per second, less than the 1000 of --min-rate"):
            pull(url)
        assert len(kept()) == 1 and ".parts/" in kept()[0]  # a pull from a better network continues
        monkeypatch.setattr(web, "_WINDOW", 0.05)
        hub.fetch(hub.ask(url, insecure=True), limits=Limits(min_rate=10))


def test_a_slow_link_passes(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_WINDOW", 0.05)
    served.pace = 0.02
    assert pull().read_bytes() == DATA


def test_a_byte_for_each_connection() -> None:
    """Each connection resumes where the last one ended, but their number is limited."""
    asked: list[bytes] = []

    def one_more(to: socket.socket) -> None:
        start = int((asked := server.requests[-1].partition(b"bytes=")[2].partition(b"-")[0]) or 0)
        head = f'HTTP/1.1 {206 if asked else 200} OK\r\nETag: "a"\r\nContent-Length: {len(DATA) - start}\r\n'
        to.sendall(f"{head}Content-Range: bytes {start}-{len(DATA) - 1}/{len(DATA)}\r\n\r\n".encode())
        to.sendall(DATA[start : start + 1])

    with Raw(one_more) as server:
        with pytest.raises(FetchError, match="broke off after"):
            pull(f"{server.url}/x.gguf")
        assert len(server.requests) < 20, asked


def test_a_part_that_ends_early() -> None:
    """A server may send less than it was asked for; without a size or checksum, only its answer says so."""

    def answer(to: socket.socket) -> None:
        if (start := int(server.requests[-1].partition(b"bytes=")[2].partition(b"-")[0] or 0)) == 0:
            to.sendall(OK + b'ETag: "a"\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nGGUF1234\r\n')  # breaks off
            return
        end = min(start + 4, 16)
        to.sendall(
            b'HTTP/1.1 206 OK\r\nETag: "a"\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/16\r\n\r\n%b'
            % (end - start, start, end - 1, b"x" * (end - start))
        )

    with Raw(answer) as server:
        with pytest.raises(FetchError, match="broke off"):  # as the first answer does each time
            pull(f"{server.url}/x.gguf")


def test_a_file_that_changes_meanwhile() -> None:
    """What was received of the old one is not left behind."""
    heads = [OK + b'ETag: "a"\r\nContent-Length: 99\r\n\r\nGGUF', OK + b'ETag: "b"\r\nContent-Length: 5\r\n\r\nGGUFx']
    with Raw(lambda to: to.sendall(heads.pop(0))) as server:
        path = pull(f"{server.url}/x.gguf")
    assert path.read_bytes() == b"GGUFx" and not any(".parts" in name for name in kept())


def endless(to: socket.socket) -> None:
    flood(to, b"10000\r\n" + b"x" * 65536 + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nGGUF\r\n")


def test_a_body_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(endless, limits=Limits(max_bytes=1_000_000))
    assert "has more; expected at most 1.0 MB: allow more with --max-bytes" in text
    monkeypatch.setattr(download, "_UNSTATED", 500_000)
    assert "expected at most 500.0 KB" in refusal(endless)
    assert "expected at most 500.0 KB" in refusal(lambda to: flood(to, b"x", OK + b"\r\nGGUF" * 2), sha256="0" * 64)


def test_lengths_beyond_the_disk_and_beyond_what_was_allowed(served: Hub) -> None:
    huge = OK + b"Content-Length: %d\r\n\r\nGGUF" % 2**60
    assert "the disk is full" in (text := refusal(huge)) and "needs 1.2 EB free" in text
    assert "has 1.2 EB" in refusal(huge, limits=Limits(max_bytes=20_000_000_000))
    with pytest.raises(
        FetchError, match=r"owner/toy:toy-Q4_0.gguf needs 300.0 KB, more than the 1.0 KB of --max-bytes"
    ):
        hub.fetch(hub.ask(REF), limits=Limits(max_bytes=1000))
    assert served.sent(FILE) == 0
    hub.fetch(hub.ask(REF), limits=Limits(max_bytes=len(DATA)))


def test_split_files_share_the_limit(served: Hub) -> None:
    for i in (1, 2):
        served.files[f"/d/b-{i:05d}-of-00002.gguf"] = b"GGUF" + bytes(5000)
    listing = hub.ask(f"{served.url}/d/b-00001-of-00002.gguf", insecure=True)
    with pytest.raises(FetchError, match="allow more with --max-bytes"):
        hub.fetch(listing, limits=Limits(max_bytes=9000))
    assert hub.fetch(listing, limits=Limits(max_bytes=10_008)).is_file()


@pytest.mark.parametrize(
    "options", [{"max_bytes": 0}, {"max_bytes": 1.5}, {"min_rate": -1}, {"min_rate": float("nan")}]
)
def test_limits_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        Limits(**options)


class Disk:
    """A disk of 1 GB that others write to: each query finds `each` bytes less free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, each: int) -> None:
        self.free, self.each, self.looks = free, each, 0
        usage = types.SimpleNamespace(total=1_000_000_000, used=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(**vars(usage), free=self.look()))

    def look(self) -> int:
        self.looks += 1
        return self.free - self.looks * self.each


def test_a_twentieth_of_the_disk_is_left(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, 50_000_000 + len(DATA) - 1, 0)
    fails("the disk is full", "needs 300.0 KB free", "5% of the disk is left free")
    assert served.sent(FILE) == 0
    Disk(monkeypatch, 50_000_000 + len(DATA), 0)
    assert pull().read_bytes() == DATA


@pytest.mark.parametrize("known", [True, False])
def test_others_fill_the_disk_meanwhile(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """A draft of known size is kept for resuming; one of unknown size is not."""
    disk = Disk(monkeypatch, 200_000_000, 20_000_000)
    length = OK + b'ETag: "a"\r\nContent-Length: 100000000\r\n\r\nGGUF'
    with Raw((lambda to: flood(to, bytes(65536), length)) if known else endless) as server:
        with pytest.raises(FetchError, match="the disk is full"):
            pull(f"{server.url}/x.gguf")
    assert disk.looks > 2 and len(kept()) == known and all(".parts/" in name for name in kept())


# -- redirects and addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("file:///etc/passwd", "redirects to file://, which is not followed"),
        ("ftp://127.0.0.1/x", "redirects to ftp://"),
        ("data:,x", "redirects to data://"),
        ("http://user:secret@127.0.0.1/x.gguf", "an address with credentials at 127.0.0.1, which is not followed"),
        ("//user@127.0.0.1/x.gguf", "an address with credentials"),
        ("http://[::1/x.gguf", "Location: 'http://[::1/x.gguf'; expected an address"),
        ("http://127.0.0.1:99999/", "expected an address"),
        ("", "answers 302 without a Location"),
    ],
)
def test_redirects_that_are_not_followed(served: Hub, to: str, words: str) -> None:
    for path in (FILE, LISTING):
        served.faults[path] = [redirect(to)]
        assert "secret" not in fails(words)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_redirects_from_https_to_http(scheme: str) -> None:
    """A hub's redirect to an unencrypted address is not followed; one to another encrypted address is."""
    new = f"{scheme}://elsewhere.invalid/x.gguf"
    answer: Any = types.SimpleNamespace(url="https://hub.invalid/x", status=302, header=lambda name: new)
    if scheme == "https":
        assert web._redirected(answer) == new
    else:
        with pytest.raises(FetchError, match="hub.invalid redirects to http://, which is not followed"):
            web._redirected(answer)


def test_http_needs_a_checksum_or_a_word(served: Hub) -> None:
    served.files["/x.gguf"] = DATA
    url = f"{served.url}/x.gguf"
    with pytest.raises(FetchError, match=r"can alter what http:// sends; give --sha256 .* or --insecure"):
        hub.ask(url)
    listing = hub.ask(url, insecure=True)
    with pytest.raises(FetchError, match="--insecure"):
        hub.fetch(hub.Listing(url, listing.folder, listing.files, listing.main))
    assert served.requests == []
    assert hub.fetch(hub.ask(url, sha256=hashlib.sha256(DATA).hexdigest())).read_bytes() == DATA


def test_a_hub_over_http(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed without an option only on this machine; and a token is not sent unencrypted."""
    monkeypatch.setenv("http_proxy", served.url)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(FetchError, match="--insecure"):
        hub.ask(REF)
    served.files = {f"http://hub.invalid{path}": data for path, data in served.files.items()}
    assert pull().read_bytes() == DATA
    assert served.requests and all("authorization" not in request.headers for request in served.requests)


def test_addresses_with_credentials() -> None:
    with pytest.raises(FetchError, match="user name or password in it is not requested") as caught:
        hub.ask("https://me:secret@example.org/x.gguf")
    assert "secret" not in str(caught.value)


def test_signed_addresses_are_not_shown(served: Hub) -> None:
    assert "secret" not in fails("there is no http", "/x.gguf?...", reference=f"{served.url}/x.gguf?signature=secret")


@pytest.mark.parametrize("name", ["x" * 400, "\u4e2d" * 90])
def test_names_that_no_file_can_have(served: Hub, name: str) -> None:
    for reference in (f"{served.url}/{name.replace(chr(0x4E2D), '%E4%B8%AD')}.gguf", f"owner/toy@{name[:200]}:x"):
        for call in (lambda r: hub.ask(r, insecure=True), hub.find, catalog.resolve):
            with pytest.raises(FetchError, match="the name is too long: .* at most 200 can be"):
                call(reference)
    served.model("o/long", {f"{name}.gguf": DATA})
    fails("the name is too long", reference="o/long")


# -- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Range": "bytes 100000-300003/999999"},
        {"Content_Range": "bytes 100000-200000/300004"},
        {"Content_Range": f"bytes 100000-{'9' * 5000}/300004"},
        {"Content_Range": "bytes 99999-300003/300004"},
        {"Content_Range": "lines"},
        {},
        {"Content_Range": "bytes 100000-300003/300004", "ETag": '"other"'},
        {"Content_Range": "bytes 100000-300003/300004"},  # and no ETag
    ],
)
def test_ranges_that_do_not_continue_the_draft(served: Hub, headers: dict[str, str]) -> None:
    """At an address without a checksum that would reveal the fault."""
    served.files["/x.gguf"] = DATA
    lie = lambda handler, data: handler.answer(206, bytes(len(data) - 100_000), **headers)  # noqa: E731
    plain: Callable[..., None] = lambda handler, data: handler.give(data)  # noqa: E731
    cut: Callable[..., None] = lambda handler, data: handler.give(data, stop=100_000)  # noqa: E731
    served.faults["/x.gguf"] = [cut, plain, lie]
    assert pull(f"{served.url}/x.gguf").read_bytes() == DATA
    assert any("range" in request.headers for request in served.requests)


def test_a_range_that_cannot_be_had(served: Hub) -> None:
    plain: Callable[..., None] = lambda handler, data: handler.give(data)  # noqa: E731
    cut: Callable[..., None] = lambda handler, data: handler.give(data, stop=100_000)  # noqa: E731
    served.faults[FILE] = [cut, plain, status(416)]
    assert pull().read_bytes() == DATA


# -- listings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(served: Hub) -> Iterator[Callable[[str], None]]:
    def put(text: str) -> None:
        served.files[LISTING] = ('{"sha": "0123456", "siblings": [' + text + "]}").encode()

    yield put


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ('{"rfilename": "a.gguf", "size": -1}', "siblings[0].size: -1; expected bytes"),
        ('{"rfilename": "a.gguf", "size": 1e300}', "siblings[0].size: 1e+300"),
        ('{"rfilename": "a.gguf", "size": true}', "siblings[0].size: True"),
        ('{"rfilename": "a.gguf", "size": 99999999999999999}', "siblings[0].size: 99999999999999999; expected bytes"),
        ('{"rfilename": "a.gguf", "lfs": {"size": "5"}}', "siblings[0].lfs.size: '5'"),
        ('{"rfilename": "a.gguf", "lfs": [1]}', "siblings[0].lfs: [1]"),
        ('{"rfilename": "a.gguf", "lfs": {"sha256": "xyz"}}', "siblings[0].lfs.sha256: 'xyz'; expected 64 hex"),
        ('{"rfilename": "a.gguf", "blobId": 5}', "siblings[0].blobId: 5"),
        ('{"rfilename": "a"}, {"rfilename": "a"}', "siblings[1].rfilename: 'a'; expected no name twice"),
        ('{"rfilename": "a"}, {"rfilename": "b/../../c"}', "siblings[1].rfilename: 'b/../../c'; expected a printable"),
        ('{"rfilename": "/etc/x"}', "siblings[0].rfilename"),
        ('{"rfilename": "\\ud800"}', "siblings[0].rfilename"),
        ('{"rfilename": 5}', "siblings[0].rfilename: 5"),
        ("5", "siblings[0]: 5; expected an object"),
        (",".join(f'{{"rfilename":"{i}"}}' for i in range(100_001)), "siblings: '100001 files'; expected at most"),
    ],
)
def test_listings_that_cannot_be(listed: Callable[[str], None], entries: str, field: str) -> None:
    listed(entries)
    fails("not a hub's answer", field, reference="owner/toy")


@pytest.mark.parametrize(
    "name", ["con.gguf", "sub/AUX.gguf", "COM1.x.gguf", "dir./a.gguf", "dir /a.gguf", "x" * 300 + ".gguf"]
)
def test_names_that_some_system_refuses(listed: Callable[[str], None], name: str) -> None:
    listed(f'{{"rfilename": "{name}"}}')
    fails("name", reference="owner/toy")


def test_a_number_with_too_many_digits(listed: Callable[[str], None]) -> None:
    listed('{"rfilename": "a.gguf", "size": ' + "9" * 5000 + "}")
    fails("not a JSON document", reference="owner/toy")


def test_a_listing_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(lambda to: flood(to, b" " * 65536, OK + b"\r\n")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(FetchError, match="the answer is longer than 16 MB"):
            hub.ask(REF)


def test_many_parts_of_many_models(listed: Callable[[str], None]) -> None:
    """Each of these names stands for a thousand parts, which are counted but not created."""
    import tracemalloc

    listed(",".join(f'{{"rfilename":"m{i}-00001-of-01000.gguf"}}' for i in range(3000)))
    tracemalloc.start()
    try:
        fails("has 3000 GGUF files: name one", reference="owner/toy")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_kept_names_are_below_the_cache(served: Hub, tmp_path: Path) -> None:
    served.faults[FILE] = [instead(DATA)]
    assert pull().is_relative_to(catalog.cache_folder()) and catalog.cache_folder().is_relative_to(tmp_path)
