"""GGUF files: valid ones from another writer, and every kind of invalid one."""

from __future__ import annotations

import os
import random
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid import _parsers
from pellucid.errors import ClosedError, ModelFileError
from pellucid.weights import StringArray, base, open_gguf, open_model
from pellucid.weights.base import SourceFile
from tests.weights.headers import ARCH, build, info, pair, text

TOKENS = [b"<s>", b"", "é".encode(), b"\xff\xfe", b"a" * 300]
MATRIX = np.arange(6 * 64, dtype=np.float32).reshape(6, 64)


def write(path: Path, *, alignment: int | None = None, **extra: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"n.{kind}", 7 if kind[0] == "u" else -7)
    writer.add_float32("n.float32", 0.5)
    writer.add_float64("n.float64", 0.1)
    writer.add_bool("n.bool", True)
    writer.add_string("text", "Grüße")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.5, -1.0, 2.0, 3.0, 4.0])
    writer.add_token_types([1, 2, 3, 4, 5])
    writer.add_array("flags", [True, False])
    for key, value in extra.items():
        (writer.add_string if isinstance(value, str) else writer.add_array)(key, value)
    writer.add_tensor("a.weight", MATRIX)
    writer.add_tensor("b.weight", gguf.quants.quantize(MATRIX, gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.add_tensor("c.bias", np.ones(5, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def quick(limit: float = 1.0) -> Iterator[None]:
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < limit


def refused(tmp_path: Path, raw: bytes) -> ModelFileError:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with quick(), pytest.raises(ModelFileError) as caught:
        open_model(path)
    assert caught.value.file == str(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


# -- sound files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 8, 4096])
def test_reads_what_another_writer_wrote(tmp_path, version, alignment):
    path = write(tmp_path / "a.gguf", alignment=alignment)
    raw = bytearray(path.read_bytes())
    raw[4:8] = struct.pack("<I", version)
    path.write_bytes(raw)
    with open_model(path) as model:
        assert (model.path, model.nbytes, model.format) == (str(path), len(raw), f"GGUF {version}")
        assert model.architecture == "llama"
        for kind in ("uint8", "uint16", "uint32", "uint64"):
            assert model.get_int(f"n.{kind}") == 7
        for kind in ("int8", "int16", "int32", "int64"):
            assert model.get_int(f"n.{kind}") == -7
        assert model.get_float("n.float32") == 0.5 and model.get_float("n.float64") == 0.1
        assert model.get_bool("n.bool") is True
        assert model.get_str("text") == "Grüße"
        assert model.get_list("flags", of=bool) == [True, False]
        scores = model.metadata["tokenizer.ggml.scores"]
        assert scores.dtype == np.float32 and scores.tolist() == [0.5, -1, 2, 3, 4] and not scores.flags.writeable
        assert model.get_list("tokenizer.ggml.token_type", of=int, length=5) == [1, 2, 3, 4, 5]
        assert list(model.tensors) == ["a.weight", "b.weight", "c.bias"]
        a, b, c = model.tensors.values()
        assert (a.type, a.shape, b.type, b.shape, c.type, c.shape) == ("F32", (6, 64), "Q8_0", (6, 64), "F16", (5,))
        assert np.array_equal(a.data.view(np.float32).reshape(a.shape), MATRIX)
        assert a.data.tobytes() == raw[a.offset : a.offset + 6 * 64 * 4] and a.file == str(path)
        assert a.offset % (alignment or 32) == 0
        back = gguf.quants.dequantize(b.data.view(np.uint8).reshape(6, -1), gguf.GGMLQuantizationType.Q8_0)
        assert np.abs(back - MATRIX).max() <= MATRIX.max() / 127
        assert model.types == {"F32": 1536, "Q8_0": 6 * 68, "F16": 10} and model.quantisation == "F32"


def test_strings_stay_bytes_until_text_is_wanted(tmp_path):
    model = open_gguf(write(tmp_path / "a.gguf"))
    tokens = model.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray) and len(tokens) == 5
    assert [tokens[i] for i in range(5)] == list(tokens) == tokens.to_bytes_list() == TOKENS
    assert tokens[-1] == TOKENS[-1] and tokens[1:3] == TOKENS[1:3] and tokens.text(2) == "é"
    for index in (5, -6):
        with pytest.raises(IndexError):
            tokens[index]
    for call in (tokens.to_str_list, lambda: tokens.text(3), lambda: model.get_list("tokenizer.ggml.tokens", of=str)):
        with pytest.raises(ModelFileError) as caught:
            call()
        assert caught.value.field == "tokenizer.ggml.tokens[3]"
        assert (tmp_path / "a.gguf").read_bytes()[caught.value.offset] == 0xFF
    assert model.get_list("tokenizer.ggml.tokens", of=bytes) == TOKENS
    with pytest.raises(TypeError):
        StringArray()


def test_what_was_read_survives_close(tmp_path):
    """Reading a tensor afterwards is an error; strings of the header and arrays remain; no file stays open."""
    path = write(tmp_path / "a.gguf")
    before = len(os.listdir("/proc/self/fd"))
    model = open_gguf(path)
    tensor, tokens = model.tensors["a.weight"], model.metadata["tokenizer.ggml.tokens"]
    read = tensor.data.view(np.float32)
    assert len(os.listdir("/proc/self/fd")) == before + 1 and str(path) not in Path("/proc/self/maps").read_text()
    model.close()
    model.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ClosedError, match=r"a\.gguf is closed"):
        tensor.data.view(np.float32)
    assert np.array_equal(read.reshape(6, 64), MATRIX) and tokens.to_bytes_list() == TOKENS
    for name in ("tensors", "metadata", "architecture"):
        with pytest.raises(ClosedError):
            getattr(model, name)
    assert "closed" in repr(model)


@pytest.mark.parametrize("size", [100, 1 << 18, (1 << 18) + 1, 3 << 18, 1 << 20])
def test_headers_longer_than_the_first_read(tmp_path, size):
    """Arrays and strings on both sides of the boundary between two reads."""
    pieces = [f"piece {i}" for i in range(20000)] + ["x" * size, "", "last"]
    long, numbers = "y" * (size // 2), list(range(size // 8))
    path = write(tmp_path / "a.gguf", long=long, numbers=numbers, pieces=pieces)
    raw = path.read_bytes()
    with open_gguf(path) as model:
        assert model.get_str("long") == long and model.get_list("numbers") == numbers
        assert model.get_list("pieces", of=str) == pieces
        assert _parsers.parse_gguf(raw).tensors == _parsers.parse_gguf(SourceFile(str(path), "a file")).tensors


def test_a_file_that_outlives_its_module_is_closed(tmp_path, monkeypatch):
    (tmp_path / "v.gguf").write_bytes(build())
    file, wrong = SourceFile(str(tmp_path / "v.gguf"), "a file"), list[Any]()
    fd = file.fileno()
    monkeypatch.setattr(sys, "unraisablehook", wrong.append)
    with monkeypatch.context() as ends:  # what the interpreter does to modules at its end
        for name in [name for name in vars(base) if not name.startswith("__")]:
            ends.setattr(base, name, None)
        del file
    assert wrong == []
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_a_file_without_tensors(tmp_path):
    (tmp_path / "v.gguf").write_bytes(build())
    with open_model(tmp_path / "v.gguf") as model:
        assert model.tensors == {} and model.quantisation == "" and model.architecture == "llama"


def test_text_that_is_no_utf8_is_an_error_only_as_text(tmp_path):
    (tmp_path / "v.gguf").write_bytes(build((ARCH, pair(b"general.name", 8, text(b"\xff")))))
    with open_model(tmp_path / "v.gguf") as model:
        assert model.metadata["general.name"] == b"\xff"
        with pytest.raises(ModelFileError, match="UTF-8") as caught:
            model.get_str("general.name")
        assert caught.value.field == "general.name" and caught.value.offset is not None


def test_an_unknown_tensor_type_is_no_error_until_used(tmp_path):
    infos = (info(b"a", (4,), 99, 0), info(b"b", (2,), 0, 64), info(b"c", (7,), 4, 96))
    (tmp_path / "v.gguf").write_bytes(build(infos=infos, data=bytes(100)))
    with open_model(tmp_path / "v.gguf") as model:
        assert [(t.type, t.data.size) for t in model.tensors.values()] == [
            ("ggml type 99", 64), ("F32", 8), ("ggml type 4", 4)]  # fmt: skip


def test_tensor_types_agree_with_the_reference():
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    del sizes[9]  # Q8_1, never in files: the reference counts its two scales as float32, ggml has float16
    for number, entry in sizes.items():
        assert _parsers.TENSOR_TYPES[number] == entry


def test_getters_name_what_is_wrong(tmp_path):
    with open_gguf(write(tmp_path / "a.gguf")) as model:
        assert model.get_int("none", 3) == 3 and model.get_int("none", default=None) is None
        assert model.get_str("none", "x") == "x" and model.get_list("none", []) == [] and "none" not in model
        assert model.get_float("n.uint8") == 7.0 and "n.uint8" in model
        assert model.get_list("tokenizer.ggml.token_type", of=float) == [1.0, 2.0, 3.0, 4.0, 5.0]
        cases = [
            (lambda: model.get_int("none"), "none", "an integer"),
            (lambda: model.get_str("none"), "none", "text"),
            (lambda: model.get_int("n.float32"), "n.float32", "an integer"),
            (lambda: model.get_int("n.bool"), "n.bool", "an integer"),
            (lambda: model.get_int("n.uint8", min=8), "n.uint8", "at least 8"),
            (lambda: model.get_int("n.uint8", max=6), "n.uint8", "at most 6"),
            (lambda: model.get_int("n.int8", min=0, max=6), "n.int8", "0 to 6"),
            (lambda: model.get_float("text"), "text", "a number"),
            (lambda: model.get_float("n.float32", min=1), "n.float32", "at least 1"),
            (lambda: model.get_str("n.bool"), "n.bool", "text"),
            (lambda: model.get_bool("n.uint8"), "n.uint8", "a boolean"),
            (lambda: model.get_list("text"), "text", "a list"),
            (lambda: model.get_list("flags", length=3), "flags", "a list of 3"),
            (lambda: model.get_list("flags", of=int), "flags[0]", "int"),
            (lambda: model.get_list("tokenizer.ggml.tokens", of=int), "tokenizer.ggml.tokens", "a list of int"),
            (lambda: model.tensor("d"), "d", None),
            (lambda: model.tensor("c.bias", (6,)), "c.bias", "shape (6,)"),
        ]
        for call, field, expected in cases:
            with pytest.raises(ModelFileError) as caught:
                call()
            assert (caught.value.field, caught.value.expected) == (field, expected)
        assert model.tensor("c.bias", (5,)).type == "F16"
        with pytest.raises(ModelFileError) as caught:
            model.get_int("text")
        assert (tmp_path / "a.gguf").read_bytes()[caught.value.offset :][8:].startswith("Grüße".encode())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_must_be_finite(tmp_path, value):
    (tmp_path / "v.gguf").write_bytes(build((ARCH, pair(b"eps", 6, struct.pack("<f", value)))))
    with open_model(tmp_path / "v.gguf") as model, pytest.raises(ModelFileError, match="finite"):
        model.get_float("eps")


# -- unsound files ----------------------------------------------------------------------------------------------------


def test_truncated_anywhere(tmp_path):
    whole = write(tmp_path / "a.gguf").read_bytes()
    with open_gguf(tmp_path / "a.gguf") as model:
        starts = [t.offset for t in model.tensors.values()]
        values = [whole.index(key.encode()) for key in model.metadata]
    cuts = {1, 3, 4, 7, 8, 16, 23, 24, len(whole) - 32, *starts, *values, *(v - 8 for v in values)}
    rng = random.Random(5)
    cuts.update(rng.randrange(1, len(whole) - 32) for _ in range(200))
    last = starts[-1] + 10
    for cut in sorted(c for c in cuts if 0 < c < last):
        error = refused(tmp_path, whole[:cut])
        assert error.field is not None and error.offset is not None and error.expected is not None, cut


def test_huge_arrays_are_refused_without_allocation(tmp_path):
    path = tmp_path / "sparse.gguf"
    path.write_bytes(build((ARCH, pair(b"k", 9, struct.pack("<IQ", 8, 1 << 27)))))
    os.truncate(path, 1 << 34)  # 16 GB of holes: all the strings would be there, and empty
    with quick(), pytest.raises(ModelFileError, match="at most") as caught:
        open_model(path)
    assert caught.value.field == "k"


@settings(
    max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_mutated_bytes_raise_nothing_but_ours(tmp_path, data):
    path = tmp_path / "base.gguf"
    if not path.exists():
        write(path)
    raw = bytearray(path.read_bytes())
    header = _parsers.parse_gguf(bytes(raw)).data_start
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, header - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    try:
        parsed = _parsers.parse_gguf(bytes(raw), "x")
    except ModelFileError as error:
        assert error.file == "x" and error.field is not None
        return
    for value in parsed.metadata.values():
        if isinstance(value, StringArray):
            assert len(value.to_bytes_list()) == len(value)
    for *_, offset, nbytes in parsed.tensors:
        assert 0 <= offset <= offset + nbytes <= len(raw)


@settings(max_examples=200, deadline=1000)
@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic(raw):
    with pytest.raises(ModelFileError):
        _parsers.parse_gguf(b"GGUF" + struct.pack("<I", 3) + b"\1" * 16 + raw, "x")
    try:
        _parsers.parse_gguf(b"GGUF" + struct.pack("<IQQ", 3, len(raw) > 200, 2) + raw, "x")
    except ModelFileError as error:
        assert error.offset is not None


# -- what is no model -------------------------------------------------------------------------------------------------


def test_files_that_are_no_model(tmp_path):
    assert "empty" in str(refused(tmp_path, b""))
    assert "no model" in str(refused(tmp_path, b"Once upon a time"))
    assert "no model" in str(refused(tmp_path, b"G"))
    assert "ggjt" in str(refused(tmp_path, b"tjgg" + bytes(100)))
    with quick(), pytest.raises(ModelFileError, match="not found"):
        open_model(tmp_path / "none.gguf")
    for wrong, what in (("a\0b", "a NUL character"), ("a\ud800b", "a character that cannot be encoded")):
        with quick(), pytest.raises(ModelFileError, match=f"not found: the path contains {what}"):
            open_model(f"{tmp_path}/{wrong}")
    with quick(), pytest.raises(ModelFileError, match="no model"):
        open_model(tmp_path)
    with quick(), pytest.raises(ModelFileError, match="folder"):
        open_gguf(tmp_path)
    with pytest.raises(ModelFileError, match="GGUF"):
        open_gguf(refused(tmp_path, b"text").file or "")
    with pytest.raises(TypeError):
        open_model(3)  # type: ignore[arg-type]


def test_fifos_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, word in ((tmp_path / "pipe", "FIFO"), ("/dev/zero", "device"), ("/dev/null", "device")):
        with quick(), pytest.raises(ModelFileError, match=word):
            open_model(path)
        with quick(), pytest.raises(ModelFileError, match=word):
            open_gguf(path)


# -- split files ------------------------------------------------------------------------------------------------------


def split(folder: Path, count: int = 3, **changes: Any) -> list[Path]:
    """A model in `count` parts of two tensors each; the first has the metadata."""
    paths = []
    for i in range(count):
        number, of, total = changes.get(f"part{i}", (i, count, 2 * count))
        pairs = [ARCH, pair(b"general.name", 8, text(b"split"))] if i == 0 else []
        pairs += [pair(b"split.no", 2, struct.pack("<H", number)), pair(b"split.count", 2, struct.pack("<H", of))]
        pairs += [pair(b"split.tensors.count", 5, struct.pack("<i", total))]
        names = changes.get(f"names{i}", (f"t{2 * i}", f"t{2 * i + 1}"))
        infos = tuple(info(name.encode(), (8,), 0, 32 * j) for j, name in enumerate(names))
        path = folder / f"m-{i + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(build(tuple(pairs), infos, np.arange(16 * i, 16 * i + 16, dtype=np.float32).tobytes()))
        paths.append(path)
    return paths


def test_split_files_by_any_part(tmp_path):
    paths = split(tmp_path)
    for path in paths:
        with open_model(path) as model:
            assert list(model.tensors) == [f"t{i}" for i in range(6)]
            assert model.nbytes == sum(p.stat().st_size for p in paths) and model.path == str(path)
            assert model.get_str("general.name") == "split"
            values = [t.data.view(np.float32).tolist() for t in model.tensors.values()]
            assert [x for value in values for x in value] == list(range(48))
            assert [t.file for t in model.tensors.values()] == [str(p) for p in paths for _ in range(2)]


def test_split_files_with_something_wrong(tmp_path):
    def fails(field: str | None, culprit: Path, message: str, opened: int = 1) -> None:
        with pytest.raises(ModelFileError, match=message) as caught:
            open_model(paths[opened])
        assert (caught.value.field, caught.value.file) == (field, str(culprit))

    paths = split(tmp_path, part2=(1, 3, 6))
    fails("split.no", paths[2], "it is 1; expected 2")
    paths = split(tmp_path, part1=(2, 3, 6))
    fails("split.no", paths[1], "it is 2")
    paths = split(tmp_path, part0=(0, 4, 6))
    fails("split.count", paths[0], "it is 4; expected 3")
    paths = split(tmp_path, part1=(1, 4, 6))
    fails("split.count", paths[1], "name says 3")
    paths = split(tmp_path, part0=(0, 3, 7))
    fails("split.tensors.count", paths[0], "hold 6")
    paths = split(tmp_path, names2=("t0", "t9"))
    fails("t0", paths[2], "second tensor")
    paths = split(tmp_path)
    os.truncate(paths[2], 100)
    fails("split.tensors.count", paths[2], "ends here")
    paths[2].unlink()
    fails(None, paths[2], "not found: part 3 of 3")
    paths[0].rename(tmp_path / "renamed.gguf")
    paths[0] = tmp_path / "renamed.gguf"
    fails("split.count", paths[0], "cannot be found from its name", opened=0)
