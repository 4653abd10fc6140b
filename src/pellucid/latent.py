"""The operations of attention over latent rows (MLA, DeepSeek-AI 2024), which architectures add to a plan.

Keys and values of all heads are products of one normed row c per token: kv_b c. They are never formed: a query's
product with a key, q (k_b c), equals (q k_b) c, and a sum of values equals v_b times the sum of the rows c. So all
heads attend to one key, the row with the rotated columns beside it; its first columns are the value as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pellucid.plan import QKV, Attention, Kind, Latent, Part, Plan, Rope, TensorLike

EPS = 1e-6  # of the norms of latent rows, whatever the other norms have (transformers' modeling_deepseek_v3)


def is_in_one(tensors: Mapping[str, TensorLike], layer: int) -> bool:
    """Whether a layer's matrices of keys and values are one tensor, those of each head one after another: in files of
    converters before April 2025, and of MiniCPM3. A layer that has neither is like the others."""
    if f"blk.{layer}.attn_k_b.weight" in tensors:
        return False
    return any(name.endswith(".attn_kv_b.weight") for name in tensors)


def attention(a: Latent, scale: float) -> Attention:
    """The heads as the engine treats them. scale: multiplies the scores."""
    return Attention(a.heads, 1, a.rank + a.rope, a.rank, scale=scale, shared=True)


def attend(
    p: Plan,
    layer: int,
    h: int,
    a: Latent,
    rope: Rope | None,
    scale: float,
    *,
    factors: Sequence[float] = (),
    every: int = 0,
) -> int:
    """The values of all heads side by side, before the output projection. rope: for a key's columns from `rank` on;
    None: nothing is rotated. factors, every: as in Plan.rope_append."""
    heads, source, name = attention(a, scale), h, "attn_q"
    if a.query_rank:
        name, source = "attn_q_b", p.linear(layer, "attn_q_a", h, a.query_rank, f"attn_q_a{a.query_rank}")
        p.norm_columns(layer, "attn_q_a_norm", source, 0, a.query_rank, eps=EPS)
    source = p.arranged(layer, source, [f"blk.{layer}.{name}"])
    full, k, width = f"blk.{layer}.{name}", p.buffers[source].dim, a.nope + a.rope
    still = p.stack(f"{full}.nope", a.heads, a.nope, k, part=Part(full, 0, width), flat=True)
    turned = p.stack(f"{full}.rope", a.heads, a.rope, k, part=Part(full, a.nope, width), flat=True)
    queries = p.buffer(f"q{a.heads * a.nope}", a.heads * a.nope)
    p.operation(
        Kind.LINEAR, layer, name, inp=source, out=queries, seg=p.row_of_segments([still], steps=[a.nope]), n_seg=1
    )
    both, kv = f"blk.{layer}.attn_kv_b", f"blk.{layer}.attn_kv_a_mqa"
    in_one = is_in_one(p.tensors, layer)
    if in_one:
        absorbed = p.turned(f"blk.{layer}.attn_k_b", a.heads, a.rank, a.nope, Part(both, 0, a.nope + a.value))
    else:
        absorbed = p.stack(f"blk.{layer}.attn_k_b", a.heads, a.rank, a.nope)
    columns = a.heads * heads.dk
    out = p.buffer(f"qkv{columns + heads.dk}", columns + heads.dk)
    seg = p.row_of_segments(
        [absorbed, turned, p.matrix(kv, heads.dk, p.buffers[h].dim)],
        [0, a.rank, columns],
        [-1, -1, p.bias(kv, heads.dk)],
        [1, 1, 2],
        inputs=[queries, source, -1],
        steps=[heads.dk, heads.dk, 0],
    )
    p.operation(Kind.LINEAR, layer, "attn_qkv", inp=h, out=out, seg=seg, n_seg=3)
    p.norm_columns(layer, "attn_kv_a_norm", out, columns, a.rank, eps=EPS)
    qkv = QKV(out, heads)
    turning = None if rope is None else rope._replace(first=a.rank)
    p.rope_append(layer, qkv, turning, factors=factors, every=every)
    mixed = p.attend(layer, qkv)
    values = p.buffer(f"v{a.heads * a.value}", a.heads * a.value)
    rows = Part(both, a.nope, a.nope + a.value) if in_one else None
    of_heads = p.stack(f"blk.{layer}.attn_v_b", a.heads, a.value, a.rank, part=rows, flat=in_one)
    seg = p.row_of_segments([of_heads], steps=[a.value])
    return p.operation(Kind.LINEAR, layer, "attn_v_b", inp=mixed, out=values, seg=seg, n_seg=1).out
