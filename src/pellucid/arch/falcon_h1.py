"""Falcon-H1: in each layer, attention and Mamba 2 read the same norm and their outputs are added; all parts have
multipliers (Technology Innovation Institute 2025). GGUF files hold weights that are already multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch import mamba2
from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import ANY, KEYS, MLP, NAMES, QKVO, Folder, Settings
from pellucid.plan import Plan, Vector, floats

# Multipliers of folders, which are not GGUF keys.
_ONE = ("attention_in", "attention_out", "key", "ssm_in", "ssm_out")
_SEVERAL = {"ssm": 5, "mlp": 2}
_MOST = 1e9  # small enough that products of weights can be multiplied by it


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=True)
    number = {name: r.number(f"{name}_multiplier", 1.0, min=1 / _MOST, max=_MOST) for name in _ONE}
    lists = {}
    for name, n in _SEVERAL.items():
        values = source.get_list(r.key(f"{name}_multipliers"), [1.0] * n, of=float, length=n)
        if not all(1 / _MOST <= x <= _MOST for x in values):
            raise source.fail(r.key(f"{name}_multipliers"), f"it is {values}", f"{1 / _MOST:g} to {_MOST:g}")
        lists[name] = tuple(values)
    norm = source.get_bool(r.key("ssm.norm"), "blk.0.ssm_norm.weight" in source.tensors)
    before = source.get_bool(r.key("ssm.norm_before_gate"), False)
    return replace(
        c,
        embed_scale=r.number("embedding_multiplier", 1.0),
        logit_scale=r.number("lm_head_multiplier", 1.0),
        memory=mamba2.memory(r),
        ssm_norm="none" if not norm else "before" if before else "after",
        multipliers={**{name: (value,) for name, value in number.items()}, **lists},
    )


def block(p: Plan, c: Config, i: int) -> None:
    m = c.multipliers
    h = p.norm(i, "attn_norm")
    s = mamba2.mamba(p, c.memory, i, h, scale=m["ssm_in"][0], scales=m["ssm"], norm=c.ssm_norm)
    attention, rope = c.kind(i)
    (by,), (key,) = m["attention_in"], m["key"]
    for name, heads, width, factor in (
        ("attn_q", attention.n_q, attention.dk, 1.0),
        ("attn_k", attention.n_kv, attention.dk, key),
        ("attn_v", attention.n_kv, attention.dv, 1.0),
    ):
        if by != 1.0 or factor != 1.0:
            p.multiply(f"blk.{i}.{name}", heads * width, c.dim, by * factor, bias=factor)
    qkv = p.qkv(i, h, attention)
    p.rope_append(i, qkv, rope)
    out = p.attend(i, qkv)
    p.add(i, "ssm_out", s, scale=m["ssm_out"][0])
    p.add(i, "attn_output", out, scale=m["attention_out"][0])
    full = f"blk.{i}.ffn_norm"  # some files name it without its suffix
    if full in p.tensors:
        p.once(("vector", full), p.vectors, lambda: Vector(full, floats(p.tensor(full, (c.dim,)))))
    h = p.norm(i, "ffn_norm")
    gate, down = m["mlp"]
    if gate != 1.0:
        p.multiply(f"blk.{i}.ffn_gate", c.ff, c.dim, gate, bias=gate)
    p.add(i, "ffn_down", p.glu(i, h, c.ff, c.act), scale=down)


def _derive(c: Settings) -> Mapping[str, Any]:
    for key in ("num_logits_to_keep", "mamba_chunk_size"):
        c.get_any(key, None)
    if c.get_str("hidden_act", "silu") != "silu":  # of the convolution, too
        raise c.refuse("hidden_act", "silu")
    width = c.get_int("hidden_size", min=1) * c.get_int("mamba_expand", 2, min=1, max=64)
    inner = c.get_int("mamba_d_ssm", None, min=1, max=1 << 24) or width
    heads = c.get_int("mamba_n_heads", min=1, max=4096)
    given = c.get_any("mamba_d_head", "auto")
    if inner % heads or given not in ("auto", inner // heads):
        raise c.refuse("mamba_d_head", str(inner // heads))
    if c.get_any("mamba_norm_before_gate", None) is None:
        raise c.fail("mamba_norm_before_gate", "it is null", "true or false")
    return {
        "ssm.inner_size": inner,
        "ssm.norm": c.get_bool("mamba_rms_norm", False),
        "ssm.norm_before_gate": c.get_bool("mamba_norm_before_gate"),
        **mamba2.steps(c),
    }


FOLDERS = {
    "falcon_h1": Folder(
        classes=("FalconH1ForCausalLM",),
        keys={
            **KEYS,
            **{f"{name}_multiplier": f"{name}_multiplier" for name in _ONE},
            **{f"{name}_multipliers": f"{name}_multipliers" for name in _SEVERAL},
            "embedding_multiplier": "embedding_multiplier",
            "lm_head_multiplier": "lm_head_multiplier",
            "mamba_d_conv": "ssm.conv_kernel",
            "mamba_d_state": "ssm.state_size",
            "mamba_n_groups": "ssm.group_count",
            "mamba_n_heads": "ssm.time_step_rank",
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            **{f"{name}_multiplier": 1.0 for name in _ONE},
            "embedding_multiplier": 1.0,
            "lm_head_multiplier": 1.0,
            "mamba_d_ssm": 1024,
            "mamba_d_conv": 4,
            "mamba_d_state": 256,
            "mamba_n_groups": 1,
            "mamba_n_heads": 128,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
            "mamba_norm_before_gate": True,
            "mamba_rms_norm": False,
        },
        inert={
            "mamba_use_mlp": True,
            "mlp_expansion_factor": ANY,
            "time_step_floor": ANY,
            "time_step_max": ANY,
            "time_step_min": ANY,
            "time_step_rank": ANY,
        },
        biases={
            "attention_bias": QKVO,
            "mlp_bias": MLP,
            "mamba_conv_bias": ("ssm_conv1d",),
            "mamba_proj_bias": ("ssm_in",),
            "projectors_bias": ("ssm_out",),
        },
        names={
            **{name: own for name, own in NAMES.items() if not name.startswith(("mlp.", "post_attention"))},
            "model.final_layernorm": "output_norm",
            "pre_ff_layernorm": "ffn_norm",
            "feed_forward.gate_proj": "ffn_gate",
            "feed_forward.up_proj": "ffn_up",
            "feed_forward.down_proj": "ffn_down",
            **mamba2.mixer_names("mamba"),
        },
        others=mamba2.mixer_others("mamba"),
        derive=_derive,
    )
}
