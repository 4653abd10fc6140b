"""Small llama models in F32 whose rows fill super blocks, written with the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def write(path: Path, *, dim: int = 256, layers: int = 9, kv_heads: int = 4, tied: bool = False, ff: int = 512) -> Path:
    """8 heads, a vocabulary of 64."""
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A small model")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(8)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // 8)
    writer.add_array("tests.words", ["a", "bc", ""])
    writer.add_array("tests.numbers", [1.5, -2.0])
    kv = dim // 8 * kv_heads

    def add(name: str, *shape: int) -> None:
        scale = 1.0 if len(shape) == 1 else 0.05
        writer.add_tensor(name, (rng.standard_normal(shape) * scale + (len(shape) == 1)).astype(np.float32))

    add("token_embd.weight", 64, dim)
    for i in range(layers):
        add(f"blk.{i}.attn_norm.weight", dim)
        add(f"blk.{i}.attn_q.weight", dim, dim)
        add(f"blk.{i}.attn_k.weight", kv, dim)
        add(f"blk.{i}.attn_v.weight", kv, dim)
        add(f"blk.{i}.attn_output.weight", dim, dim)
        add(f"blk.{i}.ffn_norm.weight", dim)
        add(f"blk.{i}.ffn_gate.weight", ff, dim)
        add(f"blk.{i}.ffn_up.weight", ff, dim)
        add(f"blk.{i}.ffn_down.weight", dim, ff)
    add("output_norm.weight", dim)
    if not tied:
        add("output.weight", 64, dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
