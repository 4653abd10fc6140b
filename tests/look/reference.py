"""A small model in transformers, in float64, and the places of its layers that hooks read and change (extra
`reference`)."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.families import reference
from tests.families.case import load_golden
from tests.look import inside
from tests.reference import hf, tiny

__all__ = ["Change", "Reference", "keep", "weight"]

Change = Callable[[Any], Any]
HEADS = ("self_attn", "attn", "attention", "mixer")
PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj")


def part(layer: Any, *names: str) -> Any:
    """The first of these modules that a layer has; None: none of them."""
    return next((m for n in names if (m := getattr(layer, n, None)) is not None), None)


def attends(layer: Any) -> bool:
    """Not so: a recurrence, and a layer that is a feed-forward network alone."""
    found = part(layer, *HEADS)
    return any(hasattr(found, name) for name in PROJECTIONS) and not any(hasattr(found, n) for n in ("A_log", "conv1d"))


def weight(linear: Any) -> Any:
    """(outputs, inputs), also of GPT-2's, which has them the other way round."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight


class Reference:
    """A model, and the places of its layers that hooks change."""

    def __init__(self, name: str, folder: Path) -> None:
        if name in inside.DENSE:
            self.model: Any = hf.load_folder(tiny.write_folder(inside.DENSE[name], folder), torch.float64)
        else:
            case = inside.CASES[name]
            self.model = reference.load(case, load_golden(case), folder, torch.float64)
        self.config = self.model.config
        self.inner = getattr(self.model, self.model.base_model_prefix)
        self.layers = getattr(self.inner, "layers", None) or self.inner.h
        self.head = self.model.get_output_embeddings()
        self.module: Any = importlib.import_module(type(self.layers[0]).__module__)
        self.model.set_attn_implementation("eager")
        self.heads = self.config.num_attention_heads
        self.attending = [i for i, layer in enumerate(self.layers) if attends(layer)]
        first = self.heads_of(self.attending[0])
        self.width = getattr(first, "head_dim", None) or self.config.hidden_size // self.heads
        kind = self.config.model_type
        self.interleaved = kind.startswith(("cohere", "ernie4_5")) or kind == "glm4"
        rotated = (getattr(self.config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
        self.rotated = int(self.width * rotated)
        self.times = getattr(self.config, "residual_multiplier", getattr(self.layers[0], "residual_scale", 1.0))
        self.still: set[int] = set()  # layers that rotate nothing, known after a run
        # Keys and values are products of one latent row for all heads, which with its rotated part is what is cached.
        self.latent = hasattr(first, "kv_b_proj")
        self.rows: dict[int, Any] = {}  # (1, n, rank + rotated) of the last run
        self.rows_change: Any = None  # a function of (layer, rows)
        for i in self.attending if self.latent else ():
            self.heads_of(i).expand_kv = self._expanding(i, self.heads_of(i).expand_kv)

    def _expanding(self, i: int, expand: Any) -> Any:
        def expanding(latent: Any, rotated: Any) -> Any:
            rows = torch.cat([latent, rotated], -1)
            if self.rows_change is not None:
                rows = self.rows_change(i, rows)
            self.rows[i] = rows[0]
            return expand(rows[..., : latent.shape[-1]], rows[..., latent.shape[-1] :])

        return expanding

    def absorbed(self, i: int, q: Any) -> Any:
        """Queries (heads, n, columns) as products with latent rows take them."""
        attention = self.heads_of(i)
        still, rotated = q.split([attention.qk_nope_head_dim, attention.qk_rope_head_dim], -1)
        return torch.cat([still @ self.of_latent(i)[0], rotated], -1)

    def of_latent(self, i: int) -> tuple[Any, Any]:
        """The matrices that make keys and values of a latent row -> (heads, columns, rank) each."""
        attention = self.heads_of(i)
        w = attention.kv_b_proj.weight.detach().view(self.heads, -1, attention.kv_lora_rank)
        return w[:, : attention.qk_nope_head_dim], w[:, attention.qk_nope_head_dim :]

    def used(self, i: int, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """(heads, n, columns) as the model keeps and multiplies them, in a trace's order."""
        if not self.latent:
            return self.ours(q[0], i), self.ours(k[0], i), v[0]
        rank = self.heads_of(i).kv_lora_rank
        mixed = self.config.model_type == "deepseek_v2"  # others put the pairs of a rotation apart
        queries, rows = (self.apart(x, rank) if mixed else x for x in (self.absorbed(i, q[0]), self.rows[i]))
        return queries, rows, self.rows[i][..., :rank]

    @staticmethod
    def apart(x: Any, first: int) -> Any:
        """Pairs from a column on that stand side by side, halves apart."""
        return torch.cat([x[..., :first], x[..., first::2], x[..., first + 1 :: 2]], -1)

    def ours(self, x: Any, i: int) -> Any:
        """Channels of a layer's queries and keys in a trace's order: i and i + n / 2 are a rotated pair."""
        if not self.interleaved or i in self.still:
            return x
        rotated, rest = x[..., : self.rotated], x[..., self.rotated :]
        return torch.cat([rotated[..., 0::2], rotated[..., 1::2], rest], -1)

    def theirs(self, x: Any, i: int) -> Any:
        if self.latent and self.config.model_type == "deepseek_v2":
            rank = self.heads_of(i).kv_lora_rank
            return torch.cat([x[..., :rank], torch.stack(x[..., rank:].chunk(2, -1), -1).flatten(-2)], -1)
        if not self.interleaved or i in self.still:
            return x
        rotated, rest = x[..., : self.rotated], x[..., self.rotated :]
        return torch.cat([torch.stack(rotated.chunk(2, -1), -1).flatten(-2), rest], -1)

    def attention(self, i: int) -> Any:
        """The module whose output attention (or a recurrence) adds; None: the layer has none."""
        layer = self.layers[i]
        if hasattr(layer, "post_feedforward_layernorm"):
            return layer.post_attention_layernorm
        return part(layer, "post_self_attn_layernorm", "post_operator_norm") or self.mixer(i)

    def heads_of(self, i: int) -> Any:
        """The attention."""
        return part(self.layers[i], *HEADS)

    def mixer(self, i: int) -> Any:
        """The attention, or recurrence."""
        found = part(self.layers[i], *HEADS, "linear_attn", "conv", "mamba")
        return None if found is self.network(i) else found

    def network(self, i: int) -> Any:
        """The feed-forward network; of two that stand side by side, the dense one."""
        found = part(self.layers[i], "feed_forward", "mlp", "shared_mlp", "block_sparse_moe", "mixer")
        whole = found is not getattr(self.layers[i], "mixer", None) or hasattr(found, "up_proj")
        return found if whole or hasattr(found, "experts") else None

    def mlp(self, i: int) -> Any:
        """The module whose output the feed-forward network adds; None: the layer has none."""
        names = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_norm")
        return part(self.layers[i], *names) or self.network(i)

    def factor(self, i: int, of: str) -> float:
        """What multiplies the output of attention, or of the network."""
        own = getattr(self.layers[i], "attn_out_multiplier", None) if of == "attention" else None
        return float(self.times if own is None else own)

    def adds(self, i: int, of: str, change: Change) -> list[tuple[Any, Change]]:
        """Hooks that change what a part of a layer adds to the residual stream."""
        layer, times = self.layers[i], self.factor(i, of)
        own = self.attention(i) if of == "attention" else self.mlp(i)
        if own is None:
            return []
        other, other_times = part(layer, "block_sparse_moe") if of == "mlp" else None, times
        if hasattr(layer, "ssm_out_multiplier") and of == "attention":  # beside it
            other, other_times = layer.mamba, layer.ssm_out_multiplier
        beside: dict[str, Any] = {"x": torch.zeros(())}

        def scaled(x: Any) -> Any:
            also = beside["x"] * other_times
            new = change(x * times + also)
            return None if new is None else (new - also) / times

        return [(own, scaled)] if other is None or other is own else [(other, keep(beside, "x")), (own, scaled)]

    def kv_heads(self, i: int) -> int:
        shared = self.heads if self.latent else getattr(self.heads_of(i), "num_key_value_groups", 1)
        return int(self.heads) // int(shared)

    def values(self, i: int, v: Any) -> Any:
        """Values (KV heads, n, columns) as heads add them up, of those that a trace has."""
        if not self.latent:
            return v
        return torch.einsum("nr,hvr->hnv", v[0], self.of_latent(i)[1])

    def value_width(self, i: int) -> int:
        """Columns of a head's output."""
        return int(weight(self.projection(i)).shape[1]) // int(self.heads)

    def projection(self, i: int) -> Any:
        return part(self.heads_of(i), *PROJECTIONS)

    def down(self, i: int) -> Any:
        """The projection of a dense network's neurons; None where there are experts."""
        layer, mlp = self.layers[i], self.network(i)
        if getattr(layer, "block_sparse_moe", None) is not None or getattr(layer, "enable_moe_block", False):
            return None
        names = ("down_proj", "w2", "fc2", "output_linear", "c_proj", "dense_4h_to_h")
        return None if mlp is None or hasattr(mlp, "experts") else part(mlp, *names)

    def weights(self, i: int, out: Any, weights: Any, v: Any) -> Any:
        """Attention's weights (1, heads, n, n) as they were used. Those of Granite's sinks, which multiply the output,
        are not in what its attention gives."""
        seen = weights[..., : v.shape[2]].clone()
        if not hasattr(self.heads_of(i), "sinks"):
            return seen
        mixed = seen @ v.repeat_interleave(self.heads // v.shape[1], 1)
        return seen * ((out.transpose(1, 2) * mixed).sum(-1, keepdim=True) / (mixed**2).sum(-1, keepdim=True))

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
