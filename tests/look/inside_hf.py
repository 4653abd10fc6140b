"""Quantities, edits, attributions and patching of small models in transformers, with hooks, in float64 (extra
`reference`): python -m tests.look.inside_hf writes tests/look/inside.npz."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.families import reference
from tests.families.case import load_golden
from tests.look import inside
from tests.reference import hf, tiny

Change = Callable[[Any], Any]


class Reference:
    """A model, and the places of its layers that hooks change."""

    def __init__(self, name: str, folder: Path) -> None:
        if name in inside.DENSE:
            self.model: Any = hf.load_folder(tiny.write_folder(inside.DENSE[name], folder), torch.float64)
        else:
            case = inside.CASES[name]
            self.model = reference.load(case, load_golden(case), folder, torch.float64)
        self.config = self.model.config
        self.layers = self.model.model.layers
        self.module: Any = importlib.import_module(type(self.layers[0]).__module__)
        self.model.set_attn_implementation("eager")
        self.heads = self.config.num_attention_heads
        self.attending = [i for i, layer in enumerate(self.layers) if getattr(layer, "self_attn", None) is not None]
        first = self.layers[self.attending[0]].self_attn
        self.width = getattr(first, "head_dim", None) or self.config.hidden_size // self.heads
        self.interleaved = self.config.model_type.startswith("cohere")
        self.times = getattr(self.config, "residual_multiplier", 1.0)
        # keys and values as projections of a latent row: not what the model stores
        self.latent = hasattr(first, "kv_b_proj")

    def ours(self, x: Any) -> Any:
        """Channels of queries and keys in a trace's order: i and i + n / 2 are a rotated pair."""
        return torch.cat([x[..., 0::2], x[..., 1::2]], -1) if self.interleaved else x

    def theirs(self, x: Any) -> Any:
        return torch.stack(x.chunk(2, -1), -1).flatten(-2) if self.interleaved else x

    def attention(self, i: int) -> Any:
        """The module whose output attention (or a recurrence) adds."""
        layer = self.layers[i]
        if hasattr(layer, "pre_feedforward_layernorm") or type(layer).__name__.startswith("Olmo2"):
            return layer.post_attention_layernorm
        return self.mixer(i)

    def mixer(self, i: int) -> Any:
        """The attention, or recurrence."""
        names = ("self_attn", "linear_attn", "conv", "mamba")
        return next(m for n in names if (m := getattr(self.layers[i], n, None)) is not None)

    def network(self, i: int) -> Any:
        """The feed-forward network; of two that stand side by side, the dense one."""
        names = ("feed_forward", "mlp", "shared_mlp")
        return next(m for n in names if (m := getattr(self.layers[i], n, None)) is not None)

    def mlp(self, i: int) -> Any:
        """The module whose output the feed-forward network adds."""
        layer = self.layers[i]
        if hasattr(layer, "pre_feedforward_layernorm") or type(layer).__name__.startswith("Olmo2"):
            return layer.post_feedforward_layernorm
        return self.network(i)

    def adds(self, i: int, part: str, change: Change) -> list[tuple[Any, Change]]:
        """Hooks that change what a part of a layer adds to the residual stream."""
        experts = getattr(self.layers[i], "block_sparse_moe", None) if part == "mlp" else None
        beside: dict[str, Any] = {"x": 0.0}
        if experts is self.network(i):
            experts = None

        def scaled(x: Any) -> Any:
            new = change((x + beside["x"]) * self.times)
            return None if new is None else new / self.times - beside["x"]

        own: tuple[Any, Change] = (self.attention(i) if part == "attention" else self.mlp(i), scaled)
        return [own] if experts is None else [(experts, keep(beside, "x")), own]

    def kv_heads(self, i: int) -> int:
        return int(self.heads) // int(getattr(self.layers[i].self_attn, "num_key_value_groups", 1))

    def value_width(self, i: int) -> int:
        """Columns of a head's output."""
        return int(self.projection(i).weight.shape[1]) // int(self.heads)

    def projection(self, i: int) -> Any:
        attention = self.layers[i].self_attn
        return next(getattr(attention, n) for n in ("o_proj", "out_proj", "dense") if hasattr(attention, n))

    def down(self, i: int) -> Any:
        """The projection of a dense network's neurons; None where there are experts."""
        layer, mlp = self.layers[i], self.network(i)
        if getattr(layer, "block_sparse_moe", None) is not None or getattr(layer, "enable_moe_block", False):
            return None
        names = ("down_proj", "w2", "fc2", "output_linear")
        return next((getattr(mlp, n) for n in names if hasattr(mlp, n)), None)

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
        outputs.append((layer, keep(found, f"hidden/{i + 1}")))
        for part in ("attention", "mlp"):
            outputs += ref.adds(i, part, keep(found, f"{part}_out/{i}"))
        mixer, mlp = ref.mixer(i), ref.network(i)
        first = next(m for n, m in mixer.named_modules() if isinstance(m, torch.nn.Linear) and "out" not in n)
        inputs.append((first, keep(found, f"attention_in/{i}")))
        inputs.append((mlp, keep(found, f"mlp_in/{i}")))
        if hasattr(mixer, "q_norm") and hasattr(mixer, "is_kv_shared_layer"):  # rotated one by one
            for x in "qk":
                if hasattr(mixer, f"{x}_norm"):
                    outputs.append((getattr(mixer, f"{x}_norm"), keep(found, f"{x}_unrotated/{i}")))
        if i in ref.attending:
            inputs.append((ref.projection(i), keep(found, f"mixed/{i}")))
        if ref.down(i) is not None:
            inputs.append((ref.down(i), keep(found, f"neurons/{i}")))
            for name, modules in (("gate", ("gate_proj", "w1", "fc1")), ("up", ("up_proj", "w3"))):
                outputs += [(getattr(mlp, m), keep(found, f"{name}/{i}")) for m in modules if hasattr(mlp, m)]
            if hasattr(mlp, "input_linear"):
                outputs.append((mlp.input_linear, keep(found, f"both/{i}")))
    final = next(
        getattr(ref.model.model, n)
        for n in ("norm", "final_layernorm", "embedding_norm")
        if hasattr(ref.model.model, n)
    )
    outputs.append((final, keep(found, "final")))
    rotate = getattr(ref.module, "apply_rotary_pos_emb", None)
    turned: list[Any] = []

    def rotating(q: Any, k: Any, *args: Any, **options: Any) -> Any:
        if q.ndim == k.ndim == 4:
            turned.append((q[0], k[0]))
        return rotate(q, k, *args, **options)  # type: ignore[misc]

    def attend(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
        found.update({f"q/{i}": q[0].clone(), f"k/{i}": k[0].clone(), f"v/{i}": v[0].clone()})
        out = eager(q, k, v)
        found[f"attention/{i}"] = out[1][0][..., : len(ids)]
        return out

    if rotate is not None:
        ref.module.apply_rotary_pos_emb = rotating
    try:
        with ref.changed(outputs, inputs, attend):
            found["logits"] = ref.logits(ids)
    finally:
        if rotate is not None:
            ref.module.apply_rotary_pos_emb = rotate
    if not ref.latent:
        unrotated = turned or [(found[f"q/{i}"], found[f"k/{i}"]) for i in ref.attending]
        for i, (q, k) in zip(ref.attending, unrotated, strict=True):
            if f"q_unrotated/{i}" not in found and q.shape[-1] == ref.width:
                found |= {f"q_unrotated/{i}": q, f"k_unrotated/{i}": k}
    for key in found:
        if key.split("/")[0] in ("q", "k", "q_unrotated", "k_unrotated"):
            found[key] = ref.ours(found[key])
    start = found.pop("start", None)
    found["embeddings"] = found["hidden/0"] if start is None or hasattr(ref.config, "embedding_multiplier") else start
    for i in range(len(ref.layers)):
        if f"both/{i}" in found:
            found[f"gate/{i}"], found[f"up/{i}"] = found.pop(f"both/{i}").chunk(2, -1)
        for x in "qk":
            if (rows := found.get(f"{x}_unrotated/{i}")) is not None and rows.ndim == 2:
                found[f"{x}_unrotated/{i}"] = rows.view(len(ids), -1, rows.shape[-1]).transpose(0, 1)
        if f"attention_out/{i}" in found:
            found[f"middle/{i}"] = found[f"hidden/{i}"] + found[f"attention_out/{i}"]
        if f"mixed/{i}" in found:
            found[f"mixed/{i}"] = found[f"mixed/{i}"].view(len(ids), ref.heads, -1).transpose(0, 1)
    return found


# ---- edits --------------------------------------------------------------------------------------------------------


def edits(ref: Reference) -> list[dict[str, Any]]:
    """[{"do": method of Edit, its arguments}]; values are made of `seed` and `shape`."""
    at, n = ref.attending[min(1, len(ref.attending) - 1)], len(ref.layers)
    d, w, where = ref.config.hidden_size, ref.value_width(at), [2, 3, 7]
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
    own = (("output", ref.heads - 1), ("q", 1), ("k", ref.kv_heads(at) - 1), ("v", 0))
    for part, head in own[:1] if ref.latent else own:
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
    outputs: list[tuple[Any, Change]] = []
    inputs, attend = [], None

    def change(x: Any) -> Any:
        if do == "add":
            x[rows] += array
        elif do == "scale":
            x[rows] *= call["factor"]
        else:
            x[rows] = array
        return x

    def columns(x: Any) -> Any:
        width = ref.value_width(layer)
        own = slice(call.get("head", 0) * width, (call.get("head", 0) + 1) * width)
        if do == "scale_head":
            x[rows, own] *= call["factor"]
        elif do == "patch_head":
            x[rows, own] = array
        else:
            for i, neuron in enumerate(call["neurons"]):
                x[rows, neuron] = x[rows, neuron] * call["factor"] if do == "scale_neurons" else array[..., i]
        return x

    def weighing(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
        if i != layer:
            return eager(q, k, v)
        if do == "patch_head":
            # in place: later layers may read the keys and values, too
            {"q": q, "k": k, "v": v}[part][0, call["head"], rows] = array if part == "v" else ref.theirs(array)
            return eager(q, k, v)
        out, weights = eager(q, k, v)
        weights, out = weights[..., : len(ids)].clone(), out.clone()
        heads = call["head"] if isinstance(call["head"], list) else [call["head"]]
        for h in heads:
            w = weights[0, h]
            if do == "cut":
                mask = torch.ones(len(ids), len(ids), dtype=w.dtype)
                for p in range(len(ids)) if call["positions"] is None else rows:
                    mask[p, call["sources"]] = 0
                sink = (1 - w.sum(-1, keepdim=True)) if hasattr(ref.layers[i].self_attn, "sinks") else 0
                kept = (w * mask).sum(-1, keepdim=True) + sink
                w = torch.where(kept > 0, w * mask / kept.clamp(min=1e-30), torch.zeros_like(w))
            else:
                seen = w > 0
                for i_, p in enumerate(rows):
                    w[p] = 0
                    w[p, : array.shape[1]] = array[i_]
                w = w * seen
            out[0, :, h] = w @ v[0, h // (q.shape[1] // v.shape[1])]
        return out, weights

    if do in ("add", "patch", "scale"):
        if layer == "embeddings" and getattr(ref.config, "hidden_size_per_layer_input", 0):
            outputs.append((ref.model.model.embed_tokens, change))  # which layers read again
        elif layer == "embeddings":
            inputs.append((ref.layers[0], change))
        else:
            outputs += [(ref.layers[layer], change)] if part is None else ref.adds(layer, part, change)
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
                        width = new.shape[-1]
                        x[p, h * width : (h + 1) * width] = new[h, p]
                    else:
                        x[p] = new[p]
                    return x

                pair = {
                    "hidden": lambda c=change, i=i: [(ref.layers[i], c)],
                    "attention_out": lambda c=change, i=i: ref.adds(i, "attention", c),
                    "mlp_out": lambda c=change, i=i: ref.adds(i, "mlp", c),
                    "mixed": lambda c=change, i=i: [(ref.projection(i), c)],
                }[what]()
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
    if ref.latent:
        found = {key: value for key, value in found.items() if key.partition("/")[0] not in ("q", "k", "v")}
    arrays = {key: np.asarray(value.float().numpy()) for key, value in found.items()}
    return {**arrays, "edits": np.array(json.dumps(calls))}


def main() -> None:
    """Writes both files; only those models that are named, beside what the files have of others, where some are."""
    for path, names in ((inside.PATH, (*inside.DENSE, *inside.KINDS)), (inside.FEW_PATH, inside.FEW)):
        wanted = [name for name in names if name in sys.argv[1:] or len(sys.argv) < 2]
        if not wanted:
            continue
        arrays: dict[str, Any] = {}
        if len(wanted) < len(names) and path.exists():
            with np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files if key.partition("/")[0] not in wanted}
        for name in wanted:
            for key, value in observe(name).items():
                whole = name not in inside.FEW or key == "edits"
                arrays[f"{name}/{key}"] = value if whole else inside.few(key, value)
            print(name, flush=True)
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
