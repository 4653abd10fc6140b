"""Models of a hub or an address: from a server on localhost that does everything a server should not."""

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
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.errors import FetchError
from pellucid.weights import catalog, download, hub
from tests.weights.server import Hub, drop, instead, redirect, status

DATA = b"GGUF" + random.Random(5).randbytes(300_000)
REF = "owner/toy:toy-Q4_0.gguf"
FILE = f"/owner/toy/resolve/{'0123456789abcdef' * 2}01234567/toy-Q4_0.gguf"


def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    server = Hub()
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_FIRST_WAIT", 0.01)
    return server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model owner/toy, of one GGUF file."""
    server = start(monkeypatch, tmp_path)
    server.model("owner/toy", {"toy-Q4_0.gguf": DATA, "README.md": b"# toy"}, license="apache-2.0")
    yield server
    server.stop()


def pull(reference: str = REF, **options: str) -> Path:
    return hub.fetch(hub.ask(reference, **options))  # type: ignore[arg-type]


def kept() -> list[str]:
    """Files in the cache but for locks."""
    top = catalog.cache_folder()
    return sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file() and p.suffix != ".lock")


def fails(*words: str, reference: str = REF, whole: bool = True, **options: str) -> str:
    with pytest.raises(FetchError) as caught:
        pull(reference, **options)
    text = str(caught.value)
    assert "\n" not in text and hub.find(reference) is None
    for word in words:
        assert word in text, text
    assert all(".parts/" in name for name in kept()) and (not whole or kept() == [])
    return text


# -- references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("owner/name", True),
        ("owner/name:Q4_K_M", True),
        ("owner/name@v1.0:sub/x.gguf", True),
        ("https://example.org/x.gguf", True),
        ("folder/model.gguf", False),
        ("smollm2-135m", False),
        ("./owner/name", False),
        ("/owner/name", False),
        ("a/b/c", False),
        ("../name", False),
    ],
)
def test_what_is_a_reference(text: str, yes: bool) -> None:
    assert hub.is_reference(text) is yes


@pytest.mark.parametrize(
    "reference",
    ["https://example.org/", "https://example.org/x.bin", "https:///x.gguf", "https://h/a%2F..%2Fx.gguf%00"],
)
def test_addresses_of_no_gguf_file(served: Hub, reference: str) -> None:
    for call in (hub.ask, hub.find):
        with pytest.raises(FetchError, match="expected https://HOST/"):
            call(reference)


@pytest.mark.parametrize("name", ["a b.gguf", "a\nb.gguf", "é.gguf"])
def test_addresses_that_no_request_can_have(served: Hub, name: str) -> None:
    fails("is no address that can be fetched", reference=f"{served.url}/{name}")
    assert served.requests == []


@pytest.mark.parametrize("port", ["99999", "x"])
def test_ports_that_are_none(served: Hub, port: str) -> None:
    fails(reference=f"http://127.0.0.1:{port}/x.gguf")


# -- a hub's model --------------------------------------------------------------------------------------------------


def test_pull_verify_and_find(served: Hub) -> None:
    assert hub.find(REF) is None
    seen: list[tuple[int, int, str]] = []
    listing = hub.ask(REF)
    assert (listing.licence, listing.terms, listing.size) == ("apache-2.0", "", len(DATA))
    path = hub.fetch(listing, lambda *step: seen.append(step))
    assert path.read_bytes() == DATA and path.name == "toy-Q4_0.gguf"
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]
    done = [step[0] for step in seen]
    assert done == sorted(done) and seen[-1] == (len(DATA), len(DATA), "done")
    before = len(served.requests)
    for name in (REF, "owner/toy", "owner/toy:q4_0"):
        assert hub.find(name) == path and catalog.resolve(name) == path
    assert hub.fetch(listing) == path and len(served.requests) == before
    assert served.requests[-1].headers["accept-encoding"] == "identity"


def test_the_first_use_of_a_model_that_was_not_pulled_names_the_command(served: Hub) -> None:
    for name in (REF, "owner/toy", "https://example.org/x.gguf"):
        with pytest.raises(FetchError, match=f"run `pellucid pull {name}`$"):
            Model.load(name)
    assert served.requests == []


def test_which_file(served: Hub) -> None:
    files = {f"m-{q}.gguf": b"GGUF" + q.encode() for q in ("Q4_0", "Q8_0")} | {"mmproj-Q8_0.gguf": b"GGUF"}
    served.model("o/m", files, license="mit")
    assert pull("o/m:q8_0").read_bytes() == b"GGUFQ8_0"
    with pytest.raises(FetchError, match=r"2 GGUF files: name one, as o/m:FILE \(m-Q4_0.gguf, m-Q8_0.gguf\)"):
        hub.ask("o/m")
    with pytest.raises(FetchError, match="no GGUF file like 'Q2_K'"):
        hub.ask("o/m:Q2_K")
    served.model("o/other", {"pytorch_model.bin": b""})
    with pytest.raises(FetchError, match="neither a GGUF file nor config.json"):
        hub.ask("o/other")


def test_split_files_and_a_part_that_the_hub_lacks(served: Hub) -> None:
    parts = {f"x/big-{i:05d}-of-00003.gguf": b"GGUF" + bytes([i]) * 1000 for i in (1, 2, 3)}
    served.model("o/big", parts, license="mit")
    path = pull("o/big:x/big-00002-of-00003.gguf")
    assert path.name == "big-00001-of-00003.gguf" and len(list(path.parent.iterdir())) == 3
    assert hub.find("o/big") == path
    (path.parent / "big-00003-of-00003.gguf").unlink()
    assert hub.find("o/big") is None
    assert pull("o/big") == path and hub.find("o/big") == path
    del parts["x/big-00002-of-00003.gguf"]
    served.model("o/less", parts)
    with pytest.raises(FetchError, match="the hub lacks x/big-00002-of-00003.gguf"):
        hub.ask("o/less")


def test_split_files_of_an_address(served: Hub) -> None:
    for i in (1, 2):
        served.files[f"/d/b-{i:05d}-of-00002.gguf"] = b"GGUF" + bytes([i]) * 5000
    path = pull(f"{served.url}/d/b-00002-of-00002.gguf")
    assert sorted(p.name for p in path.parent.iterdir()) == ["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]
    assert hub.find(f"{served.url}/d/b-00001-of-00002.gguf") == path


def test_a_folder_counts_once_it_is_whole(served: Hub) -> None:
    files = {
        "config.json": b"{}",
        "tokenizer.json": b"{ }",
        "model.safetensors": bytes(5000),
        "pytorch_model.bin": bytes(9),
        "original/params.json": b"",
    }
    served.model("o/folder", files, license="mit")
    served.faults[served.file("o/folder", "tokenizer.json")] = [status(404)]
    with pytest.raises(FetchError, match="tokenizer.json"):
        pull("o/folder")
    assert hub.find("o/folder") is None
    path = pull("o/folder")
    assert path == hub.find("o/folder") and sorted(os.listdir(path)) == sorted(list(files)[:3])


def test_revision(served: Hub) -> None:
    served.model("o/r", {"a.gguf": b"GGUFold"}, revision="v1")
    assert pull("o/r@v1").read_bytes() == b"GGUFold"
    assert hub.find("o/r") is None and kept() == ["hub/o/r@v1/a.gguf"]


def test_licences(served: Hub) -> None:
    def terms(**card: str) -> tuple[str, str]:
        served.model("o/l", {"a.gguf": DATA}, **card)
        listing = hub.ask("o/l")
        return listing.licence, listing.terms.replace(served.url, "HUB")

    assert terms(license="mit") == ("mit", "")
    assert terms(license="gemma") == ("gemma", "HUB/o/l")
    assert terms(license="mit", gated="manual") == ("mit", "HUB/o/l")
    assert terms() == ("", "HUB/o/l")
    link = "https://example.org/licence"
    assert terms(license="other", license_name="own", license_link=link) == ("own", link)
    assert terms(license="gemma", license_link="file:///x")[1] == "HUB/o/l"


@pytest.mark.parametrize(
    "name",
    ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf", "c:evil.gguf", "x//y.gguf", "n\0.gguf"],
)
def test_names_that_leave_the_folder(served: Hub, name: str) -> None:
    served.model("o/evil", {name: DATA})
    fails("not what a hub answers", reference="o/evil")


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b'{"sha": 1}', b"<html>", b"[" * 100_000, b'{"sha":"0123456","siblings":[{}]}']
)
def test_listings_that_are_none(served: Hub, answer: bytes) -> None:
    served.files["/api/models/owner/toy/revision/main"] = answer
    fails("/api/models/owner/toy/")


# -- what servers do ------------------------------------------------------------------------------------------------


def test_dropped_connections_are_resumed(served: Hub) -> None:
    served.faults[FILE] = [drop(100_000), drop(300_004), drop(50_000), drop(1000), drop(70_000)]
    assert pull().read_bytes() == DATA
    assert any("range" in r.headers for r in served.requests)
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_resumed_by_the_next_run(served: Hub) -> None:
    served.faults[FILE] = [drop(200_000)] + [status(503)] * 5
    fails("503", "again, which goes on from there", whole=False)
    before = served.sent(FILE)
    assert pull().read_bytes() == DATA
    ranges = [r for r in served.requests if "range" in r.headers]
    assert ranges[-1].sent == len(DATA) - 200_000 and before >= 200_000
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]


def test_a_server_that_never_gets_further(served: Hub) -> None:
    served.faults[FILE] = [drop(0)] * 9
    fails("broke off after 0 of 300004 bytes")


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
    """Of an address: the ETag tells, and the parts of two versions are never joined."""
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
        fails(f"sends {size} bytes, it should be {len(DATA)}")


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
    fails("no GGUF file", "b'<!DOCTYP'", "text/html", reference=url)
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
    monkeypatch.setattr(download, "time", types.SimpleNamespace(sleep=slept.append, time=time.time))
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    served.faults[FILE] = [status(429, Retry_After="7"), status(503, Retry_After=date), status(429, Retry_After="soon")]
    assert pull().read_bytes() == DATA
    assert slept[0] == 7 and 50 < slept[1] <= 60 and slept[2] < 1
    served.faults["/api/models/owner/toy/revision/main"] = [status(429, Retry_After="4000")]
    with pytest.raises(FetchError, match=r"429 .*; it asks to wait 4000 s"):
        hub.ask(REF)


def test_an_answer_that_never_comes(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
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
    with pytest.raises(FetchError, match="HF_TOKEN holds characters"):
        hub.ask("o/p")


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_out_of_http(served: Hub, to: str) -> None:
    served.faults[FILE] = [redirect(to)]
    fails()


def test_redirects_without_end(served: Hub) -> None:
    served.faults[FILE] = [redirect(FILE)] * 50
    fails("redirects without end")


def test_the_digest_in_a_redirect(served: Hub) -> None:
    """A hub tells a large file's SHA-256 as it redirects to where the file lies."""
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
    """`pellucid pull` in a process. limit: bytes that a file may have."""
    code = CHILD.format(limit=limit, reference=REF)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def test_killed_at_random_moments(served: Hub) -> None:
    """SIGKILL and SIGINT in turn, wherever they hit: what is there is used, and the end is whole."""
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
