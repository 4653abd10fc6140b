"""Apertus: norms of heads, and an activation without a gate with parameters per layer, xIELU (Swiss AI 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, NAMES, QKVO, Folder, Settings
from pellucid.plan import Plan

_PARAMETERS = ("alpha_p", "alpha_n", "beta", "eps")


class _Reader(Reader):
    def activation(self, default: str) -> str:
        name = self.source.get_str(self.key("hidden_activation"), default)
        if name != "xielu":
            raise self.source.refuse(self.key("hidden_activation"), "xielu")
        return str(name)

    def parameters(self, layers: int) -> tuple[tuple[float, ...], ...]:
        """The parameters of the engine's activation, for each layer (csrc/kernels/kernels.h)."""
        values = [self.values(name, layers) for name in _PARAMETERS]
        return tuple(
            (_softplus(positive), beta + _softplus(negative), beta, eps)
            for positive, negative, beta, eps in zip(*values, strict=True)
        )

    def values(self, name: str, layers: int) -> list[float]:
        """One parameter for each layer."""
        found: list[float] = self.source.get_list(f"xielu.{name}", of=float, length=layers)
        for i, value in enumerate(found):
            if not abs(value) <= 1e4:  # also refuses NaN
                raise self.source.fail(f"xielu.{name}", f"it is {value} in layer {i}", "at most 10000")
        return found


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def config(source: Source) -> Config:
    r = _Reader(source)
    c = r.base(halves=True, act="xielu")
    return replace(c, act_parameters=r.parameters(c.layers))


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    h = p.norm(i, "ffn_norm")
    p.add(i, "ffn_down", p.mlp(i, h, c.ff, c.act, parameters=c.act_parameters[i]))


def _derive(c: Settings) -> Mapping[str, Any]:
    """With another activation there are no xIELU parameters; the error then names the activation's key instead."""
    if c.get_str("hidden_act", "xielu") != "xielu":
        raise c.refuse("hidden_act", "xielu")
    return {}


FOLDERS = {
    "apertus": Folder(
        classes=("ApertusForCausalLM",),
        keys={key: name for key, name in KEYS.items() if key != "head_dim"},
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 65536,
            "hidden_act": "xielu",
            "rope_theta": 12000000.0,
        },
        rope={
            "rope_type": "llama3",
            "rope_theta": 12000000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        inert={"qk_norm": True},
        biases={"attention_bias": QKVO},
        names={
            **{
                name: own
                for name, own in NAMES.items()
                if name not in ("input_layernorm", "post_attention_layernorm", "mlp.gate_proj")
            },
            "attention_layernorm": "attn_norm",
            "feedforward_layernorm": "ffn_norm",
        },
        numbers={f"mlp.act_fn.{name}": f"xielu.{name}" for name in _PARAMETERS},
        derive=_derive,
    )
}
