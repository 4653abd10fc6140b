"""Tiny random models in F32, each as a GGUF file and as a Hugging Face folder.

They have what the real models lack (untied heads, one KV head per query head, scaled rotations, head widths that are
not a multiple of a vector), and in F32 the whole computation can be checked to 1e-4. Neither form has a tokenizer. The
two forms differ as real files do: a GGUF file of the llama architecture has the rows of q and k permuted, so that
adjacent rows form a rotary pair, where a folder pairs the two halves (a GGUF file of qwen3 does, too); a GGUF file of
gemma3 stores norm weights with 1 added.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "tiny.npz"
LENGTHS = (1, 7, 40)  # tokens of the sequences that are compared; 40 is five of Gemma's windows of 8

Weights = dict[str, npt.NDArray[np.float32]]
Encode = Callable[[str, npt.NDArray[np.float32]], tuple[npt.NDArray[Any], Any]]


@dataclass(frozen=True)
class Tiny:
    """Sizes of one tiny model; names as in Hugging Face configurations."""

    name: str
    seed: int
    arch: str = "llama"  # or "gemma3", "qwen3"
    hidden: int = 64
    ff: int = 96
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 97
    tied: bool = True
    eps: float = 1e-5
    rope_base: float = 10000.0
    linear: float = 1.0  # positions are divided by this (gemma3: in global layers alone)
    llama3: tuple[float, float, float, int] | None = None  # factor, low and high frequency factors, original context
    nested_rope: bool = False  # folder: "rope_parameters" (newer) instead of "rope_theta" and "rope_scaling"
    window: int = 8  # gemma3 from here on
    pattern: int = 6  # every so many-th layer is global
    local_base: float = 10000.0
    query_scalar: int = 0  # scores are divided by its root; 0: head_dim
    local: tuple[bool, ...] | None = None  # which layers have the window, where no pattern says
    model_type: str = ""  # of the folder, where it is not that of KINDS
    act: str = ""  # activation; "": that of the architecture
    biases: tuple[str, ...] = ()  # "attention", "mlp": which projections have some

    @property
    def gemma(self) -> bool:
        return self.arch == "gemma3"

    @property
    def windows(self) -> tuple[bool, ...]:
        """For each layer, whether it sees only a window."""
        if self.local is not None:
            return self.local
        return tuple(self.gemma and (i + 1) % self.pattern != 0 for i in range(self.layers))

    @property
    def qk_norm(self) -> bool:
        return self.arch in ("gemma3", "qwen3")


TINY = (
    Tiny("llama_gqa", seed=11),
    Tiny("llama_mha_untied", seed=12, kv_heads=4, tied=False, rope_base=100000.0),
    # No width here is a multiple of 16 but hidden; 12 pairs into 6, 100 and 131 leave tails.
    Tiny("llama_odd", seed=13, hidden=48, ff=100, layers=2, heads=4, kv_heads=2, head_dim=12, vocab=131),
    Tiny("llama_one_kv", seed=14, heads=5, kv_heads=1, hidden=80, ff=72, layers=2, tied=False, vocab=33),
    # Wavelengths of 16 dimensions at base 10000 are 6, 20, 63, 199 and more: kept, kept, blended, divided.
    Tiny("llama3_rope", seed=15, llama3=(8.0, 1.0, 4.0, 128)),
    Tiny("llama_linear", seed=16, linear=4.0, nested_rope=True),
    # Epsilons far above the real ones, so that a wrong one shows.
    Tiny("gemma3", seed=21, arch="gemma3", layers=7, head_dim=32, kv_heads=1, eps=1e-4, rope_base=1e5),
    Tiny(
        "gemma3_scaled", seed=22, arch="gemma3", layers=6, head_dim=24, eps=1e-3, rope_base=1e5, linear=8.0,
        query_scalar=40,
    ),
    # Heads wider than hidden / heads, as the smaller Qwen3 have them.
    Tiny("qwen3", seed=31, arch="qwen3", head_dim=24, eps=1e-4, rope_base=1e6),
    Tiny("mistral", seed=41, model_type="mistral", window=8, local=(True,) * 3, tied=False),
    Tiny("llama_biases", seed=42, biases=("attention", "mlp"), tied=False),
    Tiny("llama_gelu", seed=43, act="gelu_pytorch_tanh", layers=2),
    Tiny(
        "qwen3_windows", seed=44, arch="qwen3", layers=4, eps=1e-4, rope_base=1e4, local=(False, True, True, True),
        biases=("attention",),
    ),
    Tiny(
        "gemma3_irregular", seed=45, arch="gemma3", layers=4, head_dim=24, eps=1e-3, rope_base=1e5,
        local=(False, True, True, False), biases=("attention",), act="silu",
    ),
)  # fmt: skip


def token_ids(model: Tiny, length: int) -> list[int]:
    """A fixed sequence, with the vocabulary's first and last id near its start."""
    ids = [(7 * i * i + 3 * i + 5 + model.seed) % model.vocab for i in range(length)]
    for place, value in ((1, 0), (2, model.vocab - 1)):
        if place < length:
            ids[place] = value
    return ids


BIASED = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}


def weights(model: Tiny) -> Weights:
    """Weights under Hugging Face names, in Hugging Face layout; matrices are (out, in)."""
    generator = np.random.Generator(np.random.PCG64(model.seed))

    def matrix(rows: int, columns: int, gain: float = 1.0) -> npt.NDArray[np.float32]:
        # Uniform with standard deviation gain / sqrt(columns), so that widths keep their scale through a layer.
        bound = gain * math.sqrt(3.0 / columns)
        return ((2.0 * generator.random((rows, columns)) - 1.0) * bound).astype(np.float32)

    def norm(width: int) -> npt.NDArray[np.float32]:
        # Gemma's folders store the distance from 1.
        middle = 0.0 if model.gemma else 1.0
        return (middle + 0.8 * (generator.random(width) - 0.5)).astype(np.float32)

    d, heads, kv, width = model.hidden, model.heads, model.kv_heads, model.head_dim
    out: Weights = {"model.embed_tokens.weight": matrix(model.vocab, d, 1.0 if model.gemma else 3.0)}
    for i in range(model.layers):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = norm(d)
        # A gain of 2 on q and k spreads the attention scores: wrong positions must show.
        out[p + "self_attn.q_proj.weight"] = matrix(heads * width, d, 2.0)
        out[p + "self_attn.k_proj.weight"] = matrix(kv * width, d, 2.0)
        out[p + "self_attn.v_proj.weight"] = matrix(kv * width, d)
        out[p + "self_attn.o_proj.weight"] = matrix(d, heads * width, 2.0)
        out[p + "post_attention_layernorm.weight"] = norm(d)
        if model.qk_norm:
            out[p + "self_attn.q_norm.weight"] = norm(width)
            out[p + "self_attn.k_norm.weight"] = norm(width)
        if model.gemma:
            out[p + "pre_feedforward_layernorm.weight"] = norm(d)
            out[p + "post_feedforward_layernorm.weight"] = norm(d)
        out[p + "mlp.gate_proj.weight"] = matrix(model.ff, d)
        out[p + "mlp.up_proj.weight"] = matrix(model.ff, d)
        out[p + "mlp.down_proj.weight"] = matrix(d, model.ff, 2.0)
        for kind, parts in BIASED.items():
            for name in parts if kind in model.biases else ():
                rows = len(out[f"{p}{name}.weight"])
                out[f"{p}{name}.bias"] = (generator.random(rows) - 0.5).astype(np.float32)
    out["model.norm.weight"] = norm(d)
    if not model.tied:
        out["lm_head.weight"] = matrix(model.vocab, d)
    return out


def weights_sha256(model: Tiny) -> str:
    """SHA-256 of all weights, which tells a changed generator from a wrong engine."""
    digest = hashlib.sha256()
    for name, value in sorted(weights(model).items()):
        digest.update(name.encode() + repr(value.shape).encode() + value.astype("<f4").tobytes())
    return digest.hexdigest()


# --- Hugging Face folder


KINDS = {
    "llama": ("LlamaForCausalLM", "llama"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "mistral": ("MistralForCausalLM", "mistral"),
}


def config(model: Tiny) -> dict[str, Any]:
    """The contents of config.json."""
    class_name, model_type = KINDS[model.model_type or model.arch]
    out: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "intermediate_size": model.ff,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": 256,
        "rms_norm_eps": model.eps,
        "tie_word_embeddings": model.tied,
        "attention_bias": "attention" in model.biases,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }
    scaling: dict[str, Any] | None = None
    if model.llama3 is not None:
        factor, low, high, context = model.llama3
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": context,
        }
    elif model.linear != 1.0:
        scaling = {"rope_type": "linear", "factor": model.linear}
    if model.nested_rope:
        out["rope_parameters"] = {"rope_theta": model.rope_base, **(scaling or {"rope_type": "default"})}
    else:
        out["rope_theta"] = model.rope_base
        out["rope_scaling"] = scaling
    if model.gemma:
        out["hidden_activation"] = model.act or "gelu_pytorch_tanh"
        out["rope_local_base_freq"] = model.local_base
        out["sliding_window"] = model.window
        out["query_pre_attn_scalar"] = model.query_scalar or model.head_dim
        out["final_logit_softcapping"] = None
        out["attn_logit_softcapping"] = None
        out["layer_types"] = ["sliding_attention" if local else "full_attention" for local in model.windows]
    else:
        out["hidden_act"] = model.act or "silu"
    if model.arch == "llama":
        out["mlp_bias"] = "mlp" in model.biases
    if model.model_type == "mistral":
        out["sliding_window"] = model.window if any(model.windows) else None
    if model.arch == "qwen3" and any(model.windows):
        out["use_sliding_window"] = True
        out["sliding_window"] = model.window
        out["max_window_layers"] = model.windows.index(True)
    return out


def write_folder(model: Tiny, folder: Path) -> Path:
    """Writes config.json and model.safetensors into `folder`, made when absent; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(model), indent=2) + "\n", encoding="utf-8")
    save_file(weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# --- GGUF file

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LLAMA_NAMES = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(model: Tiny, name: str) -> str:
    """The GGUF name of a tensor with this Hugging Face name."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    table = {**LAYER_NAMES, **(GEMMA_NAMES if model.gemma else LLAMA_NAMES)}
    return f"blk.{layer}.{table[rest]}.{kind}"


def interleave_halves(matrix: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Reorders the rows of every head, also of a bias, from (first half, second half) to pairs of one of each."""
    rows = len(matrix)
    return np.ascontiguousarray(matrix.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2)).reshape(matrix.shape)


def llama3_factors(model: Tiny) -> npt.NDArray[np.float32]:
    """The divisors of the head_dim / 2 frequencies (rope_freqs.weight)."""
    assert model.llama3 is not None
    factor, low, high, context = model.llama3
    frequency = model.rope_base ** (-np.arange(0, model.head_dim, 2) / model.head_dim)
    turns = context * frequency / (2.0 * math.pi)  # rotations within the original context
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 1: fast, left alone; 0: slow, divided by the factor
    return (1.0 / ((1.0 - kept) / factor + kept)).astype(np.float32)


def write_gguf(
    model: Tiny,
    path: Path,
    *,
    context: int = 256,
    encode: Encode | None = None,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
    fused: bool = False,
) -> Path:
    """Writes the model as a GGUF file without a tokenizer; returns the path. encode: what becomes of each tensor, its
    GGUF name and values -> (data, format or None for the data's own). extra: adds to the header, e.g. a tokenizer.
    fused: queries, keys and values of a layer are one matrix, attn_qkv, where their formats are one."""
    writer = gguf.GGUFWriter(path, model.arch)
    writer.add_name(f"tiny {model.name}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_block_count(model.layers)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(model.ff)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.eps)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_vocab_size(model.vocab)
    if model.linear != 1.0:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(model.linear)
    if model.qk_norm:
        writer.add_key_length(model.head_dim)
        writer.add_value_length(model.head_dim)
    if any(model.windows):
        writer.add_sliding_window(model.window)
    if model.local is not None and len({*model.local}) > 1:
        writer.add_sliding_window_pattern(model.local)
    if model.act:
        writer.add_string(f"{model.arch}.hidden_activation", model.act)
    if model.gemma:
        if model.query_scalar:
            writer.add_attention_scale(model.query_scalar**-0.5)
    elif model.arch == "llama":
        writer.add_rope_dimension_count(model.head_dim)
    if extra is not None:
        extra(writer)
    if model.llama3 is not None:
        writer.add_tensor("rope_freqs.weight", llama3_factors(model))
    together: dict[str, list[npt.NDArray[Any]]] = {}
    for name, value in weights(model).items():
        if model.gemma and name.endswith("norm.weight"):
            value = value + np.float32(1.0)
        if model.arch == "llama" and "q_proj" in name:
            value = interleave_halves(value, model.heads)
        if model.arch == "llama" and "k_proj" in name:
            value = interleave_halves(value, model.kv_heads)
        data, kind = (value, None) if encode is None else encode(gguf_name(model, name), value)
        part = re.fullmatch(r"(blk\.\d+\.attn_)[qkv](\.\w+)", gguf_name(model, name))
        if fused and part is not None:
            parts = together.setdefault(f"{part[1]}qkv{part[2]}", [])
            parts.append(data)
            if len(parts) == 3:
                writer.add_tensor(f"{part[1]}qkv{part[2]}", np.concatenate(parts), raw_dtype=kind)
            continue
        writer.add_tensor(gguf_name(model, name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
