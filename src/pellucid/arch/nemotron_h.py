"""Nemotron-H and Nemotron 3: a layer is Mamba 2, attention without a rotation, a feed-forward network or a mixture of
experts, whose activation is the square of ReLU (NVIDIA 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch import mamba2
from pellucid.arch.config import Config, Reader, Source, without_predictors
from pellucid.arch.mixture import OWN, with_experts
from pellucid.experts import add, experts, route
from pellucid.folder import ANY, Folder, Same, Settings
from pellucid.plan import Plan
from pellucid.recurrent import project

_PATTERN = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
_LEAST_STEP = 0.001  # of dt: transformers' time_step_min, which files do not have
_SIZES = ("expert_used_count", "expert_feed_forward_length")
_OLDER = {"mamba": "linear_attention", "attention": "full_attention"}


class _Reader(Reader):
    def number(self, name: str, default: float | None = None, **limits: float) -> float:
        """Some files have the epsilon, as their folders call it, under the name for the other kind of norm."""
        if name == "attention.layer_norm_rms_epsilon" and self.source.get_any(self.key(name), None) is None:
            name = "attention.layer_norm_epsilon"
        return super().number(name, default, **limits)

    def layer_size(
        self, name: str, layers: int, default: int | None = None, max: int = 1 << 24, zeros: bool = False
    ) -> int:
        """Experts need not be the same in all layers; the greatest value."""
        if not self.source.get_any(self.key("expert_count"), 0) or name not in (*_SIZES, "feed_forward_length"):
            return super().layer_size(name, layers, default, max, zeros)
        return sorted(self.layer_sizes(name, layers, default, max, zeros))[-1] or 1

    def expert_sizes(self, c: Config) -> tuple[tuple[int, int], ...]:
        """For each layer, its experts' top_k and ff."""
        e, layers = c.experts, self.size("block_count")
        assert e is not None
        found = [self.layer_sizes(name, layers, n, zeros=True) for name, n in zip(_SIZES, (e.top_k, e.ff), strict=True)]
        for name, values in zip(_SIZES, found, strict=True):
            for i in range(c.layers):
                if c.sparse[i] and not values[i]:
                    raise self.source.fail(self.key(name), f"it is 0 for layer {i}, which has experts", "at least 1")
        return tuple(zip(*found, strict=True))


def config(source: Source) -> Config:
    r = _Reader(source)
    c = r.base(halves=True, act="relu2", recurrent=True, own=(*OWN, "nextn_predict_layers"), ff=1)
    no_heads, no_ff = (r.zeros(name, c.layers) for name in ("attention.head_count_kv", "feed_forward_length"))
    c = replace(without_predictors(r, c), memory=mamba2.memory(r, _LEAST_STEP))
    for i in range(c.layers):
        if not no_heads[i] and not no_ff[i]:
            message = f"layer {i} has attention and a feed-forward network"
            raise source.fail(r.key("feed_forward_length"), message, "one of the two")
    kinds = ("mamba" if ff and kv else "mlp" if kv else "attention" for kv, ff in zip(no_heads, no_ff, strict=True))
    if all(no_heads[: c.layers]) and not any(no_ff[: c.layers]):
        raise source.refuse(r.key("attention.head_count_kv"), "a layer with attention or Mamba 2")
    c = replace(c, mixers=tuple(kinds), recurrent=tuple(kv and ff for kv, ff in zip(no_heads, no_ff, strict=True)))
    given = source.get_any(r.key("expert_layers"), None)
    c = with_experts(r, c, gate="sigmoid", renorm=True, limit=1e-20, sum2=True, biased=True)
    if c.experts is None:
        for name in EXPERT_KEYS.values() if given is not None else ():
            source.get_any(r.key(name), None)  # folders have these without experts, too
        return c
    latent = source.get_int(r.key("moe_latent_size"), None, min=1, max=1 << 24)
    experts_only_up = replace(c.experts, plain=True, latent=int(latent or 0))
    if given is None:
        c = replace(c, sparse=tuple(f"blk.{i}.ffn_gate_inp.weight" in source.tensors for i in range(c.layers)))
    return replace(c, experts=experts_only_up, expert_sizes=r.expert_sizes(c))


def block(p: Plan, c: Config, i: int) -> None:
    h = p.norm(i, "attn_norm")
    if c.mixers[i] == "mamba":
        p.add(i, "ssm_out", mamba2.mamba(p, c.memory, i, h))
    elif c.mixers[i] == "attention":
        qkv = p.qkv(i, h, c.attention)
        p.rope_append(i, qkv, None)
        p.add(i, "attn_output", p.attend(i, qkv))
    elif c.experts is not None and c.sparse[i]:
        _mixture(p, c, i, h)
    else:
        p.add(i, "ffn_down", p.mlp(i, h, c.ff, c.act))


def _mixture(p: Plan, c: Config, i: int, h: int) -> None:
    """Experts without gates, which may work in another space (`latent`) than the shared expert."""
    assert c.experts is not None
    top_k, ff = c.expert_sizes[i]
    e = replace(c.experts, top_k=top_k, ff=ff)
    routes = route(p, i, h, e)
    if e.latent:
        inner = project(p, i, h, [("ffn_latent_down", e.latent)])
        out = add(p, i, experts(p, i, inner, routes, e, c.act), routes, e, out=f"latent{e.latent}")
        p.add(i, "ffn_latent_up", out)
    else:
        add(p, i, experts(p, i, h, routes, e, c.act), routes, e)
    if e.shared:
        p.add(i, "ffn_down_shexp", p.mlp(i, h, e.shared, c.act, name="ffn_up_shexp"))


def _kinds(c: Settings) -> list[str]:
    """The kind of each layer."""
    pattern = c.get_str("hybrid_override_pattern", None)
    names = [key for key in ("layers_block_type", "layer_types") if c.get_any(key, None) is not None]
    if not names and pattern is None:
        kinds = ["linear_attention", "moe", "full_attention", "mlp"]
    elif not names:
        if not {*pattern} <= {*_PATTERN}:
            raise c.refuse("hybrid_override_pattern", ", ".join(_PATTERN))
        kinds = [_PATTERN[one] for one in pattern]
    else:
        kinds = [_OLDER.get(kind, kind) for kind in c.get_list(names[0], of=str)]
        if not {*kinds} <= {*_PATTERN.values()}:
            raise c.refuse(names[0], ", ".join(_PATTERN.values()))
        if len(names) == 2 and c.get_any(names[1], None) != c.get_any(names[0], None):
            raise c.fail(names[1], f"{names[0]} is also there, with other values", "one of the two")
    if not kinds or len(kinds) > 4096:
        raise c.fail(names[0] if names else "hybrid_override_pattern", f"{len(kinds)} layers", "1 to 4096")
    if not {*kinds} & {"linear_attention", "full_attention"}:
        raise c.refuse(names[0] if names else "hybrid_override_pattern", "a layer with attention or Mamba 2")
    c.get_any("num_hidden_layers", None)  # transformers counts the list of kinds
    return kinds


def _derive(c: Settings) -> Mapping[str, Any]:
    kinds = _kinds(c)
    for key in ("time_step_max", "time_step_floor", "time_step_limit", "rescale_prenorm_residual", "residual_in_fp32",
                "chunk_size", "expand", "use_mamba_kernels", "num_logits_to_keep", "mamba_ssm_cache_dtype",
                "moe_shared_expert_overlap", "n_shared_experts", "num_nextn_predict_layers", "mamba_proj_bias",
                "mtp_layers_block_type", "mtp_hybrid_override_pattern"):  # fmt: skip
        c.get_any(key, None)  # of initialisation, of layers that do not run, or of how transformers computes it
    if c.get_str("mamba_hidden_act", "silu") != "silu":
        raise c.refuse("mamba_hidden_act", "silu")
    heads = c.get_int("num_key_value_heads", c.get_int("num_attention_heads", min=1), min=1, max=4096)
    ff = c.get_int("intermediate_size", min=1, max=1 << 24)
    found: dict[str, Any] = {
        "block_count": len(kinds),
        "attention.head_count_kv": [heads if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [ff if kind in ("mlp", "moe") else 0 for kind in kinds],
        "ssm.inner_size": c.get_int("mamba_num_heads", min=1, max=4096) * c.get_int("mamba_head_dim", min=1, max=4096),
        "expert_layers": [kind == "moe" for kind in kinds],
        "rope.scaling.finetuned": False,
    }
    if "moe" not in kinds:
        found |= {"expert_count": 0, "expert_used_count": 0}
    else:
        c.get_int("topk_group", min=1, max=4096)
    return found


# For a model with experts.
EXPERT_KEYS = {
    "moe_intermediate_size": "expert_feed_forward_length",
    "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "moe_latent_size": "moe_latent_size",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
}
FOLDERS = {
    "nemotron_h": Folder(
        classes=("NemotronHForCausalLM",),
        keys={
            "hidden_size": "embedding_length",
            "num_attention_heads": "attention.head_count",
            "head_dim": "attention.key_length",
            "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
            "max_position_embeddings": "context_length",
            "mlp_hidden_act": "hidden_activation",
            "mamba_num_heads": "ssm.time_step_rank",
            "ssm_state_size": "ssm.state_size",
            "conv_kernel": "ssm.conv_kernel",
            "n_groups": "ssm.group_count",
            "time_step_min": "ssm.time_step_min",  # transformers has no other bound of dt
            "n_routed_experts": "expert_count",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            **EXPERT_KEYS,
        },
        defaults={
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 4096,
            "intermediate_size": 21504,
            "mlp_hidden_act": "relu2",
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "n_groups": 8,
            "time_step_min": 0.001,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 7688,
            "moe_shared_expert_intermediate_size": 7688,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
            "use_conv_bias": True,
        },
        inert={
            "attention_head_dim": Same("head_dim"),
            "mamba_num_groups": Same("n_groups"),
            "mamba_state_dim": Same("ssm_state_size"),
            "norm_eps": Same("layer_norm_epsilon"),
            "num_query_groups": Same("num_key_value_heads"),
            "partial_rotary_factor": ANY,
            "rms_norm_eps": Same("layer_norm_epsilon"),
            "rope_theta": ANY,
            "time_step_rank": ANY,
        },
        biases={
            "use_bias": ("ssm_in", "ssm_out"),
            "use_conv_bias": ("ssm_conv1d",),
            "mlp_bias": ("ffn_up", "ffn_down", "ffn_up_shexp", "ffn_down_shexp", "ffn_latent_down", "ffn_latent_up"),
        },
        names={
            "backbone.embeddings": "token_embd",
            "backbone.norm_f": "output_norm",
            "lm_head": "output",
            "norm": "attn_norm",
            **mamba2.mixer_names("mixer"),
            "mixer.q_proj": "attn_q",
            "mixer.k_proj": "attn_k",
            "mixer.v_proj": "attn_v",
            "mixer.o_proj": "attn_output",
            "mixer.up_proj": "ffn_up",
            "mixer.down_proj": "ffn_down",
            "mixer.gate": "ffn_gate_inp",
            "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
            "mixer.experts.*.up_proj": "ffn_up_exps",
            "mixer.experts.*.down_proj": "ffn_down_exps",
            "mixer.shared_experts.up_proj": "ffn_up_shexp",
            "mixer.shared_experts.down_proj": "ffn_down_shexp",
            "mixer.fc1_latent_proj": "ffn_latent_down",
            "mixer.fc2_latent_proj": "ffn_latent_up",
        },
        base="backbone.",
        layers="backbone.layers",
        others=mamba2.mixer_others("mixer"),
        heads="",
        derive=_derive,
    )
}
