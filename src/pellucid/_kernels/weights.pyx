# cython: boundscheck=False, wraparound=False
"""Weight formats, packing and matrix products of a chosen tier, for tests and benchmarks.

Packed weights are a flat uint8 array in the layout of csrc/formats/formats.h. Functions take `out`, an array to
write to, so that a test can choose where results lie. A wrong argument raises a `ValueError` that names it.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t

import numpy as np

cdef extern from "formats/formats.h":
    enum:
        PL_N_FORMATS
        PL_SCALE_F16
        PL_SCALE_U8
        PL_SCALE_I8
        PL_SCALE_U4
        PL_SCALE_E8M0
        PL_SCALE_F16Z
        PL_BF16
    ctypedef struct pl_shape:
        int bits
        int group
        int offset
        int top
        int has_min
        int super
        int scaled
        int scale
        const uint8_t *table
        float unit
        int packed_block
        int packed_header
    ctypedef struct pl_format:
        int id
        const char *name
        int gguf
        int block
        int block_bytes
        int is_float
        pl_shape shape
        void (*split)(const uint8_t *, int, uint8_t *, uint16_t *, uint16_t *, uint16_t *) noexcept nogil
    const pl_format *pl_format_get(int id) nogil
    const pl_format *pl_format_from_gguf(int gguf_type) nogil
    void pl_decode(const pl_format *f, const uint8_t *src, float *dst, int64_t k) nogil
    int64_t pl_row_bytes(const pl_format *f, int64_t k) nogil
    int64_t pl_tile_bytes(const pl_format *f, int64_t k) nogil
    float pl_f16_to_f32(uint16_t h) nogil
    uint16_t pl_f32_to_f16(float f) nogil
    float pl_bf16_to_f32(uint16_t h) nogil
    float pl_e8m0_half(uint8_t e) nogil
    uint16_t pl_f32_to_bf16(float f) nogil

cdef extern from "kernels/kernels.h":
    ctypedef struct pl_mat:
        const pl_format *format
        int rows
        int k
        int64_t tile_bytes
        const uint8_t *data
    ctypedef struct pl_tuning:
        int32_t ahead_bytes  # and so on: one int32 for each of pl_tuning_name's names
    enum:
        PL_N_TUNING
    const char *pl_tuning_name(int i)
    void pl_tuning_default(int isa, pl_tuning *tuning)
    const char *pl_tuning_wrong(const pl_tuning *tuning)
    ctypedef struct pl_acts:
        int k
        int terms
        int stored
        const float *f
        ptrdiff_t f_stride
        const int8_t *q
        const float *s
        const int16_t *sums
        const uint16_t *b
        void *scratch
        const pl_tuning *tuning
        int again
    ctypedef void (*pack_fn)(const uint8_t *, int, int, uint8_t *) noexcept nogil
    ctypedef void (*unpack_fn)(const pl_mat *, int, float *) noexcept nogil
    ctypedef void (*matmul_fn)(const pl_mat *, int, int, const pl_acts *, int, float *, ptrdiff_t) noexcept nogil
    ctypedef struct pl_kernels:
        pack_fn pack[26]
        unpack_fn unpack_row[26]
        matmul_fn matmul[26]
        size_t matmul_scratch[26]

cdef extern from "kernels/select.h":
    const pl_kernels *pl_kernels_get(int isa)

cdef extern from "cpu/detect.h":
    enum:
        PL_N_ISA
    const char *pl_isa_name(int isa)
    int pl_isa_find(const char *name)
    int pl_isa_built(int isa)


cdef const pl_format *_format(str name) except NULL:
    cdef int i
    for i in range(PL_N_FORMATS):
        if pl_format_get(i).name.decode() == name:
            return pl_format_get(i)
    raise ValueError(f"format {name!r} is unknown; known: {', '.join(formats())}")


cdef const pl_kernels *_kernels(str isa) except NULL:
    cdef int found = pl_isa_find(isa.encode())
    if found < 0:
        raise ValueError(f"isa {isa!r} is unknown")
    cdef const pl_kernels *k = pl_kernels_get(found)
    if k == NULL:
        raise ValueError(f"isa {isa!r} cannot run here" if pl_isa_built(found) else f"isa {isa!r} is not built")
    return k


cdef int64_t _row(const pl_format *f, int64_t k) except -1:
    """Bytes of a row; ValueError unless the format can hold k weights."""
    cdef int64_t n = pl_row_bytes(f, k) if 0 < k < 1 << 30 else -1
    if n < 0:
        raise ValueError(f"k is {k}, expected a positive multiple of {f.block} for {f.name.decode()}")
    return n


cdef _out(out, shape, dtype):
    if out is None:
        return np.empty(shape, dtype)
    if out.dtype != dtype or out.shape != tuple(shape) or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected contiguous {np.dtype(dtype)} {tuple(shape)}")
    return out


SCALES = {
    PL_SCALE_F16: "F16", PL_SCALE_U8: "U8", PL_SCALE_I8: "I8", PL_SCALE_U4: "U4", PL_SCALE_E8M0: "E8M0",
    PL_SCALE_F16Z: "F16Z",
}


def isas():
    """Names of the tiers that this build contains and this processor runs, in ascending order."""
    return [pl_isa_name(i).decode() for i in range(PL_N_ISA) if pl_kernels_get(i) != NULL]


def formats():
    """Name -> properties of each weight format, as csrc/formats/formats.h describes them."""
    cdef const pl_format *f
    table = {}
    for i in range(PL_N_FORMATS):
        f = pl_format_get(i)
        table[f.name.decode()] = {
            "gguf": f.gguf, "block": f.block, "block_bytes": f.block_bytes, "float": bool(f.is_float),
            "bits": f.shape.bits, "group": f.shape.group, "offset": f.shape.offset, "has_min": bool(f.shape.has_min),
            "super": bool(f.shape.super), "scaled": bool(f.shape.scaled),
            "scale": "" if f.is_float else SCALES[f.shape.scale], "top": f.shape.top,
            "unit": f.shape.unit,
            "table": None if f.shape.table == NULL else np.array([f.shape.table[j] for j in range(16)], np.uint8),
            "packed_block": f.shape.packed_block, "packed_header": f.shape.packed_header,
        }
    return table


def from_gguf(int gguf_type):
    """The name of the format that a GGUF file calls `gguf_type`, or None."""
    cdef const pl_format *f = pl_format_from_gguf(gguf_type)
    return None if f == NULL else f.name.decode()


def row_bytes(str format, int64_t k):
    """Bytes of a row of k weights in a file."""
    return _row(_format(format), k)


def tile_bytes(str format, int64_t k):
    """Bytes of a packed tile: 16 rows of k weights."""
    _row(_format(format), k)
    return pl_tile_bytes(_format(format), k)


def f16_to_f32(const uint16_t[::1] x):
    """Bits of float16 (n) -> float32 (n)."""
    y = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = y
    for i in range(x.shape[0]):
        view[i] = pl_f16_to_f32(x[i])
    return y


def f32_to_f16(const float[::1] x):
    """float32 (n) -> bits of float16 (n), rounded to nearest even."""
    y = np.empty(x.shape[0], np.uint16)
    cdef uint16_t[::1] view = y
    for i in range(x.shape[0]):
        view[i] = pl_f32_to_f16(x[i])
    return y


def bf16_to_f32(const uint16_t[::1] x):
    """Bits of bfloat16 (n) -> float32 (n)."""
    y = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = y
    for i in range(x.shape[0]):
        view[i] = pl_bf16_to_f32(x[i])
    return y


def e8m0_half(const uint8_t[::1] x):
    """Bytes of e8m0, powers of two (n) -> half of them, float32 (n)."""
    y = np.empty(x.shape[0], np.float32)
    cdef float[::1] view = y
    for i in range(x.shape[0]):
        view[i] = pl_e8m0_half(x[i])
    return y


def f32_to_bf16(const float[::1] x):
    """float32 (n) -> bits of bfloat16 (n), rounded to nearest even."""
    y = np.empty(x.shape[0], np.uint16)
    cdef uint16_t[::1] view = y
    for i in range(x.shape[0]):
        view[i] = pl_f32_to_bf16(x[i])
    return y


def decode(str format, const uint8_t[::1] raw, int64_t k, out=None):
    """A file's row of k weights, uint8 (row_bytes) -> float32 (k): the reference."""
    cdef const pl_format *f = _format(format)
    cdef int64_t n = _row(f, k)
    if raw.shape[0] != n:
        raise ValueError(f"raw has {raw.shape[0]} bytes, expected {n} for {k} weights of {format}")
    y = _out(out, (k,), np.float32)
    cdef float[::1] view = y
    with nogil:
        pl_decode(f, &raw[0], &view[0], k)
    return y


def split(str format, const uint8_t[::1] block, int slice):
    """Slice of 32 weights of a file block -> codes uint8 (32), and the scales, mins and factors as stored (ints)."""
    cdef const pl_format *f = _format(format)
    cdef uint16_t scale[2]
    cdef uint16_t least[2]
    cdef uint16_t factor[2]
    if f.is_float:
        raise ValueError(f"format {format} has no codes")
    if block.shape[0] != f.block_bytes:
        raise ValueError(f"block has {block.shape[0]} bytes, expected {f.block_bytes} for {format}")
    if not 0 <= slice < f.block // 32:
        raise ValueError(f"slice is {slice}, expected 0..{f.block // 32 - 1}")
    codes = np.empty(32, np.uint8)
    cdef uint8_t[::1] view = codes
    scale[0] = scale[1] = least[0] = least[1] = factor[0] = factor[1] = 0
    f.split(&block[0], slice, &view[0], scale, least, factor)
    groups = range(32 // f.shape.group)
    return codes, [scale[i] for i in groups], [least[i] for i in groups], [factor[0], factor[1]]


def pack(str isa, str format, const uint8_t[:, ::1] raw, int64_t k, out=None):
    """A file's rows, uint8 (n, row_bytes) -> tiles, uint8 (ceil(n / 16) * tile_bytes)."""
    cdef const pl_format *f = _format(format)
    cdef const pl_kernels *kernels = _kernels(isa)
    cdef int n = raw.shape[0]
    if raw.shape[1] != _row(f, k) or n < 1:
        raise ValueError(f"raw has shape {raw.shape[0], raw.shape[1]}, expected (rows >= 1, {_row(f, k)})")
    tiles = _out(out, ((n + 15) // 16 * pl_tile_bytes(f, k),), np.uint8)
    cdef uint8_t[::1] view = tiles
    cdef int width = k
    with nogil:
        kernels.pack[f.id](&raw[0, 0], n, width, &view[0])
    return tiles


cdef pl_mat _mat(const pl_format *f, const uint8_t[::1] packed, int64_t rows, int64_t k) except *:
    cdef pl_mat w
    _row(f, k)
    if not 0 < rows < 1 << 30:
        raise ValueError(f"rows is {rows}, expected at least 1")
    w.format = f
    w.rows = rows
    w.k = k
    w.tile_bytes = pl_tile_bytes(f, k)
    w.data = &packed[0] if packed.shape[0] else NULL
    if packed.shape[0] != (rows + 15) // 16 * w.tile_bytes:
        raise ValueError(f"packed has {packed.shape[0]} bytes, expected {(rows + 15) // 16 * w.tile_bytes}")
    return w


def unpack_row(str isa, str format, const uint8_t[::1] packed, int64_t rows, int64_t k, int row, out=None):
    """Row `row` of the packed matrix (rows, k) -> float32 (k)."""
    cdef const pl_format *f = _format(format)
    cdef const pl_kernels *kernels = _kernels(isa)
    cdef pl_mat w = _mat(f, packed, rows, k)
    if not 0 <= row < rows:
        raise ValueError(f"row is {row}, expected 0..{rows - 1}")
    y = _out(out, (k,), np.float32)
    cdef float[::1] view = y
    with nogil:
        kernels.unpack_row[f.id](&w, row, &view[0])
    return y


cdef _check(name, array, dtype, shape):
    if array is None:
        raise ValueError(f"{name} is missing")
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected contiguous {np.dtype(dtype)} {shape}")
    return array


def scratch_bytes(str isa, str format):
    """Bytes of scratch that a product of this format needs."""
    return _kernels(isa).matmul_scratch[_format(format).id]


def scratch_memory(str isa, str format):
    """Scratch for products of this format: uint8 (scratch_bytes), which starts at a multiple of 64 bytes."""
    n = scratch_bytes(isa, format)
    memory = np.empty(n + 64, np.uint8)
    return memory[-memory.ctypes.data % 64:][:n]


def matmul(str isa, str format, const uint8_t[::1] packed, int64_t rows, int64_t k, *,
           x=None, q=None, s=None, sums=None, b=None, int terms=1, int tile0=0, tile1=None, out=None, scratch=None,
           tuning=None, int repeat=1):
    """Rows of activations times the packed matrix (rows, k) -> float32 (n, rows).

    F32 and F16 take `x` float32 (n, k), whose rows may lie apart; BF16 takes `b`, bfloat16 bits uint16
    (n, k rounded up to 2); the other formats take `q` int8 (n, terms or more, k), `s` float32 (n, k / 32) and `sums`
    int16 (n, as many, k / 16). Only the rows of tiles [tile0, tile1) are written; without `out` the others are NaN.
    `scratch`: uint8 (scratch_bytes). `tuning` ({name: value}, see csrc/kernels/tuning.h) replaces values of this
    processor's and changes no bit. `repeat` is the number of times the kernel runs; all but the first find the panel
    of activations in `scratch`.
    """
    cdef const pl_format *f = _format(format)
    cdef const pl_kernels *kernels = _kernels(isa)
    cdef pl_mat w = _mat(f, packed, rows, k)
    cdef pl_acts acts
    cdef int n, last, _
    cdef const float[:, :] f_view
    cdef const float[:, ::1] s_view
    cdef const int8_t[:, :, ::1] q_view
    cdef const int16_t[:, :, ::1] sums_view
    cdef const uint16_t[:, ::1] b_view
    acts.k = k
    acts.terms = acts.stored = terms
    acts.f = NULL
    acts.f_stride = 0
    acts.q = NULL
    acts.s = NULL
    acts.sums = NULL
    acts.b = NULL

    main = b if f.id == PL_BF16 else x if f.is_float else q
    n = 0 if main is None else len(main)
    if n < 1:
        wanted = "b" if f.id == PL_BF16 else "x" if f.is_float else "q"
        raise ValueError(f"{format} needs {wanted}, at least a row")
    if terms not in (1, 2):
        raise ValueError(f"terms is {terms}, expected 1 or 2")
    if repeat < 1:
        raise ValueError(f"repeat is {repeat}, expected at least 1")
    if f.id == PL_BF16:
        b_view = _check("b", b, np.uint16, (n, k + k % 2))
        acts.b = &b_view[0, 0]
    elif f.is_float:
        if x.dtype != np.float32 or x.shape != (n, k) or (k > 1 and x.strides[1] != 4) or x.strides[0] % 4:
            raise ValueError(f"x is {x.dtype} {x.shape}, expected float32 {n, k} with adjacent columns")
        f_view = x
        acts.f = &f_view[0, 0]
        acts.f_stride = f_view.strides[0] // 4
    else:
        acts.stored = q.shape[1]
        if acts.stored < terms:
            raise ValueError(f"q has {acts.stored} terms, expected at least {terms}")
        q_view = _check("q", q, np.int8, (n, acts.stored, k))
        s_view = _check("s", s, np.float32, (n, k // 32))
        sums_view = _check("sums", sums, np.int16, (n, acts.stored, k // 16))
        acts.q = &q_view[0, 0, 0]
        acts.s = &s_view[0, 0]
        acts.sums = &sums_view[0, 0, 0]

    scratch = scratch_memory(isa, format) if scratch is None else scratch
    cdef uint8_t[::1] room = _check("scratch", scratch, np.uint8, (kernels.matmul_scratch[f.id],))
    acts.scratch = &room[0] if room.shape[0] else NULL
    if <size_t>acts.scratch % 64:
        raise ValueError("scratch does not start at a multiple of 64 bytes")
    cdef pl_tuning numbers
    pl_tuning_default(pl_isa_find(isa.encode()), &numbers)
    names = {pl_tuning_name(i).decode(): i for i in range(PL_N_TUNING)}
    for name, value in ({} if tuning is None else tuning).items():
        (<int32_t *>&numbers)[<int>names[name]] = value
    if pl_tuning_wrong(&numbers) != NULL:
        raise ValueError(f"{pl_tuning_wrong(&numbers).decode()} is out of range")
    acts.tuning = &numbers
    acts.again = 0

    last = (rows + 15) // 16 if tile1 is None else tile1
    if not 0 <= tile0 <= last <= (rows + 15) // 16:
        raise ValueError(f"tiles [{tile0}, {last}) are not within 0..{(rows + 15) // 16}")
    if out is None:
        out = np.full((n, rows), np.nan, np.float32)
    if out.dtype != np.float32 or out.shape != (n, rows) or (rows > 1 and out.strides[1] != 4) or out.strides[0] % 4:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected float32 {n, rows} with adjacent columns")
    cdef float[:, :] out_view = out
    cdef ptrdiff_t stride = out_view.strides[0] // 4
    with nogil:
        for _ in range(repeat):
            kernels.matmul[f.id](&w, tile0, last, &acts, n, &out_view[0, 0], stride)
            acts.again = 1
    return out
