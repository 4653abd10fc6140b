# The table of kernels except those for weights, and a tier's table by name.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t

cdef extern from "kernels/kernels.h":
    enum:
        PL_PAGE
        PL_MOST_TAPS
        PL_SCAN_COLUMNS
    ctypedef struct pl_conv:
        int taps
        const float *x[8]
        const float *by[8]
        const float *w
        ptrdiff_t w_stride
        const float *bias
    ctypedef struct pl_scan:
        int n
        int dk
        int cols
        int delta
        const float *q
        const float *k
        const float *v
        ptrdiff_t stride
        const float *decay
        const float *gain
        const float *q_scale
        const float *k_scale
        ptrdiff_t gate_stride
        const float *decays
        float skip
        float *state
        float *out
        ptrdiff_t out_stride
    ctypedef struct pl_attend_page:
        int m
        int dk
        int dv
        float scale, cap
        const float *q
        ptrdiff_t q_stride
        const void *k
        const void *v
        const void *next
        size_t next_bytes
        int turns
        const int *lo
        const int *hi
        float *top
        float *sum
        float *acc
        void *scratch
    ctypedef void (*glu_fn)(const float *, const float *, const float *, int, float *) noexcept nogil
    ctypedef size_t (*bytes_fn)(int) noexcept nogil
    ctypedef void (*append_fn)(const float *, const float *, int, int, int, void *, void *) noexcept nogil
    ctypedef void (*attend_fn)(const pl_attend_page *, int) noexcept nogil
    enum:
        PL_FIT_GROUPS
        PL_FIT_WHOLE
    ctypedef struct pl_fit:
        int kind
        int n
        int lo
        int hi
        int tries
        float spread[4]
        int centred
        int repeats
        const float *table
        const float *middle
    ctypedef struct pl_kernels:
        void (*quantize)(const float *, int, int, int8_t *, int8_t *, float *, int16_t *, int16_t *) noexcept nogil
        void (*to_bf16)(const float *, int, uint16_t *) noexcept nogil
        void (*rms_norm)(const float *, const float *, int, float, float *) noexcept nogil
        void (*layer_norm)(const float *, const float *, const float *, int, float, float *) noexcept nogil
        void (*add)(const float *, const float *, int, float *) noexcept nogil
        void (*scale)(const float *, float, int, float *) noexcept nogil
        glu_fn glu[8]
        void (*clip)(const float *, float, float, int, float *) noexcept nogil
        void (*rope)(float *, const float *, const float *, int, int) noexcept nogil
        void (*softcap)(const float *, float, int, float *) noexcept nogil
        void (*from_f16)(const uint8_t *, int64_t, float *) noexcept nogil
        void (*from_bf16)(const uint8_t *, int64_t, float *) noexcept nogil
        int (*fit)(const pl_fit *, int, const float *, float *, float *) noexcept nogil
        void (*fit_codes)(const pl_fit *, int, const float *, const float *, const float *, uint8_t *) noexcept nogil
        int (*fit_whole)(int, int, int, int, int, float *, uint16_t *, int *) noexcept nogil
        void (*conv)(const pl_conv *, int, float *) noexcept nogil
        int (*scan)(const pl_scan *) noexcept nogil
        bytes_fn k_bytes[4]
        bytes_fn v_bytes[4]
        append_fn kv_append[4]
        attend_fn attend[4]
        size_t attend_scratch[4]
        void (*attend_merge)(int, int, float *, float *, float *,
                             const float *, const float *, const float *) noexcept nogil
        float (*max)(const float *, int) noexcept nogil
        double (*sum_exp)(const float *, int, float, float) noexcept nogil
        double (*sum_exp_dot)(const float *, int, float, float, double *) noexcept nogil
        void (*moments)(const float *, int, float, double *, double *) noexcept nogil
        int (*collect)(const float *, int, float, int32_t *, int) noexcept nogil
        void (*softmax)(float *, int) noexcept nogil
        void (*exp)(const float *, int, float *) noexcept nogil

cdef extern from "kernels/select.h":
    const pl_kernels *pl_kernels_get(int isa)

cdef extern from "cpu/detect.h":
    int pl_isa_find(const char *name)
    int pl_isa_built(int isa)


cdef inline const pl_kernels *tier(str isa) except NULL:
    cdef int found = pl_isa_find(isa.encode())
    if found < 0:
        raise ValueError(f"isa {isa!r} is unknown")
    cdef const pl_kernels *k = pl_kernels_get(found)
    if k == NULL:
        raise ValueError(f"isa {isa!r} cannot run here" if pl_isa_built(found) else f"isa {isa!r} is not built")
    return k


# `array`, or a new one if it is None; ValueError unless it is C-contiguous and has this type and shape.
cdef inline object checked(str name, object array, object dtype, tuple shape):
    import numpy as np

    if array is None:
        return np.empty(shape, dtype)
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected contiguous {np.dtype(dtype)} {shape}")
    return array
