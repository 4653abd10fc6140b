"""ERNIE 4.5, dense: rotary pairs of neighbours in both forms, so that no converter reorders rows."""

from __future__ import annotations

from tests.families.case import Case, Gguf, common_keys

ERNIE = Gguf("ernie4_5", common_keys)
CASES = (
    Case("ernie4_5", "ERNIE 4.5", "Ernie4_5Config", 131, "tied", gguf=ERNIE, strict=True, sizes={"head_dim": 24},
         read=frozenset({"use_bias"})),
    Case("ernie4_5_biases", "ERNIE 4.5", "Ernie4_5Config", 132, "biases, untied", gguf=ERNIE,
         sizes={"head_dim": 16, "use_bias": True, "tie_word_embeddings": False}),
)  # fmt: skip
