"""Writes GGUF files, version 3: the header, then one tensor after another as they are computed.

A file is written under another name in the target's folder and renamed when it is complete, so that no incomplete file
is left under the target's name, however the process ends. Source: GGUF's specification.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid._parsers import TENSOR_TYPES, VALUE_TYPES
from pellucid.errors import ModelFileError, WrongValue, os_reason, shown
from pellucid.weights.base import check_regular

__all__ = ["Planned", "Value", "tensor_bytes", "write_gguf"]

_NUMBERS = {name: (i, dtype) for i, (name, _, dtype) in enumerate(VALUE_TYPES)}
_STRING, _ARRAY = _NUMBERS["string"][0], _NUMBERS["array"][0]
_TYPES = {name: (number, block, nbytes) for number, (name, block, nbytes) in TENSOR_TYPES.items()}
_ALIGNMENT = 32

Progress = Callable[[int, int, str], None]


class Value(NamedTuple):
    """A value of the metadata. ``kind``: "uint32", "string", "array of float32", ...; strings may be bytes."""

    kind: str
    value: Any


class Planned(NamedTuple):
    """A tensor to write. ``shape``: in NumPy's order. ``parts``: yields its bytes, in order, when it is written."""

    name: str
    type: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[bytes | npt.NDArray[np.uint8]]]


def tensor_bytes(type: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor. Raises ValueError for an unknown type, and for rows that are not a multiple of its block."""
    if type not in _TYPES:
        raise WrongValue("type", f" is {type!r}: not a GGUF type")
    _, block, nbytes = _TYPES[type]
    if not shape or shape[-1] % block:
        raise WrongValue("shape", f" is {tuple(shape)}: rows in {type} have a multiple of {block} weights")
    count = 1
    for n in shape:
        count *= n
    return count // block * nbytes


def _string(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "replace")  # a file name may not be valid text
    return struct.pack("<Q", len(raw)) + raw


def _encoded(key: str, value: Value) -> bytes:
    """Type and value, as they follow a key."""
    name = value.kind.removeprefix("array of ")
    number, dtype = _NUMBERS[name]
    if name != value.kind:
        items = value.value
        head = struct.pack("<IIQ", _ARRAY, number, len(items))
        if dtype is None:
            return head + b"".join(map(_string, items))
        for item in items:
            _check_range(key, item, name, dtype)
        return head + np.asarray(items, np.dtype(dtype)).tobytes()
    if number == _STRING:
        return struct.pack("<I", number) + _string(value.value)
    _check_range(key, value.value, name, dtype)
    return struct.pack("<I", number) + np.asarray(value.value, np.dtype(dtype)).tobytes()


def _check_range(key: str, value: Any, name: str, dtype: Any) -> None:
    """Raises WrongValue for anything but an integer of this type, if it is an integer type."""
    if np.dtype(dtype).kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if not isinstance(value, (int, np.integer)):
        raise WrongValue(key, f" is {shown(value)}: expected {name}")
    if not limits.min <= value <= limits.max:
        raise WrongValue(key, f" is {shown(value)}: beyond {name}")


def _header(metadata: Mapping[str, Value], tensors: Sequence[Planned]) -> bytes:
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        out += [_string(key), _encoded(key, value)]
    offset = 0
    for tensor in tensors:
        number = _TYPES[tensor.type][0]
        shape = tuple(reversed(tensor.shape))
        out += [_string(tensor.name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)]
        offset += _aligned(tensor_bytes(tensor.type, tensor.shape))
    whole = b"".join(out)
    return whole + bytes(_aligned(len(whole)) - len(whole))


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


@contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """A file to write; when the block ends without an error, it is synced and replaces `path`, or the target of a link
    there, whose owner, group and permissions it gets as far as the system allows. Raises ModelFileError if the file
    cannot be written; then nothing is left of it, nor, on most systems, after the process is killed."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder, name = os.path.split(target)
    folder = folder or "."
    draft = ""
    try:
        old = os.stat(target) if os.path.exists(target) else None
        if old is not None:
            check_regular(path, old.st_mode, "the name of a file to write")
        fd = _nameless(folder)
        draft = _draft(folder, name) if fd is None else ""
        with open(draft, "xb") if fd is None else open(fd, "wb") as file:
            if old is not None and hasattr(os, "fchmod"):
                _give(file.fileno(), old)
            yield file
            file.flush()
            os.fsync(file.fileno())
            draft = draft or _named(file.fileno(), folder, name)
        os.replace(draft, target)
        _sync_folder(folder)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise ModelFileError(os_reason(error), file=path) from None
        raise


def _give(fd: int, old: os.stat_result) -> None:
    """Gives a new file an older one's owner, group and permissions, as far as the system allows. If it cannot get the
    group, its own gets no more than all others."""
    for owner in (old.st_uid, -1):  # only root can give files away
        with suppress(OSError):
            os.fchown(fd, owner, old.st_gid)
            break
    mode = old.st_mode & 0o777
    with suppress(OSError):
        if os.fstat(fd).st_gid != old.st_gid:
            mode &= 0o707 | (mode & 0o007) << 3
        os.fchmod(fd, mode)


def _nameless(folder: str) -> int | None:
    """A new file in the folder without a name: the system frees it when the process ends, however it ends. None if the
    system has no such files, or cannot name them later, which is tried with another file."""
    flags, mask = getattr(os, "O_TMPFILE", 0), _umask()
    if not flags or mask is None:
        return None
    for last in (False, True):
        try:
            fd = os.open(folder, flags | os.O_RDWR | os.O_CLOEXEC, 0o666 & ~mask)  # Linux before 6.0 may not mask it
        except OSError:
            return None
        if last:
            return fd
        try:
            os.unlink(_named(fd, folder, ""))
        except OSError:
            return None
        finally:
            os.close(fd)
    return None


def _umask() -> int | None:
    """The process's umask; None if the system does not report it. os.umask would change it for other threads, too."""
    with suppress(OSError, ValueError), open("/proc/self/status", "rb") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith(b"Umask:")), None)
    return None


def _draft(folder: str, name: str) -> str:
    """A path that no other file has, for a file until it is whole."""
    short = os.fsdecode(os.fsencode(name)[:100])  # names of files have at most 255 bytes
    return os.path.join(folder, f".{short}.{os.urandom(8).hex()}.part")


def _named(fd: int, folder: str, name: str) -> str:
    """Gives a nameless file a name in the folder -> its path."""
    path = _draft(folder, name)
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)  # link() alone does not follow
    return path


def _sync_folder(folder: str) -> None:
    """Makes a new name durable; not every system can open folders."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value],
    tensors: Sequence[Planned],
    *,
    progress: Progress | None = None,
) -> int:
    """Writes a GGUF file -> its size in bytes. A file of this name is replaced when the new one is complete.

    progress: called after each part with the bytes written, the bytes of the whole file, and the tensor's name.
    Exceptions from a tensor's ``parts`` are passed on. Raises ModelFileError if the file cannot be written.
    """
    path = os.fsdecode(path)
    header = _header(metadata, tensors)
    total = len(header) + sum(_aligned(tensor_bytes(t.type, t.shape)) for t in tensors)
    with whole_file(path) as file:
        _write_all(file, header, tensors, total, progress)
    return total


def _write_all(file: Any, header: bytes, tensors: Sequence[Planned], total: int, progress: Progress | None) -> None:
    file.write(header)
    done = len(header)
    for tensor in tensors:
        wanted = tensor_bytes(tensor.type, tensor.shape)
        start = done
        for part in tensor.parts():
            file.write(part)
            done += len(part)
            if progress is not None:
                progress(min(done, total), total, tensor.name)
        if done - start != wanted:
            raise WrongValue("parts", f" of {tensor.name} have {done - start} bytes, expected {wanted}")
        file.write(bytes(_aligned(wanted) - wanted))
        done = start + _aligned(wanted)
    if progress is not None:
        progress(total, total, "")
