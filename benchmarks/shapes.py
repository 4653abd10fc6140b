"""Writes GGUF models of real shapes with random weights: for measuring speed and memory without the real files.

Every byte that a decode step reads and every multiplication of a prefill is as in the real model; the text is noise.
The vocabulary comes from a donor and is padded with tokens `<unused0>`, `<unused1>`, ....

    python benchmarks/shapes.py llama-3.2-1b q4_k_m OUT.gguf [--donor FILE.gguf] [--layers N] [--seed S] [--norm X]

With `--norm 0.01` layers add little, so that a model whose head is its embedding repeats its last token, and every
guess is right. Tensors are generated and written 16 MB at a time. Needs the `gguf` package (extra `test`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import target
from benchmarks.random_weights import random_rows

CHUNK = 16 << 20  # bytes generated at a time
NORMAL = 1  # GGUF's token type of text tokens: each token of an answer is then visible in a stream


@dataclass(frozen=True)
class Memory:
    """The layers without attention: a convolution of `taps` (LFM2), a gated delta net (Qwen3.5) or Mamba 2 (Granite 4
    H), these two with keys of `dk` in `n_k` heads and values of `dv` in `n_v` heads."""

    kind: str
    taps: int
    n_k: int = 0
    n_v: int = 0
    dk: int = 0
    dv: int = 0

    @property
    def inner(self) -> int:
        return self.n_v * self.dv

    @property
    def channels(self) -> int:
        return self.inner + 2 * self.n_k * self.dk


@dataclass(frozen=True)
class Shape:
    """The sizes that determine a decoder's tensors and metadata. `ff`: feed-forward width, or that of an expert if
    there are `experts`, of which a token uses `top_k`; `tied`: no output matrix; `memory`: of all layers except those
    in `attention`; `q_gates`: attn_q holds a gate for each query; `metadata`: keys after the architecture's name."""

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
    memory: Memory | None = None
    attention: tuple[int, ...] = ()
    q_gates: bool = False
    ffn_norm: str = "ffn_norm"
    metadata: tuple[tuple[str, bool | float | list[int]], ...] = ()

    def attends(self, layer: int) -> bool:
        return self.memory is None or layer in self.attention


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
        memory=Memory("convolution", 3),
        attention=(2, 5, 8, 10, 12, 14),
    ),
    "qwen3.5-2b": Shape(
        "qwen35",
        24,
        2048,
        8,
        2,
        256,
        6144,
        248320,
        True,
        1e7,
        1e-6,
        262144,
        qk_norm=True,
        memory=Memory("delta", 4, n_k=16, n_v=16, dk=128, dv=128),
        attention=(3, 7, 11, 15, 19, 23),
        q_gates=True,
        ffn_norm="post_attention_norm",
        metadata=(("rope.dimension_count", 64), ("rope.dimension_sections", [11, 11, 10, 0])),
    ),
    "granite-4-h-micro": Shape(
        "granitehybrid",
        40,
        2048,
        32,
        8,
        64,
        8192,
        100352,
        True,
        1e4,
        memory=Memory("mamba", 4, n_k=1, n_v=64, dk=128, dv=64),
        attention=(5, 15, 25, 35),
        metadata=(
            ("attention.scale", 0.015625),
            ("embedding_scale", 12.0),
            ("residual_scale", 0.22),
            ("logit_scale", 8.0),
            ("rope.scaling.finetuned", False),
        ),
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


def tensors(shape: Shape, mix: Mix, norm: float = 1) -> Iterator[Matrix]:
    """Every tensor in the order of the file. Norms are 1 (those before a layer's parts: `norm`) and biases 0, in
    float32."""

    def vector(name: str, n: int, value: float) -> Matrix:
        return Matrix(name, 0, n, Kind.F32, value)

    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Matrix("token_embd.weight", shape.vocab, shape.d, mix.ends)
    yield vector("token_embd_norm.weight" if shape.arch == "lfm2" else "output_norm.weight", shape.d, 1)
    if not shape.tied:
        yield Matrix("output.weight", shape.vocab, shape.d, mix.ends)
    for i in range(shape.layers):
        at, more = f"blk.{i}.", mix.more if i % 2 == 0 else mix.most
        yield vector(at + "attn_norm.weight", shape.d, norm)
        if shape.attends(i):
            own = (2 if shape.q_gates else 1) * q
            for name, rows, kind in (("attn_q", own, mix.most), ("attn_k", kv, mix.most), ("attn_v", kv, more)):
                yield Matrix(f"{at}{name}.weight", rows, shape.d, kind)
                if shape.qkv_bias:
                    yield vector(f"{at}{name}.bias", rows, 0)
            if shape.qk_norm:
                yield vector(at + "attn_q_norm.weight", shape.head_dim, 1)
                yield vector(at + "attn_k_norm.weight", shape.head_dim, 1)
            yield Matrix(at + "attn_output.weight", shape.d, q, mix.most)
        elif shape.memory is not None:
            yield from recurrent(at, shape.d, shape.memory, mix)
        yield vector(at + f"{shape.ffn_norm}.weight", shape.d, norm)
        end = "_exps.weight" if shape.experts else ".weight"
        if shape.experts:
            yield Matrix(at + "ffn_gate_inp.weight", shape.experts, shape.d, Kind.F32)
        for name, rows, cols, kind in (
            ("ffn_gate", shape.ff, shape.d, mix.most),
            ("ffn_up", shape.ff, shape.d, mix.most),
            ("ffn_down", shape.d, shape.ff, more),
        ):
            yield Matrix(at + name + end, rows, cols, kind, stack=shape.experts)


def recurrent(at: str, d: int, m: Memory, mix: Mix) -> Iterator[Matrix]:
    """The tensors of a layer without attention."""
    if m.kind == "convolution":
        matrices = [("shortconv.in_proj", 3 * d, d), ("shortconv.out_proj", d, d)]
        small = [("shortconv.conv.weight", d, m.taps, None)]
    else:
        small = [
            ("ssm_conv1d.weight", m.channels, m.taps, None),
            ("ssm_a", 0 if m.kind == "delta" else m.n_v, m.n_v if m.kind == "delta" else 1, -1.0),
            ("ssm_dt.bias", 0, m.n_v, 0.0),
        ]
        if m.kind == "delta":
            matrices = [("attn_qkv", m.channels, d), ("attn_gate", m.inner, d), ("ssm_out", d, m.inner)]
            matrices += [("ssm_beta", m.n_v, d), ("ssm_alpha", m.n_v, d)]
            small += [("ssm_norm.weight", 0, m.dv, 1.0)]
        else:
            matrices = [("ssm_in", m.inner + m.channels + m.n_v, d), ("ssm_out", d, m.inner)]
            small += [("ssm_conv1d.bias", 0, m.channels, 0.0), ("ssm_d", m.n_v, 1, 1.0)]
            small += [("ssm_norm.weight", m.n_k, m.inner // m.n_k, 1.0)]
    for name, rows, cols in matrices:
        yield Matrix(f"{at}{name}.weight", rows, cols, mix.most)
    for name, rows, cols, fill in small:
        yield Matrix(at + name, rows, cols, Kind.F32, fill)


@dataclass(frozen=True)
class Stream:
    """A tensor for GGUFWriter.write_tensor_data, which needs `nbytes` and `tofile`. It is generated while it is
    written."""

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
        [shape.kv_heads if shape.attends(i) else 0 for i in range(shape.layers)]
        if shape.memory is not None and shape.memory.kind != "delta"  # delta nets have an interval
        else shape.kv_heads
    )
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if "rope.dimension_count" not in dict(shape.metadata):
        writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.top_k)
        writer.add_expert_feed_forward_length(shape.ff)
    m = shape.memory
    if m is not None and m.kind == "convolution":
        writer.add_shortconv_l_cache(m.taps)
    elif m is not None:
        writer.add_ssm_conv_kernel(m.taps)
        writer.add_ssm_state_size(m.dk)
        writer.add_ssm_group_count(m.n_k)
        writer.add_ssm_time_step_rank(m.n_v)
        writer.add_ssm_inner_size(m.inner)
    for key, value in shape.metadata:
        add: Any = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](f"{shape.arch}.{key}", value)


def add_vocabulary(writer: gguf.GGUFWriter, donor: Path, size: int) -> None:
    """Copies a BPE vocabulary of at most `size` tokens and pads it. Raises ValueError if the donor has none."""
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
        writer.add_token_types(types + [NORMAL] * (size - len(tokens)))
        writer.add_token_merges(data["tokenizer.ggml.merges"].to_str_list())
        for key, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id)):
            if f"tokenizer.ggml.{key}_token_id" in data:
                add(int(data[f"tokenizer.ggml.{key}_token_id"]))
        writer.add_add_bos_token(False)
        if "tokenizer.chat_template" in data:
            writer.add_chat_template(data["tokenizer.chat_template"])


def write_model(out: Path, name: str, shape: Shape, mix: Mix, donor: Path, seed: int = 0, norm: float = 1) -> None:
    """Writes the model to `out`; a half-written file is removed."""
    writer = gguf.GGUFWriter(out, shape.arch)
    add_metadata(writer, name, shape)
    add_vocabulary(writer, donor, shape.vocab)
    made = list(tensors(shape, mix, norm))
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
    about.add_argument("out", type=target)
    about.add_argument("--donor", type=Path, help="GGUF file to take a BPE vocabulary from (default: smollm2-135m)")
    about.add_argument("--layers", type=int, help="fewer layers: a smaller file of the same cost per layer")
    about.add_argument("--seed", type=int, default=0)
    about.add_argument("--norm", type=float, default=1, help="weights of the norms before attention and feed-forward")
    a = about.parse_args(arguments)
    shape = SHAPES[a.shape]
    if a.layers is not None:
        if not 1 <= a.layers <= shape.layers:
            about.error(f"--layers {a.layers}: expected 1 to {shape.layers}")
        shape = replace(shape, layers=a.layers)
    name, donor = f"{a.shape} {a.mix}, random weights", a.donor or default_donor()
    write_model(a.out, name, shape, MIXES[a.mix], donor, a.seed, a.norm)
    print(f"{a.out}: {a.out.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
