"""Every decoder of the tests' table: the parts of a layer sum to its change of the residual stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from pellucid.look.places import find
from tests.engine.models import same
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME

IDS = list(range(3, 14))


@pytest.mark.parametrize("name", BY_NAME)
def test_parts_sum_to_the_change(name: str, tmp_path: Path) -> None:
    """And so do those of an attribution, and those of tokens to their head's; without the first half of a layer, the
    second one's is what is left."""
    case = BY_NAME[name]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=1) as model:
        whole = model.trace(IDS, want=("hidden", "attention_out", "mlp_out"))
        layers = find(model.core.engine.plan).layers
        added = whole.attention_out + whole.mlp_out
        for i, layer in enumerate(layers):
            if layer.edits:
                continue
            change = whole.hidden[i + 1] - whole.hidden[i]
            assert np.abs(change - added[i]).max() <= 3e-6 * np.abs(whole.hidden[i : i + 2]).max(), i
        parts, cap = whole.attribution(), model.core.config.logit_cap
        logit = cap * np.arctanh(parts.logit / cap) if cap else parts.logit
        assert parts.total == pytest.approx(logit, rel=2e-3, abs=2e-3)
        assert np.abs(whole.sources().sum(-1) - parts.heads).max() <= 1e-4 * np.abs(parts.heads).max()
        for part in ("attention", "mlp"):
            with model.edit() as edit:
                edit.skip(0, part)
                found = edit.trace(IDS, want=("hidden", "attention_out", "mlp_out"))
            skipped, kept = ("attention_out", "mlp_out") if part == "attention" else ("mlp_out", "attention_out")
            assert not getattr(found, skipped)[0].any()
            if not layers[0].edits:
                change = found.hidden[1] - found.hidden[0] - getattr(found, kept)[0]
                assert np.abs(change).max() <= 3e-6 * np.abs(found.hidden[:2]).max()
            if part == "mlp":  # what comes before it has not changed
                assert same(found.attention_out[0], whole.attention_out[0])
