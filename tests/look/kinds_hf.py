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
    layers = model.model.layers
    module: Any = importlib.import_module(type(layers[0]).__module__)
    eager = module.eager_attention_forward
    hooks = []

    def attend(attention: Any, *args: Any, **options: Any) -> Any:
        out, weights = eager(attention, *args, **options)
        found[f"attention/{attention.layer_idx}"] = weights[0]
        return out, weights

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

    silu = torch.nn.functional.silu
    times = getattr(model.config, "residual_multiplier", 1.0)
    keep("hidden/0", layers[0], "input")
    for i, layer in enumerate(layers):
        keep(f"hidden/{i + 1}", layer)
        mlp = getattr(layer, kinds.MLP.get(name, "mlp"))
        keep(f"mlp_out/{i}", mlp, change=lambda v: (v[0] if isinstance(v, tuple) else v).reshape(len(ids), -1) * times)
        router = getattr(mlp, "gate", getattr(mlp, "router", None))
        if router is not None and hasattr(mlp, "experts"):
            keep(f"routes/{i}", router, change=lambda v: torch.zeros_like(v[0]).scatter(1, v[2], v[1].to(v[0].dtype)))
        if hasattr(layer, "conv"):
            keep(f"conv/{i}", layer.conv.out_proj, "input")
        if hasattr(layer, "linear_attn"):
            keep(f"gates/{i}", layer.linear_attn.norm, 1, lambda v: silu(v.reshape(len(ids), -1)))
        elif name.startswith(("qwen35", "qwen3next")):
            keep(f"gates/{i}", layer.self_attn.q_proj, change=halves)
    model.set_attn_implementation("eager")
    module.eager_attention_forward = attend
    try:
        with torch.inference_mode():
            out = model(torch.tensor([ids]), use_cache=True)
    finally:
        module.eager_attention_forward = eager
        for hook in hooks:
            hook.remove()
    for i, cached in enumerate(out.past_key_values.layers):
        state = (getattr(cached, "recurrent_states", None) or {0: None})[0]
        if state is not None and not name.startswith("lfm2"):
            found[f"states/{i}"] = state[0] if name.startswith("qwen3") else state[0].transpose(-1, -2)
    return {key: np.asarray(value.float().numpy()) for key, value in found.items()}


def main() -> None:
    arrays = {f"{name}/{key}": value for name in kinds.NAMES for key, value in observe(name).items()}
    np.savez_compressed(kinds.PATH, **arrays)
    print(f"{kinds.PATH.name}: {kinds.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
