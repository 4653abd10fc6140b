# cython: boundscheck=False, wraparound=False
"""Attention kernels of a chosen tier, for tests and benchmarks.

`kv` is the type of keys and values, one of `KV`. Pages are uint8 arrays in a layout private to the tier, `page_bytes`
long. A wrong argument is a `ValueError` that names it.
"""

from libc.stdint cimport uint8_t
from pellucid._kernels.table cimport PL_PAGE, checked, pl_attend_page, pl_kernels, tier

import numpy as np

KV = ("f32", "f16", "bf16", "int8")
PAGE = PL_PAGE
TOP_NONE = np.float32(-1e30)


cdef enum:
    RUN = 4  # pages per call, as many as an operation passes at a time


cdef int _type(str kv) except -1:
    if kv not in KV:
        raise ValueError(f"kv is {kv!r}, expected one of {', '.join(KV)}")
    return KV.index(kv)


def page_bytes(str isa, str kv, int dk, int dv):
    """(bytes of a page's keys, bytes of its values)."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int t = _type(kv)
    if dk < 1 or dv < 1:
        raise ValueError(f"head sizes are {dk} and {dv}, expected at least 1")
    return kernels.k_bytes[t](dk), kernels.v_bytes[t](dv)


def scratch_bytes(str isa, str kv):
    """Bytes of scratch that a kernel needs."""
    return tier(isa).attend_scratch[_type(kv)]


def kv_append(str isa, str kv, const float[::1] k, const float[::1] v, int slot, kpage, vpage):
    """Stores k (dk) and v (dv) at `slot` of the page."""
    cdef const pl_kernels *kernels = tier(isa)
    cdef int t = _type(kv), dk = k.shape[0], dv = v.shape[0]
    n_k, n_v = page_bytes(isa, kv, dk, dv)
    if not 0 <= slot < PL_PAGE:
        raise ValueError(f"slot is {slot}, expected 0..{PL_PAGE - 1}")
    cdef uint8_t[::1] k_view = checked("kpage", kpage, np.uint8, (n_k,))
    cdef uint8_t[::1] v_view = checked("vpage", vpage, np.uint8, (n_v,))
    with nogil:
        kernels.kv_append[t](&k[0], &v[0], dk, dv, slot, &k_view[0], &v_view[0])


def attend(str isa, str kv, q, k, v, lo, hi, float scale, top, sum, acc, scratch=None, int repeat=1, float cap=0):
    """Attention of q, float32 (m, dk; rows need not be adjacent), over pages k and v, uint8 (pages, bytes), in order.

    lo, hi int32 (pages, m): the slots of each page that each row sees. top, sum float32 (m), acc float32 (m, dv): the
    running state, updated in place. scratch uint8 (scratch_bytes). cap: soft cap of the scores; 0: none.
    """
    cdef const pl_kernels *kernels = tier(isa)
    cdef int t = _type(kv)
    cdef pl_attend_page a
    cdef pl_attend_page some[RUN]
    cdef int pages = len(k), page, n, _i
    if q.dtype != np.float32 or q.ndim != 2 or q.size < 1 or q.strides[1] != 4 or q.strides[0] % 4:
        raise ValueError(f"q is {q.dtype} {q.shape}, expected float32 (m, dk) with adjacent columns")
    a.m, a.dk = q.shape
    a.dv = acc.shape[1]
    n_k, n_v = page_bytes(isa, kv, a.dk, a.dv)
    cdef const float[:, :] q_view = q
    cdef const uint8_t[:, ::1] k_view = checked("k", k, np.uint8, (pages, n_k))
    cdef const uint8_t[:, ::1] v_view = checked("v", v, np.uint8, (pages, n_v))
    cdef const int[:, ::1] lo_view = checked("lo", lo, np.int32, (pages, a.m))
    cdef const int[:, ::1] hi_view = checked("hi", hi, np.int32, (pages, a.m))
    cdef float[::1] top_view = checked("top", top, np.float32, (a.m,))
    cdef float[::1] sum_view = checked("sum", sum, np.float32, (a.m,))
    cdef float[:, ::1] acc_view = checked("acc", acc, np.float32, (a.m, a.dv))
    cdef uint8_t[::1] room = checked("scratch", scratch, np.uint8, (kernels.attend_scratch[t],))
    if min(lo.min(), hi.min()) < 0 or max(lo.max(), hi.max()) > PL_PAGE:
        raise ValueError(f"lo and hi are not within 0..{PL_PAGE}")
    a.scale, a.cap = scale, cap
    a.scratch = &room[0] if room.shape[0] else NULL
    a.q = &q_view[0, 0]
    a.q_stride = q_view.strides[0] // 4
    a.top = &top_view[0]
    a.sum = &sum_view[0]
    a.acc = &acc_view[0, 0]
    a.next_bytes = n_k  # values lie elsewhere here
    a.turns = 1
    with nogil:
        for _i in range(repeat):
            n = 0
            for page in range(pages):
                a.k = &k_view[page, 0]
                a.v = &v_view[page, 0]
                a.next = &k_view[page + 1, 0] if page + 1 < pages else NULL
                a.lo = &lo_view[page, 0]
                a.hi = &hi_view[page, 0]
                some[n] = a
                n += 1
                if n == RUN or page + 1 == pages:
                    kernels.attend[t](some, n)
                    n = 0


def attend_merge(str isa, top_a, sum_a, acc_a, top_b, sum_b, acc_b):
    """Merges the states b into a, row by row: top, sum float32 (m), acc float32 (m, dv)."""
    cdef const pl_kernels *kernels = tier(isa)
    m, dv = acc_a.shape
    cdef float[::1] ta = checked("top_a", top_a, np.float32, (m,)), sa = checked("sum_a", sum_a, np.float32, (m,))
    cdef const float[::1] tb = checked("top_b", top_b, np.float32, (m,))
    cdef const float[::1] sb = checked("sum_b", sum_b, np.float32, (m,))
    cdef float[:, ::1] va = checked("acc_a", acc_a, np.float32, (m, dv))
    cdef const float[:, ::1] vb = checked("acc_b", acc_b, np.float32, (m, dv))
    kernels.attend_merge(m, dv, &ta[0], &sa[0], &va[0, 0], &tb[0], &sb[0], &vb[0, 0])
