"""Crafted GGUF files: valid ones, built piece by piece, and hostile variants of them.

No GGUF writer would write these, so they are built here. A case of MODELS changes one thing in a valid model. Cases
that cannot be described in these terms are raw bytes: headers.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.weights.headers import build, info, pair, text

# Numbers of value types, and of tensor types.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
         "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210), "BF16": (30, 1, 2),
         "I8": (24, 1, 1), "Q8_1": (9, 32, 36)}  # fmt: skip


def scalar(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack("<" + _PACK[kind], value)


def array(kind: int, values: Any) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(scalar(kind, v) for v in values)


# -- a sound model ----------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    """A tensor. Dimensions are in GGUF's order, the fastest first; offset: None for the next free place."""

    dims: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class File:
    """The contents of a file: keys -> (value type, bytes), names -> tensors."""

    keys: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    tensors: dict[bytes, Stored] = field(default_factory=dict)
    version: int = 3
    alignment: int = 32

    def set(self, key: str, kind: int, value: Any) -> File:
        self.keys[key.encode()] = (kind, scalar(kind, value))
        return self

    def set_array(self, key: str, kind: int, values: Any) -> File:
        self.keys[key.encode()] = (ARRAY, array(kind, values))
        return self

    def drop(self, key: str) -> File:
        del self.keys[key.encode()]
        return self

    def put(self, name: str, values: Any, kind: str = "F32") -> File:
        """A tensor of zero bytes in any type, or of these values in a float type."""
        values = np.asarray(values, np.float32)
        number, block, size = TYPES[kind]
        data = bytes(values.size // block * size)
        if kind in ("F32", "F16"):
            with np.errstate(all="ignore"):
                data = values.astype(kind.replace("F", "f4" if kind == "F32" else "f2")[:2]).tobytes()
        elif kind == "BF16":
            data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        self.tensors[name.encode()] = Stored(tuple(reversed(values.shape)), number, data)
        return self

    def bytes(self) -> bytes:
        infos, data = [], b""
        for name, t in self.tensors.items():
            data += bytes(-len(data) % self.alignment)
            infos.append(info(name, t.dims, t.kind, len(data) if t.offset is None else t.offset))
            data += t.data
        pairs = tuple(pair(key, kind, value) for key, (kind, value) in self.keys.items())
        return build(pairs, tuple(infos), data, self.version, alignment=self.alignment)


def blocks(kind: str, rows: int, k: int, rng: np.random.Generator) -> bytes:
    """A matrix of random codes with small scales."""
    _, block, size = TYPES[kind]
    raw = rng.integers(0, 256, (rows, k // block, size), np.uint8)
    scale = np.frombuffer(np.float16(0.01 if block == 32 else 2e-4).tobytes(), np.uint8)
    at = SCALES[kind]
    for place in at:
        raw[..., place : place + 2] = scale
    return raw.tobytes()


# Where a block has its float16 scales.
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}

DIM, FF, HEADS, KV_HEADS, LAYERS, CONTEXT = 32, 64, 4, 2, 2, 64
BYTE_PIECES = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else "" for b in range(256)]
_SPARE = iter(range(256, 512))
BYTE_PIECES = [piece or chr(next(_SPARE)) for piece in BYTE_PIECES]
MERGES = ["h e", "l l", "he ll", "hell o"]
VOCAB = 272


def bpe(file: File) -> File:
    pieces = BYTE_PIECES + [m.replace(" ", "") for m in MERGES] + ["<|end|>"]
    file.set("tokenizer.ggml.model", STRING, b"gpt2").set("tokenizer.ggml.pre", STRING, b"gpt-2")
    file.set_array("tokenizer.ggml.tokens", STRING, [p.encode() for p in pieces])
    file.set_array("tokenizer.ggml.token_type", I32, [1] * (len(pieces) - 1) + [3])
    file.set_array("tokenizer.ggml.merges", STRING, [m.encode() for m in MERGES])
    file.set("tokenizer.ggml.bos_token_id", U32, len(pieces) - 1)
    return file.set("tokenizer.ggml.eos_token_id", U32, len(pieces) - 1)


def spm(file: File) -> File:
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % b for b in range(256)), b"he", b"ll", b"h", b"e", b"l", b"o"]
    file.set("tokenizer.ggml.model", STRING, b"llama")
    for key in [key for key in file.keys if key in (b"tokenizer.ggml.pre", b"tokenizer.ggml.merges")]:
        del file.keys[key]
    file.set_array("tokenizer.ggml.tokens", STRING, pieces)
    file.set_array("tokenizer.ggml.scores", F32, [-float(i) for i in range(len(pieces))])
    file.set_array("tokenizer.ggml.token_type", I32, [2, 3, 3, *[6] * 256, *[1] * 6])
    file.set("tokenizer.ggml.bos_token_id", U32, 1)
    return file.set("tokenizer.ggml.eos_token_id", U32, 2)


def model(arch: str = "llama", *, kind: str = "F32", dim: int = DIM, ff: int = FF) -> File:
    """A valid model of two layers with a byte-level vocabulary; `kind`: format of its matrices."""
    rng = np.random.default_rng(7)
    file = File().set("general.architecture", STRING, arch.encode()).set("general.name", STRING, b"small")
    for name, value in {
        "context_length": CONTEXT, "block_count": LAYERS, "embedding_length": dim, "feed_forward_length": ff,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
    }.items():  # fmt: skip
        file.set(f"{arch}.{name}", U32, value)
    file.set(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5).set(f"{arch}.rope.freq_base", F32, 10000.0)
    if arch == "gemma3":
        file.set("gemma3.attention.sliding_window", U32, 8)
    bpe(file)

    def matrix(name: str, rows: int, k: int) -> None:
        if kind in SCALES:
            file.tensors[name.encode()] = Stored((k, rows), TYPES[kind][0], blocks(kind, rows, k, rng))
        else:
            file.put(name, rng.standard_normal((rows, k)) / k**0.5, kind)

    def norm(name: str, n: int) -> None:
        file.put(name, rng.uniform(0.5, 1.5, n))

    width = dim // HEADS
    matrix("token_embd.weight", VOCAB, dim)
    for i in range(LAYERS):
        p = f"blk.{i}."
        norm(p + "attn_norm.weight", dim)
        matrix(p + "attn_q.weight", dim, dim)
        matrix(p + "attn_k.weight", KV_HEADS * width, dim)
        matrix(p + "attn_v.weight", KV_HEADS * width, dim)
        if arch != "llama":
            norm(p + "attn_q_norm.weight", width)
            norm(p + "attn_k_norm.weight", width)
        matrix(p + "attn_output.weight", dim, dim)
        norm(p + "ffn_norm.weight", dim)
        matrix(p + "ffn_gate.weight", ff, dim)
        matrix(p + "ffn_up.weight", ff, dim)
        matrix(p + "ffn_down.weight", dim, ff)
        if arch == "gemma3":
            norm(p + "post_attention_norm.weight", dim)
            norm(p + "post_ffw_norm.weight", dim)
    norm("output_norm.weight", dim)
    return file


# -- models with one thing wrong --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`change` of a sound model; the error's class (None: it loads, and `outcome` says what follows), its field, and
    words of its message."""

    change: Callable[[File], Any]
    error: str | None = "ModelFileError"
    field: str | None = None
    words: str = ""
    arch: str = "llama"
    outcome: str = ""  # without an error: "runs", "numerics" or "either"


def key(name: str, kind: int, value: Any, words: str = "", *, arch: str = "llama", **fields: Any) -> Case:
    """Changes the value of a key."""
    full = name if name.startswith(("general.", "tokenizer.")) else f"{arch}.{name}"
    fields = {"field": full, **fields} if fields.get("error", "ModelFileError") == "ModelFileError" else fields
    return Case(lambda f: f.set(full, kind, value), words=words, arch=arch, **fields)


def shape(name: str, *dims: int, words: str = "expected shape", **fields: Any) -> Case:
    """Changes the shape of a tensor, in NumPy's order."""
    return Case(lambda f: f.put(name, np.ones(dims)), field=name, words=words, **fields)


def poisoned(name: str, value: float, outcome: str, at: int = 0, **fields: Any) -> Case:
    """Makes one number of an F32 tensor NaN or infinite."""

    def change(f: File) -> None:
        t = f.tensors[name.encode()]
        t.data = t.data[: 4 * at] + struct.pack("<f", value) + t.data[4 * at + 4 :]

    return Case(change, error=None, outcome=outcome, **fields)


def tokenizer(name: str, kind: int, values: Any, words: str = "", *, of: Any = bpe) -> Case:
    """Replaces an array of the vocabulary."""
    full = f"tokenizer.ggml.{name}"
    return Case(lambda f: of(f).set_array(full, kind, values), error="TokenizerError", words=words or full)


def _rename(old: str, new: bytes) -> Callable[[File], Any]:
    def change(f: File) -> None:
        f.tensors[new] = f.tensors.pop(old.encode())

    return change


def _without(name: str) -> Callable[[File], Any]:
    return lambda f: f.keys.pop(name.encode(), None) or f.tensors.pop(name.encode())


def _factor(value: float) -> Callable[[File], Any]:
    return lambda f: f.put("rope_freqs.weight", [1.0, value, 1.0, 1.0])


def _overlap(f: File) -> None:
    f.tensors[b"blk.0.attn_q.weight"].offset = 32


NAN, INF = float("nan"), float("inf")
LONG = [b"x" * 3, b"\xff\xfe", b"", b"a" * 1000]

MODELS: dict[str, Case] = {
    # architecture
    "no architecture": Case(lambda f: f.drop("general.architecture"), field="general.architecture"),
    "architecture as a number": key("general.architecture", U32, 3, "text"),
    "architecture no UTF-8": key("general.architecture", STRING, b"\xff\xfe", "UTF-8"),
    "unknown architecture": key("general.architecture", STRING, b"mamba", "mamba", error="UnsupportedModelError"),
    "architecture as a path": key(
        "general.architecture", STRING, b"../config", "'../config'", error="UnsupportedModelError"
    ),
    "architecture of a helper": key("general.architecture", STRING, b"config", "'config'",
                                    error="UnsupportedModelError"),
    "experts": key("expert_count", U32, 8, "no such key", field="llama.expert_used_count"),
    "name no UTF-8": key("general.name", STRING, b"\xff", "UTF-8"),
    # hyperparameters
    **{
        f"no {name}": Case(_without(f"llama.{name}"), field=f"llama.{name}", words="no such key")
        for name in ("context_length", "block_count", "embedding_length", "feed_forward_length",
                     "attention.head_count", "attention.layer_norm_rms_epsilon")
    },
    "no layers": key("block_count", U32, 0, "1 to"),
    "a billion layers": key("block_count", U32, 10**9, "1 to"),
    "negative layers": key("block_count", I32, -1, "1 to"),
    "layers as a fraction": key("block_count", F32, 2.0, "an integer"),
    "layers as truth": key("block_count", BOOL, 1, "an integer"),
    "layers as text": key("block_count", STRING, b"2", "an integer"),
    "one layer too many": Case(
        lambda f: f.set("llama.block_count", U32, 3), field="blk.2.attn_norm.weight", words="no such tensor"
    ),
    "layers of 2**64 - 1": key("block_count", U64, 2**64 - 1, "1 to"),
    "head count 0": key("attention.head_count", U32, 0, "1 to"),
    "head counts that do not divide": key(
        "attention.head_count_kv", U32, 3, "a divisor of 4", field="llama.attention.head_count_kv"),
    "kv heads 0": key("attention.head_count_kv", U32, 0, "1 to"),
    "more kv heads than heads": key("attention.head_count_kv", U32, 8, "a divisor"),
    "head counts per layer": Case(
        lambda f: f.set_array("llama.attention.head_count", U32, [4, 4]), error=None, outcome="runs"),
    "head counts that differ": Case(
        lambda f: f.set_array("llama.attention.head_count_kv", U32, [2, 4]), error="UnsupportedModelError",
        words="llama.attention.head_count_kv = a list of 2"),
    "head counts of other layers": Case(
        lambda f: f.set_array("llama.attention.head_count", U32, [4, 4, 4]), field="llama.attention.head_count",
        words="a list of 2"),
    "head counts of 0": Case(
        lambda f: f.set_array("llama.attention.head_count", I32, [0, 0]), field="llama.attention.head_count",
        words="1 to"),
    "many heads": Case(
        lambda f: f.set("llama.attention.head_count", U32, 16), field="blk.0.attn_k.weight", words="(4, 32)"),
    "too many heads": key("attention.head_count", U32, 2**31, "1 to"),
    "key length 0": key("attention.key_length", U32, 0, "1 to"),
    "key length 2**31": key("attention.key_length", U32, 2**31, "1 to"),
    "key length another": Case(
        lambda f: f.set("llama.attention.key_length", U32, 16), field="blk.0.attn_q.weight", words="(64, 32)"),
    "width 0": key("embedding_length", U32, 0, "1 to"),
    "width 2**32 - 1": key("embedding_length", U32, 2**32 - 1, "1 to"),
    "width another": Case(
        lambda f: f.set("llama.embedding_length", U32, 64), field="token_embd.weight", words="(vocabulary, 64)"),
    "feed-forward another": Case(
        lambda f: f.set("llama.feed_forward_length", U32, 65), field="blk.0.ffn_gate.weight", words="(65, 32)"),
    "feed-forward 2**24": Case(
        lambda f: f.set("llama.feed_forward_length", U32, 2**24), field="blk.0.ffn_gate.weight"),
    "context 0": key("context_length", U32, 0, "1 to"),
    "context 2**31": key("context_length", U32, 2**31, "1 to"),
    "epsilon NaN": key("attention.layer_norm_rms_epsilon", F32, NAN, "finite"),
    "epsilon infinite": key("attention.layer_norm_rms_epsilon", F32, INF, "finite"),
    "epsilon negative": key("attention.layer_norm_rms_epsilon", F32, -1e-5, "1e-30"),
    "epsilon 0": key("attention.layer_norm_rms_epsilon", F32, 0.0, "1e-30"),
    "epsilon as text": key("attention.layer_norm_rms_epsilon", STRING, b"1e-5", "a number"),
    "rotation odd": key("rope.dimension_count", U32, 5, "even"),
    "rotation wider than a head": key("rope.dimension_count", U32, 16, "1 to 8"),
    "rotation 0": key("rope.dimension_count", U32, 0, "1 to 8"),
    "rotation of an odd head": Case(
        lambda f: f.set("llama.attention.key_length", U32, 7), field="llama.attention.key_length", words="even"),
    "base NaN": key("rope.freq_base", F32, NAN, "finite"),
    "base 0": key("rope.freq_base", F32, 0.0, "1"),
    "base negative": key("rope.freq_base", F32, -10000.0, "1"),
    "base tiny": key("rope.freq_base", F32, 1e-20, "1"),
    "scaling unknown": key("rope.scaling.type", STRING, b"spiral", "spiral", error="UnsupportedModelError"),
    "scaling as a number": key("rope.scaling.type", U32, 1, "text"),
    "scaling by 0": Case(
        lambda f: f.set("llama.rope.scaling.type", STRING, b"linear").set("llama.rope.scaling.factor", F32, 0.0),
        field="llama.rope.scaling.factor"),
    "scaling by next to nothing": Case(
        lambda f: f.set("llama.rope.scaling.type", STRING, b"linear").set("llama.rope.scaling.factor", F32, 1e-20),
        field="llama.rope.scaling.factor"),
    **{
        f"rotation factor {value}": Case(
            _factor(value), field="rope_freqs.weight",
            words="expected")
        for value in (0.0, -1.0, NAN, INF, 1e-38)
    },
    "rotation factors of pairs that do not turn": Case(_factor(1e30), error=None, outcome="runs"),
    "rotation factors between": Case(_factor(1e20), field="rope_freqs.weight", words="or 1e30"),
    "rotation factors too few": Case(
        lambda f: f.put("rope_freqs.weight", [1.0]), field="rope_freqs.weight", words="(4,)"),
    "rotation factors in codes": Case(
        lambda f: f.put("rope_freqs.weight", np.ones(4), "I8"), error="UnsupportedModelError", words="I8"),
    "window 0": key("attention.sliding_window", U32, 0, "1 to", arch="gemma3"),
    "no window": Case(
        lambda f: f.drop("gemma3.attention.sliding_window"), field="gemma3.attention.sliding_window", arch="gemma3"),
    "window 2**31": key("attention.sliding_window", U32, 2**31, "1 to", arch="gemma3"),
    "window as wide as can be": key(
        "attention.sliding_window", U32, 2**24, arch="gemma3", error=None, field=None, outcome="runs"),
    "period 0": key("attention.sliding_window_pattern", U32, 0, "1 to", arch="gemma3"),
    "cap negative": key("final_logit_softcapping", F32, -30.0, "at least 0", arch="gemma3"),
    "cap NaN": key("final_logit_softcapping", F32, NAN, "finite", arch="gemma3"),
    "cap next to nothing": key(
        "final_logit_softcapping", F32, 1e-44, arch="gemma3", error=None, field=None, outcome="either"),
    "scale of scores 0": key("attention.scale", F32, 0.0, "1e-30", arch="gemma3"),
    "scale of scores huge": key("attention.scale", F32, 9e29, arch="gemma3", error=None, field=None, outcome="either"),
    # tensors
    **{
        f"no {name}": Case(_without(name), field=name, words="no such tensor")
        for name in ("token_embd.weight", "output_norm.weight", "blk.1.attn_norm.weight", "blk.0.attn_k.weight",
                     "blk.0.ffn_down.weight")
    },
    "no norm of queries": Case(
        lambda f: f.tensors.pop(b"blk.0.attn_q_norm.weight"), field="blk.0.attn_q_norm.weight", arch="qwen3"),
    "a name with a space": Case(
        _rename("blk.1.ffn_up.weight", b"blk.1.ffn_up.weight "), field="blk.1.ffn_up.weight", words="no such tensor"),
    "a matrix transposed": shape("blk.0.ffn_gate.weight", 32, 64),
    "a matrix of one dimension": shape("blk.0.ffn_gate.weight", 2048),
    "a matrix of four": shape("blk.0.attn_q.weight", 1, 1, 32, 32),
    "a norm too short": shape("blk.0.attn_norm.weight", 31),
    "a norm of two dimensions": shape("output_norm.weight", 1, 32),
    "an embedding of one dimension": shape("token_embd.weight", 32, words="(vocabulary, 32)"),
    "an embedding of no rows left": shape("token_embd.weight", 272, 1, words="(vocabulary, 32)"),
    "a head of another vocabulary": shape("output.weight", 271, 32),
    "a bias too long": shape("blk.0.attn_q.bias", 33),
    "a norm in codes": Case(
        lambda f: f.put("blk.0.attn_norm.weight", np.ones(32), "Q8_0"), error="UnsupportedModelError", words="Q8_0"),
    "a matrix in a format not run": Case(
        lambda f: f.put("blk.0.attn_q.weight", np.ones((32, 32)), "Q8_1"), error="UnsupportedModelError",
        words="Q8_1 (blk.0.attn_q.weight)"),
    "a matrix of whole numbers": Case(
        lambda f: f.put("blk.0.attn_q.weight", np.ones((32, 32)), "I8"), error="UnsupportedModelError", words="I8"),
    "a matrix of an unknown type": Case(
        lambda f: setattr(f.tensors[b"blk.0.attn_q.weight"], "kind", 77), error="UnsupportedModelError",
        words="ggml type 77"),
    "tensors that overlap": Case(_overlap, field="blk.0.attn_q.weight.offset", words="overlap"),
    # the vocabulary
    "a vocabulary larger than the embedding": Case(
        lambda f: f.put("token_embd.weight", np.ones((100, 32))), error="TokenizerError", words="embedding 100"),
    "unknown vocabulary": key("tokenizer.ggml.model", STRING, b"rwkv", "rwkv", error="TokenizerError"),
    "vocabulary as a number": key("tokenizer.ggml.model", U32, 1, "tokenizer.ggml.model", error="TokenizerError"),
    "unknown pre-tokenizer": key("tokenizer.ggml.pre", STRING, b"nobody's", "pre", error="TokenizerError"),
    "no pieces": Case(lambda f: f.drop("tokenizer.ggml.tokens"), error="TokenizerError", words="tokens: missing"),
    "pieces as numbers": tokenizer("tokens", U32, [1, 2, 3]),
    "pieces none": tokenizer("tokens", STRING, [], "empty"),
    "pieces no UTF-8": Case(
        lambda f: f.set_array("tokenizer.ggml.tokens", STRING, LONG), field="tokenizer.ggml.tokens[1]", words="UTF-8"),
    "pieces twice": tokenizer("tokens", STRING, [b"a"] * 261, "twice"),
    "types too few": tokenizer("token_type", I32, [1, 1], "(261,)"),
    "types out of range": tokenizer("token_type", I32, [9] * 261, "type 9 of piece 0"),
    "types far out of range": tokenizer("token_type", I64, [2**32 + 1] * 261, "of piece 0"),
    "types as text": tokenizer("token_type", STRING, [b"1"] * 261),
    "merges of pieces that are not": tokenizer("merges", STRING, [b"h e", b"zz zz"], "merges[1]"),
    "merges of one part": tokenizer("merges", STRING, [b"he"], "merges[0]"),
    "merges of nothing": tokenizer("merges", STRING, [b" "], "merges[0]"),
    "merges as numbers": tokenizer("merges", U32, [1]),
    "merges no UTF-8": Case(
        lambda f: f.set_array("tokenizer.ggml.merges", STRING, [b"\xff \xff"]), field="tokenizer.ggml.merges[0]"),
    "no merges": Case(lambda f: f.drop("tokenizer.ggml.merges"), error="TokenizerError", words="merges: missing"),
    "BOS out of range": key("tokenizer.ggml.bos_token_id", U32, 2**32 - 2, "bos_token_id", error="TokenizerError"),
    "BOS that is none": key("tokenizer.ggml.bos_token_id", U32, 2**32 - 1, error=None, outcome="runs"),
    "EOS negative": key("tokenizer.ggml.eos_token_id", I32, -1, "eos_token_id", error="TokenizerError"),
    "EOS as text": key("tokenizer.ggml.eos_token_id", STRING, b"2", "eos_token_id", error="TokenizerError"),
    "BOS wanted, none there": Case(
        lambda f: f.drop("tokenizer.ggml.bos_token_id").set("tokenizer.ggml.add_bos_token", BOOL, 1),
        error="TokenizerError", words="add_bos_token"),
    "scores NaN": tokenizer("scores", F32, [NAN] * 265, "not finite", of=spm),
    "scores beyond float32": tokenizer("scores", F64, [1e300] * 265, "not finite", of=spm),
    "scores too few": tokenizer("scores", F32, [0.0], "(265,)", of=spm),
    "scores none": Case(lambda f: spm(f).drop("tokenizer.ggml.scores"), error="TokenizerError", words="scores"),
    "bytes that are none": tokenizer("token_type", I32, [2, 3, 3, *[6] * 262], "is a byte", of=spm),
    "all pieces unknown": Case(
        lambda f: spm(f).set_array("tokenizer.ggml.token_type", I32, [2] * 265), error=None, outcome="runs"),
    "pieces empty": tokenizer("tokens", STRING, [b""] * 265, "piece 3", of=spm),
    # numbers that are none, where every row or one row alone meets them
    "NaN in a norm": poisoned("blk.0.attn_norm.weight", NAN, "numerics"),
    "infinity in a norm": poisoned("blk.1.ffn_norm.weight", INF, "numerics"),
    "NaN in the last norm": poisoned("output_norm.weight", NAN, "numerics", at=31),
    "NaN in queries": poisoned("blk.0.attn_q.weight", NAN, "numerics"),
    "NaN in keys": poisoned("blk.1.attn_k.weight", NAN, "numerics"),
    "infinity in values": poisoned("blk.0.attn_v.weight", INF, "numerics"),
    "NaN in the gate": poisoned("blk.0.ffn_gate.weight", NAN, "numerics"),
    "minus infinity in the way down": poisoned("blk.1.ffn_down.weight", -INF, "numerics"),
    "NaN in a token's row and in the tied head": poisoned("token_embd.weight", NAN, "numerics"),
    "NaN in a norm of keys": poisoned("blk.1.attn_k_norm.weight", NAN, "numerics", arch="qwen3"),
    "NaN in a post-norm": poisoned("blk.0.post_ffw_norm.weight", NAN, "numerics", arch="gemma3"),
    "numbers that overflow": Case(
        lambda f: f.put("output_norm.weight", np.full(32, 3e38)), error=None, outcome="either"),
    "norms of zero": Case(lambda f: f.put("output_norm.weight", np.zeros(32)), error=None, outcome="runs"),
    # odd, and sound
    "version 2": Case(lambda f: setattr(f, "version", 2), error=None, outcome="runs"),
    "no vocabulary": Case(lambda f: f.set("tokenizer.ggml.model", STRING, b"none"), error=None, outcome="runs"),
    "keys of others": Case(
        lambda f: f.set("gemma3.attention.causal", BOOL, 0).set("\u00fc", STRING, b"\xff"), error=None, outcome="runs"),
    "a key nobody knows": key("unknown", F64, NAN, "llama.unknown", error="UnsupportedModelError"),
    "a tensor nobody knows": Case(
        lambda f: f.put("unknown", [NAN] * 5), error="UnsupportedModelError", words="tensor unknown"),
    "one long context": key("context_length", U32, 2**24, error=None, field=None, outcome="runs"),
}  # fmt: skip
