"""Quantities, edits, attributions and patching of small models in transformers, with hooks, in float64 (extra
`reference`): python -m tests.look.inside_hf writes tests/look/inside.npz."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.look import inside
from tests.look.reference import Change, Reference, keep

ONLY = ("gate_proj", "w1", "fc1", "c_fc", "dense_h_to_4h")  # what gates a second product, or the only one


ONLY = ("gate_proj", "w1", "fc1", "c_fc", "dense_h_to_4h")  # gates another product, or is the only one


def quantities(ref: Reference, ids: list[int]) -> dict[str, Any]:
    """With /N, of layer N alone."""
    found: dict[str, Any] = {}
    outputs: list[tuple[Any, Change]] = []
    inputs: list[tuple[Any, Change]] = []
    if hasattr(ref.inner, "embed_tokens"):
        outputs.append((ref.inner.embed_tokens, keep(found, "start")))
    for i, layer in enumerate(ref.layers):
        inputs.append((layer, keep(found, f"hidden/{i}")))
        outputs.append((layer, keep(found, f"hidden/{i + 1}")))
        for part in ("attention", "mlp"):
            outputs += ref.adds(i, part, keep(found, f"{part}_out/{i}"))
        mixer, mlp = ref.mixer(i), ref.network(i)
        if hasattr(layer, "attn_out_multiplier"):  # what attention reads is multiplied once more
            outputs.append((layer.input_layernorm, keep(found, f"attention_in/{i}")))
        elif mixer is not None:
            into = (m for n, m in mixer.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and "out" not in n)
            first = next(m for m in into if i not in ref.attending or m is not ref.projection(i))
            inputs.append((first, keep(found, f"attention_in/{i}")))
        if mlp is not None:
            inputs.append((mlp, keep(found, f"mlp_in/{i}")))
        if hasattr(mixer, "q_norm") and hasattr(mixer, "is_kv_shared_layer"):  # rotated one by one
            for x in "qk":
                if hasattr(mixer, f"{x}_norm"):
                    outputs.append((getattr(mixer, f"{x}_norm"), keep(found, f"{x}_unrotated/{i}")))
        if i in ref.attending:
            inputs.append((ref.projection(i), keep(found, f"mixed/{i}")))
        if ref.latent and i in ref.attending:
            outputs.append((getattr(mixer, "q_b_proj", None) or mixer.q_proj, keep(found, f"queries/{i}")))
            outputs.append((mixer.kv_a_proj_with_mqa, keep(found, f"rows/{i}")))
        if ref.down(i) is not None:
            inputs.append((ref.down(i), keep(found, f"neurons/{i}")))
            alone = hasattr(mlp, "up_proj") and not hasattr(mlp, "gate_proj")  # the only product is the gate
            names = (("up_proj",), ()) if alone else (ONLY, ("up_proj", "w3"))
            for name, modules in zip(("gate", "up", "both"), (*names, ("input_linear", "gate_up_proj"))):
                outputs += [(getattr(mlp, m), keep(found, f"{name}/{i}")) for m in modules if hasattr(mlp, m)]
    final = next(
        getattr(ref.inner, n)
        for n in ("norm", "final_layernorm", "embedding_norm", "ln_f", "final_layer_norm", "norm_f")
        if hasattr(ref.inner, n)
    )
    outputs.append((final, keep(found, "final")))
    rotate = getattr(ref.module, "apply_rotary_pos_emb", None)
    turned: list[Any] = []

    def rotating(q: Any, k: Any, *args: Any, **options: Any) -> Any:
        if q.ndim == k.ndim == 4:
            turned.append((q[0], k[0]))
        return rotate(q, k, *args, **options)  # type: ignore[misc]

    def attend(i: int, q: Any, k: Any, v: Any, eager: Any) -> Any:
        if not turned and not ref.latent and f"q_unrotated/{i}" not in found:
            ref.still.add(i)
        before = turned.pop() if turned else (q[0].clone(), k[0].clone())
        if f"q_unrotated/{i}" not in found and not ref.latent:
            found[f"q_unrotated/{i}"], found[f"k_unrotated/{i}"] = before
        found.update(zip((f"q/{i}", f"k/{i}", f"v/{i}"), (x.clone() for x in ref.used(i, q, k, v)), strict=True))
        out = eager(q, k, v)
        found[f"attention/{i}"] = ref.weights(i, out[0], out[1], v)[0]
        return out

    if rotate is not None:
        ref.module.apply_rotary_pos_emb = rotating
    try:
        with ref.changed(outputs, inputs, attend):
            found["logits"] = ref.logits(ids)
    finally:
        if rotate is not None:
            ref.module.apply_rotary_pos_emb = rotate
    for key in [key for key in found if "_unrotated/" in key]:
        if found[key].shape[-1] != ref.width and found[key].ndim > 2:
            del found[key]  # the rotated part alone
    for key in found:
        name, _, number = key.partition("/")
        if name in ("q_unrotated", "k_unrotated"):
            found[key] = ref.ours(found[key], int(number))
    for i in ref.attending if ref.latent else ():
        rank = ref.heads_of(i).kv_lora_rank
        queries = ref.absorbed(i, found.pop(f"queries/{i}").view(len(ids), ref.heads, -1).transpose(0, 1))
        rows = torch.cat([ref.rows[i][0, :, :rank], found.pop(f"rows/{i}")[:, rank:]], -1)[None]
        beside = ref.config.model_type == "deepseek_v2" or getattr(ref.config, "rope_interleave", False)
        queries, rows = (ref.apart(x, rank) if beside else x for x in (queries, rows))
        found |= {f"q_unrotated/{i}": queries, f"k_unrotated/{i}": rows}
    start = found.pop("start", None)
    scaled = any(hasattr(ref.config, name) for name in ("embedding_multiplier", "scale_emb"))
    found["embeddings"] = found["hidden/0"] if start is None or scaled else start
    for i in range(len(ref.layers)):
        if f"both/{i}" in found:
            found[f"gate/{i}"], found[f"up/{i}"] = found.pop(f"both/{i}").chunk(2, -1)
        if f"gate/{i}" in found:
            found[f"gate/{i}"] = found[f"gate/{i}"] * getattr(ref.network(i), "gate_multiplier", 1.0)
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
    networks = [i for i in range(n) if ref.network(i) is not None]
    net = next((i for i in networks if i >= at), networks[-1])
    for part, layer in (("attention", at), ("mlp", net)):
        found.append({"do": "add", "layer": layer, "positions": where, "vector": [d], "part": part})
        found.append({"do": "patch", "layer": layer, "positions": where, "values": [3, d], "part": part})
    found.append({"do": "scale_head", "layer": at, "head": ref.heads - 1, "positions": where, "factor": 2.0})
    own = (("output", ref.heads - 1), ("q", 1), ("k", ref.kv_heads(at) - 1), ("v", 0))
    for part, head in own[:3] if ref.latent else own:
        attention = ref.heads_of(at)
        cached = attention.kv_lora_rank + attention.qk_rope_head_dim if ref.latent and part in "qk" else w
        call = {"do": "patch_head", "layer": at, "head": head, "positions": where, "values": [3, cached], "part": part}
        found.append(call)
    found.append({"do": "patch_pattern", "layer": at, "head": 1, "positions": where, "weights": [3, 8]})
    found.append({"do": "cut", "layer": at, "head": [0, ref.heads - 1], "positions": [5, 9], "sources": [0, 4, 5]})
    found.append({"do": "cut", "layer": at, "head": 1, "positions": None, "sources": [0]})
    if ref.down(net) is not None:
        found.append({"do": "scale_neurons", "layer": net, "neurons": [5, 1, 2], "positions": where, "factor": 3.0})
        found.append({"do": "set_neurons", "layer": net, "neurons": [9, 1, 2], "positions": where, "values": [3, 3]})
        found.append({"do": "set_neurons", "layer": net, "neurons": [4, 0], "positions": None, "values": [2]})
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
        width = ref.value_width(layer) if "head" in call else 0
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
        if do == "patch_head" and not ref.latent:
            # in place: later layers may read the keys and values, too
            {"q": q, "k": k, "v": v}[part][0, call["head"], rows] = array if part == "v" else ref.theirs(array, i)
            return eager(q, k, v)
        out, given = eager(q, k, v)
        weights, out = ref.weights(i, out, given, v), out.clone()
        if do == "patch_head":
            queries = ref.absorbed(i, q[0])[call["head"]]
            queries[rows] = ref.theirs(array, i)
            scores = queries @ ref.rows[i][0].T * ref.heads_of(i).scaling
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            out[0, :, call["head"]] = scores.softmax(-1) @ v[0, call["head"]]
            return out, weights
        heads = call["head"] if isinstance(call["head"], list) else [call["head"]]
        for h in heads:
            w = weights[0, h]
            if do == "cut":
                mask = torch.ones(len(ids), len(ids), dtype=w.dtype)
                for p in range(len(ids)) if call["positions"] is None else rows:
                    mask[p, call["sources"]] = 0
                sink = (1 - w.sum(-1, keepdim=True)) if hasattr(ref.heads_of(i), "sinks") else 0
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
            outputs.append((ref.inner.embed_tokens, change))  # which layers read again
        elif layer == "embeddings":
            inputs.append((ref.layers[0], change))
        else:
            outputs += [(ref.layers[layer], change)] if part is None else ref.adds(layer, part, change)
    elif do in ("scale_head", "patch_head") and part in (None, "output"):
        inputs.append((ref.projection(layer), columns))
    elif do in ("scale_neurons", "set_neurons"):
        inputs.append((ref.down(layer), columns))
    elif ref.latent and part == "k":

        def cached(i: int, x: Any) -> Any:
            if i == layer:
                x[0, 0, rows] = ref.theirs(array, i)
            return x

        ref.rows_change = cached
    else:
        attend = weighing
    try:
        with ref.changed(outputs, inputs, attend):
            return ref.logits(ids)
    finally:
        ref.rows_change = None


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
            found = observe(name)
            if name in inside.FEW:
                edits = found.pop("edits")
                found = {"edits": edits, **inside.packed({key: inside.few(key, one) for key, one in found.items()})}
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
            print(name, flush=True)
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
