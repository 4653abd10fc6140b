"""Names of models that are not in the catalogue, where they are stored in the cache, and which of their files count.

``owner/name[@revision][:file]`` is a model of a hub; an ``https://`` address is a GGUF file. In the cache folder:

    hub/OWNER/NAME[@REVISION]/FILES        web/HOST/DIGEST OF THE ADDRESS/FILE

and beside each such folder a lock, ``.NAME.lock``, a record of what was verified, ``.NAME.verified``, and the drafts of
interrupted downloads, ``.NAME.parts/``. Nothing here uses the network.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pellucid.errors import FetchError, one_line
from pellucid.weights.store import cache_folder, cannot_use
from pellucid.weights.verified import changed, record_of

REFERENCE = re.compile(
    r"(?P<owner>\w[\w.-]{0,95})/(?P<name>\w[\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?(?::(?P<file>.{1,1000}))?"
)
_PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_MOST_PARTS = 1000
_LONGEST_NAME = 200  # bytes; locks and records add a suffix, and file systems allow 255
# The files of a Hugging Face folder that Pellucid reads.
_FOLDER_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer\.model|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template\.(json|jinja)"
    r"|additional_chat_templates/(default|tool_use)\.jinja|model(-[0-9]+-of-[0-9]+)?\.safetensors"
    r"|model\.safetensors\.index\.json"
)
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def is_reference(text: str) -> bool:
    """Whether a name can only be a model of a hub or an address, not a path to a file."""
    if is_url(text):
        return True
    match = REFERENCE.fullmatch(text)
    return match is not None and (match["file"] is not None or not text.endswith((".gguf", ".safetensors", ".json")))


def find(reference: str, *, check: bool = False) -> Path | None:
    """The path of a model that was pulled, a GGUF file or a folder; None if it is not in the cache.

    check: compares its files with the record of what was verified. Raises FetchError for an impossible name, for a
    cache that cannot be read, and for a file that has changed since it was verified.
    """
    folder, wanted = place(reference)
    try:
        if not folder.is_dir():
            return None
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        with suppress(NotThere):
            chosen = choose(reference, names, wanted)
            if missing(chosen, names):
                return None
            record = record_of(folder.parent, folder.name)
            for name in chosen if check else []:
                if not record.is_same(folder / name, name):
                    raise changed(reference, folder / name)
            return folder / chosen[0] if chosen[0].endswith(".gguf") else folder
    except OSError as error:
        raise cannot_use(reference, cache_folder(), 0, error) from error
    return None


def place(reference: str) -> tuple[Path, str]:
    """The folder of a model in the cache, and the name of the requested file ("": not given)."""
    if is_url(reference):
        return _web_place(reference)
    match = REFERENCE.fullmatch(reference)
    if match is None or ".." in (match["revision"] or ""):
        raise FetchError(
            f"{one_line(reference, 200)!r} names no model: expected OWNER/NAME, of at most 96 characters each,"
            " OWNER/NAME:FILE or https://...gguf"
        )
    name = match["name"] + (f"@{match['revision'].replace('/', '--')}" if match["revision"] else "")
    for part in (match["owner"], name):
        _check_length(part)
    return cache_folder() / "hub" / match["owner"] / name, match["file"] or ""


def _web_place(reference: str) -> tuple[Path, str]:
    try:
        parts = urllib.parse.urlsplit(reference)
        host, credentials = parts.hostname or "", "@" in parts.netloc
        name = urllib.parse.unquote(parts.path.rpartition("/")[2], errors="strict")
    except ValueError:
        host, credentials, name = "", False, ""
    if not name.endswith(".gguf") or not host or not is_safe(name):
        raise FetchError(
            f"{one_line(reference, 200)} is not the address of a GGUF file: expected https://HOST/...NAME.gguf"
        )
    if credentials:
        raise FetchError(f"{one_line(host, 100)}: an address with a user name or password in it is not requested")
    for part in (name, host):
        _check_length(part)
    match = _PART.fullmatch(name)  # the parts of one model share a folder
    whole = reference.replace(match[0], f"{match['stem']}-of-{match['count']}") if match else reference
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:16]
    return cache_folder() / "web" / re.sub(r"[^\w.-]", "_", host) / digest, name


def _check_length(name: str) -> None:
    nbytes = len(os.fsencode(name))
    if nbytes > _LONGEST_NAME:
        raise FetchError(f"{one_line(name, 60)}: the name is too long: {nbytes} bytes, at most {_LONGEST_NAME} can be")


def is_safe(name: str) -> bool:
    """Whether a server's name for a file stays below the target folder and is printable."""
    parts = name.split("/")
    return name.isprintable() and not re.search(r"[\\:]", name) and all(p and p not in (".", "..") for p in parts)


def check_name(name: str) -> None:
    """Raises FetchError for a name that some system does not allow: a device, too long, or ending in a dot or space."""
    if len(name) > 1000:
        raise FetchError(f"{one_line(name, 60)}: the name is too long: {len(name)} characters, at most 1000 can be")
    for part in name.split("/"):
        _check_length(part)
        if _DEVICE.fullmatch(part) or part != part.rstrip(". "):
            raise FetchError(f"{one_line(name, 100)}: a file cannot have this name on every system")


# -- which files ----------------------------------------------------------------------------------------------------


class NotThere(FetchError):
    """A model has no file that the reference can refer to, or several."""


def siblings(name: str) -> list[str]:
    """All parts of the split file that ``name`` belongs to, in order; the name itself of any other file."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MOST_PARTS:
        raise NotThere(f"{one_line(name, 100)}: no such part of a split file (at most {_MOST_PARTS} are downloaded)")
    return [f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]


def parts_of(path: str) -> list[str]:
    """All parts that exist of the split file at a path, in order; the path itself of any other file."""
    match = _PART.fullmatch(path)
    if match is None:
        return [path]
    digits = "[0-9]" * 5
    return sorted(glob.glob(f"{glob.escape(match['stem'])}-{digits}-of-{match['count']}.gguf")) or [path]


def missing(chosen: list[str], names: Iterable[str]) -> list[str]:
    """The chosen files that are not among ``names``."""
    there = set(names)
    return [name for name in chosen if name not in there]


def _first(name: str) -> str:
    """The first part of the split file that ``name`` belongs to; the name itself of any other file."""
    match = _PART.fullmatch(name)
    return f"{match['stem']}-00001-of-{match['count']}.gguf" if match else name


def choose(reference: str, names: list[str], wanted: str) -> list[str]:
    """The files of a model to load: a GGUF file with all its parts, the first one first, else those of a folder. Raises
    NotThere."""
    models = dict.fromkeys(_first(name) for name in names if name.endswith(".gguf"))
    if _first(wanted) in models:
        return siblings(wanted)
    # A projector for images is a GGUF file, but not a model.
    part = wanted.lower()
    found = [name for name in models if part in name.lower() and not name.rpartition("/")[2].startswith("mmproj")]
    if len(found) == 1:
        return siblings(found[0])
    shown = one_line(reference, 100)
    if found:
        few = one_line(", ".join(found[:12]) + (", ..." if len(found) > 12 else ""), 250)
        base = one_line(reference.partition(":")[0], 60)
        raise NotThere(f"{shown} has {len(found)} GGUF files: name one, as {base}:FILE ({few})", name=reference)
    folder = [name for name in names if _FOLDER_FILES.fullmatch(name)]
    if not wanted and "config.json" in folder and any(name.endswith(".safetensors") for name in folder):
        # config.json last: a folder with it is complete.
        return sorted(folder, key=lambda name: (name == "config.json", name))
    what = f"no GGUF file like {one_line(wanted, 100)!r}" if wanted else _NO_MODEL
    raise NotThere(f"{shown}: the model has {what}", name=reference)


_NO_MODEL = "neither a GGUF file nor config.json with safetensors"
