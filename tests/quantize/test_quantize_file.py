"""GGUF files in other formats: read back by the `gguf` package and by Pellucid, and what a killed process leaves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

from pellucid import Model, _engine
from pellucid.errors import ModelFileError, WrongValue
from pellucid.making.convert import convert_folder
from pellucid.weights import open_model
from pellucid.weights.importance import Importance, read_importances, write_importances
from pellucid.weights.quantise import quantize_file
from pellucid.weights.quantise import recipe as recipe_of
from pellucid.weights.recipes import MIXTURES, Recipe, fits
from pellucid.weights.writer import Planned, Value, write_gguf
from tests.reference import tiny

from .models import write
from .test_quantisers import counts


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "f32.gguf", layers=1, ff=256)


def make(source: Path, out: Path, mixture: str, **options: Any) -> dict[str, str]:
    with open_model(source) as file:
        return quantize_file(file, out, mixture, **options)


def error(source: Path, out: Path) -> float:
    """Mean over matrices of the squared error, as `counts` weighs it, relative to the weights'."""
    reader = {t.name: t for t in gguf.GGUFReader(source).tensors}
    found = []
    for t in gguf.GGUFReader(out).tensors:
        if t.tensor_type not in (0, reader[t.name].tensor_type):
            x = reader[t.name].data.astype(np.float64)
            y = quants.dequantize(t.data, t.tensor_type)
            found.append((counts(x, t.tensor_type.name) * (y - x) ** 2).mean() / (x**2).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_file_holds_the_model(source: Path, tmp_path: Path, mixture: str) -> None:
    out = tmp_path / "out.gguf"
    steps: list[tuple[int, int]] = []
    made = make(source, out, mixture, threads=2, progress=lambda done, total, _: steps.append((done, total)))
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(out)
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors] == [*made]
    assert all(t.tensor_type.name == made[t.name] for t in after.tensors)
    assert all(made[t.name] == "F32" for t in before.tensors if len(t.shape) == 1)
    kept = {name for name in before.fields if not name.startswith(("GGUF.", "general.file_type"))}
    for name in kept:
        assert before.fields[name].contents() == after.fields[name].contents()
        assert before.fields[name].types == after.fields[name].types
    assert after.fields["general.file_type"].contents() == MIXTURES[mixture][0]
    assert steps[-1] == (out.stat().st_size,) * 2
    assert steps == sorted(steps)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    if mixture != "F32":
        assert error(source, out) < (0.09 if mixture.startswith("Q2") else 0.025)
    with open_model(out) as file:
        assert {t.type for t in file.tensors.values()} == {*made.values()}
        assert file.quantisation.removesuffix("_MOE") == mixture.removesuffix("_MOE")


def test_what_runs_is_close_to_the_source(source: Path, tmp_path: Path) -> None:
    ids = [3, 14, 15, 9, 2, 6]
    with Model.load(source) as model:
        want = model.logits(ids)
    for mixture, limit in (("F16", 0.01), ("Q8_0", 0.03), ("Q4_K_M", 0.25)):
        make(source, tmp_path / "out.gguf", mixture)
        with Model.load(tmp_path / "out.gguf") as model:
            found = model.logits(ids)
        assert np.linalg.norm(found - want) / np.linalg.norm(want) < limit, mixture


def test_a_quantised_source_and_back(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "a.gguf", "Q8_0")
    make(tmp_path / "a.gguf", tmp_path / "b.gguf", "F32")
    for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors:
        other = next(o for o in gguf.GGUFReader(tmp_path / "b.gguf").tensors if o.name == t.name)
        np.testing.assert_array_equal(quants.dequantize(t.data, t.tensor_type), other.data)


def test_importances_of_both_formats(source: Path, tmp_path: Path) -> None:
    """They lower the error of the columns they favour; the two formats give the same bytes."""
    rng = np.random.default_rng(0)
    with open_model(source) as file:
        wide = {n: t.shape[1] for n, t in file.tensors.items() if n.startswith("blk.") and len(t.shape) == 2}
    squares = {name: np.exp(2 * rng.standard_normal(k)).astype(np.float32) for name, k in wide.items()}
    found = {name: Importance(10 * x[None], np.array([10], np.float32)) for name, x in squares.items()}
    write_importances(tmp_path / "new.gguf", found, datasets=["a text"], chunk_size=512, chunks=3)
    entries = b"".join(
        len(n).to_bytes(4, "little") + n.encode() + (10).to_bytes(4, "little") + len(x).to_bytes(4, "little")
        + (10 * x).tobytes() for n, x in squares.items()
    )  # fmt: skip
    (tmp_path / "old.dat").write_bytes(len(squares).to_bytes(4, "little") + entries)
    reader = gguf.GGUFReader(tmp_path / "new.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a text"]
    shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}
    name = "blk.0.ffn_down.weight"
    assert (shapes[name + ".in_sum2"], shapes[name + ".counts"]) == ([256, 1], [1, 1])
    assert {*read_importances(tmp_path / "new.gguf")} == {*squares}
    make(source, tmp_path / "plain.gguf", "Q4_K_S")
    for kind in ("new.gguf", "old.dat"):
        make(source, tmp_path / f"{kind}.out", "Q4_K_S", importances=read_importances(tmp_path / kind))
    assert (tmp_path / "new.gguf.out").read_bytes() == (tmp_path / "old.dat.out").read_bytes()

    def weighted(path: Path) -> float:
        a = next(t for t in gguf.GGUFReader(source).tensors if t.name == name)
        b = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
        return float((squares[name] * (quants.dequantize(b.data, b.tensor_type) - a.data) ** 2).mean())

    assert weighted(tmp_path / "new.gguf.out") < 0.9 * weighted(tmp_path / "plain.gguf")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "entries"),
        (b"\1\0\0\0", "entries[0].name"),
        (b"\xff\xff\xff\xff", "entries"),
        (b"\1\0\0\0\1\0\0\0a\1\0\0\0\xff\xff\xff\x7f", "entries[0].values"),
        (b"\1\0\0\0\1\0\0\0a\1\0\0\0\1\0\0\0\0\0\xc0\x7f", "a"),
        (b"\1\0\0\0\1\0\0\0\xff\1\0\0\0\0\0\0\0", "entries[0].name"),
        (b"\0\0\0\0", None),
    ],
)
def test_broken_importance_files(tmp_path: Path, raw: bytes, field: str | None) -> None:
    (tmp_path / "x.dat").write_bytes(raw)
    with pytest.raises(ModelFileError) as caught:
        read_importances(tmp_path / "x.dat")
    assert caught.value.field == field


@pytest.mark.parametrize("sums, count", [(3e38, 1.0), (1e3, 1e-44)])
def test_means_beyond_float32_are_refused(sums: float, count: float, tmp_path: Path) -> None:
    one = Importance(np.full((1, 32), sums, np.float32), np.full(1, count, np.float32))
    write_importances(tmp_path / "x.gguf", {"blk.0.ffn_up.weight": one})
    with pytest.raises(ModelFileError, match="a mean that is not finite") as caught:
        read_importances(tmp_path / "x.gguf")
    assert caught.value.field == "blk.0.ffn_up.weight"


def test_a_text_is_no_importance_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Some text, and not what was made of it.")
    with pytest.raises(ModelFileError, match="as in an importance file: GGUF of the type imatrix"):
        read_importances(tmp_path / "x.txt")


def test_a_model_is_no_importance_file(source: Path) -> None:
    with pytest.raises(ModelFileError, match="imatrix"):
        read_importances(source)


def test_importances_of_another_model_are_refused(source: Path, tmp_path: Path) -> None:
    wrong = {"blk.0.ffn_up.weight": Importance(np.ones((1, 7), np.float32), np.ones(1, np.float32))}
    with pytest.raises(WrongValue, match=r"blk\.0\.ffn_up\.weight has 7 values"):
        make(source, tmp_path / "out.gguf", "Q4_0", importances=wrong)
    assert not [*tmp_path.iterdir()]
    other = {"blk.9.ffn_up.weight": wrong.pop("blk.0.ffn_up.weight")}
    folder = tiny.write_folder(tiny.TINY[0], tmp_path / "folder")
    for run in (
        lambda out: make(source, out, "Q4_0", importances=other),
        lambda out: convert_folder(folder, out, "Q4_0", importances=other),
    ):
        with pytest.raises(WrongValue, match="^imatrix: it has no tensor of this model"):
            run(tmp_path / "out.gguf")
    assert [*tmp_path.iterdir()] == [folder]


def test_values_that_the_format_cannot_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "f32.gguf", layers=1)
    t = next(t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "blk.0.ffn_up.weight")
    t.data[37, 5] = np.nan
    t.data.base.flush() if hasattr(t.data.base, "flush") else None
    del t
    with pytest.raises(ModelFileError, match="row 37 has a value") as caught:
        make(path, tmp_path / "out.gguf", "Q4_K_M")
    assert caught.value.field == "blk.0.ffn_up.weight"
    assert [p.name for p in tmp_path.iterdir()] == ["f32.gguf"]


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    """The target does not exist while its tensors are written, an older file of its name stays whole, and the part that
    was written is freed."""
    (tmp_path / "old.gguf").write_bytes(b"old")
    code = f"""
import os, signal
from pellucid.weights.writer import *
def die():
    yield bytes(64)
    os.kill(os.getpid(), signal.SIGKILL)
write_gguf({str(tmp_path / "old.gguf")!r}, {{}}, [Planned("a", "F32", (4, 8), die)])
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (tmp_path / "old.gguf").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.gguf"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it leads to is replaced, in another folder or not there yet."""
    (tmp_path / "disk").mkdir()
    for name in ("old.gguf", "new.gguf"):
        (tmp_path / name).symlink_to(Path("disk") / name)
    (tmp_path / "disk" / "old.gguf").write_bytes(b"old")
    for name in ("old.gguf", "new.gguf"):
        write_gguf(tmp_path / name, {"a": Value("uint8", 1)}, [])
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_bytes().startswith(b"GGUF")
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["new.gguf", "old.gguf"]
    (tmp_path / "gone.gguf").symlink_to("nowhere/gone.gguf")
    with pytest.raises(ModelFileError, match="gone.gguf"):
        write_gguf(tmp_path / "gone.gguf", {"a": Value("uint8", 1)}, [])
    assert (tmp_path / "gone.gguf").is_symlink()


def test_systems_that_have_no_files_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O_TMPFILE missing, refused by the file system, or without a way to name the file later."""
    want = tmp_path / "want.gguf"
    write_gguf(want, {"a": Value("uint8", 1)}, [])
    whole = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return whole(path, flags, *rest, **more)

    def unnamed(*names: Any, **more: Any) -> None:
        raise OSError(errno.ENOENT, "no /proc")

    for name, other in (("open", refused), ("link", unnamed)):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, other)
            write_gguf(tmp_path / "x.gguf", {"a": Value("uint8", 1)}, [])
        with monkeypatch.context() as patched:
            patched.delattr(os, "O_TMPFILE")
            write_gguf(tmp_path / "x.gguf", {"a": Value("uint8", 1)}, [])
        assert (tmp_path / "x.gguf").read_bytes() == want.read_bytes()
        assert (tmp_path / "x.gguf").stat().st_mode == want.stat().st_mode
        assert sorted(p.name for p in tmp_path.iterdir()) == ["want.gguf", "x.gguf"]


def test_the_umask_holds_and_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the process's: other threads make files meanwhile."""
    path, umask = tmp_path / "x.gguf", os.umask
    before = umask(0o027)
    try:
        monkeypatch.delattr(os, "umask")
        write_gguf(path, {"a": Value("uint8", 1)}, [])
        assert path.stat().st_mode & 0o777 == 0o640
        path.unlink()
        monkeypatch.delattr(os, "O_TMPFILE")
        write_gguf(path, {"a": Value("uint8", 1)}, [])
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        umask(before)


def test_names_of_many_bytes(tmp_path: Path) -> None:
    """A name of 63 characters may have 252 of the 255 bytes that a system allows."""
    path = tmp_path / ("\N{OCTOPUS}" * 63)
    write_gguf(path, {"a": Value("uint8", 1)}, [])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_device_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="this is a FIFO"):
        write_gguf(tmp_path / "pipe", {}, [])
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"] and (tmp_path / "pipe").is_fifo()


def test_folders_that_take_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file or directory"):
        write_gguf(tmp_path / "none" / "x.gguf", {}, [])


def test_every_kind_of_value(tmp_path: Path) -> None:
    metadata = {
        "a.u8": Value("uint8", 255), "a.i8": Value("int8", -3), "a.u16": Value("uint16", 65535),
        "a.i16": Value("int16", -9), "a.u32": Value("uint32", 1 << 31), "a.i32": Value("int32", -5),
        "a.f32": Value("float32", 0.5), "a.f64": Value("float64", 1e300), "a.u64": Value("uint64", 1 << 63),
        "a.i64": Value("int64", -(1 << 40)), "a.bool": Value("bool", True), "a.text": Value("string", "é"),
        "a.words": Value("array of string", [b"\xff", "x"]), "a.numbers": Value("array of int32", [1, -2]),
        "a.flags": Value("array of bool", [True, False]), "a.none": Value("array of string", []),
        "a.large": Value("array of uint64", [1, (1 << 64) - 1]), "a.no": Value("array of float32", []),
    }  # fmt: skip
    write_gguf(tmp_path / "x.gguf", metadata, [Planned("t", "F32", (2, 3), lambda: [np.zeros(24, np.uint8)])])
    with open_model(tmp_path / "x.gguf") as file:
        found = {k: v.to_bytes_list() if hasattr(v, "to_bytes_list") else v for k, v in file.metadata.items()}
        assert file.tensors["t"].shape == (2, 3)
    assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} == {
        **{k: v.value for k, v in metadata.items()}, "a.words": [b"\xff", b"x"]
    }  # fmt: skip
    with pytest.raises(WrongValue, match="beyond uint8"):
        write_gguf(tmp_path / "y.gguf", {"a": Value("uint8", 256)}, [])


def test_rows_that_do_not_fill_blocks() -> None:
    assert [fits(f, 576) for f in ("Q4_K", "Q6_K", "Q2_K", "IQ4_XS", "Q4_0")] == [
        "Q5_0", "Q8_0", "Q4_0", "IQ4_NL", "Q4_0"
    ]  # fmt: skip
    assert [fits(f, 48) for f in ("Q4_K", "Q8_0", "BF16")] == ["F16", "F16", "BF16"]
    assert {main for _, main in MIXTURES.values()} <= {*_engine.quantizers()}


def test_layers_of_a_hybrid() -> None:
    """Values and down projections count among themselves, those of experts by layers, as llama.cpp does (LFM2)."""
    names = [f"blk.{i}.attn_v.weight" for i in (2, 5, 8, 10, 12, 14)]
    names += [f"blk.{i}.ffn_down.weight" for i in (1, 3, 5, 7, 9, 11, 13, 15)]
    shapes = dict.fromkeys((*names, "token_embd.weight"), (8, 256))

    def more(mixture: str, main: str, experts: int = 0) -> list[int]:
        recipe = Recipe(mixture, shapes, "lfm2", layers=16, groups=0, experts=experts)
        return [i for i, name in enumerate(names) if recipe.format(name) != main]

    assert more("Q4_K_M", "Q4_K") == [2, 5, 6, 7, 10, 13]
    assert more("Q4_K_M", "Q4_K", experts=4) == [2, 5, 6, 9, 12, 13]
    assert more("IQ4_XS", "IQ4_XS") == [6, 7]
    assert more("IQ4_XS", "IQ4_XS", experts=4) == [6]


def test_heads_of_the_first_layer_decide(tmp_path: Path) -> None:
    keys = {"block_count": Value("uint32", 2), "attention.head_count": Value("uint32", 8)}
    for kv_heads, groups in (([0, 2], 0), ([2, 8], 4), ([8, 2], 1)):
        keys["attention.head_count_kv"] = Value("array of int32", kv_heads)
        metadata = {"general.architecture": Value("string", "lfm2"), **{f"lfm2.{k}": v for k, v in keys.items()}}
        write_gguf(tmp_path / "a.gguf", metadata, [])
        with open_model(tmp_path / "a.gguf") as file:
            assert recipe_of(file, "Q4_K_M").groups == groups


def test_experts_alone_in_mxfp4() -> None:
    """And no stack of heads (attn_k_b of DeepSeek), which has three dimensions, too."""
    shapes = {"blk.0.attn_k_b.weight": (2, 64, 32), "blk.0.ffn_up_exps.weight": (2, 64, 32), "output.weight": (8, 32)}
    found = Recipe("MXFP4_MOE", shapes, "deepseek2", layers=1, experts=2)
    assert [found.format(name) for name in shapes] == ["Q8_0", "MXFP4", "Q8_0"]


@pytest.mark.parametrize(
    ("mixture", "output", "downs"),
    [
        ("Q3_K_M", "Q3_K", ["Q5_K", "Q4_K", *["Q3_K"] * 2, "Q4_K", *["Q3_K"] * 2, "Q4_K"]),
        ("Q3_K_L", "Q4_K", ["Q4_K"] * 8),
        ("Q4_K_S", "Q4_K", ["Q4_K"] * 8),
        ("Q4_K_M", "Q4_K", ["Q6_K", "Q5_K", *["Q4_K"] * 2, "Q5_K", *["Q4_K"] * 2, "Q5_K"]),
    ],
)
def test_falcon_has_rules_of_its_own(mixture: str, output: str, downs: list[str]) -> None:
    """Those that llama.cpp has for files of Falcon, which are quantised though no engine here runs them."""
    shapes = {f"blk.{i}.{part}.weight": (256, 256) for i in range(17) for part in ("attn_output", "ffn_down")}
    recipe = Recipe(mixture, shapes, "falcon", layers=17)
    assert [recipe.format(f"blk.{i}.ffn_down.weight") for i in range(8)] == downs
    assert {recipe.format(f"blk.{i}.attn_output.weight") for i in range(17)} == {output}


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    for mode in (0o600, 0o664, 0o4755):
        path = tmp_path / f"{mode}"
        path.write_bytes(b"")
        path.chmod(mode)
        write_gguf(path, {}, [])
        assert path.stat().st_mode & 0o7777 == mode & 0o777 and path.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("allowed", ["both", "group", "neither"])
def test_a_replaced_file_keeps_its_owner_and_group(
    allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's writing does not shut the owner out; what one group could read, the writer's own must not."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    path.chmod(0o640)
    stat, fstat, gid = os.stat, os.fstat, os.getgid()
    given: list[tuple[int, int]] = []

    def fchown(_: int, owner: int, group: int) -> None:
        if allowed == "neither" or (allowed == "group" and owner != -1):
            raise PermissionError
        given.append((owner, group))

    def others(name: Any) -> os.stat_result:
        return os.stat_result((*stat(name)[:4], 1234, gid + 1, *stat(name)[6:10]))

    def new(fd: int) -> os.stat_result:
        return os.stat_result((*fstat(fd)[:5], given[-1][1] if given else gid, *fstat(fd)[6:10]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", fchown)
        patch.setattr(os, "fstat", new)
        patch.setattr(os, "stat", lambda name, **options: others(name) if name == str(path) else stat(name, **options))
        write_gguf(path, {}, [])
    assert given == {"both": [(1234, gid + 1)], "group": [(-1, gid + 1)], "neither": []}[allowed]
    assert path.stat().st_mode & 0o777 == (0o600 if allowed == "neither" else 0o640)
