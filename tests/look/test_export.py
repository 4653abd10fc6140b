"""Exports of traces: files, pandas, BertViz."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pellucid
from pellucid import Model, Trace
from pellucid.errors import ModelFileError
from pellucid.look import export
from pellucid.look.recorded import AXES, OF_SOME
from tests.engine.models import Load


def test_save_and_load(load: Load, tmp_path: Path) -> None:
    model = load("gemma3")
    t = model.trace(
        [5, 6, 7, 8, 9],
        want=[name for name in AXES if name not in OF_SOME],
        layers=[1, 5],
        heads=[0, 2],
        positions=[1, 3, 4],
    )
    entropy = t.entropy
    t.save(tmp_path / "x.trace")
    assert [p.name for p in tmp_path.iterdir()] == ["x.trace"]
    alone = Trace.load(tmp_path / "x.trace")
    for name in t.kept:
        assert np.array_equal(getattr(alone, name), getattr(t, name)), name
    assert np.array_equal(alone.entropy, entropy)
    assert (alone.ids, alone.tokens, alone.name) == (t.ids, t.tokens, t.name)
    assert (alone.layers, alone.heads, alone.positions) == ((1, 5), (0, 2), (1, 3, 4))
    with pytest.raises(ValueError, match="loaded without a model"):
        alone.lens(1)
    assert Trace.load(tmp_path / "x.trace", model).lens(1) == t.lens(1)
    small = model.trace([5, 6], want="q")
    small.save(str(tmp_path / "y.npz"))
    assert Trace.load(str(tmp_path / "y.npz")).kept == ("q",)


def test_pickles(load: Load) -> None:
    """What a worker process sends back: the arrays. A copy in the process still knows its model."""
    t = load("gemma3").trace([5, 6, 7], want=("hidden", "q"))
    lens = t.lens(2)
    found = pickle.loads(pickle.dumps(t))
    assert (found.ids, found.tokens, found.name, found.kept) == (t.ids, t.tokens, t.name, t.kept)
    assert [token.bytes for token in found.tokens] == [token.bytes for token in t.tokens]
    assert np.array_equal(found.hidden, t.hidden)
    with pytest.raises(ValueError, match="without a model"):
        found.lens(2)
    assert copy.copy(t).lens(2) == lens


def test_compressed(load: Load, tmp_path: Path) -> None:
    model = load("gemma3")
    t = model.trace(range(5, 65), want=("hidden", "attention"))
    t.save(tmp_path / "a.npz")
    t.save(tmp_path / "b.npz", compressed=True)
    small, whole = ((tmp_path / name).stat().st_size for name in ("b.npz", "a.npz"))
    assert small < 0.75 * whole
    again = Trace.load(tmp_path / "b.npz", model)
    for name in t.kept:
        assert np.array_equal(getattr(again, name), getattr(t, name)), name
    with pytest.raises(ValueError, match=r"b\.npz: not a saved trace \(its arrays would take .* more than limit=1000"):
        Trace.load(tmp_path / "b.npz", limit=1000)
    assert Trace.load(tmp_path / "a.npz", limit=0).ids == t.ids  # it takes no more than the file has
    with pytest.raises(TypeError, match="compressed"):
        t.save(tmp_path / "c.npz", compressed=CAREFUL)
    assert not (tmp_path / "c.npz").exists()


def test_pieces_survive(smollm: Model, tmp_path: Path) -> None:
    t = smollm.trace('a "quoted" \N{SNOWMAN} \x00', want="hidden", layers=0)
    t.save(tmp_path / "x.npz")
    assert Trace.load(tmp_path / "x.npz").tokens == t.tokens


def test_what_is_not_a_saved_trace(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    load("llama_gqa").trace([1, 2, 3]).save(path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    bad: list[bytes | dict[str, Any]] = [b"", b"text", whole[: len(whole) // 2], {"hidden": arrays["hidden"]}]
    bad.append({**arrays, "hidden": arrays["hidden"][:, :2]})
    bad.append({**arrays, "attention": arrays["attention"].astype(np.float64)})
    bad.append({**arrays, "meta": np.array("{}")})
    bad.append({**arrays, "meta": np.array("[1]")})
    bad.append({**arrays, "meta": np.array(str(arrays["meta"]).replace('"pellucid_trace": 1', '"pellucid_trace": 2'))})
    bad.append({**arrays, "meta": np.array({"a": 1}, dtype=object)})
    for content in bad:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        with pytest.raises(ValueError, match=r"x\.npz: not a saved trace"):
            Trace.load(path)
    with pytest.raises(FileNotFoundError):
        Trace.load(tmp_path / "none.npz")


def test_saving_is_all_or_nothing(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full leaves the earlier trace, and no half one."""
    path = tmp_path / "x.npz"
    t = load("llama_gqa").trace([1, 2, 3])
    t.save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelFileError, match=r"x\.npz: no space left on device"):
        load("llama_gqa").trace([4, 5]).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    for wrong in (1, b"x.npz", None):
        with pytest.raises(TypeError, match="^path must be the path of a file, not "):
            t.save(wrong)
        with pytest.raises(TypeError, match="^path must be the path of a file, not "):
            Trace.load(wrong)  # type: ignore[arg-type]


def test_a_fifo_is_no_saved_trace(tmp_path: Path) -> None:
    """Nobody writes to it: it is not waited for."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"fifo: not a saved trace \(.*this is a FIFO"):
        Trace.load(tmp_path / "fifo")


def test_a_trace_of_another_model(load: Load, tmp_path: Path) -> None:
    load("llama_odd").trace([130]).save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="130 is not an id of this model"):
        Trace.load(tmp_path / "x.npz", load("llama_gqa"))


def test_bertviz(load: Load) -> None:
    t = load("gemma3").trace([5, 6, 7, 8], layers=[0, 6])
    attention, tokens = t.bertviz()
    assert [a.shape for a in attention] == [(1, 4, 4, 4)] * 2
    assert np.array_equal(attention[1][0], t.attention[1])
    assert tokens == ["<5>", "<6>", "<7>", "<8>"]
    with pytest.raises(ValueError, match="all positions"):
        load("gemma3").trace([5, 6, 7], positions=[1, 2]).bertviz()
    with pytest.raises(AttributeError, match="attention"):
        load("gemma3").trace([5, 6, 7], want="hidden").bertviz()


def test_tables(load: Load) -> None:
    t = load("gemma3").trace([5, 6, 7, 8], layers=[2, 6], heads=[1], positions=[0, 3])
    names, levels, columns, values = export.table(t, "attention")
    assert names == ["layer", "head", "position"] and levels == [[2, 6], [1], [0, 3]] and columns == [0, 1, 2, 3]
    assert np.array_equal(values, t.attention.reshape(4, 4))
    names, levels, columns, values = export.table(t, "hidden")
    assert names == ["after", "position"] and levels == [[-1, 2, 6], [0, 3]] and len(columns) == 64
    assert values.shape == (6, 64)


class FakePandas:
    """The functions of pandas that are called; they return their arguments."""

    class Index(list[Any]):
        def __init__(self, values: Any, name: str) -> None:
            super().__init__(values)
            self.name = name

    class MultiIndex:
        @staticmethod
        def from_product(levels: Any, names: Any) -> Any:
            return levels, names

    @staticmethod
    def DataFrame(data: Any, **options: Any) -> Any:
        return data, options


def test_to_pandas(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    t = load("gemma3").trace([5, 6, 7, 8], positions=[1, 3])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        t.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", FakePandas)
    data, options = t.to_pandas()
    assert list(data) == ["id", "piece", "entropy", "next_rank", "next_probability"] and data["id"] == [6, 8]
    assert options["index"] == [1, 3] and options["index"].name == "position"
    data, options = t.to_pandas("attention")
    assert options["index"][1] == ["layer", "head", "position"] and options["columns"].name == "token"
    with pytest.raises(ValueError, match="quantity='attentions'"):
        t.to_pandas("attentions")
    with pytest.raises(AttributeError, match="neurons"):
        t.to_pandas("neurons")


def test_names() -> None:
    assert pellucid.Trace is Trace
    with pytest.raises(AttributeError, match="Traces"):
        _ = pellucid.Traces


CAREFUL: Any = "yes"
HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117)
    + b"\n"
)


def test_a_saved_trace_that_means_harm(load: Load, tmp_path: Path) -> None:
    """Memory is bounded by the file's size or the limit, and the error is one printable line."""
    load("llama_gqa").trace([1, 2, 3]).save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        arrays = dict(saved)
    meta = json.loads(str(arrays["meta"]))
    metas = [{"pellucid_trace": "\x1b]52;\n" * 1000}, {**meta, "layers": [math.inf]}, {**meta, "tokens": [["\n", "x"]]}]
    texts = [json.dumps(found) for found in metas] + ["[" * 100_000]
    path = tmp_path / "y\x1b[2J\n.npz"
    for text in texts:
        np.savez(path, **{**arrays, "meta": np.array(text)})
        check_refused(path)
    np.savez_compressed(path, **arrays, hidden2=np.zeros(10**7))
    check_refused(path, limit=10**7)
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(path, "w", how) as file, zipfile.ZipFile(tmp_path / "x.npz") as sound:
            for name in sound.namelist():
                file.writestr(name, HUGE if name == "hidden.npy" else sound.read(name))
        check_refused(path)


def check_refused(path: Path, limit: int | None = None) -> None:
    with pytest.raises(ValueError, match="not a saved trace") as caught:
        Trace.load(path, limit=limit)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 500
