"""Downloads one file over HTTP: resumed if interrupted; nobody can use it before it is complete and verified."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pellucid.errors import FetchError, one_line
from pellucid.weights.store import MIN_RATE, DiskFull, size
from pellucid.weights.verified import digest
from pellucid.weights.web import Again, Answer, is_hub, open_url, patiently, shown

_UNSTATED = 16_000_000_000  # maximum bytes of a file whose size is not stated anywhere
_RECHECK = 8 << 20  # bytes between checks of the free space
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Remote:
    """A file to download. ``size`` in bytes and a digest if they are known in advance, else None.

    ``git``: SHA-1 of the file as a git blob, which is what hubs list for small files.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    git: str | None = None


class Download:
    """A download into ``folder``, under a name derived from what identifies the content, so that a later run continues
    an interrupted one."""

    def __init__(
        self,
        remote: Remote,
        folder: Path,
        show: Callable[[int, str], None],
        room: Callable[[int], None],
        most: int | None = None,
        rate: float = MIN_RATE,
    ) -> None:
        """show: called with the number of bytes so far, and a note ("" while they arrive). room: called with the bytes
        still to come (0: unknown); raises DiskFull if the disk has no room for them. most: maximum bytes of the file.
        rate: minimum bytes per second; a slower download is stopped."""
        self.remote, self.folder, self.show, self.room, self.most, self.rate = remote, folder, show, room, most, rate
        self.draft: Path | None = None
        self.size = remote.size  # None until a server states it
        self.sha256 = ""  # of the verified file
        self._lasting = False  # whether a later run can tell that the draft is of the same file

    def run(self) -> Path:
        """The verified file, still under its draft's name. Raises FetchError, or OSError from the disk."""
        try:
            draft: Path = patiently(self._attempt, lambda note: self.show(self._have(), note), self._have, self.rate)
        except BaseException:
            if self.draft is not None and (self._have() == 0 or not self._lasting):
                self.draft.unlink(missing_ok=True)
            raise
        return draft

    def _have(self) -> int:
        try:
            return self.draft.stat().st_size if self.draft else 0
        except OSError:
            return 0

    def _attempt(self) -> Path:
        """Downloads over one connection (two if there is something to resume)."""
        with open_url(self.remote.url) as answer:
            remote, etag = self._identify(answer)
            before, self.draft = self.draft, (draft := self.folder / _draft_name(remote, etag))
            if before is not None and before != draft:  # it is another file by now
                before.unlink(missing_ok=True)
            have = self._have()
            if remote.size is not None and have > remote.size:
                draft.unlink()
                have = 0
            if not have or not self._lasting:
                return self._receive(answer, draft, 0, remote)
        if have == remote.size:
            return self._verify(draft, remote)
        return self._resume(draft, have, remote, etag)

    def _resume(self, draft: Path, have: int, remote: Remote, etag: str | None) -> Path:
        """Downloads the rest of a draft; if the server's answer does not match the draft, starts again."""
        headers = {"Range": f"bytes={have}-", **({"If-Range": etag} if etag else {})}
        try:
            answer = open_url(remote.url, headers)
        except Again as error:
            if error.code == 416:
                draft.unlink(missing_ok=True)
            raise
        with answer:
            if answer.status == 200:  # no ranges, or the file has changed
                draft.unlink()
                remote, etag = self._identify(answer)
                self.draft = draft = self.folder / _draft_name(remote, etag)
                return self._receive(answer, draft, 0, remote)
            trouble = self._mismatch(answer, have, remote, etag)
            if trouble:
                draft.unlink()
                raise Again(f"{shown(remote.url)}: {trouble}")
            return self._receive(answer, draft, have, remote)

    @staticmethod
    def _mismatch(answer: Answer, have: int, remote: Remote, etag: str | None) -> str:
        """What is wrong with a partial answer; "" if it continues the draft."""
        stated = answer.header("Content-Range")
        match = re.fullmatch(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", stated)
        if match is None or int(match[1]) != have:
            return f"Content-Range: {one_line(stated, 60)!r} is not the requested range"
        last, whole = int(match[2]), match[3]
        size = int(whole) if remote.size is None and whole != "*" else remote.size
        if size is not None and (last != size - 1 or whole not in ("*", str(size))):
            return f"Content-Range: {stated!r} does not end with the last of {size} bytes"
        if answer.length not in (None, last + 1 - have):
            return f"Content-Range: {stated!r} does not fit Content-Length: {answer.length}"
        if not (remote.sha256 or remote.git) and answer.header("ETag") != etag:
            return "the ETag changed: it is another file by now"
        return ""

    def _identify(self, answer: Answer) -> tuple[Remote, str | None]:
        """Records what a server's answer says about the file, and its strong ETag."""
        remote, url = self.remote, shown(self.remote.url)
        encoding = answer.header("Content-Encoding") or "identity"
        if encoding.lower() != "identity":
            raise FetchError(f"{url} is sent encoded ({one_line(encoding, 60)}), not as it is: Content-Encoding")
        if remote.size is not None and answer.length is not None and answer.length != remote.size:
            raise FetchError(f"{url}: Content-Length: {answer.length}; expected the {remote.size} bytes of the file")
        if remote.size is not None and self.most is not None and remote.size > self.most:
            raise _too_large(url, remote.size, self.most)
        etag: str | None = answer.header("ETag")
        etag = etag if re.fullmatch(r'"[!#-~]{1,200}"', etag or "") else None
        linked = answer.linked or answer.header("X-Linked-ETag")
        if not linked and is_hub(remote.url):
            linked = etag or ""
        linked = linked.removeprefix("W/").strip('"').lower()
        if remote.sha256 is None and _SHA256.fullmatch(linked):
            remote = replace(remote, sha256=linked)
        remote = replace(remote, size=answer.length if remote.size is None else remote.size)
        self.size = remote.size
        self._lasting = bool(etag or remote.sha256 or remote.git)
        if not answer.framed and remote.size is None and not (remote.sha256 or remote.git):
            raise FetchError(f"{url}: the server states neither size nor checksum: give --sha256")
        return remote, etag

    def _receive(self, answer: Answer, draft: Path, start: int, remote: Remote) -> Path:
        done, url = start, shown(remote.url)
        most = self.most if self.most is not None or remote.size is not None else _UNSTATED
        if most is not None and remote.size is not None and remote.size > most:
            raise _too_large(url, remote.size, most)
        self.room(max((remote.size or 0) - start, 0))
        checked = start
        with open(draft, "r+b" if start else "wb") as out:
            out.seek(start)
            self.show(done, "")
            for chunk in answer.chunks(self.rate):
                if done == 0:
                    self._check_start(answer, chunk, remote)  # before anything is written
                done += len(chunk)
                if remote.size is not None and done > remote.size:
                    raise self._wrong(draft, remote, f"more than {remote.size} bytes")
                if most is not None and done > most:
                    draft.unlink()
                    raise _too_large(url, None, most)
                if done - checked >= _RECHECK:
                    self._check_room(draft, remote, done - len(chunk))
                    checked = done
                out.write(chunk)
                out.flush()  # so that a killed process leaves what it received
                self.show(done, "")
        if remote.size is not None and done < remote.size:
            raise Again(f"{url} broke off after {done} of {remote.size} bytes")
        if done == 0:
            self._check_start(answer, b"", remote)
        return self._verify(draft, remote)

    def _check_room(self, draft: Path, remote: Remote, done: int) -> None:
        """Checks for room, since others write to the disk, too. A draft of unbounded size is not kept."""
        try:
            self.room(max((remote.size or 0) - done, 0))
        except DiskFull:
            if remote.size is None:
                draft.unlink()
            raise

    @staticmethod
    def _check_start(answer: Answer, chunk: bytes, remote: Remote) -> None:
        path = urllib.parse.urlsplit(remote.url).path
        if path.endswith(".gguf") and not (chunk and chunk.startswith(b"GGUF"[: len(chunk)])):
            kind = one_line(answer.header("Content-Type"), 60) or "no type stated"
            what = f"it starts with {chunk[:8]!r}" if chunk else "it is empty"
            raise FetchError(f"{shown(remote.url)} is not a GGUF file: {what} ({kind})")

    def _verify(self, draft: Path, remote: Remote) -> Path:
        def show(done: int) -> None:
            self.show(self._have(), "verifying")

        show(0)
        self.sha256 = digest(draft, show=show)
        if remote.sha256 and self.sha256 != remote.sha256:
            raise self._wrong(draft, remote, f"sha256 {self.sha256}, not {remote.sha256}")
        if remote.git and not remote.sha256 and (found := git_digest(draft)) != remote.git:
            raise self._wrong(draft, remote, f"git blob {found}, not {remote.git}")
        return draft

    def _wrong(self, draft: Path, remote: Remote, what: str) -> FetchError:
        draft.unlink(missing_ok=True)
        return FetchError(
            f"the wrong checksum: the download from {shown(remote.url)} has {what}; nothing was kept: try again"
        )


def git_digest(path: Path) -> str:
    """The SHA-1 of a file as a git blob, in hexadecimal."""
    return digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _too_large(url: str, stated: int | None, most: int) -> FetchError:
    what = f"has {size(stated)} ({stated} bytes)" if stated is not None else "has more"
    return FetchError(f"{url} {what}; expected at most {size(most)}: allow more with --max-bytes")


def _draft_name(remote: Remote, etag: str | None) -> str:
    identity = remote.sha256 or remote.git or f"{remote.url} {etag} {remote.size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:24]
