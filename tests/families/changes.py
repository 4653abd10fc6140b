"""Other values for the keys of a case's config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.families.case import Case
from tests.weights.config_keys import FEW, OTHERS, READ, ROPES, VALUES


def changes(case: Case, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, another value) for each key of the file, and for keys of other families and versions."""
    keys = sorted({*config, *OTHERS.split()} - {"model_type", "architectures"})
    for key in keys:
        value = config.get(key)
        values = list(VALUES if key in READ | case.read else FEW)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values += [value * 2, value / 2 if isinstance(value, float) else value // 2]
        for other in values:
            if other != value or type(other) is not type(value):
                yield key, other
    for key in ("rope_parameters", "rope_scaling"):
        for rope in ROPES:
            yield key, rope
    layers = int(config.get("num_hidden_layers", 3))
    for kind in ("full_attention", "sliding_attention", "chunked_attention", "linear_attention"):
        yield "layer_types", [kind] * layers
        yield "layer_types", [kind, *["full_attention"] * (layers - 2), "sliding_attention"]
    yield "architectures", ["OtherForCausalLM"]
    yield "quantization_config", {"quant_method": "awq"}
