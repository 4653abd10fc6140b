"""Other values for the keys of a case's config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.families.case import Case
from tests.weights.config_keys import FEW, OTHERS, READ, ROPES, VALUES

NAN, INF = float("nan"), float("inf")


def near(value: Any) -> Iterator[Any]:
    """Other values, most of them wrong; of a table or a list, with one part changed."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (0, -1, value + 1, value * 2 + 1, -value, 1 << 31, 10**30, float(value), str(value))
    elif isinstance(value, float):
        yield from (0.0, -value, NAN, INF, 1e-300, 1e300, 10**400, str(value))
    elif isinstance(value, str):
        yield from ("unknown", "", value.upper(), f" {value}", "a" * 5000)
    elif isinstance(value, list):
        yield from ([], value[:-1], [*value, *value[-1:]], value[::-1], [None] * len(value), {})
        for i in {0, len(value) - 1} & {*range(len(value))}:
            yield from ([*value[:i], other, *value[i + 1 :]] for other in near(value[i]))
    elif isinstance(value, dict):
        yield from ({}, [], {**value, "an_unknown_key": 1})
        for key, own in value.items():
            yield from ({**value, key: other} for other in near(own))
            yield from ({**value, key: None}, {other: one for other, one in value.items() if other != key})


def changes(case: Case, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, another value) for each key of the file, and for keys of other families and versions. ...: no such key."""
    keys = sorted({*config, *OTHERS.split()} - {"model_type", "architectures"})
    for key in keys:
        value = config.get(key)
        values = list(VALUES if key in READ | case.read else FEW)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values += [value * 2, value / 2 if isinstance(value, float) else value // 2]
        for other in (*values, *near(value), ...):
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
