"""Kimi Linear: three of four layers are Kimi Delta Attention, the gated delta rule with a decay for each key channel;
the others attend to latent rows without a rotation; experts as in DeepSeek V3 (Moonshot AI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid import latent
from pellucid.arch.config import Config, Source
from pellucid.arch.deepseek2 import COMMON, LATENT_NAMES, LatentReader, latent_keys, only
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.folder import EXPERTS, SHARED_EXPERT, Folder, Settings
from pellucid.plan import Kind, Plan, Recurrent, Vector, floats
from pellucid.recurrent import MOST_TAPS, conv, gate, project, scan

_EPS = 1e-6  # of the norms of queries and keys in delta layers
_CONVS = ("ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v")


def config(source: Source) -> Config:
    r = LatentReader(source)
    layers = r.size("block_count", max=4096)
    heads = r.layer_size("attention.head_count", layers, max=4096)
    c = r.base(halves=False, own=OWN, recurrent=True)
    if any(c.local):
        raise source.refuse(r.key("attention.sliding_window"), "none")
    taps, width = r.size("ssm.conv_kernel", max=MOST_TAPS), r.size("kda.head_dim", max=4096)
    if taps < 2:
        raise source.fail(r.key("ssm.conv_kernel"), f"it is {taps}", f"2 to {MOST_TAPS}")
    own_heads = r.size("kda.head_count", heads, max=4096)  # not a GGUF key
    biased = any(name.endswith(".exp_probs_b.bias") for name in source.tensors)
    c = with_experts(r, c, gate="sigmoid", renorm=True, limit=1e-20, sum2=True, biased=biased)
    a = r.latent(heads)
    attention = latent.attention(a, r.score_scale(a))
    return replace(
        c,
        latent=a,
        attention=attention,
        local_attention=attention,
        memory=Recurrent(taps, 3 * own_heads * width, own_heads, own_heads, width, width),
    )


def block(p: Plan, c: Config, i: int) -> None:
    h = p.norm(i, "attn_norm")
    if c.recurrent[i]:
        _delta(p, c.memory, i, h)
    else:
        assert c.latent is not None
        p.add(i, "attn_output", latent.attend(p, i, h, c.latent, None, c.attention.scale))
    feed_forward(p, c, i)


def _delta(p: Plan, r: Recurrent, i: int, h: int) -> None:
    """Kimi Delta Attention. Decays and output gates are products of two matrices each."""
    n, width = r.n_v * r.dk, p.buffers[h].dim
    parts = project(p, i, h, [("attn_q", n), ("attn_k", n), ("attn_v", n)])
    forget, opens = (p.linear(i, name, h, r.dk, f"{name}{r.dk}") for name in ("ssm_f_a", "ssm_g_a"))
    gates = p.buffer(f"kda{r.n_v + n}", r.n_v + n)
    beta = p.matrix(f"blk.{i}.ssm_beta", r.n_v, width)
    dt = p.matrix(f"blk.{i}.ssm_f_b", n, r.dk)
    seg = p.row_of_segments([beta, dt], [0, r.n_v], terms=[2, 2], inputs=[-1, forget])
    p.operation(Kind.LINEAR, i, "ssm_beta", inp=h, out=gates, seg=seg, n_seg=2)
    p.once(("taps", i), p.vectors, lambda: _taps(p, r, i))
    c = conv(p, i, _CONVS[0], parts, r, act="silu")
    vec = p.once(("decays", i), p.vectors, lambda: _decays(p, r, i))
    s = scan(p, i, c, gates, r, vec, column=0, delta=True, each=True, scale=r.dk**-0.5, eps=_EPS)
    p.norm_columns(i, "ssm_norm", s, 0, n, each=r.dv)
    out = p.buffer(f"g{n}", n)
    seg = p.row_of_segments([p.matrix(f"blk.{i}.ssm_g_b", n, r.dv)])
    p.operation(Kind.LINEAR, i, "ssm_g_b", inp=opens, out=out, seg=seg, n_seg=1)
    gate(p, i, s, out, act="sigmoid")
    p.add(i, "attn_output", s)


def _taps(p: Plan, r: Recurrent, i: int) -> Vector:
    """The weights of the convolutions of queries, keys and values as (taps, channels); files have them separately."""
    n, found = r.channels // 3, []
    for name in _CONVS:
        full = f"blk.{i}.{name}.weight"
        t, shapes = p.tensors.get(full), ((n, 1, r.taps), (1, n, 1, r.taps), (n, r.taps))
        shape = t.shape if t is not None and t.shape in shapes else shapes[0]
        found.append(floats(p.tensor(full, shape)).reshape(n, r.taps))
    return Vector(f"blk.{i}.ssm_conv1d.weight", np.ascontiguousarray(np.concatenate(found).T).reshape(-1))


def _decays(p: Plan, r: Recurrent, i: int) -> Vector:
    """A of each head, then dt's bias of each of its key channels."""
    name = f"blk.{i}.ssm_a"
    log = f"{name}_log" in p.tensors
    name += "_log" if log else ""
    t, shapes = p.tensors.get(name), ((r.n_v,), (r.n_v, 1), (1, 1, r.n_v, 1))
    shape = t.shape if t is not None and t.shape in shapes else shapes[0]
    a = floats(p.tensor(name, shape)).reshape(r.n_v)
    bias = floats(p.tensor(f"blk.{i}.ssm_dt.bias", (r.n_v * r.dk,)))
    return Vector(name, np.concatenate([-np.exp(a) if log else a, bias]))


def _kinds(c: Settings, layers: int) -> list[bool]:
    """For each layer, whether it attends. The released file numbers layers from 1."""
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is not None:
        if not {*kinds} <= {"full_attention", "linear_attention"}:
            raise c.refuse("layer_types", "full_attention, linear_attention")
        return [kind == "full_attention" for kind in kinds]
    if c.get_table("linear_attn_config", None) is None:
        return [i > 0 and i % 4 == 0 for i in range(layers)]
    full, linear = (c.get_list(f"linear_attn_config.{name}", of=int) for name in ("full_attn_layers", "kda_layers"))
    if sorted([*full, *linear]) != [*range(1, layers + 1)]:
        raise c.fail("linear_attn_config.kda_layers", f"it is {linear}", f"the others of {layers} layers")
    return [i + 1 in full for i in range(layers)]


def _derive(c: Settings) -> Mapping[str, Any]:
    only(c, moe_layer_freq=1, moe_router_activation_func="sigmoid", mla_use_nope=True, topk_method="noaux_tc",
         scoring_func="sigmoid")  # fmt: skip
    for key in ("use_grouped_topk", "head_dim", "num_nextn_predict_layers", "rope_theta"):  # nothing is rotated
        c.get_any(key, None)
    if c.get_str("hidden_act", "silu") != "silu":  # of the convolution, too
        raise c.refuse("hidden_act", "silu")
    for key in ("num_expert_group", "n_group", "topk_group"):
        c.get_int(key, None, min=1, max=4096)
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    full = _kinds(c, layers)
    sizes = {}
    for name, newer, older in (
        ("kda.head_dim", "linear_head_dim", "head_dim"),
        ("kda.head_count", "linear_num_heads", "num_heads"),
        ("ssm.conv_kernel", "linear_conv_kernel_dim", "short_conv_kernel_size"),
    ):
        default = c.get_int(newer, _SIZES[newer], min=1, max=4096)
        sizes[name] = c.get_int(f"linear_attn_config.{older}", default, min=1, max=4096)
    if c.get_table("linear_attn_config", None) is not None:
        for name in ("full_attn_layers", "kda_layers"):
            c.get_any(f"linear_attn_config.{name}", None)
        unread = c.folder.unread(f"{c.prefix}linear_attn_config.")
        if unread:
            raise c.refuse(unread[0].removeprefix(c.prefix))
    kinds = c.get_list("mlp_layer_types", None, of=str, length=layers)
    first = c.get_int("first_k_dense_replace", 1, min=0, max=layers)
    if kinds is not None:
        if not {*kinds} <= {"dense", "sparse"}:
            raise c.refuse("mlp_layer_types", "dense, sparse")
        first = kinds.index("sparse") if "sparse" in kinds else layers
        if "dense" in kinds[first:]:
            raise c.refuse("mlp_layer_types", "dense layers before sparse ones")
    return {
        **latent_keys(c),
        **sizes,
        "rope.dimension_count": c.get_int("qk_rope_head_dim", min=1, max=2048),
        "attention.head_count_kv": [int(one) for one in full],
        "leading_dense_block_count": first,
        "expert_gating_func": 2,
    }


_SIZES = {"linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4}
_MOE = {
    f"{module}.{own}": name
    for module in ("mlp", "block_sparse_moe")
    for own, name in (
        ("gate", "ffn_gate_inp"),
        ("gate.e_score_correction_bias", "exp_probs_b.bias"),
        ("experts.*.w1", "ffn_gate_exps"),
        ("experts.*.w3", "ffn_up_exps"),
        ("experts.*.w2", "ffn_down_exps"),
        ("gate_proj", "ffn_gate"),
        ("up_proj", "ffn_up"),
        ("down_proj", "ffn_down"),
        ("shared_experts.gate_proj", "ffn_gate_shexp"),
        ("shared_experts.up_proj", "ffn_up_shexp"),
        ("shared_experts.down_proj", "ffn_down_shexp"),
    )
}
FOLDERS = {
    "kimi_linear": Folder(
        classes=("KimiLinearForCausalLM",),
        keys={
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "intermediate_size": "feed_forward_length",
            "num_attention_heads": "attention.head_count",
            "rms_norm_eps": "attention.layer_norm_rms_epsilon",
            "model_max_length": "context_length",
            "max_position_embeddings": "context_length",
            "kv_lora_rank": "attention.kv_lora_rank",
            "v_head_dim": "attention.value_length_mla",
            "num_experts": "expert_count",
            "num_local_experts": "expert_count",
            "num_experts_per_token": "expert_used_count",
            "num_experts_per_tok": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
            "num_shared_experts": "expert_shared_count",
            "n_shared_experts": "expert_shared_count",
            "routed_scaling_factor": "expert_weights_scale",
            "num_expert_group": "expert_group_count",
            "n_group": "expert_group_count",
            "topk_group": "expert_group_used_count",
            "moe_renormalize": "expert_weights_norm",
            "norm_topk_prob": "expert_weights_norm",
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "moe_intermediate_size": 1024,
            "routed_scaling_factor": 2.446,
            "topk_group": 1,
            "norm_topk_prob": True,
        },
        names={
            **{name: own for name, own in LATENT_NAMES.items()},
            **{name: own for name, own in {**EXPERTS, **SHARED_EXPERT}.items() if "*" not in name},
            **_MOE,
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.f_a_proj": "ssm_f_a",
            "self_attn.f_b_proj": "ssm_f_b",
            "self_attn.g_a_proj": "ssm_g_a",
            "self_attn.g_b_proj": "ssm_g_b",
            "self_attn.b_proj": "ssm_beta",
            "self_attn.o_norm": "ssm_norm",
            **{f"self_attn.{part}_conv1d": f"ssm_conv1d_{part}" for part in "qkv"},
        },
        others={"self_attn.A_log": "ssm_a_log", "self_attn.dt_bias": "ssm_dt.bias"},
        derive=_derive,
        heads="",
        **{**COMMON, "rotated": ()},
    )
}
