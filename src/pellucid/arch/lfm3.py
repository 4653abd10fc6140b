"""LFM3: LFM2 with longer convolutions, windows in some attention layers, a norm after each half of a layer, and a gate
for each head (Liquid AI 2026). GGUF has no name for it yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch import lfm2
from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import NAMES, QKVO, Folder, Settings
from pellucid.plan import Plan
from pellucid.recurrent import conv, gate, project


def config(source: Source) -> Config:
    r = Reader(source)
    c = lfm2.read(r)
    a = c.attention
    base = r.rope_base("rope.freq_base_swa", 10000.0)
    local_rope = r.rope(a.dk, base, halves=r.halves(True), scaled=False) if any(c.local) else c.rope
    return replace(
        c,
        local_rope=local_rope,
        post_norms=bool(source.get_bool(r.key("post_norms"), True)),
        gates=bool(source.get_bool(r.key("attention.gates"), True)),
    )


def block(p: Plan, c: Config, i: int) -> None:
    norms = ("post_attention_norm", "post_ffw_norm") if c.post_norms else (None, None)
    h = p.norm(i, "attn_norm")
    if c.recurrent[i]:
        parts = project(p, i, h, [("shortconv.in_proj", 3 * c.dim)])
        out = conv(p, i, "shortconv.conv", parts, c.memory, act="none", gated=True)
        p.add(i, "shortconv.out_proj", out, post_norm=norms[0])
    else:
        attention, rope = c.kind(i)
        qkv = p.qkv(i, h, attention)
        p.head_norm(i, qkv)
        p.rope_append(i, qkv, rope)
        out = p.attend(i, qkv)
        if c.gates:
            gates = project(p, i, h, [("attn_gate", attention.n_q)])
            gate(p, i, out, gates, act="sigmoid", each=attention.dv)
        p.add(i, "attn_output", out, post_norm=norms[0])
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act), post_norm=norms[1])


def _derive(c: Settings) -> Mapping[str, Any]:
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is None:
        kinds = ["full_attention" if i % 4 == 2 else "conv" if i % 4 or not i else "sliding_attention"
                 for i in range(layers)]  # fmt: skip
    if not {*kinds} <= {"full_attention", "sliding_attention", "conv"}:
        raise c.refuse("layer_types", "full_attention, sliding_attention, conv")
    if c.get_table("rope_parameters", None) is None:
        raise c.refuse("rope_parameters", "a table")  # transformers then uses its own
    heads = int(c.get_int("num_key_value_heads", min=1, max=4096))
    local = [kind == "sliding_attention" for kind in kinds]
    return {
        "attention.head_count_kv": [0 if kind == "conv" else heads for kind in kinds],
        "attention.sliding_window_pattern": local,
        "rope.freq_base_swa": c.get_float("rope_theta", min=1.0),
    }


FOLDERS = {
    "lfm3": Folder(
        classes=("Lfm3ForCausalLM",),
        keys={
            **lfm2.OWN_KEYS,
            "intermediate_size": "feed_forward_length",
            "sliding_window": "attention.sliding_window",
            "use_sandwich_norm": "post_norms",  # these two are not GGUF keys
            "use_attention_gate": "attention.gates",
        },
        defaults={
            "hidden_size": 2048,
            "intermediate_size": 7680,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "max_position_embeddings": 128000,
            "norm_eps": 1e-5,
            "rope_theta": 1e6,
            "conv_L_cache": 7,
            "sliding_window": 256,
            "use_sandwich_norm": True,
            "use_attention_gate": True,
        },
        biases={**lfm2.BIASES, "attention_bias": QKVO},
        names={
            **{name: own for name, own in lfm2.OWN_NAMES.items() if not name.startswith("self_attn.")},
            **{name: own for name, own in NAMES.items() if name.startswith("self_attn.")},
            "self_attn.gate_proj": "attn_gate",
            "post_operator_norm": "post_attention_norm",
            "post_ffn_norm": "post_ffw_norm",
        },
        tied=True,
        ropes=True,
        proportional=True,
        derive=_derive,
    )
}
