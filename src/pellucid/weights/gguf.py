"""Opens and checks GGUF files: a single file, or all parts of a split one."""

from __future__ import annotations

import os
import re
from typing import Any

from pellucid import _parsers
from pellucid.errors import ModelFileError
from pellucid.weights.base import FileBytes, ModelFile, SourceFile, Tensor

# The name that splitting tools give a part. Its numbers are also in each part's metadata.
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

_EXPECTED = "a GGUF file"
# The first bytes of files in the formats that GGUF replaced.
_OLD = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"algg": "ggla"}


def open_gguf(path: str | os.PathLike[str]) -> ModelFile:
    """Opens a GGUF file (versions 2 and 3, little-endian) by its path; a split one by the path of any part.

    Only the header is read. Raises ModelFileError for any fault in a file.
    """
    path = os.fsdecode(path)
    files: list[SourceFile] = []
    try:
        header = _open(path, files)
        paths = _parts(path, header)
        headers = [header]
        if len(paths) > 1:
            given = paths.index(os.path.basename(path))
            folder = os.path.dirname(path)
            first = files.pop()
            headers = []
            for i, name in enumerate(paths):
                if i == given:
                    files.append(first)
                    headers.append(header)
                else:
                    headers.append(_open_part(os.path.join(folder, name), i, len(paths), files, path))
        tensors = _tensors(headers, files)
        if len(paths) > 1:
            _check_total(headers, files, len(tensors))
        main = headers[0]
        return ModelFile(
            path,
            f"GGUF {main.version}",
            "general.architecture",
            main.metadata,
            tensors,
            files,
            main.places,
            files[0].path,
        )
    except BaseException:
        for file in files:
            file.close()
        raise


def _open(path: str, files: list[SourceFile]) -> _parsers.Header:
    file = SourceFile(path, _EXPECTED)
    files.append(file)
    magic = file.read(0, min(4, file.size), "magic").tobytes()
    if magic in _OLD:
        message = f"a file in the {_OLD[magic]} format, which GGUF replaced in 2023"
        raise ModelFileError(message, file=path, field="magic", offset=0, expected=_EXPECTED)
    return _parsers.parse_gguf(file, path)


def _number(header: _parsers.Header, key: str, path: str) -> int | None:
    value: Any = header.metadata.get(key)
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
        message = f"it is {value!r:.80}"
        raise ModelFileError(message, file=path, field=key, offset=header.places[key], expected="a count")
    return value


def _parts(path: str, header: _parsers.Header) -> list[str]:
    """File names of all parts, in order; only one for a model that is not split."""
    name = os.path.basename(path)
    count = _number(header, "split.count", path)
    if count is None or count <= 1:
        return [name]
    match = _PART.fullmatch(name)
    example = f"-00001-of-{count:05d}.gguf"
    if match is None:
        message = "a part of a split model whose other parts cannot be found from its name"
        raise ModelFileError(message, file=path, field="split.count", expected=f"a name ending in {example}")
    if int(match["count"]) != count:
        message = f"it is {count}, the file's name says {int(match['count'])}"
        raise ModelFileError(message, file=path, field="split.count", offset=header.places["split.count"])
    number = _number(header, "split.no", path)
    if number is None or number + 1 != int(match["number"]):
        message = "no such key" if number is None else f"it is {number}"
        raise ModelFileError(
            message, file=path, field="split.no", expected=f"{int(match['number']) - 1}, as in its name"
        )
    return [f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]


def _open_part(path: str, index: int, count: int, files: list[SourceFile], given: str) -> _parsers.Header:
    if not os.path.exists(path):
        raise ModelFileError(f"not found: part {index + 1} of {count} of the model that {given} belongs to", file=path)
    header = _open(path, files)
    for key, wanted in (("split.no", index), ("split.count", count)):
        value = _number(header, key, path)
        if value != wanted:
            message = "no such key" if value is None else f"it is {value}"
            raise ModelFileError(message, file=path, field=key, offset=header.places.get(key), expected=str(wanted))
    return header


def _tensors(headers: list[_parsers.Header], files: list[SourceFile]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for header, file in zip(headers, files, strict=True):
        for name, kind, shape, offset, nbytes in header.tensors:
            if name in tensors:
                message = f"a second tensor of this name (the first is in {tensors[name].file})"
                raise ModelFileError(message, file=file.path, field=name, expected="unique names")
            tensors[name] = Tensor(name, kind, shape, FileBytes(file, offset, nbytes, name), offset, file.path)
    return tensors


def _check_total(headers: list[_parsers.Header], files: list[SourceFile], found: int) -> None:
    key = "split.tensors.count"
    for header, file in zip(headers, files, strict=True):
        total = _number(header, key, file.path)
        if total is not None and total != found:
            message = f"it is {total}, the parts hold {found} tensors"
            raise ModelFileError(message, file=file.path, field=key, offset=header.places[key])
