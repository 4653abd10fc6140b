"""Tensors that are computed from those of a folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.parts import Made, Parts
from pellucid.weights.base import Tensor
from pellucid.weights.derived import changed

TYPES = {"F32": np.float32, "F16": np.float16}


def tensor(values: Any, name: str, kind: str = "F32") -> Tensor:
    return Tensor(name, kind, values.shape, np.ascontiguousarray(values).reshape(-1).view(np.uint8), 0, "file")


@pytest.mark.parametrize("kind", TYPES)
def test_stacks_of_experts_are_made_when_they_are_asked_for(kind: str) -> None:
    """One expert at a time, and any part of the bytes."""
    values = np.random.default_rng(1).random((3, 4, 5)).astype(TYPES[kind])
    asked: list[tuple[int, ...]] = []

    def turn(x: Any) -> Any:
        asked.append(x.shape)
        return x.swapaxes(1, 2)

    found = changed(tensor(values, "mlp.experts.up_proj", kind), turn)
    assert found.shape == (3, 5, 4) and isinstance(found.data, Parts)
    assert all(isinstance(part, Made) for part in found.data.parts) and len(asked) == 1
    expected = np.ascontiguousarray(values.swapaxes(1, 2)).reshape(-1).view(np.uint8)
    assert np.array_equal(found.data.view(np.uint8), expected) and {*asked} == {(1, 4, 5)}
    for start in range(0, expected.size, 7):
        for stop in range(start, expected.size + 1, 11):
            assert np.array_equal(found.data[start:stop].view(np.uint8) if stop > start else [], expected[start:stop])


def test_other_tensors_are_changed_at_once() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = changed(tensor(values, "weight"), lambda x: x.T)
    assert isinstance(found.data, np.ndarray) and found.shape == (3, 2)
    assert np.array_equal(found.data.view(np.float32).reshape(3, 2), values.T)


@pytest.mark.parametrize("name", ["weight", "mlp.experts.weight"])
def test_what_does_not_suit(name: str) -> None:
    values = np.zeros((2, 3, 5), np.float32)
    with pytest.raises(ModelFileError, match=r"file: .*weight.*has shape \(2, 3, 5\)"):
        changed(tensor(values, name), lambda x: x.reshape(7, -1))
    with pytest.raises(UnsupportedModelError, match="weight format I8"):
        changed(tensor(values, name, "I8"), lambda x: x)
    empty = changed(tensor(values[:, :0], name), lambda x: x.swapaxes(1, 2))
    assert empty.shape == (2, 5, 0) and empty.data.size == 0
