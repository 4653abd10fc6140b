"""GGUF files: each is refused, or loads, computes finite numbers and encodes text."""

from __future__ import annotations

import copy
import functools
import random
import struct
import tempfile
from typing import Any

from pellucid import Model
from tests.fuzz.mutation import FLOATS, exercise, mangled, number, text
from tests.weights import hostile
from tests.weights.hostile import File

__all__ = ["known", "mutate", "run", "use"]

SEEDS = [
    ("llama", "F32"), ("llama", "Q4_0"), ("llama", "Q8_0"), ("llama", "BF16"), ("gemma3", "F16"), ("gemma3", "Q4_1"),
    ("qwen3", "F32"), ("qwen3", "Q5_1"),
]  # fmt: skip
INTEGERS = (hostile.U8, hostile.I8, hostile.U16, hostile.I16, hostile.U32, hostile.I32, hostile.U64, hostile.I64)
BITS = {hostile.U8: 8, hostile.I8: 8, hostile.U16: 16, hostile.I16: 16, hostile.U32: 32, hostile.I32: 32}


@functools.lru_cache
def _seed(arch: str, kind: str, spm: bool) -> File:
    file = hostile.model(arch, kind=kind)
    return hostile.spm(file) if spm else file


def mutate(rng: random.Random) -> bytes:
    file = copy.deepcopy(_seed(*rng.choice(SEEDS), rng.random() < 0.3))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        rng.choice(CHANGES)(rng, file)
    data = file.bytes()
    if rng.random() < 0.3:
        header = data.rfind(b"weight") + 64
        data = mangled(rng, data, 0, header if rng.random() < 0.8 else None)
    return data


def run(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="\x1b[2J\n", suffix=".gguf") as file:  # errors quote the path
        file.write(data)
        file.flush()
        use(file.name)


def use(path: str) -> None:
    """Loads a model and uses it in ways that read all of it."""
    with Model.load(path, threads=1) as model:
        vocab = model.info().vocab
        ids = [0, vocab - 1, vocab // 2]
        exercise(
            lambda: model.info().to_dict(),
            lambda: str(model.plan()),
            lambda: model.generate(ids, max_tokens=3, temperature=0),
            lambda: model.score(ids, top=2),
            lambda: model.generate("hello é\0", max_tokens=3, seed=1, repeat_penalty=1.1),
            lambda: model.detokenize(list(range(min(vocab, 300)))),
            lambda: model.chat([{"role": "user", "content": "<s>hello"}], max_tokens=2),
        )


def known() -> dict[str, bytes]:
    """Models with one fault each that were once read wrongly or refused in the wrong way."""
    out = {}
    for name, case in hostile.MODELS.items():
        file = hostile.model(case.arch)
        case.change(file)
        out[name] = file.bytes()
    sequence = b"\x1b]0;a title\x07\n\xe2\x80\xae"
    file = copy.deepcopy(_seed("llama", "F32", False))
    file.tensors[sequence * 20] = file.tensors.pop(b"blk.0.attn_norm.weight")
    out["a tensor whose name is an escape sequence"] = file.bytes()
    file = copy.deepcopy(_seed("llama", "F32", False))
    file.keys[b"general.architecture"] = hostile.STRING, hostile.scalar(hostile.STRING, sequence * 20)
    out["an architecture whose name is an escape sequence"] = file.bytes()
    return out


# ---- changes --------------------------------------------------------------------------------------------------------


def _scalar(rng: random.Random, kind: int) -> bytes:
    if kind == hostile.STRING:
        return hostile.scalar(kind, text(rng).encode("utf-8", "surrogatepass"))
    if kind in (hostile.F32, hostile.F64):
        return struct.pack("<f" if kind == hostile.F32 else "<d", _float(rng, kind))
    size = {hostile.BOOL: 1}.get(kind, BITS.get(kind, 64) // 8)
    return (number(rng) & (1 << 8 * size) - 1).to_bytes(size, "little")


def _float(rng: random.Random, kind: int) -> float:
    value = rng.choice(FLOATS)
    return value if kind == hostile.F64 or not 3.4e38 < abs(value) < float("inf") else 3.4e38


def _value(rng: random.Random, file: File) -> None:
    """Changes the value of a key, mostly to one of the same type."""
    key = rng.choice(list(file.keys))
    kind, _ = file.keys[key]
    if kind == hostile.ARRAY or rng.random() < 0.2:
        kind = rng.randrange(13)
    if kind == hostile.ARRAY:
        inner = rng.choice((*INTEGERS, hostile.F32, hostile.STRING, hostile.BOOL))
        n = rng.choice((0, 1, 2, 3, 272, 5000))
        file.keys[key] = kind, struct.pack("<IQ", inner, n) + b"".join(_scalar(rng, inner) for _ in range(n))
    else:
        file.keys[key] = kind, _scalar(rng, kind)


def _drop_key(rng: random.Random, file: File) -> None:
    del file.keys[rng.choice(list(file.keys))]


def _rename_key(rng: random.Random, file: File) -> None:
    old = rng.choice(list(file.keys))
    new = rng.choice((rng.choice(list(file.keys)), text(rng).encode("utf-8", "surrogatepass"), old[:-1], old + b"x"))
    file.keys[new] = file.keys.pop(old)


def _extra_key(rng: random.Random, file: File) -> None:
    names = ["attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "rope.scaling.factor"]
    names += ["rope.scaling.type", "rope.dimension_count", "attention.key_length", "attention.causal", "expert_count"]
    arch = rng.choice((b"llama", b"gemma3", b"qwen3")).decode()
    kind = rng.choice((hostile.U32, hostile.F32, hostile.BOOL, hostile.STRING))
    file.keys[f"{arch}.{rng.choice(names)}".encode()] = kind, _scalar(rng, kind)


def _tensor(rng: random.Random, file: File) -> None:
    """Changes a tensor's shape, type, place or data."""
    one = file.tensors[rng.choice(list(file.tensors))]
    what = rng.randrange(5)
    if what == 0:
        dims = list(one.dims) + [1] * rng.choice((0, 0, 1, 3))
        dims[rng.randrange(len(dims))] = number(rng) & (1 << 64) - 1
        one.dims = tuple(dims)
    elif what == 1:
        one.kind = rng.choice([kind for kind, _, _ in hostile.TYPES.values()] + [4, 5, 16, 31, 39, 40, 255, 2**31])
    elif what == 2:
        one.offset = number(rng) & (1 << 64) - 1
    elif what == 3:
        value = rng.choice(FLOATS)
        if abs(value) > 3.4e38 and value == value:
            value = float("inf")
        at = rng.randrange(0, max(len(one.data) - 4, 1))
        one.data = one.data[:at] + struct.pack("<f", value) + one.data[at + 4 :]
    else:
        one.data = rng.choice((one.data[: len(one.data) // 2], b"\xff" * len(one.data), rng.randbytes(len(one.data))))


def _tensors(rng: random.Random, file: File) -> None:
    """Removes or renames a tensor."""
    name = rng.choice(list(file.tensors))
    one: Any = file.tensors.pop(name)
    if rng.random() < 0.6:
        other = name.replace(b"blk.0", rng.choice((b"blk.1", b"blk.9", b"blk.-1", b"blk.99999999999999999999")))
        file.tensors[rng.choice((other, name + b"x", b"", name.replace(b"weight", b"bias")))] = one


def _frame(rng: random.Random, file: File) -> None:
    file.version = rng.choice((1, 2, 3, 4, 0, 1 << 31))
    file.alignment = rng.choice((1, 8, 32, 33, 4096))


CHANGES = (_value, _value, _value, _drop_key, _rename_key, _extra_key, _tensor, _tensor, _tensor, _tensors, _frame)
