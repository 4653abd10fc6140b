"""Inner quantities of models of each kind in transformers (extra `reference`): python -m tests.look.kinds_hf writes
tests/look/kinds.npz."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.families import reference
from tests.families.case import load_golden, text_config
from tests.look import kinds


def observe(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The names and shapes of a trace; with /N, of layer N alone."""
    case = kinds.CASES[name]
    golden = load_golden(case)
    with tempfile.TemporaryDirectory() as folder:
        model = reference.load(case, golden, Path(folder), dtype)
    ids = kinds.ids_of(case, text_config(golden.config)["vocab_size"])
    found: dict[str, Any] = {"hidden/0": None}
    layers = (model.backbone if hasattr(model, "backbone") else model.model).layers
    module: Any = importlib.import_module(type(layers[0]).__module__)
    functions: dict[str, Any] = {n: getattr(module, n, None) for n in ("eager_attention_forward", "causal_conv1d_fn")}
    eager, convolve = functions.values()
    hooks = []

    def attend(attention: Any, *args: Any, **options: Any) -> Any:
        out, weights = eager(attention, *args, **options)
        found[f"attention/{attention.layer_idx}"] = weights[0]
        return out, weights

    def convolving(x: Any, weight: Any, *args: Any, **options: Any) -> Any:
        out = convolve(x, weight, *args, **options)
        i = next((i for i, m in recurrent.items() if m.conv1d.weight.data_ptr() == weight.data_ptr()), None)
        if i is not None:  # that of LFM2 is multiplied once more
            found[f"conv/{i}"] = out[0, :, -len(ids) :].T
        return out

    def keep(key: str, of: Any, what: Any = "output", change: Any = None) -> None:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            value = inputs[0] if what == "input" else output if what == "output" else inputs[what]
            value = value if change is not None else (value[0] if isinstance(value, tuple) else value)[0]
            found[key] = value if change is None else change(value)

        hooks.append(of.register_forward_hook(hook))

    def halves(v: Any) -> Any:
        """The gates of attention, which lie behind each head's query."""
        heads = model.config.num_attention_heads
        return v[0].view(len(ids), heads, 2, -1)[:, :, 1].reshape(len(ids), -1).sigmoid()

    def added(v: Any) -> Any:
        return (v[0] if isinstance(v, tuple) else v).reshape(len(ids), -1) * times

    def gates_of_mamba(mixer: Any) -> Any:
        return lambda v: silu((v * getattr(mixer, "mup_vector", 1.0))[0, :, : mixer.intermediate_size])

    silu = torch.nn.functional.silu
    mixers = {i: mixer_of(layer) for i, layer in enumerate(layers)}
    recurrent = {i: mixer for i, mixer in mixers.items() if hasattr(mixer, "conv1d")}
    times = getattr(model.config, "residual_multiplier", 1.0)
    keep("hidden/0", layers[0], "input")
    for i, layer in enumerate(layers):
        keep(f"hidden/{i + 1}", layer)
        mlp = None if name in kinds.RECURRENT else getattr(layer, kinds.MLP.get(name, "mlp"))
        if mlp is not None:
            keep(f"mlp_out/{i}", mlp, change=added)
        router = getattr(mlp, "gate", getattr(mlp, "router", None))
        if router is not None and hasattr(mlp, "experts"):
            keep(f"routes/{i}", router, change=lambda v: torch.zeros_like(v[0]).scatter(1, v[2], v[1].to(v[0].dtype)))
        if hasattr(layer, "conv"):
            keep(f"conv/{i}", layer.conv.out_proj, "input")
        if hasattr(layer, "linear_attn"):
            keep(f"gates/{i}", layer.linear_attn.norm, 1, lambda v: silu(v.reshape(len(ids), -1)))
        elif hasattr(mixers[i], "g_b_proj"):  # Kimi's
            keep(f"gates/{i}", mixers[i].g_b_proj, change=lambda v: v[0].sigmoid())
        elif i in recurrent:
            keep(f"gates/{i}", mixers[i].in_proj, change=gates_of_mamba(mixers[i]))
        elif name.startswith(("qwen35", "qwen3next")):
            keep(f"gates/{i}", layer.self_attn.q_proj, change=halves)
    model.set_attn_implementation("eager")
    if name not in kinds.RECURRENT:
        module.eager_attention_forward = attend
    if convolve is not None:
        module.causal_conv1d_fn = convolving
    try:
        with torch.inference_mode():
            out = model(torch.tensor([ids]), use_cache=True)
    finally:
        for function, own in functions.items():
            if own is not None:
                setattr(module, function, own)
        for hook in hooks:
            hook.remove()
    cache = getattr(out, "past_key_values", None) or out.cache_params
    for i, cached in enumerate(cache.layers):
        state = (getattr(cached, "recurrent_states", None) or {0: None})[0]
        if state is not None and not name.startswith("lfm2"):
            mamba = hasattr(recurrent[i], "A_log") and hasattr(recurrent[i], "in_proj")
            found[f"states/{i}"] = state[0].transpose(-1, -2) if mamba else state[0]
    return {key: np.asarray(value.float().numpy()) for key, value in found.items()}


def mixer_of(layer: Any) -> Any:
    """A layer's recurrence, or else its attention."""
    names = ("mamba", "linear_attn", "mixer", "self_attn")
    return next((getattr(layer, name) for name in names if getattr(layer, name, None) is not None), None)


def main() -> None:
    arrays = {f"{name}/{key}": value for name in kinds.CASES for key, value in observe(name).items()}
    np.savez_compressed(kinds.PATH, **arrays)
    print(f"{kinds.PATH.name}: {kinds.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
