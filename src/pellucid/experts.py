"""The operations of mixtures of experts, which architectures add to a plan (Shazeer et al. 2017).

A router chooses experts for each row and weights them; their matrices are stacks, one matrix for each expert.
"""

from __future__ import annotations

import numpy as np

from pellucid._engine import ACTIVATIONS, FLAGS, ROUTES
from pellucid.plan import Experts, Kind, Matrix, Part, Plan, Vector, floats


def route(p: Plan, layer: int, h: int, e: Experts, name: str = "ffn_gate_inp") -> int:
    """A row's top_k experts and their weights, from the scores of the router `name`."""
    matrix = _router(p, f"blk.{layer}.{name}", e.n, p.buffers[h].dim)
    seg = p.row_of_segments([matrix], biases=[p.bias(f"blk.{layer}.{name}", e.n)], terms=[2])
    scores, out = p.buffer(f"scores{e.n}", e.n), p.buffer(f"routes{e.top_k}", 2 * e.top_k)
    return p.operation(
        Kind.ROUTE,
        layer,
        name,
        inp=h,
        out=out,
        tmp=scores,
        seg=seg,
        n_seg=1,
        vec=_choice(p, layer, e.n) if e.biased else -1,
        top_k=e.top_k,
        route=sum(ROUTES[part] for part in e.weights),
        groups=e.groups,
        group_k=e.group_k,
        limit=e.limit,
        scale=e.scale,
    ).out


def experts(
    p: Plan, layer: int, h: int, routes: int, e: Experts, act: str, kind: str = "exps", limit: float = 0.0
) -> int:
    """act(gate h) * (up h), or act(up h), of each expert of a row, side by side (Shazeer et al. 2017); gate and up may
    be one tensor, ffn_gate_up_`kind`, one after the other. limit: as in Plan.glu."""
    k, mats, biases = p.buffers[h].dim, [], []
    fused = f"blk.{layer}.ffn_gate_up_{kind}"
    for i, part in enumerate(("up",) if e.plain else ("gate", "up")):
        whole = Part(fused, i * e.ff, 2 * e.ff) if f"{fused}.weight" in p.tensors and not e.plain else None
        name = f"blk.{layer}.ffn_{part}_{kind}"
        mats.append(p.stack(name, e.n, e.ff, k, part=whole))
        biases.append(_biases(p, name, e.n, e.ff, part=whole))
    width = e.top_k * e.ff
    return p.operation(
        Kind.EXPERTS,
        layer,
        f"ffn_gate_up_{kind}",
        inp=h,
        out=p.buffer(f"e{width}", width),
        tmp=routes,
        seg=p.row_of_segments(mats, biases=biases),
        n_seg=len(mats),
        act=ACTIVATIONS[act],
        limit=limit,
        top_k=e.top_k,
    ).out


def add(
    p: Plan, layer: int, f: int, routes: int, e: Experts, kind: str = "exps", scale: float = 1.0, out: str | None = None
) -> int:
    """Adds scale times the sum of the weighted outputs of each row's experts to the residual stream. out: a buffer that
    gets the sum alone instead. -> the buffer."""
    name, dim = f"blk.{layer}.ffn_down_{kind}", e.latent or p.dim
    mat = p.stack(name, e.n, dim, e.ff)
    seg = p.row_of_segments([mat], biases=[_biases(p, name, e.n, dim)])
    return p.operation(
        Kind.EXPERTS_ADD,
        layer,
        f"ffn_down_{kind}",
        inp=f,
        out=p.stream() if out is None else p.buffer(out, dim),
        tmp=routes,
        seg=seg,
        n_seg=1,
        top_k=e.top_k,
        scale=scale,
        flags=0 if out is None else FLAGS["fresh"],
    ).out


def mixture(p: Plan, layer: int, h: int, e: Experts, act: str, scale: float = 1.0, limit: float = 0.0) -> None:
    """Adds scale times the outputs of a row's experts, and of the shared expert if there is one (Dai et al. 2024), to
    the residual stream. limit: as in Plan.glu."""
    routes = route(p, layer, h, e)
    add(p, layer, experts(p, layer, h, routes, e, act, limit=limit), routes, e, scale=scale)
    if e.shared and e.gated:
        one = Experts(1, 1, e.shared, frozenset({"sigmoid"}))
        routes = route(p, layer, h, one, "ffn_gate_inp_shexp")
        h = p.arranged(layer, h, [f"blk.{layer}.ffn_{part}_shexp" for part in ("gate", "up")])
        f = p.arranged(layer, experts(p, layer, h, routes, one, act, "shexp"), [f"blk.{layer}.ffn_down_shexp"])
        add(p, layer, f, routes, one, "shexp", scale)
    elif e.shared:
        p.add(layer, "ffn_down_shexp", p.glu(layer, h, e.shared, act, "_shexp"), scale=scale)


def _choice(p: Plan, layer: int, n: int) -> int:
    name = f"blk.{layer}.exp_probs_b.bias"

    def make() -> Vector:
        t = p.tensors.get(name)
        row = t is not None and t.shape == (1, n)  # as converters write that of ERNIE 4.5
        return Vector(name, floats(p.tensor(name, (1, n) if row else (n,))).reshape(-1))

    return p.once(("vector", name), p.vectors, make)


def _biases(p: Plan, name: str, n: int, rows: int, *, part: Part | None = None) -> int:
    """The number of the vector of n * rows biases of a stack; -1 if the file has none."""
    whole = part or Part(name, 0, rows)
    if f"{whole.name}.bias" not in p.tensors:
        return -1

    def make() -> Vector:
        values = floats(p.tensor(f"{whole.name}.bias", (n, whole.rows)))
        return Vector(f"{name}.bias", np.ascontiguousarray(values[:, whole.first : whole.first + rows]).reshape(-1))

    return p.once(("bias", name), p.vectors, make)


def _router(p: Plan, name: str, n: int, k: int) -> int:
    """A router's matrix. In BF16 it is widened to F32, so that its activations are not rounded to BF16, which would
    change the choice between experts whose scores are close."""

    def make() -> Matrix:
        full = f"{name}.weight"
        t = p.tensors.get(full)
        one = t is not None and n == 1 and t.shape == (k,)  # a file may have one row without its dimension
        t = p.tensor(full, (k,) if one else (n, k))
        p.check_format(t)
        if t.type != "BF16":
            return Matrix(full, t.type, n, k, t.data, False)
        return Matrix(full, "F32", n, k, floats(t).reshape(-1).view(np.uint8), False)

    return p.once(("matrix", name), p.matrices, make)
