"""Opens and checks Hugging Face folders: config.json, and tensors in safetensors files.

The header, a JSON object, is parsed here. The `safetensors` package copies tensors into NumPy arrays, does not
support bfloat16 there, and does not expose the offsets that reading a tensor in parts needs. Source: the format's
specification, https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import os
from typing import Any

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights.base import FileBytes, ModelFile, SourceFile, Tensor, read_file

_EXPECTED = "a safetensors file"
_FOLDER = "a Hugging Face folder (config.json, model.safetensors)"

_MAX_HEADER = 100_000_000  # bytes; the limit of the format's own reader
_MAX_CONFIG = 16 << 20
_MAX_DIMS = 32
_MAX_COUNT = 1 << 20

# Bits of an element. Any other type is an error only when one of its tensors is used.
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
}  # fmt: skip


def open_folder(path: str | os.PathLike[str]) -> ModelFile:
    """Opens a folder with config.json and model.safetensors, or model.safetensors.index.json and its shards.

    ``metadata["config"]`` is the table of config.json, ``architecture`` its model_type; tensors have the files' own
    names. Raises ModelFileError for any fault in a file, UnsupportedModelError for an adapter.
    """
    path = os.fsdecode(path)
    config_path = os.path.join(path, "config.json")
    if os.path.lexists(os.path.join(path, "adapter_config.json")):  # changes what transformers computes
        raise UnsupportedModelError(
            feature=f"{path}: an adapter (adapter_config.json)", supported="a model that it was merged into"
        )
    if not os.path.exists(config_path):
        message = "no model: " + ("the folder has no config.json" if os.path.isdir(path) else "not a folder")
        raise ModelFileError(message, file=path, expected=_FOLDER + _hint(path))
    config = json_table(read_file(config_path, _MAX_CONFIG, "a configuration"), config_path)
    files: list[SourceFile] = []
    try:
        tensors: dict[str, Tensor] = {}
        shards = _shards(path)
        indexed = set().union(*shards.values())
        for shard, wanted in shards.items():
            file = SourceFile(shard, _EXPECTED)
            files.append(file)
            found = read_header(file)
            missing = next((name for name in wanted if name not in found), None)
            if missing is not None:
                raise ModelFileError("not in this shard, to which the index assigns it", file=shard, field=missing)
            # Tensors that no index names count, too, as in transformers; of a tensor in two files, the index's is used.
            tensors |= {name: tensor for name, tensor in found.items() if name in wanted or name not in indexed}
        return ModelFile(
            path, "safetensors", "config.model_type", {"config": config}, tensors, files, None, config_path
        )
    except BaseException:
        for file in files:
            file.close()
        raise


def _hint(path: str) -> str:
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".gguf"))
    except (OSError, ValueError):
        return ""
    return f", or the path of a GGUF file, such as {os.path.join(path, names[0])}" if names else ""


def _shards(folder: str) -> dict[str, set[str]]:
    """The files of the model, each with the tensors that the index has in it (none without an index)."""
    single = os.path.join(folder, "model.safetensors")
    index = single + ".index.json"
    if os.path.exists(single):
        return {single: set()}
    if not os.path.exists(index):
        raise ModelFileError("no model: no weights next to config.json", file=folder, expected=f"{single} or {index}")
    table = json_table(read_file(index, _MAX_HEADER, "an index"), index)
    weight_map = table.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFileError("no such table", file=index, field="weight_map", expected="tensor names and file names")
    shards: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        # A plain file name: an index must not refer to files outside its folder.
        if not isinstance(file, str) or not file or file != os.path.basename(file) or "\\" in file or "\0" in file:
            message = f"it is {file!r:.80}"
            raise ModelFileError(message, file=index, field=f"weight_map[{name!r}]", expected="a file of this folder")
        shards.setdefault(file, set()).add(name)
    return {os.path.join(folder, file): shards[file] for file in sorted(shards)}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.80} occurs twice")
    return table


def json_value(raw: bytes, path: str, field: str | None = None, offset: int = 0) -> Any:
    """Parses JSON without duplicate keys. Raises ModelFileError for anything else."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ModelFileError(
            "not UTF-8", file=path, field=field, offset=offset + error.start, expected="JSON"
        ) from None
    except json.JSONDecodeError as error:
        at = offset + len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        raise ModelFileError(error.msg.lower(), file=path, field=field, offset=at, expected="JSON") from None
    except RecursionError:
        raise ModelFileError("tables nested too deeply", file=path, field=field, expected="JSON") from None
    except ValueError as error:  # a duplicate key, or an integer with thousands of digits
        raise ModelFileError(str(error), file=path, field=field, expected="valid JSON") from None


def json_table(raw: bytes, path: str, field: str | None = None, offset: int = 0) -> dict[str, Any]:
    """Parses a JSON object without duplicate keys. Raises ModelFileError for anything else."""
    table = json_value(raw, path, field, offset)
    if not isinstance(table, dict):
        raise ModelFileError(f"a {type(table).__name__}", file=path, field=field, expected="a table in JSON")
    return table


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 56


def read_header(file: SourceFile) -> dict[str, Tensor]:
    """Tensors of one safetensors file, in the order of their data, which must have no gaps and no overlaps."""

    def fail(message: str, field: str, offset: int | None = None, expected: str | None = None) -> ModelFileError:
        return ModelFileError(message, file=file.path, field=field, offset=offset, expected=expected)

    if file.size < 10:
        raise fail(f"the file ends after {file.size} bytes", "header", 0, _EXPECTED)
    length = int.from_bytes(file.read(0, 8, "header").tobytes(), "little")
    room = min(file.size - 8, _MAX_HEADER)
    if not 2 <= length <= room:
        raise fail(f"a header of {length} bytes", "header", 0, f"2 to {room}")
    start = 8 + length
    table = json_table(file.read(8, length, "header").tobytes(), file.path, "header", 8)
    notes = table.pop("__metadata__", None)
    if notes is not None and not isinstance(notes, dict):
        raise fail(f"a {type(notes).__name__}", "__metadata__", 8, "a table")
    if len(table) > _MAX_COUNT:
        raise fail(f"{len(table)} tensors", "header", 8, f"at most {_MAX_COUNT}")

    found: list[tuple[int, int, str, str, tuple[int, ...]]] = []
    for name, entry in table.items():
        entry = entry if isinstance(entry, dict) else {}
        dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or not dtype:
            raise fail(f"it is {dtype!r:.80}", f"{name}.dtype", 8, 'a type, such as "BF16"')
        if not isinstance(shape, list) or len(shape) > _MAX_DIMS or not all(_is_count(n) for n in shape):
            raise fail(f"it is {shape!r:.80}", f"{name}.shape", 8, f"at most {_MAX_DIMS} sizes")
        if not isinstance(span, list) or len(span) != 2 or not all(_is_count(n) for n in span) or span[0] > span[1]:
            raise fail(f"it is {span!r:.80}", f"{name}.data_offsets", 8, "two offsets, the smaller one first")
        count = 1
        for n in shape:
            count *= n
        bits = _BITS.get(dtype)
        if bits is not None and count * bits != (span[1] - span[0]) * 8:
            wanted = f"{count * bits // 8} bytes for shape {tuple(shape)} in {dtype}"
            raise fail(f"{span[1] - span[0]} bytes of data", f"{name}.data_offsets", 8, wanted)
        found.append((span[0], span[1], name, dtype, tuple(shape)))
    found.sort()

    tensors: dict[str, Tensor] = {}
    end = 0
    for low, high, name, dtype, dims in found:
        if low != end:
            what = "data that overlap" if low < end else "a gap before the data"
            raise fail(f"{what} (from {low})", f"{name}.data_offsets", 8, str(end))
        if high > file.size - start:
            wanted = f"a file of at least {start + high} bytes, not {file.size}"
            raise fail("the file ends within the tensor's data", f"{name}.data_offsets", 8, wanted)
        tensors[name] = Tensor(
            name, dtype, dims, FileBytes(file, start + low, high - low, name), start + low, file.path
        )
        end = high
    if end != file.size - start:
        raise fail(f"{file.size - start - end} bytes beyond the last tensor's data", "header", 8, "none")
    return tensors
