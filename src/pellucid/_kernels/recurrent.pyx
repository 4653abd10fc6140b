# cython: boundscheck=False, wraparound=False
"""Kernels of recurrent layers, of a chosen tier, for tests. Arrays are contiguous float32; a wrong argument raises a
`ValueError` that names it.
"""

from libc.string cimport memset
from pellucid._kernels.table cimport PL_MOST_TAPS, PL_SCAN_COLUMNS, checked, pl_conv, pl_kernels, pl_scan, tier

import numpy as np

COLUMNS = PL_SCAN_COLUMNS
MOST_TAPS = PL_MOST_TAPS


def conv(str isa, x, by, w, bias, out=None):
    """y (n) = sum over taps of w (taps, n) * x (taps, n) * by (taps, n), + bias (n). by: one array or None per tap;
    bias may be None."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef pl_conv c
    cdef const float[:, ::1] w_view
    cdef const float[::1] one
    taps, n = w.shape
    if not 1 <= taps <= PL_MOST_TAPS or n < 1 or len(by) != taps or len(x) != taps:
        raise ValueError(f"{taps} taps of {n} channels, {len(x)} inputs, {len(by)} factors")
    w_view = checked("w", w, np.float32, (taps, n))
    memset(&c, 0, sizeof(c))
    for j in range(taps):
        one = checked("x", x[j], np.float32, (n,))
        c.x[j] = &one[0]
        if by[j] is not None:
            one = checked("by", by[j], np.float32, (n,))
            c.by[j] = &one[0]
    c.taps, c.w, c.w_stride = taps, &w_view[0, 0], n
    if bias is not None:
        one = checked("bias", bias, np.float32, (n,))
        c.bias = &one[0]
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    kernels.conv(&c, n, &view[0])
    return y


def scan(str isa, q, k, v, gates, float skip, bint delta, float[:, ::1] state, out=None):
    """q, k (n, dk), v (n, cols): columns of one array or contiguous arrays, of one row distance; gates (n, 4): decay,
    gain, query's and key's scale; or (n, 4 + dk), with a decay for each key channel. Changes state (dk, 16) -> (out
    (n, cols), whether a number of the state is not finite)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef pl_scan s
    n, dk = q.shape
    cols = v.shape[1]
    if n < 1 or dk < 1 or not 1 <= cols <= PL_SCAN_COLUMNS:
        raise ValueError(f"{n} rows, {dk} keys, {cols} columns")
    if k.shape != (n, dk) or v.shape[0] != n or state.shape[0] != dk or state.shape[1] != PL_SCAN_COLUMNS:
        sizes = tuple(state.shape)[:2]
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape} and state {sizes} do not fit together")
    if len({a.strides[0] for a in (q, k, v)}) > 1 or any(a.strides[1] != 4 or a.dtype != np.float32 for a in (q, k, v)):
        raise ValueError("q, k and v: expected float32 of one row distance")
    cdef const float[:, :] q_view = q, k_view = k, v_view = v
    each = gates.shape[1] > 4
    cdef const float[:, ::1] gate = checked("gates", gates, np.float32, (n, 4 + dk if each else 4))
    y = checked("out", out, np.float32, (n, cols))
    cdef float[:, ::1] view = y
    s.n, s.dk, s.cols, s.delta, s.skip = n, dk, cols, delta, skip
    s.q, s.k, s.v, s.stride = &q_view[0, 0], &k_view[0, 0], &v_view[0, 0], q.strides[0] // 4
    s.decay, s.gain, s.q_scale, s.k_scale = &gate[0, 0], &gate[0, 1], &gate[0, 2], &gate[0, 3]
    s.gate_stride = gates.shape[1]
    s.decays = &gate[0, 4] if each else NULL
    s.state, s.out, s.out_stride = &state[0, 0], &view[0, 0], cols
    return y, bool(kernels.scan(&s))
