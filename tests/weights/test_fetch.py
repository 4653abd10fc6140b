"""Models of a hub or an address, from a server on localhost that does everything that a server should not do."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid.errors import FetchError
from pellucid.weights import catalog, hub, web
from tests.weights.pulls import DATA, FILE, REF, fails, kept, pull
from tests.weights.server import Hub, drop, instead, redirect, status

# -- what servers do ------------------------------------------------------------------------------------------------


def test_dropped_connections_are_resumed(served: Hub) -> None:
    served.faults[FILE] = [drop(100_000), drop(300_004), drop(50_000), drop(1000), drop(70_000)]
    assert pull().read_bytes() == DATA
    assert any("range" in r.headers for r in served.requests)
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_resumed_by_the_next_run(served: Hub) -> None:
    served.faults[FILE] = [drop(200_000)] + [status(503)] * 5
    fails("503", "again to continue from there", whole=False)
    before = served.sent(FILE)
    assert pull().read_bytes() == DATA
    ranges = [r for r in served.requests if "range" in r.headers]
    assert ranges[-1].sent == len(DATA) - 200_000 and before >= 200_000
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_a_server_that_never_gets_further(served: Hub) -> None:
    served.faults[FILE] = [drop(0)] * 9
    fails("broke off after 0 of 300004 bytes")


def test_a_server_that_begins_anew_for_ever(served: Hub) -> None:
    """A draft that was begun anew brings nothing before it is longer than the last one."""
    whole: Callable[..., None] = lambda handler, data: handler.answer(  # noqa: E731
        206, data, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}"
    )
    plain: Callable[..., None] = lambda handler, data: handler.give(data)  # noqa: E731
    served.faults[FILE] = [drop(9_000), *([plain, whole, drop(9_000)] * 20)]
    fails("broke off after 9000 of 300004 bytes", whole=False)
    assert len(served.requests) < 40


def test_an_empty_file(served: Hub) -> None:
    served.files["/x.gguf"] = b""
    fails("is not a GGUF file: it is empty", reference=f"{served.url}/x.gguf")
    assert kept() == []


def test_a_server_without_ranges(served: Hub) -> None:
    def whole(handler: object, data: bytes) -> None:
        handler.give(data, ranges=False)  # type: ignore[attr-defined]

    served.faults[FILE] = [drop(100_000), whole, whole]
    assert pull().read_bytes() == DATA


def test_another_range_than_was_asked_for(served: Hub) -> None:
    odd = lambda handler, data: handler.answer(206, data[5:], Content_Range=f"bytes 5-{len(data) - 1}/{len(data)}")  # noqa: E731
    plain = lambda handler, data: handler.give(data)  # noqa: E731
    served.faults[FILE] = [drop(100_000), plain, odd]
    assert pull().read_bytes() == DATA


def test_content_that_changes_meanwhile(served: Hub) -> None:
    """At an address: the ETag reveals the change, and parts of two versions are never joined."""
    url, other = f"{served.url}/x.gguf", b"GGUF" + bytes(300_000)
    served.files["/x.gguf"] = DATA

    def change(handler: object, data: bytes) -> None:
        handler.give(data, stop=150_000)  # type: ignore[attr-defined]
        served.files["/x.gguf"] = other

    served.faults["/x.gguf"] = [change]
    assert pull(url).read_bytes() == other


@pytest.mark.parametrize("etags", [True, False])
def test_an_address(served: Hub, etags: bool) -> None:
    served.etags = etags
    served.files["/a b/x.gguf"] = served.files["/a%20b/x.gguf"] = DATA
    url = f"{served.url}/a%20b/x.gguf?download=true"
    served.faults["/a%20b/x.gguf"] = [drop(100_000)]
    seen: list[tuple[int, int, str]] = []
    path = hub.fetch(hub.ask(url, sha256=hashlib.sha256(DATA).hexdigest()), lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done) and {step[1] for step in seen} == {len(DATA)} and seen[-1][2] == "done"
    assert path.read_bytes() == DATA and hub.find(url) == path and path.name == "x.gguf"
    assert hub.find(url.partition("?")[0]) is None  # another address


def test_wrong_bytes(served: Hub) -> None:
    served.faults[FILE] = [instead(DATA[:-1] + bytes([DATA[-1] ^ 1]))]
    fails("the wrong checksum", "sha256", "nothing was kept: try again")
    assert pull().read_bytes() == DATA
    served.model("o/s", {"config.json": b"{}", "model.safetensors": DATA})
    served.faults[served.file("o/s", "config.json")] = [instead(b"[]")]
    with pytest.raises(FetchError, match="git blob"):
        pull("o/s")
    served.files["/x.gguf"] = DATA
    with pytest.raises(FetchError, match="the wrong checksum"):
        pull(f"{served.url}/x.gguf", sha256="0" * 64)
    with pytest.raises(ValueError, match="sha256='abc': expected 64"):
        hub.ask(REF, sha256="abc")


def test_wrong_lengths(served: Hub) -> None:
    for size in (0, 10, len(DATA) + 1):
        served.faults[FILE] = [instead((DATA + b"x")[:size])]
        fails(f"Content-Length: {size}; expected the {len(DATA)} bytes of the file")


def test_more_than_was_told(served: Hub) -> None:
    def endless(handler: object, data: bytes) -> None:
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.body(data * 2)  # type: ignore[attr-defined]

    served.faults[FILE] = [endless]
    fails("more than 300004 bytes")
    served.faults["/x.gguf"] = [endless]
    served.files["/x.gguf"] = DATA
    fails("neither size nor checksum: give --sha256", reference=f"{served.url}/x.gguf")


def test_pages_and_encodings_instead_of_files(served: Hub) -> None:
    url = f"{served.url}/x.gguf"
    served.faults["/x.gguf"] = [instead(b"<!DOCTYPE html>", Content_Type="text/html")]
    fails("is not a GGUF file", "b'<!DOCTYP'", "text/html", reference=url)
    served.faults["/x.gguf"] = [instead(DATA, Content_Encoding="gzip")]
    fails("encoded (gzip)", reference=url)


@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "there is no http"), (410, "there is no http"), (401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (418, "418")],
)
def test_refusals(served: Hub, code: int, words: str) -> None:
    served.faults[FILE] = [status(code)]
    fails(words, str(code))
    served.faults["/api/models/owner/toy/revision/main"] = [status(code)]
    fails(words, str(code))


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_troubles(served: Hub, code: int) -> None:
    served.faults[FILE] = [status(code)] * 3
    served.faults["/api/models/owner/toy/revision/main"] = [status(code)] * 3
    assert pull().read_bytes() == DATA


def test_retry_after(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(
        web, "time", types.SimpleNamespace(sleep=slept.append, time=time.time, monotonic=time.monotonic)
    )
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    served.faults[FILE] = [status(429, Retry_After="7"), status(503, Retry_After=date), status(429, Retry_After="soon")]
    assert pull().read_bytes() == DATA
    assert slept[0] == 7 and 50 < slept[1] <= 60 and slept[2] < 1
    served.faults["/api/models/owner/toy/revision/main"] = [status(429, Retry_After="4000")]
    with pytest.raises(FetchError, match=r"429 .*; it asks to wait 4000 s"):
        hub.ask(REF)


def test_an_answer_that_never_comes(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_TIMEOUT", 0.2)
    hang = lambda handler, data: time.sleep(0.6)  # noqa: E731
    served.faults[FILE] = [hang, drop(1000)]
    assert pull().read_bytes() == DATA


# -- tokens, redirects, proxies -------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_alone(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    elsewhere = Hub({"/cdn": DATA})
    served.files["/moved"] = b""
    served.faults["/moved"] = [redirect(f"{elsewhere.url}/cdn", 307)] * 2
    served.faults[FILE] = [redirect("/moved", 308)] * 2
    elsewhere.faults["/cdn"] = [drop(100_000)]
    assert pull().read_bytes() == DATA
    by_path = {r.path.partition("?")[0]: r.headers.get("authorization") for r in served.requests}
    assert by_path["/api/models/owner/toy/revision/main"] == by_path[FILE] == by_path["/moved"] == "Bearer hf_secret"
    assert elsewhere.requests and all("authorization" not in r.headers for r in elsewhere.requests)
    elsewhere.files["/x.gguf"] = DATA
    pull(f"{elsewhere.url}/x.gguf")
    assert all("authorization" not in r.headers for r in elsewhere.requests)
    elsewhere.stop()
    served.model("o/p", {"a.gguf": DATA})
    served.faults[served.file("o/p", "a.gguf")] = [status(403)]
    with pytest.raises(FetchError, match="what HF_TOKEN allows does not include") as caught:
        pull("o/p")
    assert "hf_secret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "two words\r\nX: y")
    with pytest.raises(FetchError, match="HF_TOKEN contains characters"):
        hub.ask("o/p")


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_out_of_http(served: Hub, to: str) -> None:
    served.faults[FILE] = [redirect(to)]
    fails()


def test_redirects_without_end(served: Hub) -> None:
    served.faults[FILE] = [redirect(FILE)] * 50
    fails("redirects without end")


def test_the_digest_in_a_redirect(served: Hub) -> None:
    """A hub sends a large file's SHA-256 in the redirect to the file's address."""
    served.files["/cdn"] = DATA
    for digest, right in ((hashlib.sha256(DATA).hexdigest(), True), ("f" * 64, False)):
        served.faults["/y/x.gguf"] = [redirect("/cdn", X_Linked_ETag=f'"{digest}"')]
        if right:
            path = pull(f"{served.url}/y/x.gguf")
            path.unlink()
        else:
            fails("the wrong checksum", "f" * 64, reference=f"{served.url}/y/x.gguf")


def test_a_proxy(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", served.url)
    served.files["http://models.invalid/x.gguf"] = DATA
    assert pull("http://models.invalid/x.gguf").read_bytes() == DATA


@pytest.mark.parametrize("where", ["http://127.0.0.1:9", "http://nowhere.invalid"])
def test_offline(served: Hub, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", where)
    fails("offline: ", f"run `pellucid pull {REF}` when it can be")
    fails("offline: ", "run `pellucid pull ", reference=f"{where}/x.gguf")


# -- the disk, signals, several processes ---------------------------------------------------------------------------


def test_a_full_disk(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pellucid.weights.store.shutil.disk_usage", lambda path: usage._replace(free=100_000))
        fails("the disk is full", "PELLUCID_CACHE")

    def no_space(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pellucid.weights.store.os.fsync", no_space)
        fails("the disk is full")
    child = spawn(limit=100_000)  # writing fails for real
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1 and b"the disk is full" in err, err
    assert kept() == []
    assert pull().read_bytes() == DATA


def test_a_cache_that_cannot_be_written(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="cannot be used .*set PELLUCID_CACHE"):
        pull()


CHILD = """
import resource, signal, sys
from pellucid.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main(["pull", {reference!r}]))
"""


def spawn(limit: int = 0) -> subprocess.Popen[bytes]:
    """Starts `pellucid pull` in a process. limit: maximum bytes of a file."""
    code = CHILD.format(limit=limit, reference=REF)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def test_killed_at_random_moments(served: Hub) -> None:
    """SIGKILL and SIGINT in turn, at random moments: the next pull uses what is there; the final file is complete."""
    served.pace = 0.02
    rng = random.Random(7)
    for i in range(6):
        before, aim = len(served.requests), rng.randrange(0, 60_000)
        child = spawn()
        while child.poll() is None and not any(
            r.path == FILE and r.sent >= aim for r in list(served.requests)[before:]
        ):
            time.sleep(0.005)
        child.send_signal((signal.SIGKILL, signal.SIGINT)[i % 2])
        _, err = child.communicate(timeout=30)
        assert child.returncode in (-signal.SIGKILL, 130, 0), err
        assert b"Traceback" not in err, err.decode()
        final = catalog.cache_folder() / "hub/owner/toy/toy-Q4_0.gguf"
        assert not final.exists() or final.read_bytes() == DATA
    served.pace = 0
    path = pull()
    assert path.read_bytes() == DATA and kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_two_at_once_download_once(served: Hub) -> None:
    served.pace = 0.01
    children = [spawn() for _ in range(2)]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0 and out.decode().strip().endswith("toy-Q4_0.gguf"), err
    assert served.sent(FILE) == len(DATA) and kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_downloads_that_nobody_resumed_go(served: Hub) -> None:
    folder = catalog.cache_folder() / "hub" / "other" / ".model.parts"
    folder.mkdir(parents=True)
    old, new = folder / "old", folder.parent / ".second.parts" / "new"
    new.parent.mkdir()
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    pull()
    assert not folder.exists() and new.exists()
