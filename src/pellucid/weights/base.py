"""An open model, whatever its file format: tensors by name, metadata by key, and the files that hold them."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from pellucid._parsers import StringArray
from pellucid.errors import ClosedError, ModelFileError, UnsupportedModelError, os_reason
from pellucid.parts import Made, Parts

T = TypeVar("T")

MOST_READ = 8 << 20  # bytes of one system call


class _Missing:
    def __repr__(self) -> str:
        return "(none)"


MISSING = _Missing()


class Tensor(NamedTuple):
    """One tensor, still in its file.

    ``type``: "F32", "Q4_1", ...; an unknown type is "ggml type 99" and becomes an error when the tensor is used.
    ``shape``: in NumPy's order, so that a matrix is (rows, k). ``data``: its bytes, in the file, in memory or computed.
    ``offset``: where the data start in ``file``, in bytes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: Data
    offset: int
    file: str


def check_regular(path: str, mode: int, expected: str) -> None:
    """Raises ModelFileError unless ``mode`` is that of a regular file: opening a FIFO would block, and reading a device
    might never end."""
    if not stat.S_ISREG(mode):
        kinds = [
            (stat.S_ISDIR, "a folder"),
            (stat.S_ISFIFO, "a FIFO"),
            (stat.S_ISSOCK, "a socket"),
            (stat.S_ISCHR, "a device"),
            (stat.S_ISBLK, "a device"),
        ]
        kind = next((text for test, text in kinds if test(mode)), "not a regular file")
        raise ModelFileError(f"this is {kind}", file=path, expected=expected)


def stat_file(path: str) -> os.stat_result:
    """``os.stat``; raises ModelFileError if it fails."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise ModelFileError("not found", file=path) from None
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None
    except ValueError as error:  # a character that no path can have
        what = "a character that cannot be encoded" if isinstance(error, UnicodeError) else "a NUL character"
        raise ModelFileError(f"not found: the path contains {what}", file=path) from None


def open_regular(path: str, expected: str = "a file") -> tuple[int, int]:
    """(file descriptor, size in bytes) of a regular file, opened for reading; never blocks."""
    check_regular(path, stat_file(path).st_mode, expected)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None
    try:
        status = os.fstat(fd)
        check_regular(path, status.st_mode, expected)
    except BaseException:
        os.close(fd)
        raise
    return fd, status.st_size


def read_file(path: str, limit: int, expected: str) -> bytes:
    """The contents of a small file. Raises ModelFileError if it has more than ``limit`` bytes."""
    fd, size = open_regular(path, expected)
    try:
        with open(fd, "rb") as file:
            if size > limit:
                raise ModelFileError(f"a file of {size} bytes", file=path, expected=f"{expected} of at most {limit}")
            return file.read(limit)
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None


class SourceFile:
    """A file open for reading, of ``size`` bytes. It is never memory-mapped: if another program truncates it, a read
    raises ModelFileError, whereas an access to a mapping would end the process."""

    _fd: int | None = None  # opening failed, or the file is closed
    _end = staticmethod(os.close)  # a finalizer may run after this module's names are gone

    def __init__(self, path: str, expected: str) -> None:
        self.path = path
        self._fd, self.size = open_regular(path, expected)
        if self.size == 0:
            self.close()
            raise ModelFileError("the file is empty", file=path, expected=expected)

    def fileno(self) -> int:
        if self._fd is None:
            raise ClosedError(f"{self.path} is closed")
        return self._fd

    def read_into(self, out: npt.NDArray[np.uint8], offset: int, field: str | None = None) -> None:
        """Fills ``out`` with the bytes from ``offset`` on. ``field``: what they are, for errors."""
        done, view = 0, out.data
        while done < out.size:
            try:
                got = os.preadv(self.fileno(), [view[done : done + MOST_READ]], offset + done)
            except OSError as error:
                raise ModelFileError(os_reason(error), file=self.path, field=field, offset=offset + done) from None
            if got == 0:
                wanted = f"{out.size} bytes from byte {offset} on"
                message = "the file ends here"
                raise ModelFileError(message, file=self.path, field=field, offset=offset + done, expected=wanted)
            done += got

    def read(self, offset: int, size: int, field: str | None = None) -> npt.NDArray[np.uint8]:
        """(size,) uint8."""
        out = np.empty(size, np.uint8)
        self.read_into(out, offset, field)
        return out

    def close(self) -> None:
        """May be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._end(fd)

    def __del__(self) -> None:
        self.close()


class FileBytes:
    """``size`` bytes of a file from ``offset`` on, read at each use. ``field``: what they are, for errors."""

    __slots__ = ("field", "file", "offset", "size")

    def __init__(self, file: SourceFile, offset: int, size: int, field: str) -> None:
        self.file, self.offset, self.size, self.field = file, offset, size, field

    def fileno(self) -> int:
        """The file's descriptor. Raises ClosedError after the file is closed."""
        return self.file.fileno()

    def view(self, dtype: Any, /) -> npt.NDArray[Any]:
        """The bytes as an array of `dtype`. Raises ModelFileError if they cannot be read; ClosedError."""
        return self.file.read(self.offset, self.size, self.field).view(dtype)

    def __getitem__(self, part: slice, /) -> FileBytes:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("a slice of a file's bytes must have step 1")
        return FileBytes(self.file, self.offset + start, max(stop - start, 0), self.field)

    def tobytes(self) -> bytes:
        return self.view(np.uint8).tobytes()


Data: TypeAlias = "FileBytes | Parts | Made | npt.NDArray[np.uint8]"  # the bytes of a tensor


def same_bytes(a: Data, b: Data) -> bool:
    """Whether two tensors have the same bytes, compared a few megabytes at a time."""

    def part(of: Data, start: int) -> npt.NDArray[np.uint8]:
        return of[start : start + MOST_READ].view(np.uint8)

    return a.size == b.size and all(
        np.array_equal(part(a, start), part(b, start)) for start in range(0, a.size, MOST_READ)
    )


# general.file_type of GGUF files: the name of a mixture of formats.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}  # fmt: skip


def _kind_of(value: object) -> str:
    if isinstance(value, bytes):
        return "text that is not UTF-8"
    if isinstance(value, (StringArray, np.ndarray, list, tuple)):
        return f"a list of {len(value)}"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "text", dict: "a table"}
    return names.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    if isinstance(value, (str, int, float)):
        text = repr(value)
        return f"{_kind_of(value)} ({text if len(text) <= 60 else text[:57] + '...'})"
    return _kind_of(value)


class ModelFile:
    """An open model: its tensors and metadata.

    ``path``: as given. ``nbytes``: bytes of all files. ``format``: "GGUF 3" or "safetensors".
    ``metadata``: key -> int, float, bool, str, NumPy array, StringArray, or ``bytes`` for a string that is not UTF-8.
    For a folder: {"config": the table of config.json}; the getters find its entries as "config.hidden_size".
    ``tensors``: name -> Tensor, in the file's order. Both raise ClosedError after ``close()``.

    The typed getters raise ModelFileError, naming the key and what was expected, if a key is missing and no default is
    given, or if its value has another type or is out of range.
    """

    def __init__(
        self,
        path: str,
        format: str,
        architecture_key: str,
        metadata: dict[str, Any],
        tensors: dict[str, Tensor],
        files: Iterable[SourceFile],
        places: Mapping[str, int] | None = None,
        metadata_file: str | None = None,
        aliases: Mapping[str, str] | None = None,
        own_name: Callable[[str], str] | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.wanted_context: int | None = None
        self._architecture_key = architecture_key
        self._metadata: dict[str, Any] | None = metadata
        self._tensors: dict[str, Tensor] | None = tensors
        self._files = list(files)
        self._places = dict(places or {})
        self.metadata_file = metadata_file or path
        self._aliases = dict(aliases or {})  # key -> its name in the file, for errors
        self.own_name = own_name or (lambda name: name)  # the same for tensors
        self._asked: set[str] = set()  # keys that a getter has read
        self.used: set[str] = set()  # names of tensors that were used; the caller records them
        self.widened: set[str] = set()  # tensors that are F32 here and FP8 in the file
        self.method = ""  # how a folder was quantised: "INT4 (GPTQ)"
        self.in_f32: dict[str, str] = {}  # tensor of a folder's integers that was converted to F32 -> why
        self.nbytes = sum(file.size for file in self._files)

    @property
    def metadata(self) -> dict[str, Any]:
        if self._metadata is None:
            raise ClosedError(f"{self.path} is closed")
        return self._metadata

    @property
    def tensors(self) -> dict[str, Tensor]:
        if self._tensors is None:
            raise ClosedError(f"{self.path} is closed")
        return self._tensors

    @property
    def architecture(self) -> str:
        """ "llama", "gemma3", ... Raises ModelFileError if the file has none."""
        return self.get_str(self._architecture_key)

    @property
    def types(self) -> dict[str, int]:
        """Type -> bytes of all its tensors, the largest first."""
        total: dict[str, int] = {}
        for tensor in self.tensors.values():
            total[tensor.type] = total.get(tensor.type, 0) + tensor.data.size
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    @property
    def quantisation(self) -> str:
        """The mixture's name if the file gives one ("Q4_K_M"), else the type with the most bytes ("" if there are no
        tensors)."""
        name = FILE_TYPES.get(self.get_int("general.file_type", -1)) if self.format.startswith("GGUF") else None
        return self.method or name or next(iter(self.types), "")

    @property
    def quantisation_why(self) -> str:
        """Which matrices of a folder's integers are in F32, their bytes, and why; "" if there are none."""
        found: dict[str, list[str]] = {}
        for name, why in self.in_f32.items():
            if self.tensors[name].type == "F32":  # quantize= may have converted it to another format
                found.setdefault(why, []).append(name)
        texts = []
        for why, names in found.items():
            size = sum(self.tensors[name].data.size for name in names)
            own = [*dict.fromkeys(self.own_name(name) for name in names)]  # one tensor may have become several
            which = f"{len(own)} matrices ({own[0]}, ...) are" if len(own) > 1 else f"{own[0]} is"
            texts.append(f"{which} in F32, {size:,} bytes: {why}")
        return "; ".join(texts)

    def stamps(self) -> list[os.stat_result]:
        """The stat results of its files, from when they were opened."""
        return [os.fstat(file.fileno()) for file in self._files]

    def take_files(self) -> list[SourceFile]:
        """Transfers ownership of the files to another ModelFile with the same tensors."""
        files, self._files = self._files, []
        return files

    def close(self) -> None:
        """Closes the files: their tensors can no longer be read. May be called again."""
        self._metadata = self._tensors = None
        files, self._files = self._files, []
        for file in files:
            file.close()

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._tensors is None else f"{len(self._tensors)} tensors"
        return f"<ModelFile {self.path}: {self.format}, {state}>"

    # -- typed getters ------------------------------------------------------------------------------------------

    def fail(self, key: str, message: str, expected: str | None = None) -> ModelFileError:
        """An error about a key's value, for the caller to raise."""
        offset = self._places.get(key)
        field = self._aliases.get(key, key)
        return ModelFileError(message, file=self.metadata_file, field=field, offset=offset, expected=expected)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """The tensor of this name. Raises ModelFileError if it is missing or does not have ``shape`` (if given)."""
        found = self.tensors.get(name)
        if found is None:
            raise ModelFileError(
                "no such tensor", file=self.path, field=name, expected=f"one of shape {shape}" if shape else None
            )
        if shape is not None and found.shape != shape:
            message = f"a tensor of shape {found.shape}"
            raise ModelFileError(message, file=found.file, field=name, offset=found.offset, expected=f"shape {shape}")
        return found

    def refuse(self, key: str, supported: str | None = None) -> UnsupportedModelError:
        """An error about a key whose value Pellucid does not support, for the caller to raise."""
        value, field = self._find(key), self._aliases.get(key, key)
        shown = json.dumps(value) if isinstance(value, (bool, int, float, str)) else _shown(value)
        feature = f"a model without {field}" if value is MISSING else f"{field} = {shown}"
        return UnsupportedModelError(feature=feature, supported=supported)

    def unread(self, prefix: str) -> list[str]:
        """Keys that begin with ``prefix`` ("llama.", "config."), are not null, and were not read by any getter."""
        found = [key for key in self.metadata if key.startswith(prefix)]
        table: Any = self.metadata
        for part in prefix.split(".")[:-1]:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            found += [prefix + key for key, value in table.items() if value is not None]
        return [key for key in found if key not in self._asked]

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not MISSING

    def _find(self, key: str) -> Any:
        """The value of a key; MISSING if there is none, or it is null."""
        metadata = self.metadata
        self._asked.add(key)
        if key in metadata:
            return metadata[key]
        node: Any = metadata
        for part in key.split("."):
            if not isinstance(node, dict) or node.get(part) is None:
                return MISSING
            node = node[part]
        return node

    def _get(self, key: str, default: Any, expected: str) -> tuple[Any, bool]:
        """(value, whether it is the default)."""
        value = self._find(key)
        if value is not MISSING:
            return value, False
        if isinstance(default, _Missing):
            raise self.fail(key, "no such key", expected)
        return default, True

    def _check_range(self, key: str, value: float, low: float | None, high: float | None) -> None:
        if (low is not None and value < low) or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            raise self.fail(key, f"it is {value}", wanted)

    def get_any(self, key: str, default: Any) -> Any:
        """A value of any type."""
        return self._get(key, default, "a value")[0]

    def get_table(self, key: str, default: Any = MISSING) -> Any:
        """A table of config.json."""
        value, is_default = self._get(key, default, "a table")
        if not is_default and not isinstance(value, dict):
            raise self.fail(key, f"it is {_shown(value)}", "a table")
        return value

    @overload
    def get_int(self, key: str, *, min: int | None = None, max: int | None = None) -> int: ...
    @overload
    def get_int(self, key: str, default: T, *, min: int | None = None, max: int | None = None) -> int | T: ...
    def get_int(self, key: str, default: Any = MISSING, *, min: int | None = None, max: int | None = None) -> Any:
        """An integer in min .. max."""
        value, is_default = self._get(key, default, "an integer")
        if is_default:
            return value
        if type(value) is not int:
            raise self.fail(key, f"it is {_shown(value)}", "an integer")
        self._check_range(key, value, min, max)
        return value

    @overload
    def get_float(self, key: str, *, min: float | None = None, max: float | None = None) -> float: ...
    @overload
    def get_float(self, key: str, default: T, *, min: float | None = None, max: float | None = None) -> float | T: ...
    def get_float(self, key: str, default: Any = MISSING, *, min: float | None = None, max: float | None = None) -> Any:
        """A finite number in min .. max, as a float (integers are accepted)."""
        value, is_default = self._get(key, default, "a number")
        if is_default:
            return value
        if type(value) not in (int, float):
            raise self.fail(key, f"it is {_shown(value)}", "a number")
        if (type(value) is int and abs(value) > 1 << 1000) or not math.isfinite(value):
            raise self.fail(key, f"it is {value:.60}" if type(value) is float else "it is huge", "a finite number")
        self._check_range(key, value, min, max)
        return float(value)

    @overload
    def get_str(self, key: str) -> str: ...
    @overload
    def get_str(self, key: str, default: T) -> str | T: ...
    def get_str(self, key: str, default: Any = MISSING) -> Any:
        """Text."""
        value, is_default = self._get(key, default, "text")
        if not is_default and not isinstance(value, str):
            raise self.fail(key, f"it is {_shown(value)}", "text in UTF-8" if isinstance(value, bytes) else "text")
        return value

    @overload
    def get_bool(self, key: str) -> bool: ...
    @overload
    def get_bool(self, key: str, default: T) -> bool | T: ...
    def get_bool(self, key: str, default: Any = MISSING) -> Any:
        """A boolean."""
        value, is_default = self._get(key, default, "a boolean")
        if not is_default and type(value) is not bool:
            raise self.fail(key, f"it is {_shown(value)}", "a boolean")
        return value

    @overload
    def get_list(self, key: str, *, of: type | None = None, length: int | None = None) -> list[Any]: ...
    @overload
    def get_list(self, key: str, default: T, *, of: type | None = None, length: int | None = None) -> list[Any] | T: ...
    def get_list(self, key: str, default: Any = MISSING, *, of: type | None = None, length: int | None = None) -> Any:
        """A list of Python values. ``of``: int, float (integers are accepted), bool, str or bytes; ``length``: how
        many."""
        wanted = "a list" if length is None else f"a list of {length}"
        wanted += "" if of is None else f" of {of.__name__}"
        value, is_default = self._get(key, default, wanted)
        if is_default:
            return value
        if not isinstance(value, (StringArray, np.ndarray, list)) or (length is not None and len(value) != length):
            raise self.fail(key, f"it is {_shown(value)}", wanted)
        if isinstance(value, StringArray):
            if of not in (None, str, bytes):
                raise self.fail(key, f"it is a list of {len(value)} strings", wanted)
            return value.to_bytes_list() if of is bytes else value.to_str_list()
        values = value.tolist() if isinstance(value, np.ndarray) else list(value)
        if of is not None:
            fits = (int, float) if of is float else (of,)
            for i, item in enumerate(values):
                if type(item) not in fits or (of is float and type(item) is int and abs(item) > 1 << 1000):
                    error = self.fail(key, f"it is {_shown(item)}", of.__name__)
                    error.field = f"{error.field}[{i}]"
                    raise error
            if of is float:
                values = [float(item) for item in values]
        return values
