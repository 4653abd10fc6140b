"""Hugging Face folders: valid ones written by the format's own package, and invalid ones."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import save_file

from pellucid.errors import ClosedError, ModelFileError
from pellucid.weights import open_folder, open_model

CONFIG = {"model_type": "llama", "hidden_size": 64, "rope_scaling": {"factor": 8.0}, "head_dim": None, "tied": True,
          "eos_token_id": [1, 2]}  # fmt: skip
A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(6, dtype=np.float16)
C = (np.arange(8, dtype=np.uint32) << 16 | 0x3F000000).view(np.float32)  # exact in bfloat16


def save_bf16(path: Path) -> None:
    """F32, F16 and BF16 in one file, by the package."""
    c = (C.view(np.uint32) >> 16).astype(np.uint16)
    specs = {"c": TensorSpec(dtype="bfloat16", shape=(2, 4), data_ptr=c.ctypes.data, data_len=c.nbytes)}
    for name, x in (("a", A), ("b", B)):
        specs[name] = TensorSpec(dtype=x.dtype.name, shape=x.shape, data_ptr=x.ctypes.data, data_len=x.nbytes)
    serialize_file(specs, str(path), metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_bf16(tmp_path / "model.safetensors")
    return tmp_path


def refused(folder: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        open_folder(folder)
    assert caught.value.file is not None and "\n" not in str(caught.value)
    return caught.value


def test_reads_what_the_package_wrote(folder):
    with open_folder(folder) as model:
        assert (model.path, model.format, model.architecture) == (str(folder), "safetensors", "llama")
        assert model.nbytes == (folder / "model.safetensors").stat().st_size
        assert {name: (t.type, t.shape) for name, t in model.tensors.items()} == {
            "a": ("F32", (3, 4)), "b": ("F16", (6,)), "c": ("BF16", (2, 4))}  # fmt: skip
        a, b, c = (model.tensor(name) for name in "abc")
        assert np.array_equal(a.data.view(np.float32).reshape(3, 4), A)
        assert np.array_equal(b.data.view(np.float16), B)
        assert np.array_equal((c.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32), C)
        raw = (folder / "model.safetensors").read_bytes()
        assert all(raw[t.offset : t.offset + t.data.size] == t.data.tobytes() for t in (a, b, c))
        assert model.quantisation == "F32"
    with pytest.raises(ClosedError):
        _ = model.tensors
    with pytest.raises(ClosedError):
        a.data.view(np.float32)


def test_getters_reach_into_the_configuration(folder):
    with open_folder(folder) as model:
        assert model.metadata == {"config": CONFIG}
        assert model.get_int("config.hidden_size", min=1) == 64 and model.get_bool("config.tied") is True
        assert model.get_float("config.rope_scaling.factor") == 8.0
        assert model.get_list("config.eos_token_id", of=int) == [1, 2]
        assert model.get_int("config.head_dim", 16) == 16  # null is as good as absent
        for key in ("config.head_dim", "config.rope_scaling.none", "config.hidden_size.none", "none"):
            with pytest.raises(ModelFileError) as caught:
                model.get_int(key)
            assert caught.value.field == key and caught.value.file == str(folder / "config.json")
        with pytest.raises(ModelFileError, match="expected an integer"):
            model.get_int("config.rope_scaling")


def shard(folder: Path, weight_map: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a": A, "x": A}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": B}, folder / "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(tmp_path):
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    shard(tmp_path, {"b": second, "a": first})
    with open_folder(tmp_path) as model:
        assert set(model.tensors) == {"a", "b", "x"}  # all that the shards hold, as transformers reads them
        assert np.array_equal(model.tensors["b"].data.view(np.float16), B)
        assert model.tensors["b"].file == str(tmp_path / second)
        assert model.nbytes == sum((tmp_path / name).stat().st_size for name in (first, second))
    save_file({"b": A}, tmp_path / first)  # of two, the index's
    save_file({"b": B}, tmp_path / second)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": first, "B": second}}))
    assert refused(tmp_path).field == "B"
    save_file({"b": B, "c": B}, tmp_path / second)
    for weight_map, expected in ({"b": first, "c": second}, A.shape), ({"b": second}, B.shape):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with open_folder(tmp_path) as model:
            assert model.tensors["b"].shape == expected
    shard(tmp_path, {"b": second, "c": first})
    assert (refused(tmp_path).field, refused(tmp_path).file) == ("c", str(tmp_path / first))
    shard(tmp_path, {"b": "none.safetensors"})
    assert "not found" in str(refused(tmp_path))
    for name in ("../model.safetensors", "/etc/passwd", "", "a\\b", "a\0b", 3, None):
        shard(tmp_path, {"b": name})
        assert refused(tmp_path).field == "weight_map['b']"
    shard(tmp_path, ["b"])
    assert refused(tmp_path).field == "weight_map"


def test_folders_that_are_no_model(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert "no weights" in str(refused(folder))
    with pytest.raises(ModelFileError, match="folder that holds both"):
        open_model(folder / "other.safetensors")
    (folder / "config.json").unlink()
    assert "no config.json" in str(refused(folder))
    (folder / "m.gguf").write_bytes(b"")
    assert str(folder / "m.gguf") in str(refused(folder))
    with pytest.raises(ModelFileError, match="not a folder"):
        open_folder(folder / "m.gguf")
    (folder / "config.json").mkdir()
    assert "folder" in str(refused(folder))


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b'{"model_type": "\xff"}', "not UTF-8"),
        (b'["llama"]', "a list; expected a table"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "expected valid JSON"),
    ],
)
def test_unsound_configurations(folder, text, message):
    (folder / "config.json").write_bytes(text)
    error = refused(folder)
    assert message in str(error) and error.file == str(folder / "config.json")


def test_a_huge_configuration_is_not_read(folder):
    os.truncate(folder / "config.json", 1 << 34)
    assert "at most" in str(refused(folder))


@pytest.mark.parametrize("text", ["{}", '{"model_type": 3}', '{"model_type": null}'])
def test_a_configuration_without_its_architecture(folder, text):
    (folder / "config.json").write_text(text)
    with open_folder(folder) as model, pytest.raises(ModelFileError) as caught:
        _ = model.architecture
    assert caught.value.field == "config.model_type" and caught.value.file == str(folder / "config.json")


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file_of(table: Any, data: bytes = bytes(8)) -> bytes:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + data


UNSOUND = {
    "empty": (b"", None),
    "text": (b"Once upon a time", "header"),
    "8 bytes": (struct.pack("<Q", 2), "header"),
    "huge header": (struct.pack("<Q", 1 << 63) + bytes(100), "header"),
    "no header": (struct.pack("<Q", 0) + bytes(100), "header"),
    "no JSON": (file_of(b"{nonsense}"), "header"),
    "a list": (file_of([1, 2]), "header"),
    "name twice": (file_of(b'{"t": {}, "t": {}}'), "header"),
    "notes": (file_of({"__metadata__": 3, "t": entry()}), "__metadata__"),
    "no table": (file_of({"t": 3}), "t.dtype"),
    "no type": (file_of({"t": entry(dtype=3)}), "t.dtype"),
    "shape": (file_of({"t": entry(shape=8)}), "t.shape"),
    "negative": (file_of({"t": entry(shape=[-1, -2])}), "t.shape"),
    "truth": (file_of({"t": entry(shape=[True, 2])}), "t.shape"),
    "fraction": (file_of({"t": entry(shape=[2.0])}), "t.shape"),
    "huge": (file_of({"t": entry(shape=[10**40])}), "t.shape"),
    "33 dimensions": (file_of({"t": entry(shape=[1] * 33)}), "t.shape"),
    "product": (file_of({"t": entry(shape=[1 << 55] * 32)}), "t.data_offsets"),
    "size": (file_of({"t": entry(shape=[3])}), "t.data_offsets"),
    "one offset": (file_of({"t": entry(offsets=[0])}), "t.data_offsets"),
    "backwards": (file_of({"t": entry(offsets=[8, 0])}), "t.data_offsets"),
    "beyond": (file_of({"t": entry(offsets=[8, 16]), "s": entry()}), "t.data_offsets"),
    "overlap": (file_of({"t": entry(offsets=[4, 12]), "s": entry()}, bytes(12)), "t.data_offsets"),
    "gap": (file_of({"t": entry(offsets=[16, 24]), "s": entry()}, bytes(24)), "t.data_offsets"),
    "more": (file_of({"t": entry()}, bytes(9)), "header"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_headers(folder, name):
    raw, field = UNSOUND[name]
    (folder / "model.safetensors").write_bytes(raw)
    error = refused(folder)
    assert (error.field, error.file) == (field, str(folder / "model.safetensors"))
    assert error.expected is not None


def test_an_unknown_type_is_no_error_until_used(folder):
    (folder / "model.safetensors").write_bytes(file_of({"t": entry(dtype="F3_X", shape=[20])}))
    with open_folder(folder) as model:
        assert (model.tensors["t"].type, model.tensors["t"].data.size) == ("F3_X", 8)


def test_truncated_anywhere(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert refused(folder).file == str(path)


@settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_raise_nothing_but_ours(folder, data):
    path = folder / "model.safetensors"
    save_bf16(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 80))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        model = open_folder(folder)
    except ModelFileError as error:
        assert error.file == str(path)
        return
    with model:
        assert sum(t.data.size for t in model.tensors.values()) <= len(raw)
