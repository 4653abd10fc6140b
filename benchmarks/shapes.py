"""Writes GGUF models of real shapes with random weights: to measure speed and memory without the real files.

Every byte that a decode step reads and every multiplication of a prefill is that of the real model; the text is noise.
The weights are centred and have a standard deviation of 0.02, so that logits stay finite. The vocabulary comes from
a donor and is padded with unused tokens.

    python benchmarks/shapes.py llama-3.2-1b q4_k_m OUT.gguf [--donor FILE.gguf] [--layers N] [--seed S]

Tensors are made and written 16 MB at a time. Needs the `gguf` package (extra `test`).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Bytes = npt.NDArray[np.uint8]
STD = 0.02
CHUNK = 16 << 20  # bytes made at a time
UNUSED = 5  # GGUF's token type of tokens that stand for nothing


@dataclass(frozen=True)
class Shape:
    """The sizes that determine a decoder's tensors and metadata. `ff`: feed-forward width, of an expert where there are
    `experts`, of which a token takes `top_k`; `tied`: no output matrix; `taps`: of the convolution in all layers but
    `attention` (LFM2)."""

    arch: str
    layers: int
    d: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocab: int
    tied: bool
    rope_base: float
    eps: float = 1e-5
    context: int = 131072
    qk_norm: bool = False
    qkv_bias: bool = False
    experts: int = 0
    top_k: int = 0
    taps: int = 0
    attention: tuple[int, ...] = ()

    def attends(self, layer: int) -> bool:
        return not self.taps or layer in self.attention


# Sources: the config.json of each model's public release.
SHAPES = {
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 16, 8, 128, 3072, 151936, True, 1e6, 1e-6, 40960, qk_norm=True),
    "llama-3.2-1b": Shape("llama", 16, 2048, 32, 8, 64, 8192, 128256, True, 5e5),
    "llama-3.2-3b": Shape("llama", 28, 3072, 24, 8, 128, 8192, 128256, True, 5e5),
    "llama-3.1-8b": Shape("llama", 32, 4096, 32, 8, 128, 14336, 128256, False, 5e5),
    "qwen2.5-1.5b": Shape("qwen2", 28, 1536, 12, 2, 128, 8960, 151936, True, 1e6, 1e-6, 32768, qkv_bias=True),
    "qwen3-30b-a3b": Shape(
        "qwen3moe", 48, 2048, 32, 4, 128, 768, 151936, False, 1e6, 1e-6, 40960, qk_norm=True, experts=128, top_k=8
    ),
    "lfm2-1.2b": Shape(
        "lfm2",
        16,
        2048,
        32,
        8,
        64,
        8192,
        65536,
        True,
        1e6,
        1e-5,
        128000,
        qk_norm=True,
        taps=3,
        attention=(2, 5, 8, 10, 12, 14),
    ),
}


@dataclass(frozen=True)
class Mix:
    """The formats of most matrices; of attn_v and ffn_down of every other layer; and of the embedding and output."""

    most: Kind
    more: Kind
    ends: Kind


MIXES = {
    "q4_0": Mix(Kind.Q4_0, Kind.Q4_0, Kind.Q6_K),
    "q4_1": Mix(Kind.Q4_1, Kind.Q4_1, Kind.Q8_0),
    "q5_0": Mix(Kind.Q5_0, Kind.Q5_0, Kind.Q6_K),
    "q8_0": Mix(Kind.Q8_0, Kind.Q8_0, Kind.Q8_0),
    "q2_k": Mix(Kind.Q2_K, Kind.Q3_K, Kind.Q6_K),
    "q3_k": Mix(Kind.Q3_K, Kind.Q4_K, Kind.Q6_K),
    "q4_k_m": Mix(Kind.Q4_K, Kind.Q6_K, Kind.Q6_K),
    "q5_k_m": Mix(Kind.Q5_K, Kind.Q6_K, Kind.Q6_K),
    "q6_k": Mix(Kind.Q6_K, Kind.Q6_K, Kind.Q6_K),
    "iq4_nl": Mix(Kind.IQ4_NL, Kind.IQ4_NL, Kind.Q6_K),
    "iq4_xs": Mix(Kind.IQ4_XS, Kind.IQ4_XS, Kind.Q6_K),
    "mxfp4": Mix(Kind.MXFP4, Kind.MXFP4, Kind.Q8_0),
    "f16": Mix(Kind.F16, Kind.F16, Kind.F16),
    "bf16": Mix(Kind.BF16, Kind.BF16, Kind.BF16),
}


# ---- random blocks ----------------------------------------------------------------------------------------
# Codes are uniform random bits. A block's other fields are set so that weights are centred and have STD: what the
# formats' definitions (ggml-common.h) make of the fields is beside each. A setter gets blocks (n, bytes of a block).


def code_std(values: int) -> float:
    """Standard deviation of a code uniform in 0 .. values - 1."""
    return float(((values**2 - 1) / 12) ** 0.5)


def uniform_rms(low: int, high: int) -> float:
    """Root mean square of integers uniform in low .. high."""
    return float(np.sqrt(np.mean(np.arange(low, high + 1, dtype=np.float64) ** 2)))


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
IQ4_RMS = float(np.sqrt(np.mean(IQ4**2)))


def put_f16(blocks: Bytes, at: int, value: float, either_sign: bool = False) -> None:
    """Sets a field; with either_sign its random bits decide which, for codes around zero that are not symmetric."""
    sign = blocks[:, at + 1] & (0x80 if either_sign else 0)
    blocks[:, at : at + 2] = np.frombuffer(np.float16(value).astype("<f2").tobytes(), np.uint8)
    blocks[:, at + 1] |= sign


def plain(values: int, mins: bool = False) -> Callable[[Bytes], None]:
    """w = d * (code - values / 2), or with mins w = d * code + m: d first, m next."""

    def put(blocks: Bytes) -> None:
        d = STD / code_std(values)
        put_f16(blocks, 0, d, either_sign=not mins)
        if mins:
            put_f16(blocks, 2, -d * (values - 1) / 2)

    return put


def q2_k(blocks: Bytes) -> None:
    """w = d * sc * code - dmin * mn: sc the low, mn the high nibble of bytes 0..15; equal, so 1.5 centres the codes."""
    scale = blocks[:, :16] & 0x0F | 0x08
    blocks[:, :16] = scale | scale << 4
    d = STD / (uniform_rms(8, 15) * code_std(4))
    put_f16(blocks, 80, d)
    put_f16(blocks, 82, 1.5 * d)


def q3_k(blocks: Bytes) -> None:
    """w = d * (sc - 32) * (code - 4): sc has its two high bits in bytes 104..107; both set leave 48..63."""
    blocks[:, 104:108] = 0xFF
    put_f16(blocks, 108, STD / (uniform_rms(16, 31) * code_std(8)), either_sign=True)


def k_with_mins(values: int) -> Callable[[Bytes], None]:
    """w = d * sc * code - dmin * mn: scales and mins of 6 bits in bytes 4..15, made equal and 32..63.

    Bytes 4..7 hold sc 0..3 and, in their top bits, the high bits of sc 4..7; bytes 8..11 the same of mn; bytes 12..15
    the low nibbles of sc 4..7 and above them those of mn 4..7.
    """

    def put(blocks: Bytes) -> None:
        blocks[:, 4:8] |= 0xA0
        blocks[:, 8:12] = blocks[:, 4:8]
        low = blocks[:, 12:16] & 0x0F
        blocks[:, 12:16] = low | low << 4
        d = STD / (uniform_rms(32, 63) * code_std(values))
        put_f16(blocks, 0, d)
        put_f16(blocks, 2, d * (values - 1) / 2)

    return put


def q6_k(blocks: Bytes) -> None:
    """w = d * sc * (code - 32): int8 scales in bytes 192..207, made 64..127."""
    blocks[:, 192:208] = blocks[:, 192:208] & 0x7F | 0x40
    put_f16(blocks, 208, STD / (uniform_rms(64, 127) * code_std(64)), either_sign=True)


def q8_0(blocks: Bytes) -> None:
    """w = d * code, int8."""
    put_f16(blocks, 0, STD / code_std(256), either_sign=True)


def iq4_nl(blocks: Bytes) -> None:
    """w = d * IQ4[code]."""
    put_f16(blocks, 0, STD / IQ4_RMS, either_sign=True)


def iq4_xs(blocks: Bytes) -> None:
    """w = d * (sc - 32) * IQ4[code]: sc has its two high bits in bytes 2..3; all set leave 48..63."""
    blocks[:, 2:4] = 0xFF
    put_f16(blocks, 0, STD / (uniform_rms(16, 31) * IQ4_RMS), either_sign=True)


FP4_RMS = float(np.sqrt(np.mean(np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float64) ** 2)))


def mxfp4(blocks: Bytes) -> None:
    """w = 2^(e - 128) * FP4, twice the values of e2m1: e, the first byte, is one of two whose mean square fits."""
    square = (STD / FP4_RMS) ** 2
    low = math.floor(math.log2(square) / 2)
    share = (square / 4.0**low - 1) / 3  # of blocks with the greater one
    blocks[:, 0] = 128 + low + (blocks[:, 0] < 256 * share)


FIELDS: dict[Kind, Callable[[Bytes], None]] = {
    Kind.Q4_0: plain(16),
    Kind.Q4_1: plain(16, mins=True),
    Kind.Q5_0: plain(32),
    Kind.Q5_1: plain(32, mins=True),
    Kind.Q8_0: q8_0,
    Kind.Q2_K: q2_k,
    Kind.Q3_K: q3_k,
    Kind.Q4_K: k_with_mins(16),
    Kind.Q5_K: k_with_mins(32),
    Kind.Q6_K: q6_k,
    Kind.IQ4_NL: iq4_nl,
    Kind.IQ4_XS: iq4_xs,
    Kind.MXFP4: mxfp4,
}


def random_rows(rng: np.random.Generator, rows: int, cols: int, kind: Kind) -> Bytes:
    """`rows` rows of `cols` random weights as a file stores them: (rows, bytes of a row)."""
    if kind in (Kind.F16, Kind.BF16, Kind.F32):
        x = rng.standard_normal((rows, cols), np.float32) * np.float32(STD)
        if kind == Kind.F16:
            return x.astype("<f2").view(np.uint8)
        if kind == Kind.BF16:
            rounded = x.view(np.uint32) + (
                0x7FFF + (x.view(np.uint32) >> 16 & 1)
            )  # to nearest even; none is near infinity
            return (rounded >> 16).astype("<u2").view(np.uint8)
        return x.astype("<f4").view(np.uint8)
    per, size = gguf.GGML_QUANT_SIZES[kind]
    if cols % per:
        raise ValueError(f"a row of {cols} weights: {kind.name} needs a multiple of {per}")
    blocks = rng.integers(0, 256, (rows * (cols // per), size), np.uint8)
    FIELDS[kind](blocks)
    return blocks.reshape(rows, cols // per * size)


# ---- the model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matrix:
    """A tensor of the file: (rows, cols), or (cols,) with rows = 0, or (stack, rows, cols). `fill`: its constant value;
    None: random."""

    name: str
    rows: int
    cols: int
    kind: Kind
    fill: float | None = None
    stack: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n for n in (self.stack, self.rows) if n) + (self.cols,)

    @property
    def all_rows(self) -> int:
        return max(self.rows, 1) * max(self.stack, 1)

    @property
    def row_bytes(self) -> int:
        per, size = gguf.GGML_QUANT_SIZES[self.kind]
        return self.cols // per * size

    @property
    def nbytes(self) -> int:
        return self.all_rows * self.row_bytes


def tensors(shape: Shape, mix: Mix) -> Iterator[Matrix]:
    """Every tensor in the order of the file. Norms are 1 and biases 0, in float32."""

    def vector(name: str, n: int, value: float) -> Matrix:
        return Matrix(name, 0, n, Kind.F32, value)

    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Matrix("token_embd.weight", shape.vocab, shape.d, mix.ends)
    yield vector("token_embd_norm.weight" if shape.taps else "output_norm.weight", shape.d, 1)
    if not shape.tied:
        yield Matrix("output.weight", shape.vocab, shape.d, mix.ends)
    for i in range(shape.layers):
        at, more = f"blk.{i}.", mix.more if i % 2 == 0 else mix.most
        yield vector(at + "attn_norm.weight", shape.d, 1)
        if shape.attends(i):
            for name, rows, kind in (("attn_q", q, mix.most), ("attn_k", kv, mix.most), ("attn_v", kv, more)):
                yield Matrix(f"{at}{name}.weight", rows, shape.d, kind)
                if shape.qkv_bias:
                    yield vector(f"{at}{name}.bias", rows, 0)
            if shape.qk_norm:
                yield vector(at + "attn_q_norm.weight", shape.head_dim, 1)
                yield vector(at + "attn_k_norm.weight", shape.head_dim, 1)
            yield Matrix(at + "attn_output.weight", shape.d, q, mix.most)
        else:
            yield Matrix(at + "shortconv.in_proj.weight", 3 * shape.d, shape.d, mix.most)
            yield Matrix(at + "shortconv.conv.weight", shape.d, shape.taps, Kind.F32)
            yield Matrix(at + "shortconv.out_proj.weight", shape.d, shape.d, mix.most)
        yield vector(at + "ffn_norm.weight", shape.d, 1)
        end = "_exps.weight" if shape.experts else ".weight"
        if shape.experts:
            yield Matrix(at + "ffn_gate_inp.weight", shape.experts, shape.d, Kind.F32)
        for name, rows, cols, kind in (
            ("ffn_gate", shape.ff, shape.d, mix.most),
            ("ffn_up", shape.ff, shape.d, mix.most),
            ("ffn_down", shape.d, shape.ff, more),
        ):
            yield Matrix(at + name + end, rows, cols, kind, stack=shape.experts)


@dataclass(frozen=True)
class Stream:
    """A tensor for GGUFWriter.write_tensor_data, which needs `nbytes` and `tofile`. It is generated while written."""

    matrix: Matrix
    rng: np.random.Generator

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def tofile(self, file: BinaryIO) -> None:
        m = self.matrix
        if m.fill is not None:
            file.write(np.full(m.all_rows * m.cols, m.fill, "<f4").tobytes())
            return
        step = max(1, CHUNK // m.row_bytes)
        for row in range(0, m.all_rows, step):
            file.write(random_rows(self.rng, min(step, m.all_rows - row), m.cols, m.kind).tobytes())


def add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.d)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(
        [shape.kv_heads if shape.attends(i) else 0 for i in range(shape.layers)] if shape.taps else shape.kv_heads
    )
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.top_k)
        writer.add_expert_feed_forward_length(shape.ff)
    if shape.taps:
        writer.add_shortconv_l_cache(shape.taps)


def add_vocabulary(writer: gguf.GGUFWriter, donor: Path, size: int) -> None:
    """Copies a BPE vocabulary of at most `size` tokens and pads it. ValueError where the donor has none."""
    from pellucid.weights import open_model

    with open_model(donor) as model:
        data: Any = model.metadata
        for key in ("tokens", "token_type", "merges", "pre"):
            if data.get("tokenizer.ggml.model") != "gpt2" or f"tokenizer.ggml.{key}" not in data:
                raise ValueError(f"{donor}: a BPE vocabulary (gpt2) with tokenizer.ggml.{key} is expected")
        tokens = data["tokenizer.ggml.tokens"].to_str_list()
        types = [int(t) for t in data["tokenizer.ggml.token_type"]]
        if len(tokens) > size:
            raise ValueError(f"{donor}: {len(tokens)} tokens do not fit a vocabulary of {size}")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(data["tokenizer.ggml.pre"])
        writer.add_token_list(tokens + [f"<unused{i}>" for i in range(size - len(tokens))])
        writer.add_token_types(types + [UNUSED] * (size - len(tokens)))
        writer.add_token_merges(data["tokenizer.ggml.merges"].to_str_list())
        for key, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id)):
            if f"tokenizer.ggml.{key}_token_id" in data:
                add(int(data[f"tokenizer.ggml.{key}_token_id"]))
        writer.add_add_bos_token(False)
        if "tokenizer.chat_template" in data:
            writer.add_chat_template(data["tokenizer.chat_template"])


def write_model(out: Path, name: str, shape: Shape, mix: Mix, donor: Path, seed: int = 0) -> None:
    """Writes the model to `out`; a half-written file is removed."""
    writer = gguf.GGUFWriter(out, shape.arch)
    add_metadata(writer, name, shape)
    add_vocabulary(writer, donor, shape.vocab)
    made = list(tensors(shape, mix))
    for m in made:
        writer.add_tensor_info(m.name, m.shape, np.dtype(np.float32), m.nbytes, raw_dtype=m.kind)
    rng = np.random.default_rng(seed)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for m in made:
            tensor: Any = Stream(m, rng)
            writer.write_tensor_data(tensor)
        writer.close()
    except BaseException:
        writer.close()
        out.unlink(missing_ok=True)
        raise


def default_donor() -> Path:
    from pellucid.weights import catalog

    return catalog.fetch("smollm2-135m")


def main(arguments: list[str] | None = None) -> None:
    from dataclasses import replace

    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("shape", choices=SHAPES)
    about.add_argument("mix", choices=MIXES)
    about.add_argument("out", type=Path)
    about.add_argument("--donor", type=Path, help="GGUF file to take a BPE vocabulary from (default: smollm2-135m)")
    about.add_argument("--layers", type=int, help="fewer layers: a smaller file of the same cost per layer")
    about.add_argument("--seed", type=int, default=0)
    a = about.parse_args(arguments)
    shape = SHAPES[a.shape]
    if a.layers is not None:
        if not 1 <= a.layers <= shape.layers:
            about.error(f"--layers {a.layers}: expected 1 to {shape.layers}")
        shape = replace(shape, layers=a.layers)
    write_model(a.out, f"{a.shape} {a.mix}, random weights", shape, MIXES[a.mix], a.donor or default_donor(), a.seed)
    print(f"{a.out}: {a.out.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
