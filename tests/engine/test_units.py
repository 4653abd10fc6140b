"""The feed-forward unit with every activation, gated and plain, with biases, limits and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pellucid.errors import PellucidError
from pellucid.plan import ACTIVATIONS, Kind, Plan
from tests.engine import plans
from tests.engine.plans import DIM, FF, HEADS, ROPE

XIELU = (0.8, 0.7, 0.5, -1e-6)


def attend(p: Plan, i: int) -> int:
    """A layer's attention -> the buffer that its feed-forward unit reads."""
    qkv = p.qkv(i, p.norm(i, "attn_norm"), HEADS)
    p.rope_append(i, qkv, ROPE)
    p.add(i, "attn_output", p.attend(i, qkv))
    return p.norm(i, "ffn_norm")


def gated(act: str, limit: float = 0.0) -> Callable[[str], Plan]:
    def write(p: Plan, i: int) -> None:
        parameters = XIELU if act == "xielu" else ()
        p.add(i, "ffn_down", p.glu(i, attend(p, i), FF, act, limit=limit, parameters=parameters))

    biases = {"ffn_gate.bias": (FF,), "ffn_up.bias": (FF,), "ffn_down.bias": (DIM,)}
    return lambda format: plans.plan(write, plans.attention(**biases), format=format)


def plain(act: str) -> Callable[[str], Plan]:
    def write(p: Plan, i: int) -> None:
        p.add(i, "ffn_down", p.mlp(i, attend(p, i), FF, act, parameters=XIELU if act == "xielu" else ()))

    shapes = plans.attention(**{"ffn_up.bias": (FF,)})
    del shapes["ffn_gate"]
    return lambda format: plans.plan(write, shapes, format=format)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gated(act: str) -> None:
    plans.check(gated(act), n=80)


@pytest.mark.parametrize("act", [act for act in ACTIVATIONS if act != "oai"])
def test_plain(act: str) -> None:
    plans.check(plain(act), n=80)


@pytest.mark.parametrize("act", ["silu", "oai"])
def test_limit(act: str) -> None:
    plans.check(gated(act, 0.4), n=80)


def test_fused_gate_and_up() -> None:
    def fused(name: str) -> Plan:
        def write(p: Plan, i: int) -> None:
            p.add(i, "ffn_down", p.glu(i, attend(p, i), FF, "silu"))

        shapes = plans.attention(**{name: (2 * FF, DIM), f"{name}.bias": (2 * FF,)})
        for part in {"ffn_gate", "ffn_up"} - {name}:
            del shapes[part]
        return plans.plan(write, shapes)

    for name in ("ffn_up", "ffn_gate_up"):
        plans.check(lambda format, name=name: fused(name), n=40, formats=["F32"])  # type: ignore[misc]
    p = fused("ffn_up")
    halves = [m for m in p.matrices if m.name in ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")]
    whole = p.tensors["blk.0.ffn_up.weight"].data
    assert np.array_equal(np.concatenate([m.data.view(np.uint8) for m in halves]), whole.view(np.uint8))


def test_what_does_not_fit() -> None:
    def refused(p: Plan, match: str, **fields: Any) -> None:
        wrong = p.changed([replace(op, **fields) if op.kind == Kind.GLU else op for op in p.ops], p.vectors)
        with pytest.raises(PellucidError, match=match):
            plans.engine(wrong)

    refused(plain("silu")("F32"), "its activation", act=ACTIVATIONS["oai"])
    refused(plain("silu")("F32"), "its activation's parameters", vec=0)
    refused(plain("xielu")("F32"), "its activation's parameters", vec=-1)
    refused(gated("silu")("F32"), "its activation's parameters", act=ACTIVATIONS["xielu"])
    refused(gated("silu")("F32"), "its limit", limit=-1.0)
    refused(gated("silu")("F32"), "its limit", limit=float("nan"))
    refused(gated("silu")("F32"), "its temporary", tmp=-1)
    refused(gated("silu")("F32"), "does not fit", n_seg=3)
