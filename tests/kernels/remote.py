"""Kernels of a foreign processor: a program of csrc's kernels (serve.c), cross-compiled and under an emulator, or for
this processor with tile registers that it lacks (tiles.h).

`Machine.patches` are the functions of `pellucid._kernels`, which hand calls for the machine's tier to it and leave
all others to the original: so the tests of the tiers at hand are those of the foreign one too (`tests_of`).
"""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import setup
from pellucid import _engine
from pellucid._kernels import attend, recurrent, rows, vocab, weights

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent.parent
EMULATOR = "qemu-aarch64"
FORMATS = list(weights.formats())
PARTS = ("formats", "kernels", "kernels/scalar")  # of csrc, besides the tiers and cpu/detect.c
PAGE = 4096
_HEAD, _ARRAY = struct.Struct("<16sq12q4f"), struct.Struct("<qq")


def need(program: str) -> str:
    """The program's path. Raises an error naming the packages to install where it is missing."""
    path = shutil.which(program)
    if path is None:
        packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
        raise RuntimeError(f"{program} is not installed; Debian, Ubuntu: apt install {packages}")
    return path


def tier(name: str) -> setup.Isa:
    return next(t for t in setup.TIERS if t.name == name)


@dataclass(frozen=True)
class Target:
    """What a program is built for. `own`: flags of a tier's files in place of those that setup.py names."""

    compiler: tuple[str, ...]
    emulator: tuple[str, ...] = ()  # what runs it, if not this processor
    flags: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    own: Mapping[str, str] | None = None

    def tier_flags(self, isa: setup.Isa) -> list[str]:
        return shlex.split((self.own or {}).get(isa.name, isa.flags))


def aarch64() -> Target:
    return Target((need("aarch64-linux-gnu-gcc"),), (need(EMULATOR),), link=("-static",))


def with_tiles() -> Target:
    """This processor, whose tile registers are memory: no file may use an instruction for the real ones."""
    flags = tier("avx512bf16").flags + f" -include {shlex.quote(str(ROOT / 'tests/kernels/tiles.h'))}"
    return Target(tuple(setup.find_compiler()), flags=("-DPL_TILES_EMULATED",), own={"amx": flags})


def compile_all(sources: Sequence[Path], folder: Path, isas: Sequence[setup.Isa], target: Target) -> list[Path]:
    """Compiles files of csrc with the flags of setup.py -> objects; a warning is an error."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = list(target.compiler)
    stack, defines = setup.stack_flags(compiler, []), [isa.define for isa in isas]

    def work(source: Path) -> Path:
        own = [flag for isa in isas if source.parent.name == isa.name for flag in target.tier_flags(isa)]
        made = folder / ("_".join(source.relative_to(ROOT).with_suffix("").parts) + ".o")
        command = [*compiler, *setup.COMMON, *setup.openmp(), *setup.WARNINGS, *stack, "-Werror", *target.flags,
                   *defines, *own, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(made)]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return made

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, sources))


def build(folder: Path, isas: Sequence[setup.Isa], target: Target) -> Path:
    """Builds serve.c with the scalar kernels and those of the tiers."""
    csrc = ROOT / "csrc"
    sources = [
        p for part in (*PARTS, *(f"kernels/{isa.name}" for isa in isas)) for p in sorted((csrc / part).glob("*.c"))
    ]
    objects = compile_all([*sources, csrc / "cpu/detect.c", ROOT / "tests/kernels/serve.c"], folder, isas, target)
    program = folder / "serve"
    command = [*target.compiler, *target.link, "-pthread", *map(str, objects), "-lm", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def span(a: Array) -> Array:
    """The memory from a 1-d or 2-d array's first element to its last, 1-d: what a kernel with a row distance sees."""
    if a.flags.c_contiguous:
        return a.reshape(-1)
    n = (a.shape[0] - 1) * (a.strides[0] // a.itemsize) + a.shape[1]
    return np.lib.stride_tricks.as_strided(a, (n,), (a.itemsize,))


def _floats(values: Sequence[float] | None) -> Array | None:
    return None if values is None else np.asarray(values, np.float32)


class Machine:
    """A running serve. A call that ends it (by touching a guard page, say) raises RuntimeError and restarts it."""

    def __init__(self, program: Path, isa: str, target: Target) -> None:
        self.command = [*target.emulator, str(program), isa]
        self.isa = isa
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.wait()

    def call(
        self, op: str, ints: Sequence[int], floats: Sequence[float], arrays: Sequence[Array | None], out: Sequence[int]
    ) -> float:
        """Runs one kernel on copies of `arrays`, then copies back those whose indices are in `out`.

        An array that ends (begins) with a page here does so there. No other array may have been changed.
        """
        heads, data = [], []
        views: list[Array | None] = []
        for j, a in enumerate(arrays):
            if a is None:
                heads.append(_ARRAY.pack(-1, 0))
                views.append(None)
                continue
            flat = span(a)
            at = flat.ctypes.data
            twins = [
                i for i, v in enumerate(views) if v is not None and v.ctypes.data == at and v.nbytes == flat.nbytes
            ]
            twin = twins[0] if twins and flat.nbytes else None
            place = int(at % PAGE == 0 and (at + flat.nbytes) % PAGE != 0)
            heads.append(_ARRAY.pack(flat.nbytes, place if twin is None else -1 - twin))
            views.append(flat if twin is None else None)
            if twin is None:
                data.append(flat.tobytes())
            elif j in out:
                out = [*out, twin]
        ints, floats = [*ints, *[0] * (12 - len(ints))], [*floats, *[0.0] * (4 - len(floats))]
        head = _HEAD.pack(op.encode(), len(arrays), *map(int, ints), *map(float, floats))
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        try:
            stdin.write(b"".join([head, *heads, *data]))
            stdin.flush()
            (result,) = struct.unpack("<d", self._read(8))
            for j, view in enumerate(views):
                if view is None:
                    continue
                got = np.frombuffer(self._read(view.nbytes), view.dtype)
                if j in out:
                    view[:] = got
                elif got.tobytes() != view.tobytes():
                    raise AssertionError(f"{op} changed its input {j}")
        except (BrokenPipeError, struct.error):
            code = self.process.wait()
            self.close_quietly()
            self.process = self._start()
            raise RuntimeError(f"{op} on {self.isa} ended the program: exit status {code}") from None
        return float(result)

    def close_quietly(self) -> None:
        """Closes the pipes of a program that has ended, even if they still hold data."""
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass

    def _read(self, n: int) -> bytes:
        assert self.process.stdout
        data = self.process.stdout.read(n)
        if len(data) != n:
            raise BrokenPipeError
        return data

    # ---- pellucid._kernels, for this machine's tier ------------------------------------------------------------------

    def patches(self) -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
        """(module, name, replacement) of each function to patch."""
        table = {
            weights: ("pack", "unpack_row", "matmul", "scratch_bytes"),
            rows: (
                "quantize",
                "to_bf16",
                "rms_norm",
                "layer_norm",
                "add",
                "scale",
                "glu",
                "clip",
                "rope",
                "softcap",
                "from_f16",
                "from_bf16",
                "fit",
                "fit_codes",
                "fit_whole",
            ),  # fmt: skip
            recurrent: ("conv", "scan"),
            attend: ("page_bytes", "kv_append", "attend", "attend_merge", "scratch_bytes"),
            vocab: ("max", "sum_exp", "sum_exp_dot", "moments", "collect", "softmax", "exp"),
        }
        for module, names in table.items():
            for name in names:
                yield module, name, self._divert(getattr(module, name), getattr(self, f"_{name}"))

    def _divert(self, original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
        return lambda isa, *args, **kw: ours(*args, **kw) if isa == self.isa else original(isa, *args, **kw)

    def _pack(self, format: str, raw: Array, k: int, out: Array | None = None) -> Array:
        if out is None:
            out = np.empty(-(-len(raw) // 16) * weights.tile_bytes(format, k), np.uint8)
        self.call("pack", [FORMATS.index(format), len(raw), k], [], [raw, out], [1])
        return out

    def _unpack_row(self, format: str, packed: Array, n: int, k: int, row: int, out: Array | None = None) -> Array:
        y = np.empty(k, np.float32) if out is None else out
        self.call("unpack_row", [FORMATS.index(format), n, k, row], [], [packed, y], [1])
        return y

    def _matmul(self, format: str, packed: Array, rows: int, k: int, *, x: Array | None = None, q: Array | None = None,
                s: Array | None = None, sums: Array | None = None, b: Array | None = None, terms: int = 1,
                tile0: int = 0, tile1: int | None = None, out: Array | None = None, scratch: Array | None = None,
                tuning: Any = None, repeat: int = 1) -> Array:  # fmt: skip
        main = next(a for a in (x, q, b) if a is not None)
        if out is None:
            out = np.full((len(main), rows), np.nan, np.float32)
        x_stride = 0 if x is None else x.strides[0] // 4
        ints = [FORMATS.index(format), rows, k, tile0, -(-rows // 16) if tile1 is None else tile1, len(main), terms,
                x_stride, out.strides[0] // 4, repeat, terms if q is None else q.shape[1]]  # fmt: skip
        if scratch is None:
            scratch = np.empty(self._scratch_bytes(format), np.uint8)
        values = None  # of the tuning, in the order of its names; -1: the default
        if tuning is not None:
            values = np.asarray([tuning.get(name, -1) for name in _engine.tuning_limits()], np.int32)
        self.call("matmul", ints, [], [packed, out, x, q, s, sums, b, scratch, values], [1, 7])
        return out

    def _scratch_bytes(self, name: str) -> int:
        """Scratch bytes of a format's products, or of attention over a type of keys and values."""
        op, names = ("matmul", FORMATS) if name in FORMATS else ("attend", attend.KV)
        return int(self.call(f"{op}_scratch", [names.index(name)], [], [], []))

    def _quantize(self, x: Array, terms: int = 1, out: Any = None) -> Any:
        k = len(x)
        if out is None:
            out = np.empty((terms, k), np.int8), np.empty(k // 32, np.float32), np.empty((terms, k // 16), np.int16)
        self.call("quantize", [k, terms], [], [x, *out], [1, 2, 3])
        return out

    def _row(self, op: str, arrays: Sequence[Array | None], out: Array | None, ints: Sequence[int] = (),
             floats: Sequence[float] = (), dtype: Any = np.float32) -> Array:  # fmt: skip
        n = len(arrays[0])  # type: ignore[arg-type]
        y = np.empty(n, dtype) if out is None else out
        self.call(op, [n, *ints], floats, [*arrays, y], [len(arrays)])
        return y

    def _to_bf16(self, x: Array, out: Array | None = None) -> Array:
        return self._row("to_bf16", [x], out, dtype=np.uint16)

    def _rms_norm(self, x: Array, w: Array | None, eps: float, out: Array | None = None) -> Array:
        return self._row("rms_norm", [x, w], out, floats=[eps])

    def _layer_norm(self, x: Array, w: Array | None, b: Array | None, eps: float, out: Array | None = None) -> Array:
        return self._row("layer_norm", [x, w, b], out, floats=[eps])

    def _add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        return self._row("add", [x, y], out)

    def _scale(self, x: Array, a: float, out: Array | None = None) -> Array:
        return self._row("scale", [x], out, floats=[a])

    def _glu(self, act: str, g: Array, u: Array | None, out: Array | None = None, p: Array | None = None) -> Array:
        return self._row("glu", [g, u, p], out, ints=[rows.ACTIVATIONS.index(act)])

    def _clip(self, x: Array, least: float, most: float, out: Array | None = None) -> Array:
        return self._row("clip", [x], out, floats=[least, most])

    def _rope(self, x: Array, cos: Array, sin: Array, halves: bool) -> None:
        self.call("rope", [len(x), halves], [], [x, cos, sin], [0])

    def _softcap(self, x: Array, cap: float, out: Array | None = None) -> Array:
        return self._row("softcap", [x], out, floats=[cap])

    def _from_f16(self, x: Array, out: Array | None = None) -> Array | None:
        y = np.empty(len(x) // 2, np.float32) if out is None else out
        return None if self.call("from_f16", [len(y)], [], [x, y], [1]) else y

    def _from_bf16(self, x: Array, out: Array | None = None) -> Array:
        y = np.empty(len(x) // 2, np.float32) if out is None else out
        self.call("from_bf16", [len(y)], [], [x, y], [1])
        return y

    def _fit(self, x: Array, kind: str, lo: int, hi: int, spread: Sequence[float], repeats: int = 1,
             out: Array | None = None, table: Sequence[float] | None = None,
             centred: bool = False) -> tuple[Array, Array, bool]:  # fmt: skip
        y = np.empty((2, rows.GROUPS), np.float32) if out is None else out
        n = len(x)
        ints = [rows.KINDS.index(kind), x.shape[1], lo, hi, len(spread), repeats, centred, n]
        bad = self.call("fit", ints, spread, [x, y, _floats(table)], [1])
        return y[0, :n], y[1, :n], bool(bad)

    def _fit_codes(self, x: Array, lo: int, hi: int, d: Array, m: Array, out: Array | None = None,
                   table: Sequence[float] | None = None) -> Array:  # fmt: skip
        codes = np.empty(x.shape, np.uint8) if out is None else out
        self.call("fit_codes", [*x.shape, lo, hi], [], [x, d, m, codes, _floats(table)], [3])
        return codes

    def _fit_whole(self, v: Array, largest: int, lo: int, hi: int) -> tuple[Array, Array, bool]:
        factors, whole = np.empty(len(v), np.uint16), np.empty(v.shape, np.int32)
        bad = self.call("fit_whole", [*v.shape, largest, lo, hi], [], [v, factors, whole], [0, 1, 2])
        return factors, whole, bool(bad)

    def _conv(self, x: Sequence[Array], by: Sequence[Array | None], w: Array, bias: Array | None,
              out: Array | None = None) -> Array:  # fmt: skip
        taps, n = w.shape
        y = np.empty(n, np.float32) if out is None else out
        bits = sum(1 << j for j, one in enumerate(by) if one is not None)
        factors = np.stack([np.zeros(n, np.float32) if one is None else one for one in by])
        self.call("conv", [taps, n, bits], [], [np.stack(x), factors, w, bias, y], [4])
        return y

    def _scan(self, q: Array, k: Array, v: Array, gates: Array, skip: float, delta: bool, state: Array,
              out: Array | None = None) -> tuple[Array, bool]:  # fmt: skip
        n, cols = v.shape
        y = np.empty((n, cols), np.float32) if out is None else out
        x = np.concatenate([q, k, v], axis=1)
        bad = self.call("scan", [n, q.shape[1], cols, delta, gates.shape[1]], [skip], [x, gates, state, y], [2, 3])
        return y, bool(bad)

    def _page_bytes(self, kv: str, dk: int, dv: int) -> tuple[int, int]:
        out = np.zeros(2, np.int64)
        self.call("page_bytes", [attend.KV.index(kv), dk, dv], [], [out], [0])
        return int(out[0]), int(out[1])

    def _kv_append(self, kv: str, k: Array, v: Array, slot: int, kpage: Array, vpage: Array) -> None:
        self.call("kv_append", [attend.KV.index(kv), len(k), len(v), slot], [], [k, v, kpage, vpage], [2, 3])

    def _attend(self, kv: str, q: Array, k: Array, v: Array, lo: Array, hi: Array, scale: float, top: Array, sum: Array,
                acc: Array, scratch: Array | None = None, cap: float = 0) -> None:  # fmt: skip
        ints = [attend.KV.index(kv), *q.shape, acc.shape[1], q.strides[0] // 4, len(k)]
        if scratch is None:
            scratch = np.empty(self._scratch_bytes(kv), np.uint8)
        self.call("attend", ints, [scale, cap], [q, k, v, lo, hi, top, sum, acc, scratch], [5, 6, 7, 8])

    def _attend_merge(self, *states: Array) -> None:
        self.call("attend_merge", states[2].shape, [], states, [0, 1, 2])

    def _max(self, x: Array) -> float:
        return self.call("max", [len(x)], [], [x], [])

    def _sum_exp(self, x: Array, top: float, inv_t: float) -> float:
        return self.call("sum_exp", [len(x)], [top, inv_t], [x], [])

    def _sum_exp_dot(self, x: Array, top: float, inv_t: float) -> tuple[float, float]:
        out = np.zeros(1, np.float64)
        total = self.call("sum_exp_dot", [len(x)], [top, inv_t], [x, out], [1])
        return total, float(out[0])

    def _moments(self, x: Array, top: float) -> tuple[float, float]:
        out = np.zeros(2, np.float64)
        self.call("moments", [len(x)], [top], [x, out], [1])
        return float(out[0]), float(out[1])

    def _collect(self, x: Array, least: float, out: Array) -> int:
        return int(self.call("collect", [len(x), len(out)], [least], [x, out], [1]))

    def _softmax(self, x: Array) -> None:
        self.call("softmax", [len(x)], [], [x], [0])

    def _exp(self, x: Array, out: Array | None = None) -> Array:
        return self._row("exp", [x], out)


# ---- the tests of all tiers, for machines' tiers ---------------------------------------------------------------------


@contextmanager
def diverted(machines: Sequence[Machine]) -> Iterator[None]:
    """Meanwhile, these tiers are run by the machines."""
    with pytest.MonkeyPatch.context() as patch:
        for running in machines:
            for module, name, function in running.patches():
                patch.setattr(module, name, function)
        yield


def elsewhere(test: Callable[..., Any], isas: Sequence[str]) -> Callable[..., Any]:
    """The test with these values of `isa` only."""
    copy = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    marks = [
        pytest.mark.parametrize("isa", isas).mark if mark.name == "parametrize" and mark.args[0] == "isa" else mark
        for mark in getattr(test, "pytestmark", [])
    ]
    copy.pytestmark = marks  # type: ignore[attr-defined]
    return copy


def tests_of(modules: Mapping[ModuleType, Sequence[str]]) -> dict[str, Callable[..., Any]]:
    """Unique name -> test, for every test of the modules that takes an `isa`, with those named."""
    found = {}
    for module, isas in modules.items():
        area = module.__name__.rpartition("test_")[2]
        for name, test in vars(module).items():
            if name.startswith("test_") and "isa" in test.__code__.co_varnames[: test.__code__.co_argcount]:
                found[f"test_{area}_{name.removeprefix('test_')}"] = elsewhere(test, isas)
    return found
