# cython: boundscheck=False, wraparound=False
"""Kernels for rows of a vocabulary's length, of a chosen tier, for tests and benchmarks.
x is contiguous float32 (n), n >= 1. A wrong argument raises a `ValueError` that names it.
"""

from libc.stdint cimport int32_t
from pellucid._kernels.table cimport checked, pl_kernels, tier

import numpy as np


cdef int _length(const float[::1] x) except -1:
    if not 0 < x.shape[0] < 1 << 31:
        raise ValueError(f"x has {x.shape[0]} values, expected at least 1")
    return x.shape[0]


def max(str isa, const float[::1] x):
    """The largest value; NaN if any is."""
    return tier(isa).max(&x[0], _length(x))


def sum_exp(str isa, const float[::1] x, float top, float inv_t):
    """Sum of exp((x - top) inv_t)."""
    return tier(isa).sum_exp(&x[0], _length(x), top, inv_t)


def sum_exp_dot(str isa, const float[::1] x, float top, float inv_t):
    """-> sum of exp(d), sum of d exp(d), d = (x - top) inv_t."""
    cdef double dot
    cdef double total = tier(isa).sum_exp_dot(&x[0], _length(x), top, inv_t, &dot)
    return total, dot


def moments(str isa, const float[::1] x, float top):
    """-> sum of x - top, sum of (x - top)^2, over all but -inf."""
    cdef double total
    cdef double squares
    tier(isa).moments(&x[0], _length(x), top, &total, &squares)
    return total, squares


def collect(str isa, const float[::1] x, float least, int32_t[::1] out):
    """Writes the indices of values >= least, ascending, to out as far as they fit; returns how many there are."""
    cdef int32_t *to = &out[0] if out.shape[0] else NULL
    return tier(isa).collect(&x[0], _length(x), least, to, out.shape[0])


def softmax(str isa, float[::1] x):
    """Softmax in place."""
    tier(isa).softmax(&x[0], _length(x))


def exp(str isa, const float[::1] x, out=None, int repeat=1):
    """exp(x)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int n = _length(x), _i
    y = checked("out", out, np.float32, (n,))
    cdef float[::1] view = y
    with nogil:
        for _i in range(repeat):
            kernels.exp(&x[0], n, &view[0])
    return y
