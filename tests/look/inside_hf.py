"""Quantities, edits, attributions and patching of small models in transformers, with hooks, in float64 (extra
`reference`): python -m tests.look.inside_hf writes tests/look/inside.npz."""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.families import reference
from tests.families.case import load_golden
from tests.look import inside, kinds
from tests.reference import hf, tiny

Change = Callable[[Any], Any]


class Reference:
    """A model, and the places of its layers that hooks change."""

    def __init__(self, name: str, folder: Path) -> None:
        if name in inside.DENSE:
            self.model: Any = hf.load_folder(tiny.write_folder(inside.DENSE[name], folder), torch.float64)
        else:
            case = kinds.CASES[name]
            self.model = reference.load(case, load_golden(case), folder, torch.float64)
        self.config = self.model.config
        self.layers = self.model.model.layers
        self.module: Any = importlib.import_module(type(self.layers[0]).__module__)
        self.model.set_attn_implementation("eager")
        self.heads = self.config.num_attention_heads
        self.kv_heads = self.config.num_key_value_heads
        self.width = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads
        self.attending = [i for i, layer in enumerate(self.layers) if hasattr(layer, "self_attn")]

    def attention(self, i: int) -> Any:
        """The module whose output attention (or a recurrence) adds."""
        layer = self.layers[i]
        if hasattr(layer, "pre_feedforward_layernorm") or type(layer).__name__.startswith("Olmo2"):
            return layer.post_attention_layernorm
        return next(getattr(layer, n) for n in ("self_attn", "linear_attn", "conv") if hasattr(layer, n))

    def mlp(self, i: int) -> Any:
        """The module whose output the feed-forward network adds."""
        layer = self.layers[i]
        if hasattr(layer, "pre_feedforward_layernorm") or type(layer).__name__.startswith("Olmo2"):
            return layer.post_feedforward_layernorm
        return getattr(layer, "feed_forward", None) or layer.mlp

    def projection(self, i: int) -> Any:
        attention = self.layers[i].self_attn
        return next(getattr(attention, n) for n in ("o_proj", "out_proj", "dense") if hasattr(attention, n))

    def down(self, i: int) -> Any:
        """The projection of a dense network's neurons; None for experts."""
        mlp = getattr(self.layers[i], "feed_forward", None) or self.layers[i].mlp
        return next((getattr(mlp, n) for n in ("down_proj", "w2", "fc2") if hasattr(mlp, n)), None)

    @contextlib.contextmanager
    def changed(self, outputs: Any = (), inputs: Any = (), attend: Any = None) -> Iterator[None]:
        """outputs, inputs: [(module, function of its output or input (n, width))]; attend: function of (layer, q, k, v,
        eager) that returns (output, weights)."""
        hooks: list[Any] = []
        eager: Any = getattr(self.module, "eager_attention_forward", None)

        def out(change: Change) -> Any:
            def hook(_m: Any, _i: Any, output: Any) -> Any:
                whole = output if isinstance(output, tuple) else (output,)
                first = whole[0]
                new = change(first.reshape(-1, first.shape[-1]).clone())
                if new is None:
                    return None
                new = new.reshape(first.shape)
                return (new, *whole[1:]) if isinstance(output, tuple) else new

            return hook

        def into(change: Change) -> Any:
            def hook(_m: Any, given: Any) -> Any:
                new = change(given[0].reshape(-1, given[0].shape[-1]).clone())
                return None if new is None else (new.reshape(given[0].shape), *given[1:])

            return hook

        hooks += [module.register_forward_hook(out(change)) for module, change in outputs]
        hooks += [module.register_forward_pre_hook(into(change)) for module, change in inputs]

        def attending(attention: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
            return attend(attention.layer_idx, q, k, v, lambda q, k, v: eager(attention, q, k, v, *args, **options))

        if attend is not None:
            self.module.eager_attention_forward = attending
        try:
            yield
        finally:
            if attend is not None:
                self.module.eager_attention_forward = eager
            for hook in hooks:
                hook.remove()

    def logits(self, ids: list[int]) -> Any:
        with torch.inference_mode():
            return self.model(torch.tensor([ids]), use_cache=False).logits[0]


def keep(into: dict[str, Any], key: str) -> Change:
    def change(x: Any) -> None:
        into[key] = x

    return change


def quantities(ref: Reference, ids: list[int]) -> dict[str, Any]:
    """With /N, of layer N alone."""
    found: dict[str, Any] = {}
    outputs, inputs = [(ref.model.model.embed_tokens, keep(found, "start"))], []
    for i, layer in enumerate(ref.layers):
        inputs.append((layer, keep(found, f"hidden/{i}")))
        outputs += [(layer, keep(found, f"hidden/{i + 1}")), (ref.attention(i), keep(found, f"attention_out/{i}"))]
        outputs.append((ref.mlp(i), keep(found, f"mlp_out/{i}")))
        part = next(getattr(layer, n) for n in ("self_attn", "linear_attn", "conv") if hasattr(layer, n))
        first = next(m for n, m in part.named_modules() if isinstance(m, torch.nn.Linear) and "out" not in n)
        inputs.append((first, keep(found, f"attention_in/{i}")))
        mlp = getattr(layer, "feed_forward", None) or layer.mlp
        inputs.append((mlp, keep(found, f"mlp_in/{i}")))
        if i in ref.attending:
            inputs.append((ref.projection(i), keep(found, f"mixed/{i}")))
        if ref.down(i) is not None:
            inputs.append((ref.down(i), keep(found, f"neurons/{i}")))
            for name, modules in (("gate", ("gate_proj", "w1", "fc1")), ("up", ("up_proj", "w3"))):
                outputs += [(getattr(mlp, m), keep(found, f"{name}/{i}")) for m in modules if hasattr(mlp, m)]
    final = next(
        getattr(ref.model.model, n)
        for n in ("norm", "final_layernorm", "embedding_norm")
        if hasattr(ref.model.model, n)
    )
    outputs.append((final, keep(found, "final")))
    rotate = ref.module.apply_rotary_pos_emb
    turned: list[Any] = []

    def rotating(q: Any, k: Any, *args: Any, **options: Any) -> Any:
        turned.append((q[0], k[0]))
        return rotate(q, k, *args, **options)

    def attend(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
        found.update({f"q/{i}": q[0], f"k/{i}": k[0], f"v/{i}": v[0]})
        out = eager(q, k, v)
        found[f"attention/{i}"] = out[1][0][..., : len(ids)]
        return out

    ref.module.apply_rotary_pos_emb = rotating
    try:
        with ref.changed(outputs, inputs, attend):
            found["logits"] = ref.logits(ids)
    finally:
        ref.module.apply_rotary_pos_emb = rotate
    for i, (q, k) in zip(ref.attending, turned, strict=True):
        found |= {f"q_unrotated/{i}": q, f"k_unrotated/{i}": k} if q.shape[-1] == ref.width else {}
    found["embeddings"] = found.pop("start") if "start" in found else found["hidden/0"]
    for i in range(len(ref.layers)):
        if f"attention_out/{i}" in found:
            found[f"middle/{i}"] = found[f"hidden/{i}"] + found[f"attention_out/{i}"]
        if f"mixed/{i}" in found:
            found[f"mixed/{i}"] = found[f"mixed/{i}"].view(len(ids), ref.heads, -1).transpose(0, 1)
    return found


# ---- edits --------------------------------------------------------------------------------------------------------


def edits(ref: Reference) -> list[dict[str, Any]]:
    """[{"do": method of Edit, its arguments}]; values are made of `seed` and `shape`."""
    at, n = ref.attending[min(1, len(ref.attending) - 1)], len(ref.layers)
    d, w, where = ref.config.hidden_size, ref.width, [2, 3, 7]
    found: list[dict[str, Any]] = [
        {"do": "add", "layer": "embeddings", "positions": where, "vector": [d]},
        {"do": "patch", "layer": "embeddings", "positions": where, "values": [3, d]},
        {"do": "scale", "layer": 0, "positions": where, "factor": 0.5},
        {"do": "scale", "layer": n - 1, "positions": None, "factor": 0.25},
    ]
    for part in ("attention", "mlp"):
        found.append({"do": "add", "layer": at, "positions": where, "vector": [d], "part": part})
        found.append({"do": "patch", "layer": at, "positions": where, "values": [3, d], "part": part})
    found.append({"do": "scale_head", "layer": at, "head": ref.heads - 1, "positions": where, "factor": 2.0})
    for part, head in (("output", ref.heads - 1), ("q", 1), ("k", ref.kv_heads - 1), ("v", 0)):
        call = {"do": "patch_head", "layer": at, "head": head, "positions": where, "values": [3, w], "part": part}
        found.append(call)
    found.append({"do": "patch_pattern", "layer": at, "head": 1, "positions": where, "weights": [3, 8]})
    found.append({"do": "cut", "layer": at, "head": [0, ref.heads - 1], "positions": [5, 9], "sources": [0, 4, 5]})
    found.append({"do": "cut", "layer": at, "head": 1, "positions": None, "sources": [0]})
    if ref.down(at) is not None:
        found.append({"do": "scale_neurons", "layer": at, "neurons": [5, 1, 2], "positions": where, "factor": 3.0})
        found.append({"do": "set_neurons", "layer": at, "neurons": [9, 1, 2], "positions": where, "values": [3, 3]})
        found.append({"do": "set_neurons", "layer": at, "neurons": [4, 0], "positions": None, "values": [2]})
    return found


def edited(ref: Reference, ids: list[int], do: str, call: dict[str, Any]) -> Any:
    """Logits with an edit, which hooks make."""
    layer = call["layer"]
    rows: Any = slice(None) if call["positions"] is None else call["positions"]
    array: Any = next(
        (torch.tensor(call[k], dtype=torch.float64) for k in ("values", "vector", "weights") if k in call), None
    )
    part: Any = call.get("part")
    outputs, inputs, attend = [], [], None

    def change(x: Any) -> Any:
        if do == "add":
            x[rows] += array
        elif do == "scale":
            x[rows] *= call["factor"]
        else:
            x[rows] = array
        return x

    def columns(x: Any) -> Any:
        if do == "scale_head":
            own = slice(call["head"] * ref.width, (call["head"] + 1) * ref.width)
            x[rows, own] *= call["factor"]
        elif do == "patch_head":
            own = slice(call["head"] * ref.width, (call["head"] + 1) * ref.width)
            x[rows, own] = array
        else:
            for i, neuron in enumerate(call["neurons"]):
                x[rows, neuron] = x[rows, neuron] * call["factor"] if do == "scale_neurons" else array[..., i]
        return x

    def weighing(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
        if i != layer:
            return eager(q, k, v)
        if do == "patch_head":
            which = {"q": q, "k": k, "v": v}[part] = {"q": q, "k": k, "v": v}[part].clone()
            which[0, call["head"], rows] = array
            return eager(*(which if name == part else own for name, own in zip("qkv", (q, k, v), strict=True)))
        out, weights = eager(q, k, v)
        weights, out = weights[..., : len(ids)].clone(), out.clone()
        heads = call["head"] if isinstance(call["head"], list) else [call["head"]]
        for h in heads:
            w = weights[0, h]
            if do == "cut":
                kept = torch.ones_like(w)
                kept[rows if call["positions"] is not None else slice(None), :] = 1
                mask = torch.ones(len(ids), len(ids), dtype=w.dtype)
                for p in range(len(ids)) if call["positions"] is None else rows:
                    mask[p, call["sources"]] = 0
                lost = (w * (1 - mask)).sum(-1, keepdim=True)
                w = torch.where(1 - lost > 1e-9, w * mask / (1 - lost).clamp(min=1e-30), torch.zeros_like(w))
            else:
                seen = w > 0
                for i_, p in enumerate(rows):
                    w[p] = 0
                    w[p, : array.shape[1]] = array[i_]
                w = w * seen
            out[0, :, h] = w @ v[0, h // (q.shape[1] // v.shape[1])]
        return out, weights

    if do in ("add", "patch", "scale"):
        if layer == "embeddings":
            inputs.append((ref.layers[0], change))
        else:
            module = (
                ref.layers[layer] if part is None else ref.attention(layer) if part == "attention" else ref.mlp(layer)
            )
            outputs.append((module, change))
    elif do in ("scale_head", "patch_head") and part in (None, "output"):
        inputs.append((ref.projection(layer), columns))
    elif do in ("scale_neurons", "set_neurons"):
        inputs.append((ref.down(layer), columns))
    else:
        attend = weighing
    with ref.changed(outputs, inputs, attend):
        return ref.logits(ids)


# ---- patching -----------------------------------------------------------------------------------------------------


def patching(ref: Reference, clean: list[int], corrupt: list[int], what: str) -> Any:
    """(layers, positions), or (layers, heads, positions): the logit of token 5 less that of token 7, after the last."""
    there, n = quantities(ref, clean), len(clean)
    kept = {"hidden": 1}.get(what, 0)
    found = []
    for i in range(len(ref.layers)):
        for h in range(ref.heads) if what == "mixed" else [0]:
            for p in range(n):
                if f"{what}/{i + kept}" not in there:
                    found.append(float("nan"))
                    continue
                new = there[f"{what}/{i + kept}"]

                def change(x: Any, new: Any = new, h: int = h, p: int = p) -> Any:
                    if what == "mixed":
                        x[p, h * ref.width : (h + 1) * ref.width] = new[h, p]
                    else:
                        x[p] = new[p]
                    return x

                module = {
                    "hidden": lambda i=i: ref.layers[i],
                    "attention_out": lambda i=i: ref.attention(i),
                    "mlp_out": lambda i=i: ref.mlp(i),
                    "mixed": lambda i=i: ref.projection(i),
                }[what]()
                pair = [(module, change)]
                with ref.changed(*(((), pair) if what == "mixed" else (pair, ()))):
                    row = ref.logits(corrupt)[-1]
                found.append(float(row[5] - row[7]))
    return torch.tensor(found).view(len(ref.layers), -1, n).squeeze(1)


def observe(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ref = Reference(name, Path(folder))
    vocab = ref.config.vocab_size
    ids, other = inside.ids_of(name, vocab), inside.ids_of(name, vocab, 1)
    found = quantities(ref, ids)
    calls = edits(ref)
    for i, call in enumerate(calls):
        found[f"edit/{i}"] = edited(ref, ids, call["do"], inside.values(call, i))
    for what in ("hidden", "attention_out", "mlp_out", "mixed"):
        found[f"patching/{what}"] = patching(ref, other, ids, what)
    arrays = {key: np.asarray(value.float().numpy()) for key, value in found.items()}
    return {**arrays, "edits": np.array(json.dumps(calls))}


def main() -> None:
    arrays: dict[str, Any] = {}
    for name in inside.NAMES:
        arrays |= {f"{name}/{key}": value for key, value in observe(name).items()}
        print(name, flush=True)
    np.savez_compressed(inside.PATH, **arrays)
    print(f"{inside.PATH.name}: {inside.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
