"""Gemma 4: heads of another width in layers with full attention, a second embedding of which every layer reads a part,
later layers that reuse the keys and values of earlier ones, and experts beside the dense network (Gemma Team 2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid._engine import NORMS
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.errors import ModelFileError
from pellucid.experts import add, experts, route
from pellucid.folder import EXPERTS, KEYS, NAMES, QKVO, Folder, Settings, cap, windows
from pellucid.plan import QKV, Kind, Plan, floats
from pellucid.recurrent import gate

_PERIOD = 6  # of layers with full attention, if a folder does not specify it
_KEPT = ("attn_k", "attn_v", "attn_k_norm")  # of layers that reuse keys and values: files may still hold them


def config(source: Source) -> Config:
    r = Reader(source)
    layers = r.size("block_count", max=4096)
    source.get_list(r.key("attention.sliding_window_pattern"), of=bool, length=layers)  # sizes depend on it
    c = r.base(halves=True, base=1e6, act="gelu_tanh", kinds=True, own=(*OWN, "attention.shared_kv_layers"))
    for a in (c.attention, c.local_attention):
        if a.dk != a.dv:
            raise source.fail(r.key("attention.value_length"), f"it is {a.dv}", f"{a.dk}, as that of keys")
    freqs, whole = "rope_freqs.weight", source.get_bool(r.key("rope.whole_heads"), False)
    if freqs not in source.tensors and not whole and not all(c.local):
        raise ModelFileError("no such tensor", file=source.path, field=source.own_name(freqs))
    c = replace(
        c,
        attention=replace(c.attention, scale=1.0),
        local_attention=replace(c.local_attention, scale=1.0),
        embed_scale=float(np.sqrt(np.float32(c.dim))),
        logit_cap=float(source.get_float(r.key("final_logit_softcapping"), 0.0, min=0.0)),
        sources=_sources(r, c),
        per_layer=int(source.get_int(r.key("embedding_length_per_layer_input"), 0, min=0, max=1 << 12)),
        equal_values=source.get_bool(r.key("attention.k_eq_v"), None),
    )
    return with_experts(r, c, renorm=True)


def _sources(r: Reader, c: Config) -> tuple[int, ...]:
    """For each layer, the layer whose keys and values it reads: for the last ones, the latest earlier layer of the same
    kind."""
    key, source = r.key("attention.shared_kv_layers"), r.source
    first = c.layers - int(source.get_int(key, 0, min=0, max=c.layers - 1))
    found = list(range(first))
    for i in range(first, c.layers):
        earlier = [j for j in range(first) if c.local[j] == c.local[i]]
        if not earlier:
            raise source.fail(key, f"it is {c.layers - first}", f"an earlier layer with the attention of layer {i}")
        found.append(earlier[-1])
        source.used.update(f"blk.{i}.{name}.{end}" for name in _KEPT for end in ("weight", "bias"))
    return tuple(found)


def begin(p: Plan, c: Config) -> None:
    """The second embedding, one part per layer: from the token, and from the first embedding."""
    if not c.per_layer:
        return
    n = c.layers * c.per_layer
    table = p.lookup("per_layer_token_embd", n, c.per_layer**0.5)
    own = p.linear(-1, "per_layer_model_proj", p.stream(), n, "per_layer_proj", scale=c.dim**-0.5)
    p.norm_columns(-1, "per_layer_proj_norm", own, 0, n, each=c.per_layer)
    p.mix(-1, "per_layer_mix", own, out=table, scale=2.0**-0.5)


def block(p: Plan, c: Config, i: int) -> None:
    qkv = _heads(p, c, i)
    p.add(i, "attn_output", p.attend(i, qkv), post_norm="post_attention_norm")
    f = p.glu(i, p.norm(i, "ffn_norm"), c.ffs[i], c.act)
    if c.experts is None:
        p.add(i, "ffn_down", f, post_norm="post_ffw_norm")
    else:
        _beside_experts(p, c, i, f)
    if c.per_layer:
        part = p.mlp(i, p.stream(), c.per_layer, c.act, name="inp_gate", out="per_layer_gate")
        gate(p, i, part, p.buffer("per_layer_token_embd", c.layers * c.per_layer), act="none", column=i * c.per_layer)
        p.add(i, "proj", part, post_norm="post_norm")
    p.scale(i, "layer_output_scale", float(floats(p.tensor(f"blk.{i}.layer_output_scale.weight", (1,)))[0]))


def _heads(p: Plan, c: Config, i: int) -> QKV:
    """Queries, keys and values, normed and rotated; or queries alone."""
    a, rope = c.kind(i)
    assert rope is not None
    h, queries = p.norm(i, "attn_norm"), a.n_q * a.dk
    if c.sources[i] != i:
        qkv = p.queries(i, h, a, of=c.sources[i])
        p.norm_columns(i, "attn_q_norm", qkv.buffer, 0, queries, each=a.dk)
        p.rotate(i, qkv, rope)
        return qkv
    qkv = p.qkv(i, h, a, values="attn_k" if _equal(p, c, i) else "attn_v")
    p.head_norm(i, qkv)
    width = a.n_kv * a.dv
    p.norm_columns(i, "attn_v_norm", qkv.buffer, queries + a.n_kv * a.dk, width, each=a.dv, weight=False)
    p.rope_append(i, qkv, rope)
    return qkv


def _equal(p: Plan, c: Config, i: int) -> bool:
    """Whether values are the keys, before the norm: in layers with full attention for which files have no values."""
    if c.local[i] or c.equal_values is not None:
        return bool(c.equal_values) and not c.local[i]
    return not any(f"blk.{i}.{name}.weight" in p.tensors for name in ("attn_v", "attn_qkv"))


def _beside_experts(p: Plan, c: Config, i: int, f: int) -> None:
    """Adds the dense network, whose activations are f, and the experts, each with its own norm, and a norm of their
    sum."""
    e, x = c.experts, p.stream()
    assert e is not None
    dense = p.linear(i, "ffn_down", f, c.dim, "dense")
    p.norm_columns(i, "post_ffw_norm_1", dense, 0, c.dim)
    factors = floats(p.tensor(f"blk.{i}.ffn_gate_inp.scale", (c.dim,))) * np.float32(c.dim**-0.5)
    vec, norm = p.constant(f"blk.{i}.ffn_gate_inp.scale", factors), NORMS["rms"]
    r = p.operation(
        Kind.NORM, i, "ffn_gate_inp_norm", inp=x, out=p.buffer("r", c.dim), vec=vec, norm=norm, eps=c.eps
    ).out
    p.tensor(f"blk.{i}.ffn_down_exps.scale", (e.n,))
    routes = route(p, i, r, e)
    routed = add(p, i, experts(p, i, p.norm(i, "pre_ffw_norm_2"), routes, e, c.act), routes, e, out="routed")
    p.norm_columns(i, "post_ffw_norm_2", routed, 0, c.dim)
    p.mix(i, "ffn_mix", routed, out=dense)
    p.norm_columns(i, "post_ffw_norm", dense, 0, c.dim)
    p.mix(i, "ffn_add", dense)


# ---- folders --------------------------------------------------------------------------------------------------------


def _derive(c: Settings) -> Mapping[str, Any]:
    local = windows(c, lambda i: (i + 1) % _PERIOD != 0)
    local[-1] = False  # as in transformers, whatever layer_types has
    cap(c, "final_logit_softcapping")
    if c.get_any("use_bidirectional_attention", None) not in (None, "vision"):  # of images, which do not run
        raise c.refuse("use_bidirectional_attention", "null, vision")
    if c.get_any("rope_scaling", None) is not None:
        raise c.refuse("rope_scaling", "rope_parameters in its place")
    ropes = [f"rope_parameters.{kind}_attention" for kind in ("full", "sliding")]
    for where in ropes[: 1 + any(local)]:
        c.get_table(where)
    layers, shared = len(local), c.get_int("num_kv_shared_layers", min=0, max=len(local))
    ff = c.get_int("intermediate_size", min=1, max=1 << 23)
    wide = c.get_bool("use_double_wide_mlp", False)
    equal = c.get_bool("attention_k_eq_v", False)
    if c.get_int("hidden_size_per_layer_input", min=0) and c.get_int("vocab_size_per_layer_input", min=1) != c.get_int(
        "vocab_size", min=1
    ):
        raise c.refuse("vocab_size_per_layer_input", "vocab_size")
    c.get_int("vocab_size_per_layer_input", min=1)
    return {
        **_heads_of(c, local, equal),
        **_experts_of(c),
        "attention.sliding_window_pattern": local,
        "attention.k_eq_v": equal,
        "feed_forward_length": [ff * 2 if wide and i >= layers - shared else ff for i in range(layers)],
        "rope.freq_base": c.get_float(f"{ropes[0]}.rope_theta", 10000.0, min=1.0),
        "rope.freq_base_swa": c.get_float(f"{ropes[1]}.rope_theta", 10000.0, min=1.0),
        "rope.whole_heads": c.get_str(f"{ropes[0]}.rope_type", "default") == "default",
    }


def _heads_of(c: Settings, local: Sequence[bool], equal: bool) -> Mapping[str, Any]:
    """Key-value heads and widths: per_layer_config, as written by transformers 5, else global_head_dim."""
    names = ("num_key_value_heads", "head_dim")
    of_all = [c.get_int(name, min=1, max=4096) for name in names]
    full = [c.get_int("num_global_key_value_heads", None, min=1, max=4096), c.get_int("global_head_dim", 512, min=1)]
    sizes = [list(of_all) for _ in local]
    given = c.get_table("per_layer_config", None)
    if given is None:
        for size, windowed in zip(sizes, local, strict=True):
            if not windowed:
                size[:] = full[0] if full[0] and equal else of_all[0], full[1]
        given = {}
    for layer, changed in given.items():
        at = f"per_layer_config.{layer}"
        if not (layer.isascii() and layer.isdigit() and int(layer) < len(local)) or not isinstance(changed, dict):
            raise c.fail(at, "it is no layer's table", f"a table for each of layers 0 to {len(local) - 1} that differ")
        for name in changed:
            if name not in names:
                raise c.refuse(f"{at}.{name}", ", ".join(names))
            sizes[int(layer)][names.index(name)] = c.get_int(f"{at}.{name}", min=1, max=4096)
    widths = []
    for kind in (False, True):
        found = {tuple(size) for size, windowed in zip(sizes, local, strict=True) if windowed == kind} or {(1, full[1])}
        if len(found) > 1:
            raise c.refuse("per_layer_config", "one size for all layers of a kind")
        widths.append(next(iter(found))[1])
    return {
        "attention.head_count_kv": [size[0] for size in sizes],
        "attention.key_length": widths[0],
        "attention.value_length": widths[0],
        "attention.key_length_swa": widths[1],
        "attention.value_length_swa": widths[1],
        "rope.dimension_count": widths[0],
        "rope.dimension_count_swa": widths[1],
    }


def _experts_of(c: Settings) -> Mapping[str, Any]:
    names = {
        "num_experts": "expert_count",
        "top_k_experts": "expert_used_count",
        "moe_intermediate_size": "expert_feed_forward_length",
    }
    if c.get_bool("enable_moe_block", False):
        return {own: c.get_int(name, min=1, max=1 << 23) for name, own in names.items()}
    for name in names:
        c.get_any(name, None)
    return {}


_TEXT = Folder(
    classes=("Gemma4ForCausalLM", "Gemma4TextModel"),
    keys={
        **{key: name for key, name in KEYS.items() if key not in ("hidden_act", "rope_theta", "head_dim")},
        "hidden_activation": "hidden_activation",
        "head_dim": "attention.key_length_swa",
        "sliding_window": "attention.sliding_window",
        "final_logit_softcapping": "final_logit_softcapping",
        "hidden_size_per_layer_input": "embedding_length_per_layer_input",
        "num_kv_shared_layers": "attention.shared_kv_layers",
    },
    defaults={
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 262144,
        "num_kv_shared_layers": 0,
    },
    rope={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    },
    biases={"attention_bias": QKVO},
    names={
        **NAMES,
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "layer_scalar": "layer_output_scale.weight",
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
        "per_layer_input_gate": "inp_gate",
        "per_layer_projection": "proj",
        "post_per_layer_input_norm": "post_norm",
        "router.proj": "ffn_gate_inp",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
        **{name.removeprefix("mlp."): own for name, own in EXPERTS.items() if name != "mlp.gate"},
        "post_feedforward_layernorm_1": "post_ffw_norm_1",
        "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
        "post_feedforward_layernorm_2": "post_ffw_norm_2",
    },
    tied=True,
    ropes=True,
    proportional=True,
    derive=_derive,
)
# The 12B model, whose text model has neither a second embedding nor experts.
_UNIFIED = replace(
    _TEXT,
    classes=("Gemma4UnifiedForCausalLM", "Gemma4UnifiedTextModel"),
    defaults={
        **_TEXT.defaults,
        "max_position_embeddings": 262144,
        "sliding_window": 1024,
        "hidden_size_per_layer_input": 0,
    },
)
FOLDERS = {"gemma4_text": _TEXT, "gemma4_unified_text": _UNIFIED}
