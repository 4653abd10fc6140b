"""Granite with windows: attention sinks, windows, rotation bases per layer, with experts or without (IBM 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch import granitemoe
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.granite import MULTIPLIERS, OLDER_EXPERTS, multiplied
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.folder import KEYS, MLP, NAMES, QKVO, Folder, Settings, windows
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    c = multiplied(r, r.base(halves=False, own=OWN))
    c = replace(c, local_attention=replace(c.local_attention, scale=c.attention.scale))
    if any(c.local) and source.get_any(r.key("attention.sliding_window_pattern"), None) is None:
        raise source.fail(r.key("attention.sliding_window_pattern"), "no such key", "a boolean for each layer")
    bases = source.get_list(r.key("rope.layer_freq_bases"), None, of=float, length=c.layers)  # not a GGUF key
    rotated = source.get_list(r.key("attention.rope_pattern"), None, of=bool, length=c.layers)
    ropes = [c.rope] * c.layers
    if bases is not None:
        ropes = [r.rope(c.attention.dk, base or 1.0, halves=r.halves(False), scaled=False) for base in bases]
    return with_experts(r, replace(c, ropes=tuple(ropes), rotated=tuple(rotated or ())), gate="top_first")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, None if rope is None else c.ropes[i])
    p.add(i, "attn_output", p.attend(i, qkv, sinks="attn_sinks"), scale=c.residual_scale)
    feed_forward(p, c, i, scale=c.residual_scale)


def _derive(c: Settings) -> Mapping[str, Any]:
    found: dict[str, Any] = {"attention.sliding_window_pattern": windows(c, lambda i: i % 4 != 0)}
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    bases = c.get_list("layer_rope_theta", None, of=float, length=layers)
    if bases is not None:
        if not all(base == 0 or 1 <= base <= 1e30 for base in bases):
            raise c.fail("layer_rope_theta", f"it is {bases}", "0, or numbers from 1 on")
        base = c.get_float("rope_theta", None)
        for key in ("rope_parameters", "rope_scaling"):
            table = c.get_table(key, None) or {}
            if table.get("rope_type", table.get("type", "default")) != "default":
                raise c.refuse(f"{key}.rope_type", "default, beside layer_rope_theta")
            base = c.get_float(f"{key}.rope_theta", base)
        found["attention.rope_pattern"] = [base != 0 for base in bases]
        if {*bases} - {0, base}:
            found["rope.layer_freq_bases"] = bases
    return found


SINKS = {"self_attn.sinks": "attn_sinks.weight"}
FOLDERS = {
    "granite_swa": Folder(
        classes=("GraniteSWAForCausalLM",),
        keys={**KEYS, **MULTIPLIERS, "sliding_window": "attention.sliding_window"},
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "hidden_act": "silu",
            "num_key_value_heads": 4,
            **dict.fromkeys(MULTIPLIERS, 1.0),
            "sliding_window": 128,
        },
        biases={"attention_bias": QKVO, "mlp_bias": MLP},
        names={**NAMES, **SINKS},
        tied=True,
        derive=_derive,
    ),
    "granitemoe_swa": Folder(
        classes=("GraniteMoeSWAForCausalLM",),
        keys={**granitemoe.OWN_KEYS, **granitemoe.SHARED_KEY, "sliding_window": "attention.sliding_window"},
        defaults={**granitemoe.DEFAULTS, "shared_intermediate_size": 0, "sliding_window": 128},
        biases={"attention_bias": QKVO},
        names={
            **{name: own for name, own in granitemoe.OWN_NAMES.items() if name not in OLDER_EXPERTS},
            **granitemoe.SHARED,
            **SINKS,
        },
        derive=_derive,
    ),
}
