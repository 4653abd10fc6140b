"""Seeing inside models whose layers have experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME


@pytest.mark.parametrize("name", ["qwen2moe", "glm4moe", "deepseek_v2", "glm4_moe_lite"])
def test_attribution_and_traces(tmp_path: Path, name: str) -> None:
    case = BY_NAME[name]
    with Model.load(write_gguf(case, load_golden(case), tmp_path / "model.gguf"), threads=1) as model:
        trace = model.trace([1, 2, 3, 4], want=("hidden", "attention_out"))
        assert np.isfinite(trace.hidden).all()
        with pytest.raises(ValueError, match="has experts, and no neurons"):
            model.trace([1, 2, 3, 4], want="neurons")
        parts = model.trace([1, 2, 3, 4]).attribution()
        assert parts.total == pytest.approx(parts.logit, rel=1e-4, abs=1e-4)
        assert np.abs(parts.mlp).min() > 0
