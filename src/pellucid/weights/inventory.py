"""The models in the cache, with their sizes, and how to remove one of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pellucid.errors import FetchError, one_line
from pellucid.weights import catalog, reference, store
from pellucid.weights.store import cache_folder, cannot_use
from pellucid.weights.verified import record_of

__all__ = ["Held", "find", "name_of", "pulled", "remove"]


@dataclass(frozen=True)
class Held:
    """A model of the cache. ``name``: as for -m; ``path``: a GGUF file (the first part of a split one) or a folder;
    ``files``: all of it. ``folder``: of the catalogue's or the hub's model, whose record and lock are in ``top`` under
    ``key``."""

    name: str
    path: Path
    files: tuple[Path, ...]
    top: Path
    key: str

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files if file.is_file())


def pulled() -> list[Held]:
    """The complete models of hubs and addresses in the cache, by name. Raises FetchError if it cannot be read."""
    cache = cache_folder()
    try:
        found = [*_models(cache / "hub"), *_models(cache / "web")]
    except OSError as error:
        raise cannot_use("the cache", cache, 0, error) from error
    return sorted(found, key=lambda held: held.name)


def _models(source: Path) -> Iterator[Held]:
    for folder in sorted(source.glob("*/*")):
        if folder.is_dir() and not folder.name.startswith("."):
            yield from _of_folder(folder)


def _of_folder(folder: Path) -> Iterator[Held]:
    """Its GGUF files, and its folder of safetensors, as far as they are complete."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    groups: dict[str, list[str]] = {}
    for name in names:
        with suppress(reference.NotThere):
            if name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj"):
                parts = reference.siblings(name)
                if not reference.missing(parts, names):
                    groups[parts[0]] = parts
    of_hub = folder.parent.parent.name == "hub"
    base = f"{folder.parent.name}/{folder.name}"
    for first, parts in groups.items():
        name = str(folder / first) if not of_hub else base if len(groups) == 1 else f"{base}:{first}"
        yield Held(name, folder / first, tuple(folder / part for part in parts), folder.parent, folder.name)
    if of_hub and not groups:
        with suppress(reference.NotThere):
            chosen = reference.choose(base, names, "")
            yield Held(base, folder, tuple(folder / name for name in chosen), folder.parent, folder.name)


def name_of(path: str | os.PathLike[str]) -> str | None:
    """The name of the catalogue or of a hub for a model's path in the cache; None for any other path."""
    target = os.path.realpath(path)
    with suppress(FetchError):  # there is no cache, or it cannot be read
        for entry in catalog.entries():
            if os.path.realpath(catalog.path(entry.name)) == target:
                return entry.name
        if target.startswith(os.path.realpath(cache_folder()) + os.sep):
            return next((held.name for held in pulled() if os.path.realpath(held.path) == target), None)
    return None


def find(name: str) -> Held:
    """The model of this name in the cache, or of this path in it; including damaged and incomplete ones.

    Raises FetchError if there is none, or more than one."""
    cache = cache_folder()
    try:
        if catalog.find(name) is not None:
            path = catalog.path(name)
            if path.is_file():
                return Held(name, path, (path,), cache, name)
        elif reference.is_reference(name):
            folder, wanted = reference.place(name)
            if folder.is_dir():
                return _chosen(name, folder, "" if reference.is_url(name) else wanted)
        elif catalog.is_name(name):
            raise catalog.unknown(name)
        else:
            return _at(name, cache)
    except OSError as error:
        raise cannot_use(name, cache, 0, error) from error
    raise FetchError(f"{one_line(name, 100)} is not in the cache {cache}: see `pellucid models`", name=name)


def _chosen(name: str, folder: Path, wanted: str) -> Held:
    here = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in here]
    models = list(_of_folder(folder))
    if wanted or len(models) > 1:
        names = [one for one in reference.choose(name, names, wanted) if one in names]
    return Held(name, folder, tuple(folder / one for one in names), folder.parent, folder.name)


def _at(path: str, cache: Path) -> Held:
    target = os.path.realpath(path)
    for entry in catalog.entries():
        if os.path.realpath(catalog.path(entry.name)) == target:
            return find(entry.name)
    for held in pulled():
        if target in map(os.path.realpath, (held.path, *held.files)):
            return held
    shown = one_line(path, 200) or "''"
    if not os.path.lexists(path):
        raise FetchError(f"{shown}: not found", name=path)
    raise FetchError(f"{shown} is not a model of the cache {cache}, and nothing else is removed", name=path)


def remove(held: Held, told: Callable[[str], None] = lambda note: None) -> int:
    """Deletes a model's files and their records -> the number of bytes. told: called with what is being waited for.

    Raises FetchError if a file is not inside the cache, or the cache cannot be written.
    """
    cache = cache_folder()
    for file in held.files:
        if not (os.path.realpath(file.parent) + os.sep).startswith(os.path.realpath(cache) + os.sep):
            raise FetchError(f"{file} is outside of the cache {cache}: it is not removed", name=held.name)
    said: list[str] = []

    def wait() -> None:
        if not said:
            said.append("waiting for a pull of the model to end")
            told(said[0])

    try:
        nbytes = held.bytes
        with store.lock(held.top / f".{held.key}.lock", wait):
            record = record_of(held.top, held.key)
            for file in held.files:
                folder = held.top / held.key
                record.put(file.relative_to(folder).as_posix() if folder in file.parents else file.name, None)
                file.unlink(missing_ok=True)
                _prune(file.parent, held.top)
            if not record.seals:
                record.path.unlink(missing_ok=True)
            if not (held.top / held.key).exists():  # an interrupted download that could be resumed
                shutil.rmtree(held.top / f".{held.key}.parts", ignore_errors=True)
        return nbytes
    except OSError as error:
        raise cannot_use(held.name, cache, 0, error) from error


def _prune(folder: Path, top: Path) -> None:
    """Deletes a folder, and those above it up to ``top``, while they are empty."""
    while folder != top and top in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
