"""Granite 3 and 4, dense: Llama with multipliers of embedding, scores, residual additions and logits (IBM 2024)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import feed_forward
from pellucid.folder import EXPERTS as STACKS
from pellucid.folder import KEYS, MLP, QKVO, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    c = without_recurrence(r, multiplied(r, r.base(halves=False)))
    shared_width(r, c)
    return c


def multiplied(r: Reader, c: Config, logits: float | None = None) -> Config:
    """The configuration with its multipliers. logits: divisor of the logits if the file has none."""
    r.source.get_list(r.key("deepstack_mapping"), None, of=int)  # the layers that receive features of images
    return replace(
        c,
        attention=replace(c.attention, scale=r.number("attention.scale", c.attention.dk**-0.5)),
        embed_scale=r.number("embedding_scale", 1.0),
        residual_scale=r.number("residual_scale", 1.0),
        logit_scale=1.0 / r.number("logit_scale", logits),
    )


# Keys of recurrent layers, which files of Granite 4 have even if all layers are attention.
_RECURRENT = ("conv_kernel", "state_size", "group_count", "time_step_rank", "inner_size")


def without_recurrence(r: Reader, c: Config) -> Config:
    """The configuration of a model without recurrent layers that was trained as a hybrid: its file specifies whether
    there is a rotation, and has sizes of layers that the model lacks."""
    for name in _RECURRENT:
        r.source.get_int(r.key(f"ssm.{name}"), None, min=0)
    rotated = bool(r.source.get_bool(r.key("rope.scaling.finetuned"), True))
    return replace(c, rotated=(rotated,) * c.layers)


def shared_width(r: Reader, c: Config) -> None:
    """Checks the width of the shared expert in a file without experts: it is that of the feed-forward network."""
    key = r.key("expert_shared_feed_forward_length")
    if r.source.get_int(key, c.ff) != c.ff:
        raise r.source.refuse(key, f"{c.ff}, as feed_forward_length is, without experts")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv), scale=c.residual_scale)
    feed_forward(p, c, i, scale=c.residual_scale)


MULTIPLIERS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
# Names of modules with experts, in transformers 5 and in released folders.
OLDER_EXPERTS = {
    "block_sparse_moe.input_linear": "ffn_gate_up_exps",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
}
EXPERTS = {
    **{name.replace("mlp.", "block_sparse_moe."): own for name, own in STACKS.items() if name != "mlp.gate"},
    "block_sparse_moe.router": "ffn_gate_inp",
    **OLDER_EXPERTS,
}
FOLDERS = {
    "granite": Folder(
        classes=("GraniteForCausalLM",),
        keys={
            **KEYS,
            **MULTIPLIERS,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            **dict.fromkeys(MULTIPLIERS, 1.0),
        },
        biases={"attention_bias": QKVO, "mlp_bias": MLP},
    )
}
