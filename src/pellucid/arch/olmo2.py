"""OLMo 2 and 3: norms only after each half; all query heads are normed as one row, and so are all key heads. OLMo 3 has
windows, and scales the rotation only in layers with full attention (Ai2 2024, 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, NAMES, QKVO, Folder, Settings, windows
from pellucid.plan import Plan

_PERIOD = 4
_BASE = 500000.0


class _Reader(Reader):
    def yarn(self, n: int, base: float, factor: float) -> tuple[list[float], float]:
        """The first converters of OLMo 3 wrote attention_factor of its folders, which is the whole factor, as the one
        that multiplies YaRN's own elsewhere."""
        divisors, scale = super().yarn(n, base, factor)
        return divisors, 1.0 if self.source.get_any(self.key("rope.scaling.attn_factor"), None) is not None else scale


def config(source: Source) -> Config:
    r = _Reader(source)
    windowed = source.get_any(r.key("attention.sliding_window"), None) is not None
    c = r.base(halves=True, period=_PERIOD if windowed else 0)
    base = r.rope_base("rope.freq_base_swa", r.rope_base("rope.freq_base", 10000.0))
    return replace(c, local_rope=r.rope(c.attention.dk, base, halves=c.rope.halves, scaled=False))


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    x = p.stream()
    qkv = p.qkv(i, x, attention)
    p.head_norm(i, qkv, weights="all")
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv), post_norm="post_attention_norm")
    p.add(i, "ffn_down", p.glu(i, x, c.ff, c.act), post_norm="post_ffw_norm")


def _windows(c: Settings) -> Mapping[str, Any]:
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    local = windows(c, lambda i: (i + 1) % _PERIOD != 0)
    if window is None and any(local):
        raise c.refuse("layer_types", "full_attention without sliding_window")
    _one_rotation(c, any(local))
    if window is None:
        return {}
    # transformers uses a top-level rope_theta only for the layers with full attention
    return {"attention.sliding_window_pattern": local, "rope.freq_base_swa": _BASE}


def _one_rotation(c: Settings, windowed: bool) -> None:
    """Checks the values in rope_parameters beside its tables for each kind of layer, or without them: transformers
    ignores them, so they must agree with what it computes.

    Raises UnsupportedModelError for other values.
    """
    if c.get_table("rope_parameters", None) is None:
        return
    where, tables = "rope_parameters.", "; others belong in its tables full_attention and sliding_attention"
    for key in ("rope_type", "type"):
        if c.get_str(where + key, "default") != "default":
            raise c.refuse(where + key, f"default{tables}")
    base = c.get_float(f"{where}rope_theta", None, min=1.0)
    bases = [c.get_float(f"{where}full_attention.rope_theta", c.get_float("rope_theta", min=1.0), min=1.0)]
    if windowed:
        bases.append(c.get_float(f"{where}sliding_attention.rope_theta", _BASE, min=1.0))
    for used in bases:
        if base not in (None, used):
            raise c.refuse(f"{where}rope_theta", f"{used}, which transformers takes{tables}")


_COMMON: dict[str, Any] = {
    "biases": {"attention_bias": QKVO},
    "names": {
        **{name: own for name, own in NAMES.items() if name != "input_layernorm"},
        "post_attention_layernorm": "post_attention_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu"}

FOLDERS = {
    "olmo2": Folder(classes=("Olmo2ForCausalLM",), defaults=_DEFAULTS, **_COMMON),
    "olmo3": Folder(
        classes=("Olmo3ForCausalLM",),
        keys={**KEYS, "sliding_window": "attention.sliding_window"},
        defaults={**_DEFAULTS, "sliding_window": 4096, "rope_theta": _BASE},
        ropes=True,
        derive=_windows,
        **_COMMON,
    ),
}
