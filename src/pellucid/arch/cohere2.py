"""Command R7B: Command-R with windows in three of four layers, and no rotation in the fourth (Cohere 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.command_r import FOLDERS as _COMMAND_R
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.stablelm import block as block
from pellucid.folder import ANY, Same, Settings, windows

_PERIOD = 4


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=False, period=_PERIOD, norms="layer")
    return replace(c, rotated=c.local, logit_scale=r.number("logit_scale"), parallel=True)


def _windows(c: Settings) -> Mapping[str, Any]:
    period = c.get_int("sliding_window_pattern", _PERIOD, min=1, max=1 << 24)
    return {"attention.sliding_window_pattern": windows(c, lambda i: (i + 1) % period != 0)}


_FOLDER = _COMMAND_R["cohere"]
FOLDERS = {
    "cohere2": replace(
        _FOLDER,
        classes=("Cohere2ForCausalLM",),
        keys={
            **{key: name for key, name in _FOLDER.keys.items() if key != "use_qk_norm"},
            "sliding_window": "attention.sliding_window",
        },
        defaults={**_FOLDER.defaults, "rope_theta": 10000.0, "sliding_window": 4096},
        names={name: own for name, own in _FOLDER.names.items() if not name.endswith(("q_norm", "k_norm"))},
        inert={
            "layer_switch": Same("sliding_window_pattern", _PERIOD),
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "rotary_pct": 1.0,
            "use_embedding_sharing": True,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": ANY,
        },
        derive=_windows,
    )
}
