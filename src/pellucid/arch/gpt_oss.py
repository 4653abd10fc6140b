"""gpt-oss: experts with biases and a clamped activation, chosen before the softmax; attention with sinks, and a
window in every other layer (OpenAI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.experts import mixture
from pellucid.folder import ANY, EXPERTS, KEYS, NAMES, QKVO, Folder, Same, Settings, windows
from pellucid.plan import Plan

LIMIT = 7.0  # of the activation's arguments
ALPHA = 1.702  # of the activation; no file has another value


class _Reader(Reader):
    whole_pairs = False


def config(source: Source) -> Config:
    r = _Reader(source)
    c = replace(r.base(halves=True, base=150000.0, period=2, own=OWN), act="oai")
    return with_experts(r, c, gate="top_first")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv, sinks="attn_sinks"))
    assert c.experts is not None
    mixture(p, i, p.norm(i, "post_attention_norm"), c.experts, c.act, limit=LIMIT)


def _derive(c: Settings) -> Mapping[str, Any]:
    for key, only in (("swiglu_alpha", ALPHA), ("swiglu_limit", LIMIT)):
        if c.get_float(key, only) != only:
            raise c.refuse(key, f"{only:g}")
    if c.get_str("hidden_act", "silu") != "silu":  # the key is not used, but has the value silu
        raise c.refuse("hidden_act", "silu")
    local = windows(c, lambda i: i % 2 == 0)
    return {"attention.sliding_window_pattern": local}


def _halves(c: Settings, x: Any) -> Any:
    """The rows of gate, then those of up; they alternate in the columns of a folder's matrices."""
    rows = np.swapaxes(x, 1, 2) if x.ndim == 3 else x
    return _apart(rows)


def _apart(x: Any) -> Any:
    """The same for matrices in MXFP4, which are not transposed."""
    return np.concatenate([x[:, ::2], x[:, 1::2]], axis=1)


def _unchanged(x: Any) -> Any:
    return x


def _transposed(c: Settings, x: Any) -> Any:
    return np.swapaxes(x, 1, 2) if x.ndim == 3 else x


FOLDERS = {
    "gpt_oss": Folder(
        classes=("GptOssForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key != "hidden_act"},
            "sliding_window": "attention.sliding_window",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
        },
        sizes={
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 36,
            "num_attention_heads": 64,
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "rope_theta": 150000.0,
            "attention_bias": True,
        },
        rope={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        inert={"initial_context_length": ANY, "experts_per_token": Same("num_experts_per_tok")},
        biases={"attention_bias": QKVO},
        biased=("ffn_gate_inp", "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        names={
            **{name: own for name, own in NAMES.items() if not name.startswith("mlp.")},
            **{name: own for name, own in EXPERTS.items() if name != "mlp.gate"},
            "post_attention_layernorm": "post_attention_norm",
            "self_attn.sinks": "attn_sinks.weight",
            "mlp.router": "ffn_gate_inp",
            "mlp.experts.gate_up_proj_bias": "ffn_gate_up_exps.bias",
            "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
            "mlp.experts.gate_up_proj_blocks": "ffn_gate_up_exps.blocks",
            "mlp.experts.gate_up_proj_scales": "ffn_gate_up_exps.block_scales",
            "mlp.experts.down_proj_blocks": "ffn_down_exps.blocks",
            "mlp.experts.down_proj_scales": "ffn_down_exps.block_scales",
        },
        change={"ffn_gate_up_exps": _halves, "ffn_down_exps": _transposed},
        mxfp4={"ffn_gate_up_exps": _apart, "ffn_down_exps": _unchanged},
        derive=_derive,
    )
}
