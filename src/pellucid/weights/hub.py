"""Models that are no catalogue's: ``owner/name[@revision][:file]`` on a hub, or an ``https://`` address of a GGUF file.

Only `fetch` uses the network; `find` says where a model that was pulled lies. In the cache folder:

    hub/OWNER/NAME[@REVISION]/FILES        web/HOST/DIGEST OF THE ADDRESS/FILE

and beside each such folder a lock, ``.NAME.lock``, and drafts that a broken download left, ``.NAME.parts/``.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.errors import FetchError, one_line
from pellucid.weights import store
from pellucid.weights.download import Download, Remote, Unreachable, get_json, hub
from pellucid.weights.store import Progress, cache_folder

_REFERENCE = re.compile(
    r"(?P<owner>\w[\w.-]{0,95})/(?P<name>\w[\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?(?::(?P<file>.{1,1000}))?"
)
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MOST_PARTS = 1000
# Of a Hugging Face folder: what Pellucid reads.
_FOLDER_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer\.model|tokenizer_config\.json"
    r"|special_tokens_map\.json|chat_template\.(json|jinja)|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json"
)
# Licences that ask nothing of who merely uses a model.
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0")


@dataclass(frozen=True)
class Listing:
    """A model that can be brought: its files (path below ``folder``, what to fetch), and how it is licensed.

    ``main``: what to load, a file of ``folder`` or "" for the folder itself. ``licence``: as the model's page says, ""
    where nothing does. ``terms``: address of what must be accepted first, "" for permissive licences and for bare
    addresses.
    """

    reference: str
    folder: Path
    files: tuple[tuple[str, Remote], ...]
    main: str
    licence: str = ""
    terms: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.main

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where the server has not told."""
        sizes = [remote.size for _, remote in self.files]
        return sum(size for size in sizes if size is not None) if None not in sizes else None


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def is_reference(text: str) -> bool:
    """Whether this can only mean a model of a hub or an address (a path to a file would look otherwise)."""
    if is_url(text):
        return True
    match = _REFERENCE.fullmatch(text)
    return match is not None and (match["file"] is not None or not text.endswith((".gguf", ".safetensors", ".json")))


def find(reference: str) -> Path | None:
    """Where a model that was pulled lies: a GGUF file or a folder; None where it is not here. No network."""
    folder, wanted = _place(reference)
    if not folder.is_dir():
        return None
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    with suppress(FetchError):
        chosen = _choose(reference, names, wanted)
        if _missing(chosen, names):
            return None
        return folder / chosen[0] if chosen[0].endswith(".gguf") else folder
    return None


def ask(reference: str, *, sha256: str | None = None, told: Callable[[str], None] = lambda note: None) -> Listing:
    """What the hub (or, for an address, the address itself) says there is to fetch. Raises FetchError.

    sha256: of the file, where the user knows it. told: is given what is waited for.
    """
    folder, wanted = _place(reference)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256={sha256!r}: expected 64 hexadecimal digits")
    if is_url(reference):
        base, _, query = reference.partition("?")
        names = _siblings(wanted)
        urls = [base.rpartition("/")[0] + "/" + urllib.parse.quote(n) + (f"?{query}" if query else "") for n in names]
        urls = [reference] if len(names) == 1 else urls
        files = [(name, Remote(url)) for name, url in zip(names, urls, strict=True)]
        listing = Listing(reference, folder, tuple(files), names[0])
    else:
        listing = _listing(reference, folder, wanted, told)
    if sha256 is not None:
        if len(listing.files) != 1:
            raise FetchError(f"{reference} has {len(listing.files)} files: --sha256 is for one", name=reference)
        ((name, remote),) = listing.files
        remote = Remote(remote.url, remote.size, sha256)
        listing = Listing(reference, folder, ((name, remote),), name, listing.licence, listing.terms)
    return listing


def fetch(listing: Listing, progress: Progress | None = None) -> Path:
    """Brings all files that are not here yet, verified, and returns `Listing.path`. Raises FetchError.

    One process at a time does it; what breaks off is resumed by the next call.
    """
    folder, need = listing.folder, listing.size or 0
    top = folder.parent
    parts = top / f".{folder.name}.parts"
    done = shown = 0
    download: Download | None = None

    def show(now: int, note: str) -> None:
        nonlocal shown
        if progress is not None:
            shown = max(shown, done + now)  # a download that starts anew does not fall back
            total = max(need, done + (download.size or 0) if download else 0, shown)
            progress(shown, total, note or "downloading")

    try:
        top.mkdir(parents=True, exist_ok=True)
        with store.lock(top / f".{folder.name}.lock", lambda: show(0, "waiting for another pull")):
            store.sweep_parts(top.parent)
            missing = [(name, remote) for name, remote in listing.files if not _here(folder / name, remote)]
            need = sum(remote.size or 0 for _, remote in missing)
            parts.mkdir(exist_ok=True)
            have = sum(p.stat().st_size for p in parts.iterdir())
            store.check_space(listing.reference, top, max(need - have, 0))
            for name, remote in missing:
                download = Download(remote, parts, show)
                try:
                    draft, size = download.run()
                    with open(draft, "r+b") as out:
                        store.commit(out, draft, folder / name)
                except OSError:  # a full disk: what it is full of goes
                    if download.draft is not None:
                        with suppress(OSError):
                            download.draft.unlink()
                    raise
                done, download = done + size, None
            show(0, "done")
            with suppress(OSError):
                parts.rmdir()
    except OSError as error:
        raise store.cannot_use(listing.reference, cache_folder(), need, error) from error
    except Unreachable as error:
        raise _offline(listing.reference, error) from None
    except FetchError as error:
        begun = parts.is_dir() and any(parts.iterdir())
        what = f": run `pellucid pull {listing.reference}` again, which goes on from there" if begun else ""
        raise FetchError(f"{error}{what}", name=listing.reference) from None
    finally:
        with suppress(OSError):
            parts.rmdir()
    return listing.path


def _offline(reference: str, error: FetchError) -> FetchError:
    return FetchError(f"{error}: run `pellucid pull {reference}` when it can be", name=reference)


def _here(path: Path, remote: Remote) -> bool:
    """Whether a file is there: only verified ones ever get their name."""
    try:
        return path.is_file() and remote.size in (None, path.stat().st_size)
    except OSError:
        return False


# -- which files ----------------------------------------------------------------------------------------------------


def _place(reference: str) -> tuple[Path, str]:
    """The folder of a model in the cache, and which of its files is meant ("": what there is)."""
    if is_url(reference):
        parts = urllib.parse.urlsplit(reference)
        name = urllib.parse.unquote(parts.path.rpartition("/")[2])
        if not name.endswith(".gguf") or not parts.hostname or not _safe(name):
            raise FetchError(f"{reference} is no address of a GGUF file: expected https://HOST/...NAME.gguf")
        match = _PART.fullmatch(name)  # the parts of one model share a folder
        whole = reference.replace(match[0], f"{match['stem']}-of-{match['count']}") if match else reference
        host = re.sub(r"[^\w.-]", "_", parts.hostname)
        return cache_folder() / "web" / host / hashlib.sha256(whole.encode()).hexdigest()[:16], name
    match = _REFERENCE.fullmatch(reference)
    if match is None or ".." in (match["revision"] or ""):
        raise FetchError(f"{reference!r} names no model: expected OWNER/NAME, OWNER/NAME:FILE or https://...gguf")
    name = match["name"] + (f"@{match['revision'].replace('/', '--')}" if match["revision"] else "")
    return cache_folder() / "hub" / match["owner"] / name, match["file"] or ""


def _safe(name: str) -> bool:
    """Whether a server's name for a file stays below the folder it goes to, and may be shown."""
    parts = name.split("/")
    return name.isprintable() and not re.search(r"[\\:]", name) and all(p and p not in (".", "..") for p in parts)


def _siblings(name: str) -> list[str]:
    """All parts of the split file that ``name`` belongs to, in order; of others, themselves."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MOST_PARTS:
        raise FetchError(f"{name}: no such part of a split file (at most {_MOST_PARTS} are fetched)")
    return [f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]


def _missing(chosen: list[str], names: list[str]) -> list[str]:
    return [name for name in chosen if name not in names]


def _choose(reference: str, names: list[str], wanted: str) -> list[str]:
    """Of a model's files those to load, the one to name first: a GGUF file (all its parts), else those of a folder."""
    models = {tuple(_siblings(n)): n for n in names if n.endswith(".gguf")}
    for files in models:
        if wanted in files:
            return list(files)
    # A projector for images is a GGUF file, and no model of its own.
    found = [f for f in models if wanted.lower() in f[0].lower() and not f[0].rpartition("/")[2].startswith("mmproj")]
    if len(found) == 1:
        return list(found[0])
    if found:
        shown = ", ".join(f[0] for f in found[:12]) + (", ..." if len(found) > 12 else "")
        base = reference.partition(":")[0]
        raise FetchError(f"{reference} has {len(found)} GGUF files: name one, as {base}:FILE ({shown})", name=reference)
    folder = [name for name in names if _FOLDER_FILES.fullmatch(name)]
    if not wanted and "config.json" in folder and any(name.endswith(".safetensors") for name in folder):
        # config.json last: a folder that has it is whole.
        return sorted(folder, key=lambda name: (name == "config.json", name))
    what = f"no GGUF file like {wanted!r}" if wanted else "neither a GGUF file nor config.json with safetensors"
    raise FetchError(f"{reference}: the model has {what}", name=reference)


def _listing(reference: str, folder: Path, wanted: str, told: Callable[[str], None]) -> Listing:
    match = _REFERENCE.fullmatch(reference)
    assert match is not None  # _place has looked
    model = f"{match['owner']}/{match['name']}"
    revision = urllib.parse.quote(match["revision"] or "main", safe="")
    url = f"{hub()}/api/models/{model}/revision/{revision}?blobs=true"
    try:
        answer = get_json(url, told)
    except Unreachable as error:
        raise _offline(reference, error) from None
    try:
        commit = answer["sha"]
        entries: dict[str, dict[str, Any]] = {s["rfilename"]: s for s in answer["siblings"]}
        if not re.fullmatch(r"[0-9a-f]{6,64}", commit) or not all(map(_safe, entries)):
            raise ValueError("a revision or a file name that cannot be")
        chosen = _choose(reference, sorted(entries), wanted)
        if lacking := _missing(chosen, list(entries)):
            raise FetchError(f"{reference}: the hub lacks {lacking[0]}, a part of the model", name=reference)
        files = tuple((n, _remote(f"{hub()}/{model}/resolve/{commit}/{urllib.parse.quote(n)}", entries[n]))
                      for n in chosen)  # fmt: skip
        card = answer.get("cardData") or {}
        licence, link = str(card.get("license") or ""), card.get("license_link")
        licence = one_line(str(card.get("license_name") or licence) if licence == "other" else licence, 100)
        gated = bool(answer.get("gated"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FetchError(f"{url}: not what a hub answers ({error!r:.200})", name=reference) from None
    page = f"{hub()}/{model}"
    free = licence.lower() in PERMISSIVE and not gated
    terms = "" if free else link if isinstance(link, str) and is_url(link) and link.isprintable() else page
    return Listing(reference, folder, files, chosen[0] if chosen[0].endswith(".gguf") else "", licence, terms)


def _remote(url: str, entry: dict[str, Any]) -> Remote:
    lfs = entry.get("lfs") or {}
    size, sha256, git = lfs.get("size", entry.get("size")), lfs.get("sha256"), entry.get("blobId")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"a size of {size!r}")
    for digest, digits in ((sha256, 64), (git, 40)):
        if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", str(digest)):
            raise ValueError(f"a digest of {digest!r}")
    return Remote(url, size, sha256, None if lfs else git)
