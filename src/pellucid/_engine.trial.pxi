# Part of _engine.pyx: products by a kernel alone, over pl_trial.

cdef int _weights_format(str format, int64_t k) except -1:
    cdef int number = pl_format_number(format.encode())
    if number < 0:
        raise ValueError(f"format {format!r} is unknown; known: {', '.join(format_names())}")
    if not 0 < k < INT32_MAX or pl_tile_size(number, k) < 0:
        raise ValueError(f"k is {k}, expected a positive multiple of the block of {format}")
    return number


def row_bytes(str format, int64_t k):
    """Bytes of a file's row of k weights. Raises ValueError."""
    return pl_format_row(_weights_format(format, k), k)


def tile_bytes(str format, int64_t k):
    """Bytes of a tile: 16 packed rows of k weights. Raises ValueError."""
    return pl_tile_size(_weights_format(format, k), k)


def pack_rows(str format, const uint8_t[:, ::1] raw not None, int64_t k):
    """A file's rows of k weights, uint8 (n, bytes of a row) -> tiles, uint8 (ceil(n / 16) * tile_bytes).
    Raises ValueError."""
    cdef pl_error error
    cdef pl_status status
    cdef int number = _weights_format(format, k)
    cdef Py_ssize_t row = pl_format_row(number, k)
    if raw.shape[0] < 1 or raw.shape[0] >= INT32_MAX or raw.shape[1] != row:
        raise ValueError(f"raw has shape {raw.shape[0], raw.shape[1]}, expected (rows >= 1, {row})")
    made = np.empty((raw.shape[0] + 15) // 16 * pl_tile_size(number, k), np.uint8)
    cdef uint8_t[::1] view = made
    cdef int rows = raw.shape[0], width = k
    with nogil:
        status = pl_pack_rows(number, &raw[0, 0], rows, width, &view[0], &error)
    if status:
        raise_status(status, &error)
    return made


cdef class Trial:
    """Products of the activations x, float32 (n, k), by packed weights of a format, with a tier's kernel, on the
    caller's thread; several threads may use one. terms: 1 or 2, of the integer form. tuning: {name: value}, None: the
    processor's. Raises ValueError, IsaError, OutOfMemoryError."""

    cdef pl_trial *trial
    cdef readonly int rows
    cdef int64_t tile
    cdef readonly int64_t scratch_bytes

    def __cinit__(self, str isa, str format, const float[:, ::1] x not None, *, int terms=1, tuning=None):
        cdef pl_error error
        cdef pl_status status
        if x.shape[0] < 1 or x.shape[1] < 1:
            raise ValueError(f"x has shape {x.shape[0], x.shape[1]}, expected at least a row and a column")
        cdef int number = _weights_format(format, x.shape[1])
        cdef int tier = pl_isa_find(find_isa(isa).encode())
        cdef pl_tuning values = to_tuning(isa, tuning)
        with nogil:
            status = pl_trial_new(tier, number, x.shape[1], x.shape[0], terms, &values, &x[0, 0], &self.trial, &error)
        if status:
            raise_status(status, &error)
        self.rows = x.shape[0]
        self.tile = pl_tile_size(number, x.shape[1])
        self.scratch_bytes = pl_trial_scratch(self.trial)

    def __dealloc__(self):
        pl_trial_free(self.trial)

    def run(self, const uint8_t[::1] packed not None, float[:, ::1] out not None, uint8_t[::1] scratch not None,
            int times=1):
        """Writes the products by the packed tiles to out, float32 (n, 16 for each tile), `times` times. scratch: uint8
        (scratch_bytes), which starts at a multiple of 64. Raises ValueError."""
        cdef int64_t tiles = packed.shape[0] // self.tile
        cdef void *room = &scratch[0] if scratch.shape[0] else NULL
        if tiles < 1 or tiles > INT32_MAX // 16 or packed.shape[0] % self.tile:
            raise ValueError(f"packed has {packed.shape[0]} bytes, expected a multiple of {self.tile}")
        if out.shape[0] != self.rows or out.shape[1] != 16 * tiles:
            raise ValueError(f"out has shape {out.shape[0], out.shape[1]}, expected {self.rows, 16 * tiles}")
        if scratch.shape[0] != self.scratch_bytes or <size_t>room % 64:
            raise ValueError(f"scratch must be {self.scratch_bytes} bytes, starting at a multiple of 64")
        if times < 1:
            raise ValueError(f"times is {times}, expected at least 1")
        cdef int count = tiles
        with nogil:
            pl_trial_run(self.trial, &packed[0], count, times, room, &out[0, 0])
