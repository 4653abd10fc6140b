"""Models of a hub, and of an ``https://`` address: lists a model's files and downloads them to the cache.

The module `reference` defines the names and where models are stored.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pellucid.errors import FetchError, WrongValue, one_line, shown
from pellucid.weights import reference as names
from pellucid.weights import store, web
from pellucid.weights.download import Download, Remote, git_digest
from pellucid.weights.reference import find, is_reference
from pellucid.weights.store import Progress, cache_folder
from pellucid.weights.verified import digest, record_of, seal
from pellucid.weights.web import Limits, Unreachable

__all__ = ["Limits", "Listing", "ask", "fetch", "find", "is_reference"]

_MOST_ENTRIES = 100_000
_MOST_BYTES = 1 << 53  # of a file: more than any file has
# Licences that set no conditions for using a model.
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0")


@dataclass(frozen=True)
class Listing:
    """A model that can be downloaded: its files (path below ``folder``, source), and its licence.

    ``main``: what to load, a file of ``folder`` or "" for the folder itself. ``licence``: as stated on the model's
    page, "" if it is not. ``terms``: address of what must be accepted first, "" for permissive licences and for bare
    addresses. ``insecure``: files without a SHA-256 may be downloaded over ``http://``.
    """

    reference: str
    folder: Path
    files: tuple[tuple[str, Remote], ...]
    main: str
    licence: str = ""
    terms: str = ""
    insecure: bool = False

    @property
    def path(self) -> Path:
        return self.folder / self.main

    @property
    def size(self) -> int | None:
        """Bytes of all files; None if the server has not stated it."""
        sizes = [remote.size for _, remote in self.files]
        return sum(size for size in sizes if size is not None) if None not in sizes else None


# -- downloading ----------------------------------------------------------------------------------------------------


def fetch(
    listing: Listing,
    progress: Progress | None = None,
    *,
    verify: bool = True,
    limits: Limits | None = None,
    told: Callable[[str], None] = lambda note: None,
) -> Path:
    """Downloads the files that are not in the cache, verifies them, and returns `Listing.path`. Raises FetchError.

    verify: also reads every byte of the files in the cache, and downloads wrong ones again; otherwise only sizes are
    compared.
    limits: of size and rate. told: called with notes for the user.

    One process at a time downloads, and the next call resumes an interrupted download. If all files are in the cache,
    only their record is written, if possible: the cache may be read-only.
    """
    for _, remote in listing.files:
        if web.scheme(remote.url) == "http" and not remote.sha256 and not listing.insecure:
            raise _unencrypted(listing.reference, remote.url)
    work = _Fetch(listing, progress, verify, limits or Limits(), told)
    try:
        if work.missing():
            work.download()
        work.show(0, "done")
    except OSError as error:
        raise store.cannot_use(listing.reference, cache_folder(), work.need, error) from error
    except Unreachable as error:
        raise _offline(listing.reference, error) from None
    except FetchError as error:
        again = f": run `pellucid pull {one_line(listing.reference, 100)}` again to continue from there"
        what = again if work.has_begun() else ""
        raise FetchError(f"{error}{what}", name=listing.reference) from None
    return listing.path


class _Fetch:
    def __init__(
        self, listing: Listing, progress: Progress | None, verify: bool, limits: Limits, told: Callable[[str], None]
    ) -> None:
        self.listing, self.progress, self.limits, self.told = listing, progress, limits, told
        self.top = listing.folder.parent
        self.parts = self.top / f".{listing.folder.name}.parts"
        self.record = record_of(self.top, listing.folder.name)
        self.need = listing.size or 0  # bytes to download, as far as known
        self._unread = {name for name, _ in listing.files} if verify else set()
        self._wrong: set[str] = set()
        self._done = self._shown = 0  # of the bytes to download
        self._here = 0  # bytes of the files that are already in the cache
        self._download: Download | None = None

    def show(self, now: int, note: str) -> None:
        """Calls ``progress`` with bytes that never decrease; ``now``: those of the current file. The total is the size
        of all files, including those in the cache, as far as it is known."""
        if self.progress is not None:
            done = self._here + self._done
            self._shown = max(self._shown, done + now)  # a download may start again from the beginning
            under_way = done + (self._download.size or 0) if self._download else 0
            whole = self.listing.size or self.need
            self.progress(self._shown, max(whole, under_way, self._shown), note or "downloading")

    def has_begun(self) -> bool:
        """Whether there is a draft that the next call can continue."""
        with suppress(OSError):
            return self.parts.is_dir() and any(self.parts.iterdir())
        return False

    def missing(self) -> list[tuple[str, Remote]]:
        """The files to download. Files in the cache that must be verified are read once."""
        return [(name, remote) for name, remote in self.listing.files if not self._is_here(name, remote)]

    def _is_here(self, name: str, remote: Remote) -> bool:
        file = self.listing.folder / name
        if not file.is_file() or remote.size not in (None, file.stat().st_size):
            return False
        if name in self._unread:
            if not self._is_right(file, name, remote):
                if name not in self._wrong:
                    self.told(f"{name} is not what was published: downloading it again")
                self._wrong.add(name)
                return False
            self._unread.discard(name)
        return True

    def _is_right(self, file: Path, name: str, remote: Remote) -> bool:
        sha256 = remote.sha256
        if remote.git and sha256 is None:
            if git_digest(file) != remote.git:
                return False
            sha256 = digest(file)
        return self.record.verify(file, name, sha256, lambda done: self.show(0, "verifying"))

    def download(self) -> None:
        reference = self.listing.reference
        self.top.mkdir(parents=True, exist_ok=True)
        lock = self.top / f".{self.listing.folder.name}.lock"
        with store.lock(lock, lambda: self.show(0, "waiting for another pull")):
            store.sweep_parts(self.top.parent)
            missing = self.missing()  # another process may have finished it meanwhile
            self.need = sum(remote.size or 0 for _, remote in missing)
            self._here = (self.listing.size or self.need) - self.need
            most = self.limits.max_bytes
            if most is not None and self.need > most:
                what = f"{one_line(reference, 100)} needs {store.size(self.need)}"
                raise FetchError(f"{what}, more than the {store.size(most)} of --max-bytes")
            self.parts.mkdir(exist_ok=True)
            try:
                have = sum(p.stat().st_size for p in self.parts.iterdir())
                store.check_space(reference, self.top, max(self.need - have, 0))
                for name, remote in missing:
                    self._one(name, remote)
            finally:
                with suppress(OSError):
                    self.parts.rmdir()

    def _one(self, name: str, remote: Remote) -> None:
        most, file = self.limits.max_bytes, self.listing.folder / name
        self._download = download = Download(
            remote,
            self.parts,
            self.show,
            lambda need: store.check_space(self.listing.reference, self.top, need),
            None if most is None else most - self._done,
            self.limits.min_rate,
        )
        try:
            draft = download.run()
            size = draft.stat().st_size
            if name in self.record.seals:  # otherwise, a simultaneous load would compare the new file with the old seal
                self.record.put(name, None)
            with open(draft, "r+b") as out:
                store.commit(out, draft, file)
        except OSError as error:
            if store.is_full(error) and download.draft is not None:  # the draft is what fills the disk
                with suppress(OSError):
                    download.draft.unlink()
            raise
        self.record.put(name, seal(file, download.sha256))
        self._unread.discard(name)
        self._done, self._download = self._done + size, None


def _offline(reference: str, error: FetchError) -> FetchError:
    return FetchError(f"{error}: run `pellucid pull {one_line(reference, 100)}` when it can be", name=reference)


def _unencrypted(reference: str, url: str) -> FetchError:
    return FetchError(
        f"{web.shown(url)}: anyone on the network can alter what http:// sends; give --sha256 (sha256= in Python),"
        " or --insecure (insecure=True) to accept it nevertheless",
        name=reference,
    )


# -- what there is --------------------------------------------------------------------------------------------------


def ask(
    reference: str,
    *,
    sha256: str | None = None,
    insecure: bool = False,
    told: Callable[[str], None] = lambda note: None,
) -> Listing:
    """Returns what can be downloaded, as the hub lists it; for an address, only that file. Raises FetchError.

    sha256: of the file, if the user knows it. insecure: accept ``http://`` without it. told: called with notes on what
    is being waited for.
    """
    folder, wanted = names.place(reference)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise WrongValue("sha256", f"={shown(sha256, 100)}: expected 64 hexadecimal digits")
    base = reference if names.is_url(reference) else web.hub()
    if not names.is_url(reference) and web.is_loopback(base):
        insecure = True  # there is no network path to this machine itself
    if web.scheme(base) == "http" and sha256 is None and not insecure:
        raise _unencrypted(reference, base)
    if names.is_url(reference):
        listing = _address(reference, folder, wanted)
    else:
        listing = _of_hub(reference, folder, wanted, told)
    listing = replace(listing, insecure=insecure)
    if sha256 is None:
        return listing
    if len(listing.files) != 1:
        raise FetchError(f"{reference} has {len(listing.files)} files: --sha256 is for one", name=reference)
    ((name, remote),) = listing.files
    return replace(listing, files=((name, Remote(remote.url, remote.size, sha256)),))


def _address(reference: str, folder: Path, wanted: str) -> Listing:
    base, _, query = reference.partition("?")
    files = names.siblings(wanted)
    urls = [base.rpartition("/")[0] + "/" + urllib.parse.quote(n) + (f"?{query}" if query else "") for n in files]
    urls = [reference] if len(files) == 1 else urls
    remotes = tuple((name, Remote(url)) for name, url in zip(files, urls, strict=True))
    return Listing(reference, folder, remotes, files[0])


def _of_hub(reference: str, folder: Path, wanted: str, told: Callable[[str], None]) -> Listing:
    match = names.REFERENCE.fullmatch(reference)
    assert match is not None  # place() has checked it
    model = f"{match['owner']}/{match['name']}"
    path = urllib.parse.quote(model)
    revision = urllib.parse.quote(match["revision"] or "main", safe="")
    url = f"{web.hub()}/api/models/{path}/revision/{revision}?blobs=true"
    try:
        answer = web.get_json(url, told)
    except Unreachable as error:
        raise _offline(reference, error) from None
    try:
        commit, entries = _entries(answer)
        chosen = names.choose(reference, sorted(entries), wanted)
        if lacking := names.missing(chosen, entries):
            raise FetchError(f"{reference}: the hub lacks {lacking[0]}, a part of the model", name=reference)
        files = []
        for name in chosen:
            index, entry = entries[name]
            names.check_name(name)
            address = f"{web.hub()}/{path}/resolve/{commit}/{urllib.parse.quote(name)}"
            files.append((name, _remote(address, index, entry)))
        licence, terms = _licence(answer, f"{web.hub()}/{path}")
    except _Malformed as error:
        raise FetchError(f"{web.shown(url)}: not a hub's answer: {error}", name=reference) from None
    main = chosen[0] if chosen[0].endswith(".gguf") else ""
    return Listing(reference, folder, tuple(files), main, licence, terms)


class _Malformed(Exception):
    """A field of a listing is not what a hub sends."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}: {shown(value, 80)}; expected {expected}")


def _field(of: dict[str, Any], name: str, kinds: type | tuple[type, ...], where: str = "") -> Any:
    """A field of a JSON object; None if it is missing or null, where that is allowed. Raises _Malformed."""
    value = of.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool) is not (kinds is bool):
        kind = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise _Malformed(f"{where}{name}", value, kind.replace("NoneType", "nothing"))
    return value


_NOTHING = type(None)


def _entries(answer: Any) -> tuple[str, dict[str, tuple[int, dict[str, Any]]]]:
    """The commit, and the files by name, each with its position in the listing."""
    if not isinstance(answer, dict):
        raise _Malformed("the answer", type(answer).__name__, "an object")
    commit = _field(answer, "sha", str)
    if not re.fullmatch(r"[0-9a-f]{6,64}", commit):
        raise _Malformed("sha", commit, "hexadecimal digits")
    listed = _field(answer, "siblings", list)
    if len(listed) > _MOST_ENTRIES:
        raise _Malformed("siblings", f"{len(listed)} files", f"at most {_MOST_ENTRIES}")
    return commit, dict(_named(listed))


def _named(listed: list[Any]) -> Iterator[tuple[str, tuple[int, dict[str, Any]]]]:
    seen: set[str] = set()
    for i, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise _Malformed(f"siblings[{i}]", entry, "an object")
        name = _field(entry, "rfilename", str, f"siblings[{i}].")
        if not names.is_safe(name):
            raise _Malformed(f"siblings[{i}].rfilename", name, "a printable path below the model's folder")
        if name in seen:
            raise _Malformed(f"siblings[{i}].rfilename", name, "no name twice")
        seen.add(name)
        yield name, (i, entry)


def _remote(url: str, index: int, entry: dict[str, Any]) -> Remote:
    where = f"siblings[{index}]."
    lfs = _field(entry, "lfs", (dict, _NOTHING), where) or {}
    of, prefix = (lfs, f"{where}lfs.") if "size" in lfs else (entry, where)
    size = _field(of, "size", (int, _NOTHING), prefix)
    if size is not None and not 0 <= size <= _MOST_BYTES:
        raise _Malformed(f"{prefix}size", size, f"bytes, at most {_MOST_BYTES}")
    sha256 = _field(lfs, "sha256", (str, _NOTHING), f"{where}lfs.")
    git = _field(entry, "blobId", (str, _NOTHING), where)
    for field, value, digits in (("lfs.sha256", sha256, 64), ("blobId", git, 40)):
        if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise _Malformed(where + field, value, f"{digits} hexadecimal digits")
    return Remote(url, size, sha256, None if lfs else git)


def _licence(answer: dict[str, Any], page: str) -> tuple[str, str]:
    """The licence in a printable form, and the address of its terms, "" for permissive ones."""
    card = _field(answer, "cardData", (dict, _NOTHING)) or {}
    licence, link = str(card.get("license") or ""), card.get("license_link")
    licence = one_line(str(card.get("license_name") or licence) if licence == "other" else licence, 100)
    if licence.lower() in PERMISSIVE and not answer.get("gated"):
        return licence, ""
    usable = isinstance(link, str) and names.is_url(link) and link.isprintable() and len(link) <= 300
    return licence, str(link) if usable else page
