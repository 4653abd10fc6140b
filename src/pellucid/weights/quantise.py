"""Converts a model's tensors to other formats: for writing to a GGUF file, or while loading."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, _parsers
from pellucid.errors import ModelFileError, UnsupportedModelError, WrongValue
from pellucid.parts import Made
from pellucid.weights.base import ModelFile, SourceFile, Tensor
from pellucid.weights.importance import Importance
from pellucid.weights.recipes import FLOATS, MIXTURES, Recipe
from pellucid.weights.writer import Planned, Progress, Value, tensor_bytes, write_gguf

__all__ = [
    "check_mixture",
    "parts",
    "quantise_floats",
    "quantise_model",
    "quantised",
    "quantize_file",
    "recipe",
    "write_model",
]

_SLICE = 32 << 20  # weights that are quantised at a time


def check_mixture(name: Any, argument: str = "type") -> str:
    """A mixture's name, in capitals. Raises ValueError naming the argument."""
    found = str(name).upper()
    found = f"{found}_M" if found in ("Q3_K", "Q4_K", "Q5_K") else found
    if found not in MIXTURES:
        raise WrongValue(argument, f" is {name!r}: expected one of {', '.join(MIXTURES)}")
    return found


def recipe(file: ModelFile, mixture: str, importances: Mapping[str, Importance] | None = None) -> Recipe:
    """The mixture for a model under GGUF's keys and names."""
    arch = file.architecture

    def first(key: str, default: int) -> int:
        """A number that a file gives once or per layer: the first one."""
        values = np.asarray(file.get_any(f"{arch}.{key}", default)).reshape(-1)
        return int(values[0]) if values.size and values.dtype.kind in "iu" else default

    heads = first("attention.head_count", 1)
    kv_heads = first("attention.head_count_kv", heads)
    return Recipe(
        mixture,
        {name: tensor.shape for name, tensor in file.tensors.items()},
        architecture=arch,
        layers=first("block_count", 0),
        groups=heads // kv_heads if kv_heads > 0 else 0,
        experts=first("expert_count", 0),
        has_importances=bool(importances),
    )


def _importance_of(tensor: Tensor, importances: Mapping[str, Importance] | None) -> npt.NDArray[np.float32] | None:
    """(experts or 1, k)"""
    found = (importances or {}).get(tensor.name)
    if found is None:
        return None
    means, k = found.means(), tensor.shape[-1]
    experts = tensor.shape[0] if len(tensor.shape) > 2 else 1
    if means.size == experts * k:
        return means.reshape(experts, k)
    if means.size == k:
        return means.reshape(1, k)
    raise WrongValue("imatrix", f": {tensor.name} has {means.size} values, expected {k} for each of {experts}")


def parts(
    tensor: Tensor, to: str, importances: Mapping[str, Importance] | None, threads: int, quick: bool = False
) -> Iterator[npt.NDArray[np.uint8]]:
    """The tensor's bytes in the format `to`, a slice of rows at a time. quick: with the short search
    (_engine.quantize).

    Raises UnsupportedModelError if its own format cannot be read, ModelFileError for values that `to` cannot hold.
    """
    k = tensor.shape[-1]
    rows = math.prod(tensor.shape[:-1])
    row = tensor.data.size // max(rows, 1)
    if tensor.type == to:
        step = max(_SLICE // k, 1)
        for start in range(0, rows, step):
            yield tensor.data[start * row : min(start + step, rows) * row].view(np.uint8)
        return
    if _engine.format_number(tensor.type) < 0:
        raise UnsupportedModelError(
            feature=f"weight format {tensor.type} ({tensor.name}), which is to become {to}",
            supported=", ".join(_engine.format_names()),
        )
    important = _importance_of(tensor, importances)
    experts = 1 if important is None else len(important)
    for expert in range(experts):
        first, last = expert * (rows // experts), (expert + 1) * (rows // experts)
        step = max(_SLICE // k, 1)
        for start in range(first, last, step):
            raw = tensor.data[start * row : min(start + step, last) * row].view(np.uint8)
            columns = None if important is None else important[expert]
            try:
                yield _engine.quantize(tensor.type, raw, k, to, importance=columns, quick=quick, threads=threads)
            except OverflowError as error:
                message = f"row {start + error.args[0]} has a value that is not finite, or beyond what {to} can hold"
                raise ModelFileError(message, file=tensor.file, field=tensor.name, offset=tensor.offset) from None


def quantised(tensor: Tensor, to: str, threads: int) -> Tensor:
    """The tensor in the format `to`: its bytes are computed when they are read, one matrix at a time."""
    k, rows = tensor.shape[-1], math.prod(tensor.shape[:-1])
    row = tensor.data.size // max(rows, 1)

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        some = tensor._replace(shape=(end - first, k), data=tensor.data[first * row : end * row])
        made = list(parts(some, to, None, threads, quick=True))
        return made[0] if len(made) == 1 else np.concatenate(made)

    size = tensor_bytes(to, tensor.shape)
    return tensor._replace(type=to, data=Made(make, tensor_bytes(to, (k,)), size))


def quantise_model(file: ModelFile, mixture: str | None, threads: int) -> str:
    """Quantises a model's float matrices -> the description of its weights for `info`, such as "Q8_0 (quantised from
    F16), INT4 (GPTQ)" if some were integers. Without a mixture, matrices in FP8 become Q8_0. Raises ValueError if the
    model has no float matrices.
    """
    before = dict(file.tensors)
    changed = quantise_floats(file, mixture or "Q8_0", threads, file.widened if mixture is None else None)
    types, kept = Counter[str](), Counter[str]()  # bytes
    for name, tensor in before.items():
        if name in changed:
            types["FP8" if name in file.widened else tensor.type] += tensor.data.size
        elif tensor.type not in FLOATS and _engine.format_number(tensor.type) >= 0:
            kept[tensor.type] += tensor.data.size
    others = ", ".join(type for type, _ in kept.most_common())
    if not changed:
        found = f"={mixture!r}: the model's matrices are in {others} already"
        raise WrongValue("quantize", f"{found}; expected F32, F16 or BF16")
    text = f"{mixture or 'Q8_0'} (quantised from {types.most_common(1)[0][0]})"
    if others:
        text += f", {others}" + "".join(file.method.rpartition(" (")[1:] if file.method else ())
    return text


def quantise_floats(file: ModelFile, mixture: str, threads: int, names: Collection[str] | None = None) -> set[str]:
    """Converts a model's matrices in F32, F16 and BF16 to the formats of a mixture -> their names. names: only these.
    Nothing is computed before the bytes are read."""
    chosen = recipe(file, mixture)
    found = set()
    for name, tensor in [*file.tensors.items()]:
        format = chosen.format(name) if tensor.type in FLOATS and (names is None or name in names) else None
        if format is not None:
            found.add(name)
            if format != tensor.type:
                file.tensors[name] = quantised(tensor, format, threads)
    return found


def write_model(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value],
    tensors: Mapping[str, Tensor],
    format: Callable[[str], str | None],
    *,
    importances: Mapping[str, Importance] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Writes a GGUF file -> {name of a tensor: its format there}. format: a tensor's name -> its new format; None:
    unchanged. A computed tensor is computed whole, once; others are read a slice at a time.

    Raises UnsupportedModelError for a type whose size is unknown, ModelFileError if the path is a file being read, and
    what `parts` and write_gguf raise.
    """
    if os.path.exists(path):
        for file in {tensor.file for tensor in tensors.values()}:
            if os.path.exists(file) and os.path.samefile(path, file):
                raise ModelFileError("a file of the model that is read", file=os.fsdecode(path))
    if importances is not None and not importances.keys() & tensors.keys():
        raise WrongValue("imatrix", ": it has no tensor of this model")
    planned: list[Planned] = []
    for name, tensor in tensors.items():
        if tensor.type.startswith("ggml type"):
            raise UnsupportedModelError(feature=f"weight format {tensor.type} ({name})")
        to = format(name) or tensor.type
        planned.append(Planned(name, to, tensor.shape, partial(_made, tensor, to, importances, threads)))
    made = {tensor.name: tensor.type for tensor in planned}
    if importances is not None:
        _warn(importances, made, {name for name, to in made.items() if to not in (*FLOATS, tensors[name].type)})
    write_gguf(path, metadata, planned, progress=progress)
    return made


def _warn(importances: Mapping[str, Importance], names: Collection[str], quantised: Collection[str]) -> None:
    """Warns of importances without a tensor, and of tensors quantised without importances in layers that have some:
    files leave out embeddings, the head, and layers for multi-token prediction."""
    layers = {name.split(".")[1] for name in importances if name.startswith("blk.")}
    within = [name for name in quantised if name.startswith("blk.") and name.split(".")[1] in layers]
    unused, without = sorted({*importances} - {*names}), sorted({*within} - {*importances})
    for found, message in (
        (unused, "imatrix: it names tensors that this model lacks (%d): %s"),
        (without, "imatrix: it lacks tensors, which are quantised without importances (%d): %s"),
    ):
        if found:
            logging.getLogger("pellucid").warning(message, len(found), ", ".join([*found[:3], "..."][: len(found)]))


def _made(
    tensor: Tensor, to: str, importances: Mapping[str, Importance] | None, threads: int
) -> Iterator[npt.NDArray[np.uint8]]:
    if isinstance(tensor.data, Made):
        tensor = tensor._replace(data=tensor.data.view(np.uint8))
    return parts(tensor, to, importances, threads)


def metadata_of(path: str) -> dict[str, Value]:
    """A GGUF file's metadata with the types of its values."""
    source = SourceFile(path, "a GGUF file")
    try:
        header = _parsers.parse_gguf(source, path)
    finally:
        source.close()
    found = {}
    for key, value in header.metadata.items():
        if isinstance(value, _parsers.StringArray):
            value = value.to_bytes_list()
        found[key] = Value(header.kinds[key], value)
    return found


def quantize_file(
    file: ModelFile,
    path: str | os.PathLike[str],
    mixture: str,
    *,
    importances: Mapping[str, Importance] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Writes a GGUF file's model in a mixture of formats -> {name of a tensor: its format in the new file}.

    Metadata and tokenizer are kept. Memory: a slice of a tensor. Raises ModelFileError, UnsupportedModelError.
    """
    metadata = {k: v for k, v in metadata_of(file.metadata_file).items() if not k.startswith("split.")}
    metadata.pop("general.alignment", None)
    metadata["general.file_type"] = Value("uint32", MIXTURES[mixture][0])
    metadata["general.quantization_version"] = Value("uint32", 2)
    chosen = recipe(file, mixture, importances)
    return write_model(
        path, metadata, file.tensors, chosen.format, importances=importances, threads=threads, progress=progress
    )
