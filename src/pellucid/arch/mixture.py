"""Mixtures of experts: the keys that their architectures share, and the second half of a layer."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader
from pellucid.experts import mixture
from pellucid.plan import Experts, Plan

# GGUF's expert_gating_func.
_GATES = {1: "softmax", 2: "sigmoid", 3: "top_first"}
OWN = ("expert_count", "expert_used_count", "leading_dense_block_count")  # keys read here
_MOST = 512  # experts: csrc/ops/op.h


def with_experts(
    r: Reader,
    c: Config,
    *,
    gate: str = "softmax",
    renorm: bool = False,
    limit: float = 0.0,
    sum2: bool = False,
    gated: bool = False,
    biased: bool = False,
    divided: bool = False,
    shared: int | None = None,
) -> Config:
    """The configuration with its experts, if the file has any.

    gate: how scores become weights if the file does not specify it: "softmax", "sigmoid", or "top_first" (softmax over
    the chosen). renorm: whether weights are divided by their sum plus `limit`. sum2: a group of experts counts as much
    as its best two together. gated: whether the shared expert has its own weight. biased: whether a bias is added to
    scores for choosing. divided: if the file gives no width of an expert, the experts of a token are together as wide
    as a dense layer. shared: the width of the shared expert if the file gives none.
    """
    source, key = r.source, r.key
    n = int(source.get_int(key("expert_count"), 0, min=0, max=_MOST))
    if not n:
        used = source.get_int(key("expert_used_count"), 0, min=0)
        if used:
            name = "expert_used_count" if source.get_any(key("expert_count"), None) is None else "expert_count"
            raise source.fail(key(name), f"there are 0 experts, of which a token takes {used}")
        return c
    layers = r.size("block_count", max=4096)
    top_k = r.layer_size("expert_used_count", layers, max=min(n, 64), zeros=True)
    default = max(c.ff // top_k, 1) if divided else c.ff
    ff = r.layer_size("expert_feed_forward_length", layers, default, zeros=True)
    number = source.get_int(key("expert_gating_func"), None, min=0)
    if number:
        if number not in _GATES:
            raise source.refuse(key("expert_gating_func"), "1 (softmax), 2 (sigmoid), 3 (softmax over the chosen)")
        gate = _GATES[number]
    kinds = {gate} - {"softmax"}
    if source.get_bool(key("expert_weights_norm"), renorm):
        kinds.add("renorm")
    groups = int(source.get_int(key("expert_group_count"), 0, min=0, max=n))
    chosen = source.get_int(key("expert_group_used_count"), None, min=0, max=max(groups, 1))
    if groups > 1 and chosen is None:
        message = f"there are {groups} groups"
        raise source.fail(key("expert_group_count"), message, f"{key('expert_group_used_count')} beside it")
    if groups > 1 and (n % groups or chosen < 1 or n // groups * chosen < top_k):
        raise source.fail(key("expert_group_count"), f"{n} experts in {groups} groups, {chosen} of them used")
    if groups > 1 and sum2:
        kinds.add("group_sum2")
    counted = int(source.get_int(key("expert_shared_count"), 0, min=0, max=_MOST)) * ff
    shared = counted if shared is None else shared
    shared = int(source.get_int(key("expert_shared_feed_forward_length"), shared, min=0, max=1 << 24))
    experts = Experts(
        n,
        top_k,
        ff,
        frozenset(kinds),
        scale=r.number("expert_weights_scale", 1.0),
        limit=limit,
        groups=groups if groups > 1 else 0,
        group_k=chosen if groups > 1 else 0,
        shared=shared,
        gated=gated,
        biased=biased,
    )
    return replace(c, experts=experts, sparse=_sparse(r, c.layers))


def _sparse(r: Reader, layers: int) -> tuple[bool, ...]:
    """For each layer, whether it has experts: from expert_layers (of folders), else all but the leading dense ones."""
    dense = int(r.source.get_int(r.key("leading_dense_block_count"), 0, min=0, max=layers))
    step = int(r.source.get_int(r.key("interleave_moe_layer_step"), 1, min=0, max=layers))
    given = r.source.get_any(r.key("expert_layers"), None)
    if given is not None:
        return tuple(r.source.get_list(r.key("expert_layers"), of=bool, length=layers))
    return tuple(i >= dense and (i + 1) % max(step, 1) == 0 for i in range(layers))


def feed_forward(p: Plan, c: Config, i: int, norm: str = "ffn_norm", scale: float = 1.0) -> None:
    """The norm, and the gated unit or the experts, added to the residual stream, times scale."""
    h = p.norm(i, norm)
    if c.experts is not None and c.sparse[i]:
        mixture(p, i, h, c.experts, c.act, scale)
    else:
        p.add(i, "ffn_down", p.glu(i, h, c.ff, c.act), scale=scale)
