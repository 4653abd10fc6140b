"""Qwen3.5: three of four layers are gated delta nets, the others attention with output gates (Qwen Team 2026)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source, without_predictors
from pellucid.arch.mixture import feed_forward
from pellucid.folder import KEYS, NAMES, QKVO, Folder, Settings
from pellucid.plan import Part, Plan, Recurrent
from pellucid.recurrent import MOST_TAPS, conv, gate, gated_queries, head_vectors, project, scan

_INTERVAL = 4  # of layers with attention, if a file does not specify it
_EPS = 1e-6  # of the norms of queries and keys in delta nets


def config(source: Source) -> Config:
    return read(Reader(source))


def read(r: Reader, own: Collection[str] = (), tiled: bool = True) -> Config:
    """The configuration of Qwen3.5 and Qwen3-Next, with experts or without. own: as for Reader.base. tiled: whether
    converters to GGUF reorder the value heads from the order of their key heads."""
    source = r.source
    c = r.base(halves=True, base=1e7, own={*own, "nextn_predict_layers"}, ff=1 if own else None)
    interval = r.size("full_attention_interval", _INTERVAL, max=4096)
    kinds = source.get_list(r.key("attention.recurrent_layers"), None, of=bool, length=c.layers)
    recurrent = tuple((i + 1) % interval != 0 for i in range(c.layers)) if kinds is None else tuple(kinds)
    source.get_list(r.key("rope.dimension_sections"), None, of=int)  # text has the same position on all axes
    n_v, n_k = r.size("ssm.time_step_rank", max=4096), r.size("ssm.group_count", max=4096)
    dk, inner, taps = (
        r.size("ssm.state_size", max=4096),
        r.size("ssm.inner_size"),
        r.size("ssm.conv_kernel", max=MOST_TAPS),
    )
    if n_v % n_k:
        raise source.fail(r.key("ssm.group_count"), f"it is {n_k}", f"a divisor of {n_v}")
    if inner % n_v or inner // n_v > 4096:
        raise source.fail(r.key("ssm.inner_size"), f"it is {inner}", f"a multiple of {n_v}, at most 4096 times")
    if taps < 2:
        raise source.fail(r.key("ssm.conv_kernel"), f"it is {taps}", f"2 to {MOST_TAPS}")
    tiled = not source.get_bool(r.key("ssm.v_heads_grouped"), not tiled)
    memory = Recurrent(taps, 2 * n_k * dk + inner, n_k, n_v, dk, inner // n_v, tiled)
    return replace(without_predictors(r, c), recurrent=recurrent, memory=memory)


def block(p: Plan, c: Config, i: int) -> None:
    h = p.norm(i, "attn_norm")
    if c.recurrent[i]:
        _delta_net(p, c.memory, i, h)
    else:
        attention, rope = c.kind(i)
        qkv, gates = gated_queries(p, i, h, attention)
        p.head_norm(i, qkv)
        p.rope_append(i, qkv, rope)
        out = p.attend(i, qkv)
        gate(p, i, out, gates, act="sigmoid")
        p.add(i, "attn_output", out)
    feed_forward(p, c, i, "post_attention_norm")


def _delta_net(p: Plan, r: Recurrent, i: int, h: int) -> None:
    """Gated DeltaNet (Yang et al. 2024): a convolution over queries, keys and values, then the gated delta rule."""
    small = ("ssm_beta", "ssm_alpha")
    sizes = [("attn_qkv", r.channels), *((name, r.n_v) for name in small), ("attn_gate", r.n_v * r.dv)]
    parts = project(p, i, h, sizes, exact=small, within=_by_key_heads(p, r, i))
    c = conv(p, i, "ssm_conv1d", parts, r, act="silu")
    vec = head_vectors(p, i, ("ssm_a", "ssm_dt.bias"), r.n_v)
    s = scan(p, i, c, parts, r, vec, column=r.channels, delta=True, scale=r.dk**-0.5, eps=_EPS)
    p.norm_columns(i, "ssm_norm", s, 0, r.n_v * r.dv, each=r.dv)
    gate(p, i, s, parts, act="silu", column=r.channels + 2 * r.n_v)
    p.add(i, "ssm_out", s)


def _by_key_heads(p: Plan, r: Recurrent, i: int) -> dict[str, Part]:
    """The place of each projection in files with fewer matrices: for each key head, ssm_in has its query, its key, and
    the values and gates of its value heads; ssm_ba has their beta and alpha."""
    each = r.n_v // max(r.n_k, 1)
    found: dict[str, Part] = {}
    for name, widths, takes in (
        ("ssm_in", (r.dk, r.dk, each * r.dv, each * r.dv), {"attn_qkv": (0, 1, 2), "attn_gate": (3,)}),
        ("ssm_ba", (each, each), {"ssm_beta": (0,), "ssm_alpha": (1,)}),
    ):
        whole, of_head = f"blk.{i}.{name}", sum(widths)
        if f"{whole}.weight" not in p.tensors:
            continue
        p.tensor(f"{whole}.weight", (r.n_k * of_head, p.dim))  # its size bounds the lists below
        for part, places in takes.items():
            order: list[int] = []
            for place in places:
                first = sum(widths[:place])
                for head in range(r.n_k):
                    order += range(head * of_head + first, head * of_head + first + widths[place])
            found[part] = Part(whole, 0, r.n_k * of_head, tuple(order))
    return found


def derive(c: Settings) -> Mapping[str, Any]:
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    interval = c.get_int("full_attention_interval", _INTERVAL, min=1, max=4096)
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is None:
        kinds = ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)]
    if not {*kinds} <= {"full_attention", "linear_attention"}:
        raise c.refuse("layer_types", "full_attention, linear_attention")
    if not c.get_bool("attn_output_gate", True):
        raise c.refuse("attn_output_gate", "true")
    if c.get_str("hidden_act", "silu") != "silu":  # of the convolution, too
        raise c.refuse("hidden_act", "silu")
    c.get_str("mamba_ssm_dtype", None)  # states are float32
    for key in ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"):  # these layers do not run
        c.get_any(key, None)
    heads = c.get_int("linear_num_value_heads", min=1, max=4096)
    return {
        "attention.recurrent_layers": [kind == "linear_attention" for kind in kinds],
        "ssm.time_step_rank": heads,
        "ssm.inner_size": heads * c.get_int("linear_value_head_dim", min=1, max=4096),
        "ssm.v_heads_grouped": True,
    }


OWN_KEYS = {
    **KEYS,
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
}
DEFAULTS = {
    "num_attention_heads": 16,
    "head_dim": 256,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
OWN_NAMES = {
    **NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
OTHERS = {"linear_attn.A_log": "ssm_a_log", "linear_attn.dt_bias": "ssm_dt.bias"}
FOLDERS = {
    "qwen3_5_text": Folder(
        classes=("Qwen3_5ForCausalLM",),
        keys=OWN_KEYS,
        defaults={
            **DEFAULTS,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 32,
            "num_key_value_heads": 4,
        },
        biases={"attention_bias": QKVO},
        names=OWN_NAMES,
        others=OTHERS,
        norm_offset=1.0,
        plain_norms=("ssm_norm",),
        partial=0.25,
        mrope=True,
        derive=derive,
    ),
}
