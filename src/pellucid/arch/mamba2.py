"""Mamba 2: layers of only a selective state-space model, without attention and feed-forward networks (Dao & Gu 2024);
and the parts that hybrids share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import ANY, Folder, Settings
from pellucid.plan import Attention, Part, Plan, Recurrent, Rope, Vector, floats
from pellucid.recurrent import MOST_TAPS, conv, gate, head_vectors, project, scan

_CONTEXT = 1 << 20  # of folders, which have no such key: the value that converters to GGUF write


def config(source: Source) -> Config:
    r = Reader(source)
    layers, dim = r.size("block_count", max=4096), r.size("embedding_length")
    for name in ("feed_forward_length", "attention.head_count", "attention.head_count_kv"):  # 0 in files
        if source.get_int(r.key(name), 0, min=0):
            raise source.refuse(r.key(name), "0")
    none, still = Attention(1, 1, 1, 1), Rope((), True)
    return Config(
        architecture=r.prefix,
        vocab=r.vocabulary(dim),
        dim=dim,
        layers=layers,
        ff=1,
        eps=r.number("attention.layer_norm_rms_epsilon"),
        context=r.size("context_length"),
        act="silu",
        attention=none,
        rope=still,
        local=(False,) * layers,
        local_attention=none,
        local_rope=still,
        headless=bool(source.get_bool("pellucid.headless", False)),
        recurrent=(True,) * layers,
        memory=memory(r),
    )


def memory(r: Reader, least: float = 0.0) -> Recurrent:
    """The state of a layer, from the keys `ssm.*`. least: minimum of dt if the file has none."""
    source = r.source
    n_v, n_k = r.size("ssm.time_step_rank", max=4096), r.size("ssm.group_count", max=4096)
    dk, inner = r.size("ssm.state_size", max=4096), r.size("ssm.inner_size")
    taps = r.size("ssm.conv_kernel", max=MOST_TAPS)
    if n_v % n_k:
        raise source.fail(r.key("ssm.group_count"), f"it is {n_k}", f"a divisor of {n_v}")
    if inner % n_v or inner // n_v > 4096:
        raise source.fail(r.key("ssm.inner_size"), f"it is {inner}", f"a multiple of {n_v}, at most 4096 times")
    if taps < 2:
        raise source.fail(r.key("ssm.conv_kernel"), f"it is {taps}", f"2 to {MOST_TAPS}")
    low = source.get_float(r.key("ssm.time_step_min"), least, min=0.0, max=1e30)  # these two are not GGUF keys
    high = source.get_float(r.key("ssm.time_step_max"), None, min=max(low, 1e-30), max=1e30)
    steps = (float(low), math.inf if high is None else float(high))
    return Recurrent(taps, inner + 2 * n_k * dk, n_k, n_v, dk, inner // n_v, steps=steps)


def block(p: Plan, c: Config, i: int) -> None:
    p.add(i, "ssm_out", mamba(p, c.memory, i, p.norm(i, "attn_norm")))


def mamba(
    p: Plan,
    r: Recurrent,
    i: int,
    h: int,
    *,
    scale: float = 1.0,
    scales: Sequence[float] = (),
    norm: str = "after",
) -> int:
    """Mamba 2: ssm_in gives a gate, the convolution's channels (values, keys, queries) and dt. scale: of h; scales: of
    these five. norm: of each group of the output, "after" the gate, "before" it, or "none".

    The activations of dt's rows have two int8 terms: they are few, and dt is in the exponent of each decay.
    """
    inner, keys = r.n_v * r.dv, r.n_k * r.dk
    widths = {"gate": inner, "values": inner, "keys": keys, "queries": keys, "dt": r.n_v}
    if not scales:
        widths, scales = {"gate_values": inner + r.channels, "dt": r.n_v}, (1.0, 1.0)
    whole, rows, first = f"blk.{i}.ssm_in", inner + r.channels + r.n_v, 0
    parts: list[tuple[str, int]] = []
    within = {}
    for (name, width), times in zip(widths.items(), scales, strict=True):
        parts.append((f"ssm_in.{name}", width))
        within[f"ssm_in.{name}"] = Part(whole, first, rows)
        p.multiply(f"{whole}.{name}", width, p.buffers[h].dim, scale * times, bias=times, part=Part(whole, first, rows))
        first += width
    products = project(p, i, h, parts, exact=("ssm_in.dt",), within=within)
    c = conv(p, i, "ssm_conv1d", products, r, act="silu", column=inner)
    vec = head_vectors(p, i, ("ssm_a", "ssm_dt.bias", "ssm_d"), r.n_v)
    s = scan(p, i, c, products, r, vec, column=inner + r.channels, delta=False)
    if norm == "before":
        _norm(p, r, i, s)
    gate(p, i, s, products, act="silu")
    if norm == "after":
        _norm(p, r, i, s)
    return s


def _norm(p: Plan, r: Recurrent, i: int, s: int) -> None:
    """The norm of each group; GGUF files have its weights as (groups, columns), folders as one row."""
    full, inner = f"blk.{i}.ssm_norm", r.n_v * r.dv
    t = p.tensors.get(f"{full}.weight")
    if t is not None and len(t.shape) == 2:
        shape = (r.n_k, inner // r.n_k)
        p.once(("vector", full), p.vectors, lambda: Vector(full, floats(p.tensor(f"{full}.weight", shape)).reshape(-1)))
    p.norm_columns(i, "ssm_norm", s, 0, inner, each=inner // r.n_k, own=True)


def steps(c: Settings, key: str = "time_step_limit") -> Mapping[str, float]:
    """The bounds of dt: time_step_limit, a list of two numbers."""
    given = c.get_any(key, None)
    if given is None:
        return {}
    ends = given if isinstance(given, list) else []
    found = [math.inf if one == {"__float__": "Infinity"} else one for one in ends]
    if len(found) != 2 or not all(type(x) in (int, float) for x in found) or not 0 <= found[0] <= found[1] > 0:
        raise c.refuse(key, "two numbers, the first from 0 on, the second not less, and above 0")
    if not found[0] <= 1e30:
        raise c.refuse(key, "a first number of at most 1e30")
    low = {"ssm.time_step_min": float(found[0])}
    return low if found[1] > 1e30 else {**low, "ssm.time_step_max": float(found[1])}


def _derive(c: Settings) -> Mapping[str, Any]:
    for key in ("time_step_rank", "time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual",
                "residual_in_fp32", "chunk_size"):  # fmt: skip
        c.get_any(key, None)  # of initialisation, or of how transformers computes it
    if c.get_str("hidden_act", "silu") != "silu":
        raise c.refuse("hidden_act", "silu")
    heads, width = c.get_int("num_heads", min=1, max=4096), c.get_int("head_dim", min=1, max=4096)
    inner = c.get_int("expand", min=1, max=64) * c.get_int("hidden_size", min=1)
    if heads * width != inner:
        raise c.fail("num_heads", f"{heads} heads of {width} columns", f"{inner} columns, expand times hidden_size")
    none = {"feed_forward_length": 0, "attention.head_count": 0}  # as in files
    return {"context_length": _CONTEXT, "ssm.inner_size": inner, **none, **steps(c)}


def mixer_names(module: str) -> dict[str, str]:
    """Names of the matrices of a layer's `module`."""
    return {
        f"{module}.in_proj": "ssm_in",
        f"{module}.conv1d": "ssm_conv1d",
        f"{module}.norm": "ssm_norm",
        f"{module}.out_proj": "ssm_out",
    }


def mixer_others(module: str) -> dict[str, str]:
    """Names of its other tensors."""
    return {f"{module}.A_log": "ssm_a_log", f"{module}.dt_bias": "ssm_dt.bias", f"{module}.D": "ssm_d"}


FOLDERS = {
    "mamba2": Folder(
        classes=("Mamba2ForCausalLM",),
        keys={
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
            "num_heads": "ssm.time_step_rank",
            "state_size": "ssm.state_size",
            "conv_kernel": "ssm.conv_kernel",
            "n_groups": "ssm.group_count",
        },
        defaults={
            "hidden_size": 4096,
            "num_hidden_layers": 64,
            "layer_norm_epsilon": 1e-5,
            "num_heads": 128,
            "head_dim": 64,
            "state_size": 128,
            "conv_kernel": 4,
            "n_groups": 8,
            "expand": 2,
            "use_conv_bias": True,
        },
        inert={
            "fused_add_norm": ANY,
            "norm_before_gate": ANY,  # transformers applies the gate before the norm
            "rms_norm": True,
            "time_step_init_scheme": ANY,
            "time_step_scale": ANY,
        },
        biases={"use_bias": ("ssm_in", "ssm_out"), "use_conv_bias": ("ssm_conv1d",)},
        names={
            "backbone.embeddings": "token_embd",
            "backbone.norm_f": "output_norm",
            "lm_head": "output",
            "norm": "attn_norm",
            **mixer_names("mixer"),
        },
        base="backbone.",
        layers="backbone.layers",
        others=mixer_others("mixer"),
        heads="",
        derive=_derive,
    )
}
