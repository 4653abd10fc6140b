"""DeepSeek V2 and V3, Moonlight and GLM-4.7-Flash: attention over latent rows, experts chosen within groups, shared
experts, the first layers dense (DeepSeek-AI 2024)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid import latent, rotary
from pellucid.arch.config import Config, Reader, Source, growing_queries, without_predictors
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.errors import UnsupportedModelError
from pellucid.folder import EXPERTS, MLP, NAMES, SHARED_EXPERT, Folder, Settings
from pellucid.plan import Latent, Plan

# Layers and vocabulary of GLM-4.7-Flash, whose first files do not specify how scores become weights.
_GLM = (47, 48), 154880


class LatentReader(Reader):
    """Reads the keys of attention over latent rows."""

    def latent(self, heads: int) -> Latent:
        rope = self.size("rope.dimension_count", max=2048)
        if rope % 2:
            raise self.source.fail(self.key("rope.dimension_count"), f"it is {rope}", "an even number")
        rank = self.size("attention.kv_lora_rank", max=2048)
        absent = self.source.get_any(self.key("attention.key_length_mla"), None) is None
        older = absent and latent.is_in_one(self.source.tensors, 0)
        if heads > 512:
            raise self.source.refuse(self.key("attention.head_count"), "at most 512")
        keys, values = (f"attention.{name}_length" + ("" if older else "_mla") for name in ("key", "value"))
        whole = self.size(keys, max=4096)
        if whole <= rope:
            raise self.source.fail(self.key(keys), f"it is {whole}", f"more than {rope}")
        if older:  # keys and values are counted and measured by head
            value = self.size(values, max(self.size("embedding_length") // heads, 1), max=4096)
            same = {"head_count_kv": heads}
        else:
            value = self.size(values, max=4096)
            same = {"head_count_kv": 1, "key_length": rank + rope, "value_length": rank}
        for name, wanted in same.items():
            given = self.source.get_any(self.key(f"attention.{name}"), wanted)
            if not hasattr(given, "__len__") and given != wanted:  # Kimi Linear has a list of 1 and 0, one per layer
                raise self.source.refuse(self.key(f"attention.{name}"), str(wanted))
        given = self.source.get_any(self.key("attention.q_lora_rank"), None)
        query = 0 if given is None else self.size("attention.q_lora_rank")
        return Latent(heads, rank, rope, whole - rope, value, query)

    def halves(self, default: bool) -> bool:
        return not self.source.get_bool(self.key("rope.interleave"), not default)

    def yarn(self, n: int, base: float, factor: float) -> tuple[list[float], float]:
        """The multiplier, a tenth of what other architectures' files have, acts only on scores."""
        divisors, scale = super().yarn(n, base, factor)
        return divisors, 1.0 if self.multiplier() else scale

    def multiplier(self) -> float:
        return 10.0 * self.number("rope.scaling.yarn_log_multiplier", 0.0, min=0.0)

    def score_scale(self, a: Latent) -> float:
        scale = (a.nope + a.rope) ** -0.5
        if self.source.get_str(self.key("rope.scaling.type"), "none") == "yarn":
            scale *= rotary.yarn_scale(self.number("rope.scaling.factor", 1.0), self.multiplier()) ** 2
        return self.number("attention.scale", scale)

    def growing_queries(self, c: Config) -> Config:
        """Queries that grow with the logarithm of their position (Mistral Small 4, Mistral Large 3)."""
        beta = self.number("attention.temperature_scale", 0.0, min=0.0)
        every = self.source.get_int(self.key("attention.temperature_length"), None, min=1)
        if not beta:
            return c
        every = every or self.source.get_int(self.key("rope.scaling.original_context_length"), None, min=1)
        if not every:
            missing = self.key("rope.scaling.original_context_length")
            raise UnsupportedModelError(feature=f"{self.key('attention.temperature_scale')} without {missing}")
        return growing_queries(self, c, beta, every)


def config(source: Source) -> Config:
    r = LatentReader(source)
    c = without_predictors(r, r.base(halves=False, own=(*OWN, "nextn_predict_layers")))
    known = 2 if c.layers in _GLM[0] and c.vocab == _GLM[1] else 1
    sigmoid = source.get_int(r.key("expert_gating_func"), known) == 2
    return with_latent(r, c, gate="sigmoid" if sigmoid else "softmax", sum2=sigmoid)


def with_latent(r: LatentReader, c: Config, *, gate: str, sum2: bool) -> Config:
    """The configuration with its attention and experts. gate, sum2: as in with_experts."""
    source = r.source
    if any(c.local):
        raise source.refuse(r.key("attention.sliding_window"), "none")
    biased = any(name.endswith(".exp_probs_b.bias") for name in source.tensors)
    biased = bool(source.get_bool(r.key("expert_choice_bias"), biased))  # not a GGUF key
    c = with_experts(r, r.growing_queries(c), gate=gate, limit=1e-20, sum2=sum2, biased=biased)
    if c.experts is None:  # converters also write these keys for dense models
        for name in ("expert_feed_forward_length", "expert_shared_count", "leading_dense_block_count",
                     "expert_weights_scale", "expert_weights_norm", "expert_gating_func"):  # fmt: skip
            source.get_any(r.key(name), None)
    a = r.latent(c.attention.n_q)
    heads = latent.attention(a, r.score_scale(a))
    return replace(c, latent=a, attention=heads, local_attention=heads)


def block(p: Plan, c: Config, i: int) -> None:
    assert c.latent is not None
    h = p.norm(i, "attn_norm")
    values = latent.attend(p, i, h, c.latent, c.rope, c.attention.scale, factors=c.query_factors, every=c.query_every)
    p.add(i, "attn_output", values)
    feed_forward(p, c, i)


# ---- folders -------------------------------------------------------------------------------------------------------


def _parts(c: Settings, x: Any) -> Any:
    """kv_b_proj split by heads: (heads, columns of a key and of a value, rank)."""
    heads, nope = (c.get_int(key, min=1, max=4096) for key in ("num_attention_heads", "qk_nope_head_dim"))
    value = c.get_int("v_head_dim", max(c.get_int("hidden_size", min=1) // heads, 1), min=1, max=4096)  # in MiniCPM3
    if x.ndim != 2 or len(x) != heads * (nope + value):
        raise ValueError
    return x.reshape(heads, nope + value, -1)


def _keys(c: Settings, x: Any) -> Any:
    return _parts(c, x)[:, : c.get_int("qk_nope_head_dim")].swapaxes(1, 2)


def _values(c: Settings, x: Any) -> Any:
    return _parts(c, x)[:, c.get_int("qk_nope_head_dim") :]


KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "hidden_act": "hidden_activation",
    "rope_theta": "rope.freq_base",
    "kv_lora_rank": "attention.kv_lora_rank",
    "v_head_dim": "attention.value_length_mla",
}
EXPERT_KEYS = {
    "n_routed_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "routed_scaling_factor": "expert_weights_scale",
}
V3_KEYS = {
    **KEYS,
    **EXPERT_KEYS,
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "norm_topk_prob": "expert_weights_norm",
    "rope_interleave": "rope.interleave",  # not a GGUF key
}
LATENT_NAMES = {
    **{name: own for name, own in NAMES.items() if name[-6:] not in ("k_proj", "v_proj", "q_norm", "k_norm")},
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
_CHOICE = {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias"}


def latent_keys(c: Settings) -> dict[str, Any]:
    """GGUF's keys of attention over latent rows."""
    heads = c.get_int("num_attention_heads", min=1, max=4096)
    if c.get_int("num_key_value_heads", heads, min=1) != heads:
        raise c.refuse("num_key_value_heads", str(heads))
    nope, rope = (c.get_int(f"qk_{part}_head_dim", min=1, max=2048) for part in ("nope", "rope"))
    c.get_int("qk_head_dim", None, min=1)  # transformers computes it
    rank, scale = c.get_int("kv_lora_rank", min=1, max=2048), (nope + rope) ** -0.5
    for where in ("rope_parameters.", "rope_scaling."):
        if not c.get_table(where[:-1], None):
            continue
        kind = c.get_str(f"{where}rope_type", c.get_str(f"{where}type", "default"))
        weight = c.get_float(f"{where}mscale_all_dim", 0.0, min=0.0, max=1e3)
        if kind != "default" and weight:
            scale *= rotary.yarn_scale(c.get_float(f"{where}factor", min=1e-6, max=1e6), weight) ** 2
            break
    query = c.get_int("q_lora_rank", None, min=1, max=1 << 24)
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": nope + rope,
        "attention.scale": scale,
        **({} if query is None else {"attention.q_lora_rank": query}),
    }


def only(c: Settings, **values: Any) -> None:
    """Keys of published files for which only one value is supported."""
    for key, only in values.items():
        if c.get_any(key, only) != only:
            raise c.refuse(key, json.dumps(only))
    for key in ("aux_loss_alpha", "seq_aux", "ep_size"):
        c.get_any(key, None)


def _prediction(c: Settings) -> dict[str, int]:
    layers = c.get_int("num_hidden_layers", min=1, max=2048)
    more = c.get_int("num_nextn_predict_layers", c.get_int("num_mtp_layers", 0, min=0, max=2048), min=0, max=2048)
    return {"block_count": layers + more, "nextn_predict_layers": more}


def _v2(c: Settings) -> Mapping[str, Any]:
    only(c, moe_layer_freq=1, scoring_func="softmax", norm_topk_prob=False, rope_interleave=True)
    method = c.get_str("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise c.refuse("topk_method", "greedy, group_limited_greedy")
    limited, n = method != "greedy", c.get_int("n_routed_experts", min=1, max=512)
    groups, chosen = (c.get_int(key, *(() if limited else (None,)), min=1, max=n) for key in ("n_group", "topk_group"))
    found = {"expert_group_count": groups, "expert_group_used_count": chosen} if limited else {}
    return {**latent_keys(c), **found, "expert_gating_func": 1, "expert_choice_bias": False}


def _v3(c: Settings) -> Mapping[str, Any]:
    only(c, moe_layer_freq=1, scoring_func="sigmoid", topk_method="noaux_tc")
    c.get_int("topk_group", min=1, max=4096)
    rotated = c.get_int("qk_rope_head_dim", min=1, max=2048)
    if c.get_int("head_dim", rotated) != rotated:  # transformers then uses this width for the rotation
        raise c.refuse("head_dim", f"{rotated}, as qk_rope_head_dim")
    return {**latent_keys(c), **_prediction(c), "expert_gating_func": 2, "expert_choice_bias": True}


def _glm(c: Settings) -> Mapping[str, Any]:
    layers = c.get_int("num_hidden_layers", min=1, max=2048)
    kinds = c.get_list("mlp_layer_types", None, of=str, length=layers) or ["dense"] + ["sparse"] * (layers - 1)
    if not {*kinds} <= {"dense", "sparse"}:
        raise c.refuse("mlp_layer_types", "dense, sparse")
    first = kinds.index("sparse") if "sparse" in kinds else layers
    if c.get_int("first_k_dense_replace", first, min=0) != first or "dense" in kinds[first:]:
        raise c.refuse("first_k_dense_replace" if "dense" not in kinds[first:] else "mlp_layer_types", str(first))
    return {**_v3(c), "leading_dense_block_count": first}


COMMON: dict[str, Any] = {
    "biases": {"attention_bias": ("attn_q_a", "attn_kv_a_mqa", "attn_output")},
    "split": {"attn_kv_b": {"attn_k_b": _keys, "attn_v_b": _values}},
    "halves": False,
    "rotated": ("qk_rope_head_dim",),
}
_V3: dict[str, Any] = {
    "names": {**LATENT_NAMES, **EXPERTS, **SHARED_EXPERT, **_CHOICE},
    "unused": r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.(norm|head))\.weight",
    **COMMON,
}
_DEFAULTS = {
    "hidden_act": "silu",
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 1536,
}
FOLDERS = {
    "deepseek_v2": Folder(
        classes=("DeepseekV2ForCausalLM",),
        keys={
            **KEYS,
            **EXPERT_KEYS,
            "num_experts": "expert_count",
            "first_k_dense_replace": "leading_dense_block_count",
        },
        defaults={
            **_DEFAULTS,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
            "moe_intermediate_size": 1407,
            "first_k_dense_replace": 0,
        },
        names={**LATENT_NAMES, **EXPERTS, **SHARED_EXPERT},
        derive=_v2,
        **{
            **COMMON,
            "biases": {**COMMON["biases"], "mlp_bias": (*MLP, "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")},
        },
    ),
    "deepseek_v3": Folder(
        classes=("DeepseekV3ForCausalLM",),
        keys={**V3_KEYS, "first_k_dense_replace": "leading_dense_block_count"},
        defaults={
            **_DEFAULTS,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "routed_scaling_factor": 2.5,
            "moe_intermediate_size": 2048,
            "norm_topk_prob": True,
            "first_k_dense_replace": 3,
            "rope_interleave": True,
        },
        derive=_v3,
        **_V3,
    ),
    "glm4_moe_lite": Folder(
        classes=("Glm4MoeLiteForCausalLM",),
        keys=V3_KEYS,
        defaults={
            **_DEFAULTS,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 202752,
            "n_routed_experts": 64,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.8,
            "moe_intermediate_size": 1536,
            "norm_topk_prob": True,
            "rope_interleave": True,
        },
        derive=_glm,
        **_V3,
    ),
}
