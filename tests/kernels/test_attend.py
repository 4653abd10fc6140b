"""Attention kernels: every tier compared with the scalar one and float64; pages in sequence; independent rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pellucid._kernels import attend as kernels
from tests.kernels.guard import at_end, at_start
from tests.kernels.test_rows import EPS, ISAS, same, wide

Array = np.ndarray[Any, Any]
PAGE = kernels.PAGE
KV = kernels.KV
BF16_EPS = 2.0**-9  # half the distance of bf16 numbers at 1
# (dk, dv, m): ragged widths, every number of rows beside each other, widths of real heads
SHAPES = [(1, 1, 1), (7, 9, 2), (15, 17, 3), (16, 31, 4), (33, 16, 5), (64, 64, 3), (64, 64, 1), (80, 96, 8),
          (128, 128, 7), (256, 256, 4), (24, 72, 48)]  # fmt: skip


@dataclass
class Scene:
    """m queries over `length` keys and values; row i sees the slots [lo[i], hi[i]) of them all."""

    q: Array
    k: Array
    v: Array
    lo: Array
    hi: Array
    scale: float
    cap: float = 0.0

    @classmethod
    def random(cls, dk: int, dv: int, m: int, length: int, seed: int = 0) -> Scene:
        rng = np.random.default_rng([dk, dv, m, length, seed])
        q, k = rng.standard_normal((m, dk)), rng.standard_normal((length, dk))
        v = rng.standard_normal((length, dv))
        lo = rng.integers(0, length, m)
        hi = np.minimum(length, lo + rng.integers(0, length + 1, m))
        lo[0], hi[0] = 0, length
        f = np.float32
        return cls(q.astype(f), k.astype(f), v.astype(f), lo, hi, float(f(1.5 / np.sqrt(dk))))

    def bounds(self, rows: Array | None = None) -> tuple[Array, Array]:
        """lo and hi of each page, int32 (pages, m)."""
        starts = np.arange(0, len(self.k), PAGE)[:, None]
        lo, hi = (b if rows is None else b[rows] for b in (self.lo, self.hi))
        return tuple(np.ascontiguousarray(np.clip(b - starts, 0, PAGE), np.int32) for b in (lo, hi))  # type: ignore[return-value]

    def exact(self, kv: str) -> Array:
        """Softmax in float64 over the keys and values as the cache holds them; 0 where a row sees nothing."""
        k, v = wide(rounded(self.k, kv)), wide(rounded(self.v, kv))
        slots = np.arange(len(k))
        sees = (slots >= self.lo[:, None]) & (slots < self.hi[:, None])
        score = wide(self.q) @ k.T * self.scale
        score = np.where(sees, np.tanh(score / self.cap) * self.cap if self.cap else score, -np.inf)
        p = np.exp(score - np.maximum(score.max(1, keepdims=True), -1e300)) * sees
        return p @ v / np.maximum(p.sum(1, keepdims=True), 1e-300)


def rounded(x: Array, kv: str) -> Array:
    if kv == "f32":
        return x
    if kv == "f16":
        return x.astype(np.float16).astype(np.float32)
    if kv == "int8":
        q, s = encoded(x)
        return (wide(q) * np.repeat(wide(s), 32, axis=1)[:, : x.shape[1]]).astype(np.float32)
    u = x.view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def encoded(x: Array) -> tuple[Array, Array]:
    """int8 codes (n, d) and float32 scales (n, ceil(d / 32)) as kernels.h defines them, step by step in float32."""
    n, d = x.shape
    blocks = np.zeros((n, -(-d // 32) * 32), np.float32)
    blocks[:, :d] = x
    blocks = blocks.reshape(n, -1, 32)
    amax = np.abs(blocks).max(2)
    with np.errstate(all="ignore"):
        zero, broken = amax < np.float32(1e-30), ~np.isfinite(amax)
        scale = np.where(zero, np.float32(0), amax / np.float32(127))
        q = np.rint(blocks * (np.float32(127) / amax)[:, :, None])
    q = np.where((zero | broken)[:, :, None], 0, q).astype(np.int8)
    return q.reshape(n, -1)[:, :d], scale.astype(np.float32)


def multiplies_bf16(isa: str, kv: str) -> bool:
    """Whether the tier rounds queries and probabilities to bf16 and has its own page layout."""
    return isa in ("avx512bf16", "amx") and kv == "bf16"


def held(isa: str, kv: str, page: tuple[Array, Array], dk: int, dv: int) -> list[Array]:
    """A page's keys (64, dk) and values (64, dv); with int8 codes and scales of keys, then of values."""
    k, v = page
    if kv == "int8":
        parts = []
        for p, d in ((k, dk), (v, dv)):
            n = d * PAGE
            parts.append((p[:n].view(np.int8), p[n:].view(np.float32).reshape(-1, PAGE if p is v else 16)))
        (kq, ks), (vq, vs) = parts
        return [kq.reshape(4, dk, 16).transpose(0, 2, 1).reshape(PAGE, dk),
                ks.reshape(4, -1, 16).transpose(0, 2, 1).reshape(PAGE, -1), vq.reshape(PAGE, dv), vs.T]  # fmt: skip
    if kv == "bf16":
        k, v = ((p.view(np.uint16).astype(np.uint32) << 16).view(np.float32) for p in (k, v))
    else:
        k, v = (p.view(np.float16 if kv == "f16" else np.float32) for p in (k, v))
    if multiplies_bf16(isa, kv):  # pairs of d and of slots
        k = k.reshape(4, -1, 16, 2).transpose(0, 2, 1, 3).reshape(PAGE, -1)
        assert not k[:, dk:].any()
        return [k[:, :dk], v.reshape(32, dv, 2).transpose(0, 2, 1).reshape(PAGE, dv)]
    return [k.reshape(4, dk, 16).transpose(0, 2, 1).reshape(PAGE, dk), v.reshape(PAGE, dv)]


def pages(isa: str, kv: str, k: Array, v: Array) -> tuple[Array, Array]:
    """The cache's pages, uint8 (pages, bytes); slots that hold nothing are zero."""
    n_k, n_v = kernels.page_bytes(isa, kv, k.shape[1], v.shape[1])
    count = -(-len(k) // PAGE)
    kp, vp = np.zeros((count, n_k), np.uint8), np.zeros((count, n_v), np.uint8)
    for i in range(len(k)):
        kernels.kv_append(isa, kv, k[i], v[i], i % PAGE, kp[i // PAGE], vp[i // PAGE])
    return kp, vp


State = tuple[Array, Array, Array]


def fresh(m: int, dv: int) -> State:
    f = np.float32
    return np.full(m, kernels.TOP_NONE, f), np.zeros(m, f), np.zeros((m, dv), f)


def run(isa: str, kv: str, s: Scene, rows: Array | None = None, kept: tuple[Array, Array] | None = None) -> State:
    """The state after all pages, of all rows or of the given ones."""
    q = s.q if rows is None else s.q[rows]
    state = fresh(len(q), s.v.shape[1])
    kp, vp = kept or pages(isa, kv, s.k, s.v)
    kernels.attend(isa, kv, q, kp, vp, *s.bounds(rows), s.scale, *state, cap=s.cap)
    return state


def output(state: State) -> Array:
    _, total, acc = state
    return np.where(total[:, None] > 0, acc / np.where(total > 0, total, 1)[:, None], 0)


def bound(s: Scene, isa: str, kv: str) -> float:
    """Of |output - exact|: scores err by dk EPS |q| |k| scale, sums by 2 EPS a key, exp by 4 EPS, times |v|.

    Queries in bf16 move a score by BF16_EPS |q| |k| scale, and every probability by twice that (its own score, and the
    sum); probabilities in bf16 by BF16_EPS, and so may their sum.
    """
    norm = float(np.linalg.norm(s.q, axis=1).max() * np.linalg.norm(s.k, axis=1).max() * s.scale)
    rounding = (2 * norm + 2) * BF16_EPS if multiplies_bf16(isa, kv) else 0
    return (((s.q.shape[1] + 4) * norm + 2 * len(s.k) + 16) * EPS + rounding) * float(np.abs(s.v).max())


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64_and_scalar(isa: str, kv: str, shape: tuple[int, int, int]) -> None:
    for length in (1, 17, 64, 200):
        s = Scene.random(*shape, length)
        state, reference = run(isa, kv, s), run("scalar", kv, s)
        assert np.all(np.abs(output(state) - s.exact(kv)) <= bound(s, isa, kv))
        for got, expected in zip(state, reference, strict=True):
            size = 1 + np.abs(expected).max(initial=0) if got is not state[0] else 1
            assert np.allclose(got, expected, rtol=0, atol=2 * bound(s, isa, kv) * size)
        blind = s.lo >= s.hi
        assert (state[0][blind] == kernels.TOP_NONE).all() and not state[2][blind].any()


@pytest.mark.parametrize("cap", [0.3, 50.0])
@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_cap(isa: str, kv: str, cap: float) -> None:
    for shape in [(64, 64, 9), (20, 23, 7), (128, 40, 48)]:
        s = Scene.random(*shape, 150)
        s.cap = cap
        kept = pages(isa, kv, s.k, s.v)
        together, reference = run(isa, kv, s, kept=kept), run("scalar", kv, s)
        assert np.all(np.abs(output(together) - s.exact(kv)) <= bound(s, isa, kv))
        assert np.allclose(together[0], reference[0], rtol=0, atol=2 * bound(s, isa, kv))
        assert np.all(together[0] <= cap)
        for rows in (np.array([i]) for i in range(shape[2])):
            for got, expected in zip(run(isa, kv, s, rows, kept), together, strict=True):
                assert same(got, expected[rows])


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_know_each_other(isa: str, kv: str) -> None:
    for dk, dv, m in [(64, 64, 9), (20, 23, 7), (128, 40, 48)]:
        s = Scene.random(dk, dv, m, 150)
        kept = pages(isa, kv, s.k, s.v)
        together = run(isa, kv, s, kept=kept)
        rng = np.random.default_rng(m)
        groups = [np.array([i]) for i in range(m)] + [rng.permutation(m)[:size] for size in (2, 3, 4, 5, m)]
        for rows in groups:
            for got, expected in zip(run(isa, kv, s, rows, kept), together, strict=True):
                assert same(got, expected[rows])


@pytest.mark.parametrize("size", [1, 1e-9, 1e-19])
@pytest.mark.parametrize("isa", ISAS)
def test_few_rows_have_the_bits_of_many(isa: str, size: float) -> None:
    """Products and sums below the normal range as well, which tiles take for 0; queries that end within a tile; pages
    of which all is seen, or a part that begins and ends within pairs and groups. What nobody sees may be NaN."""
    for dk, dv in [(64, 64), (80, 48), (33, 96), (33, 64), (80, 64), (256, 128), (300, 16)]:
        s = Scene.random(dk, dv, 20, 3 * PAGE)
        s.cap = 3.0 if dk == 80 else 0.0
        for x, by in ((s.q, size), (s.k, size), (s.v, size * size)):
            x *= np.float32(by)
        k, v = pages(isa, "bf16", s.k, s.v)
        for low, high in [(0, 3 * PAGE), (PAGE + 13, 2 * PAGE + 21), (7, 2 * PAGE + 50), (2 * PAGE + 33, 3 * PAGE - 1)]:
            s.lo[:], s.hi[:] = low, high
            if low == 7:  # some see nothing of the last page
                s.lo[1::3], s.hi[2::3] = 12, 2 * PAGE - 2
            kept = unseen_is_nan(isa, k, v, low, high, dv)
            together = run(isa, "bf16", s, kept=kept)
            assert all(np.isfinite(x).all() for x in together)
            for n in (1, 2, 3, 4):
                rows = np.arange(3, 3 + n)
                for got, expected in zip(run(isa, "bf16", s, rows, kept), together, strict=True):
                    assert same(got, expected[rows])


@pytest.mark.parametrize("isa", ISAS)
def test_a_score_of_minus_zero_does_not_tell_of_neighbours(isa: str) -> None:
    """Tiles go on with zeros where a query ends, which makes 0 of -0."""
    q, k = np.zeros((20, 80), np.float32), np.zeros((PAGE, 80), np.float32)
    q[:, [0, 32]], k[:, 0], k[:, 32] = 2.0**-63, -1.5 * 2.0**-63, 1.25 * 2.0**-63
    q[:, 64:], k[:, 64:] = 2.0**-70, -(2.0**-70)
    s = Scene(q, k, np.ones((PAGE, 64), np.float32), np.zeros(20, int), np.full(20, PAGE), 1.0)
    together = run(isa, "bf16", s)
    for n in (1, 2, 3, 4):
        for got, expected in zip(run(isa, "bf16", s, np.arange(n)), together, strict=True):
            assert got.tobytes() == expected[:n].tobytes()


def unseen_is_nan(isa: str, k: Array, v: Array, low: int, high: int, dv: int) -> tuple[Array, Array]:
    """Copies of bf16 pages, values outside of slots [low, high) being NaN."""
    k, v = k.copy(), v.copy()
    values = v.view(np.uint16)
    values = values.reshape(-1, dv, 2) if multiplies_bf16(isa, "bf16") else values.reshape(-1, 2, dv).transpose(0, 2, 1)
    for slot in [*range(low), *range(high, 2 * len(values))]:
        values[slot // 2, :, slot % 2] = 0x7FC0
    return k, v


@pytest.mark.parametrize("isa", ISAS)
def test_signs_of_zero_do_not_tell_of_neighbours(isa: str) -> None:
    """A row whose sums underflow, next to one that sees keys with values of both signs where the first sees none."""
    k = np.zeros((40, 8), np.float32)
    k[20:, 0] = 60
    v = np.random.default_rng(1).choice([-1e-20, 1e-20], (40, 24)).astype(np.float32)
    q = np.zeros((2, 8), np.float32)
    q[:, 0] = 1
    s = Scene(q, k, v, np.array([10, 0]), np.array([21, 40]), 1.0)
    states = []
    for rows in (np.array([0]), np.array([0, 1])):
        state = fresh(len(rows), 24)
        state[0][:], state[1][:], state[2][:] = -40, 1, -1e-30
        kernels.attend(isa, "f32", q[rows], *pages(isa, "f32", k, v), *s.bounds(rows), 1.0, *state)
        states.append([a[:1] for a in state])
    assert all(same(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_pages_of_a_call_have_the_bits_of_pages_apart(isa: str, kv: str) -> None:
    """Rows that see all of a page, a part or nothing, others on each; heads beyond what a kernel holds at a time."""
    for dk, dv, m in [(64, 64, 3), (300, 33, 21), (40, 80, 40)]:
        s = Scene.random(dk, dv, m, 9 * PAGE)
        s.lo[1::2], s.hi[1::2] = 0, len(s.k) - np.arange(len(s.lo[1::2]))
        k, v = pages(isa, kv, s.k, s.v)
        lo, hi = s.bounds()
        together, apart = run(isa, kv, s, kept=(k, v)), fresh(m, dv)
        for i in range(len(k)):
            one = slice(i, i + 1)
            kernels.attend(isa, kv, s.q, k[one], v[one], lo[one], hi[one], s.scale, *apart)
        assert all(same(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_that_sees_nothing_stays(isa: str, kv: str) -> None:
    s = Scene.random(32, 40, 5, PAGE)
    s.lo[:], s.hi[:] = [0, 9, 64, 30, 5], [64, 9, 64, 20, 6]
    state = fresh(5, 40)
    state[0][:], state[1][:], state[2][:] = -50, 2, -0.0
    state[2][1, 3] = np.nan
    before = [a.copy() for a in state]
    kernels.attend(isa, kv, s.q, *pages(isa, kv, s.k, s.v), *s.bounds(), 0.1, *state)
    for got, old in zip(state, before, strict=True):
        assert got[[1, 2, 3]].tobytes() == old[[1, 2, 3]].tobytes()
        assert got[0].tobytes() != old[0].tobytes() and got[4].tobytes() != old[4].tobytes()


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_keys_that_no_row_sees_change_nothing(isa: str, kv: str) -> None:
    for dk, dv in [(64, 64), (9, 21)]:
        for first, seen in [(0, 1), (0, 15), (0, 16), (0, 17), (0, 40), (0, 63), (1, 2), (2, 3), (5, 7), (17, 64)]:
            s = Scene.random(dk, dv, 6, PAGE)
            s.lo, s.hi = np.maximum(s.lo, first), np.minimum(s.hi, seen)
            clean = run(isa, kv, s)
            for unseen in (slice(0, first), slice(seen, None)):
                s.k[unseen], s.v[unseen] = np.nan, np.inf
            assert all(same(a, b) for a, b in zip(run(isa, kv, s), clean, strict=True))
            assert np.isfinite(clean[2]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_shows(isa: str) -> None:
    s = Scene.random(16, 24, 6, PAGE)
    s.lo[:], s.hi[:] = 0, 50
    s.q[2, 5], s.q[4, 0] = np.nan, np.inf
    state = run(isa, "f32", s)
    assert np.isnan(output(state)[[2, 4]]).all() or np.isnan(state[1][[2, 4]]).all()
    assert np.isfinite(state[2][[0, 1, 3, 5]]).all()


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_merged_chunks_are_one_pass(isa: str, kv: str) -> None:
    for dv in (1, 9, 64, 100):
        s = Scene.random(32, dv, 4, 320)
        s.lo[1], s.hi[1] = 200, 300  # sees nothing of the first chunk
        s.lo[2], s.hi[2] = 10, 100  # nothing of the second
        s.lo[3] = s.hi[3] = 0  # nothing
        kp, vp = pages(isa, kv, s.k, s.v)
        lo, hi = s.bounds()
        a, b = fresh(4, dv), fresh(4, dv)
        kernels.attend(isa, kv, s.q, kp[:3], vp[:3], lo[:3], hi[:3], s.scale, *a)
        kernels.attend(isa, kv, s.q, kp[3:], vp[3:], lo[3:], hi[3:], s.scale, *b)
        first = [x.copy() for x in a]
        kernels.attend_merge(isa, *a, *b)
        whole = run(isa, kv, s, kept=(kp, vp))
        assert same(a[0], whole[0])
        assert np.allclose(output(a), output(whole), rtol=0, atol=2 * bound(s, isa, kv))
        for merged, early, late in zip(a, first, b, strict=True):
            assert same(merged[2:], early[2:]) and same(merged[1], late[1])


@pytest.mark.parametrize("isa", ISAS)
def test_merge_has_the_scalar_bits(isa: str) -> None:
    rng = np.random.default_rng(2)
    for dv in (1, 7, 8, 33, 128):
        a, b = (tuple(rng.standard_normal(s).astype(np.float32) for s in ((3,), (3,), (3, dv))) for _ in range(2))
        expected, got = [x.copy() for x in a], [at_end(x) for x in a]
        kernels.attend_merge("scalar", *expected, *b)
        kernels.attend_merge(isa, *got, *(at_end(x) for x in b))
        assert all(same(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_append_holds_rounded_values_and_touches_one_slot(isa: str, kv: str) -> None:
    rng = np.random.default_rng(3)
    for dk, dv in [(1, 1), (7, 9), (8, 16), (33, 41), (64, 80)]:
        k = (rng.standard_normal((PAGE, dk)) * 2.0 ** rng.integers(-24, 12, (PAGE, dk))).astype(np.float32)
        v = (rng.standard_normal((PAGE, dv)) * 2.0 ** rng.integers(-24, 12, (PAGE, dv))).astype(np.float32)
        ours = pages(isa, kv, k, v)
        expected = [*encoded(k), *encoded(v)] if kv == "int8" else [rounded(k, kv), rounded(v, kv)]
        for got, exact in zip(held(isa, kv, (ours[0][0], ours[1][0]), dk, dv), expected, strict=True):
            assert np.array_equal(got, exact)
        kp, vp = (p[0].copy() for p in ours)
        kernels.kv_append(isa, kv, k[3], v[3], 17, kp, vp)
        kernels.kv_append(isa, kv, k[17], v[17], 17, kp, vp)
        assert np.array_equal(kp, ours[0][0]) and np.array_equal(vp, ours[1][0])


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_beyond_the_ranges_is_touched(isa: str, kv: str) -> None:
    for dk, dv, m in [(1, 1, 1), (5, 7, 2), (16, 17, 3), (33, 24, 4), (64, 40, 5), (300, 140, 7)]:
        s = Scene.random(dk, dv, m, PAGE)
        expected = run(isa, kv, s)
        for side in (at_end, at_start):
            n_k, n_v = kernels.page_bytes(isa, kv, dk, dv)
            kp, vp = side(np.zeros((1, n_k), np.uint8)), side(np.zeros((1, n_v), np.uint8))
            for i in range(PAGE):
                kernels.kv_append(isa, kv, side(s.k[i]), side(s.v[i]), i, kp[0], vp[0])
            top, total, acc = (side(a) for a in fresh(m, dv))
            lo, hi = (side(b) for b in s.bounds())
            scratch = side(np.full(kernels.scratch_bytes(isa, kv), 255, np.uint8))
            kernels.attend(isa, kv, side(s.q), kp, vp, lo, hi, s.scale, top, total, acc, scratch)
            assert all(same(a, b) for a, b in zip((top, total, acc), expected, strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_int8_keeps_what_is_tiny_or_not_finite(isa: str) -> None:
    k = np.random.default_rng(4).standard_normal((3, 70)).astype(np.float32)
    k[0, 3], k[1, 40], k[2, 69] = np.nan, -np.inf, np.inf
    k[0, 32:64] *= np.float32(1e-33)
    k[2, :32] = 0
    page = pages(isa, "int8", k, k)
    codes, scales = encoded(k)
    kq, ks, vq, vs = held(isa, "int8", (page[0][0], page[1][0]), 70, 70)
    assert np.array_equal(kq[:3], codes) and np.array_equal(vq[:3], codes)
    assert same(ks[:3], scales) and same(vs[:3], scales)
    assert not codes[0, :64].any() and np.isnan(scales[0, 0]) and scales[0, 1] == 0 and np.isinf(scales[1, 1])


@pytest.mark.parametrize("isa", ISAS)
def test_queries_may_lie_apart(isa: str) -> None:
    s = Scene.random(24, 32, 5, 100)
    expected = run(isa, "f16", s)
    apart = np.full((5, 31), np.nan, np.float32)
    apart[:, :24] = s.q
    s.q = apart[:, :24]
    assert all(same(a, b) for a, b in zip(run(isa, "f16", s), expected, strict=True))


def test_wrong_arguments_are_named() -> None:
    one = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="int3"):
        kernels.page_bytes("scalar", "int3", 4, 4)
    with pytest.raises(ValueError, match="slot is 64"):
        kernels.kv_append("scalar", "f32", one, one, 64, np.zeros(1024, np.uint8), np.zeros(1024, np.uint8))
    with pytest.raises(ValueError, match="kpage"):
        kernels.kv_append("scalar", "f32", one, one, 0, np.zeros(1023, np.uint8), np.zeros(1024, np.uint8))
