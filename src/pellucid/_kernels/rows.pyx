# cython: boundscheck=False, wraparound=False
"""Kernels for rows of activations, of a chosen tier, for tests and benchmarks.
Arrays are contiguous and one-dimensional, float32 (n) unless stated otherwise, n >= 1. The kernel writes to `out` (a
new array if None), which may be an input; `repeat` is the number of times it runs. A wrong argument raises a
`ValueError` that names it.
"""

from libc.stdint cimport int8_t, int16_t, int64_t, uint8_t, uint16_t
from pellucid._kernels.table cimport PL_FIT_GROUPS, PL_FIT_WHOLE, checked, pl_fit, pl_kernels, tier

import numpy as np

ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "relu2", "sigmoid", "none", "oai", "xielu")


cdef int _length(const float[::1] x) except -1:
    if not 0 < x.shape[0] < 1 << 31:
        raise ValueError(f"x has {x.shape[0]} values, expected at least 1")
    return x.shape[0]


def quantize(str isa, const float[::1] x, int terms=1, out=None, int repeat=1):
    """x (k), k a multiple of 32 -> q int8 (terms, k), s (k / 32), sums int16 (terms, k / 16); `out`: these three."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int k = _length(x), two = terms == 2, _i
    if k % 32:
        raise ValueError(f"x has {k} values, expected a multiple of 32")
    if terms not in (1, 2):
        raise ValueError(f"terms is {terms}, expected 1 or 2")
    q, s, sums = (None, None, None) if out is None else out
    q = checked("q", q, np.int8, (terms, k))
    s = checked("s", s, np.float32, (k // 32,))
    sums = checked("sums", sums, np.int16, (terms, k // 16))
    cdef int8_t[:, ::1] q_view = q
    cdef float[::1] s_view = s
    cdef int16_t[:, ::1] sums_view = sums
    cdef int8_t *lo = &q_view[1, 0] if two else NULL
    cdef int16_t *sums_lo = &sums_view[1, 0] if two else NULL
    with nogil:
        for _i in range(repeat):
            kernels.quantize(&x[0], k, terms, &q_view[0, 0], lo, &s_view[0], &sums_view[0, 0], sums_lo)
    return q, s, sums


def to_bf16(str isa, const float[::1] x, out=None, int repeat=1):
    """x -> bits of bfloat16, uint16 (n)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    y = checked("out", out, np.uint16, (n,))
    cdef uint16_t[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.to_bf16(&x[0], n, &view[0])
    return y


def rms_norm(str isa, const float[::1] x, w, float eps, out=None, int repeat=1):
    """x / sqrt(mean(x^2) + eps) * w; w may be None."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    cdef const float[::1] w_view = None if w is None else checked("w", w, np.float32, (n,))
    cdef const float *weights = NULL if w is None else &w_view[0]
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.rms_norm(&x[0], weights, n, eps, &view[0])
    return y


def layer_norm(str isa, const float[::1] x, w, b, float eps, out=None, int repeat=1):
    """(x - mean(x)) / sqrt(variance(x) + eps) * w + b; w and b may be None."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    cdef const float[::1] w_view = None if w is None else checked("w", w, np.float32, (n,))
    cdef const float[::1] b_view = None if b is None else checked("b", b, np.float32, (n,))
    cdef const float *weights = NULL if w is None else &w_view[0]
    cdef const float *bias = NULL if b is None else &b_view[0]
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.layer_norm(&x[0], weights, bias, n, eps, &view[0])
    return y


def add(str isa, const float[::1] x, y, out=None, int repeat=1):
    """x + y."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    cdef const float[::1] y_view = checked("y", y, np.float32, (n,))
    z = checked("out", out, np.float32, (n,))
    cdef float[::1] view = z
    with nogil:
        for _i in range(repeat):
            kernels.add(&x[0], &y_view[0], n, &view[0])
    return z


def scale(str isa, const float[::1] x, float a, out=None, int repeat=1):
    """a x."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.scale(&x[0], a, n, &view[0])
    return y


def glu(str isa, str act, const float[::1] g, u, out=None, p=None, int repeat=1):
    """act(g) u, or act(g) if u is None; act: one of ACTIVATIONS; p: the four parameters of "xielu"."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(g), _i
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")
    cdef int which = ACTIVATIONS.index(act)
    cdef const float[::1] u_view, p_view
    cdef const float *by = NULL
    cdef const float *parameters = NULL
    if u is not None:
        u_view = checked("u", u, np.float32, (n,))
        by = &u_view[0]
    if act == "xielu":
        p_view = checked("p", p, np.float32, (4,))
        parameters = &p_view[0]
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.glu[which](&g[0], by, parameters, n, &view[0])
    return y


def clip(str isa, const float[::1] x, float least, float most, out=None, int repeat=1):
    """x, at least `least` and at most `most`."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.clip(&x[0], least, most, n, &view[0])
    return y


def rope(str isa, float[::1] x, const float[::1] cos, const float[::1] sin, bint halves, int repeat=1):
    """Rotates x (n_rot) in place; cos and sin (n_rot / 2)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    if n % 2 or cos.shape[0] != n // 2 or sin.shape[0] != n // 2:
        raise ValueError(f"x has {n} values, cos {cos.shape[0]}, sin {sin.shape[0]}; expected 2 n, n and n")
    with nogil:
        for _i in range(repeat):
            kernels.rope(&x[0], &cos[0], &sin[0], n, halves)


def softcap(str isa, const float[::1] x, float cap, out=None, int repeat=1):
    """cap tanh(x / cap)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.softcap(&x[0], cap, n, &view[0])
    return y


KINDS = ("none", "any", "negative")
GROUPS = PL_FIT_GROUPS


cdef struct table_of:
    float values[16]
    float middle[15]


cdef int use_table(pl_fit *f, table_of *t, table) except -1:
    """table: 16 ascending values, or None."""
    f.table, f.middle = NULL, NULL
    if table is None:
        return 0
    if len(table) != 16 or f.n != 32 or f.kind != 0:
        raise ValueError("a table must have 16 values, of groups of 32 without mins")
    for i in range(16):
        t.values[i] = table[i]
    for i in range(15):
        t.middle[i] = (t.values[i] + t.values[i + 1]) / 2
    f.table, f.middle = t.values, t.middle
    return 0


def fit(str isa, const float[:, ::1] x, str kind, int lo, int hi, spread, int repeats=1, out=None, table=None,
        bint centred=False):
    """(scales, mins, whether a value is out of range) of groups x (groups, n), at most GROUPS, n 16 or 32. kind: of
    mins, one of KINDS; spread: 1 to 4 scales to try, centred: with both ends cut; out: (2, GROUPS) for scales and mins;
    table: the 16 values that codes stand for."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef pl_fit f
    cdef int groups = x.shape[0]
    if x.shape[1] not in (16, 32) or not 1 <= groups <= GROUPS or not 1 <= len(spread) <= 4:
        raise ValueError(f"x must be (1 to {GROUPS}, 16 or 32), and spread 1 to 4 numbers")
    f.kind, f.n, f.lo, f.hi, f.repeats, f.tries = KINDS.index(kind), x.shape[1], lo, hi, repeats, len(spread)
    f.centred = centred
    for i, value in enumerate(spread):
        f.spread[i] = value
    cdef table_of own
    use_table(&f, &own, table)
    y = checked("out", out, np.float32, (2, GROUPS))
    cdef float[:, ::1] view = y
    cdef int wrong
    with nogil:
        wrong = kernels.fit(&f, groups, &x[0, 0], &view[0, 0], &view[1, 0])
    return y[0, :groups], y[1, :groups], wrong != 0


cdef object widened(void (*kernel)(const uint8_t *, int64_t, float *) noexcept nogil, const uint8_t[::1] x, out):
    cdef int64_t n = x.shape[0] // 2
    if x.shape[0] % 32:
        raise ValueError("x must be whole sixteens of numbers")
    if kernel == NULL:
        return None
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        kernel(&x[0], n, &view[0])
    return y


def from_f16(str isa, const uint8_t[::1] x, out=None):
    """Bytes of n numbers in F16, n a multiple of 16 -> float32 (n); None if the tier has no kernel for it."""
    return widened(tier(isa).from_f16, x, out)


def from_bf16(str isa, const uint8_t[::1] x, out=None):
    """The same for BF16, for which every tier has a kernel."""
    return widened(tier(isa).from_bf16, x, out)


def fit_codes(str isa, const float[:, ::1] x, int lo, int hi, const float[::1] d, const float[::1] m, out=None,
              table=None):
    """Codes uint8 (groups, n) of groups x (groups, n), at most GROUPS, n 16 or 32, with scales d and mins m (groups).
    table: as for fit."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef pl_fit f
    cdef int groups = x.shape[0]
    cdef table_of own
    f.kind, f.n, f.lo, f.hi = 0, x.shape[1], lo, hi
    use_table(&f, &own, table)
    if f.n not in (16, 32) or groups > GROUPS or d.shape[0] != groups or m.shape[0] != groups:
        raise ValueError(f"x must be (at most {GROUPS}, 16 or 32), d and m (groups)")
    codes = checked("out", out, np.uint8, (groups, f.n))
    cdef uint8_t[:, ::1] view = codes
    with nogil:
        kernels.fit_codes(&f, groups, &x[0, 0], &d[0], &m[0], &view[0, 0])
    return codes


def fit_whole(str isa, float[:, ::1] v, int largest, int lo, int hi):
    """(factors in F16 (blocks), whole numbers int32 (blocks, n), whether a factor is infinite) of v (blocks, n), which
    become what the whole numbers stand for. n 8 or 16, at most 2 * GROUPS numbers."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int blocks = v.shape[0], n = v.shape[1], wrong
    if blocks < 1 or n not in (8, 16) or blocks * n > PL_FIT_WHOLE:
        raise ValueError(f"v must be (blocks, 8 or 16), and have at most {PL_FIT_WHOLE} numbers")
    factors, whole = np.empty(blocks, np.uint16), np.empty((blocks, n), np.int32)
    cdef uint16_t[::1] f16 = factors
    cdef int[:, ::1] view = whole
    with nogil:
        wrong = kernels.fit_whole(blocks, n, largest, lo, hi, &v[0, 0], &f16[0], &view[0, 0])
    return factors, whole, wrong != 0
