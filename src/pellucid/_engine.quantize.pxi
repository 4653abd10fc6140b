# Part of _engine.pyx: quantisers, over csrc/quantize/quantize.h.

def quantizers():
    """-> {name: (number in GGUF files, weights of a block, bytes of a block)} of the formats that can be made."""
    cdef const pl_quantizer *q
    found, i = {}, 0
    while pl_quantizer_get(i) != NULL:
        q = pl_quantizer_get(i)
        found[q.name.decode()] = (q.gguf, q.block, q.block_bytes)
        i += 1
    return found


def quantize(str source, const uint8_t[::1] data not None, int64_t k, str to, *, importance=None, bint quick=False,
             int threads=1, progress=None):
    """Rows of k weights in the format `source` -> their bytes in the format `to`, uint8 (rows * row bytes).

    importance: float32 (k), at least 0 and not all 0: the weights of the columns' squared errors; None: all equal.
    quick: only a few scales are tried for each group, many times as fast; has no effect with importances.
    The bytes do not depend on `threads`. progress: called repeatedly with the fraction done.

    Raises ValueError for an unknown format, for sizes that do not fit and for impossible importances; OverflowError
    with the row's number if a value is not finite or beyond what `to` can hold; OutOfMemoryError.
    """
    cdef const pl_quantizer *q = pl_quantizer_find(to.encode())
    cdef int number = pl_format_number(source.encode())
    known = quantizers()
    if q == NULL:
        raise ValueError(f"format {to!r} cannot be made; known: {', '.join(known)}")
    if number < 0:
        raise ValueError(f"format {source!r} is unknown; known: {', '.join(format_names())}")
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    cdef int64_t row = pl_format_row(number, k)
    if not 0 < k < INT32_MAX or row < 0 or k % q.block:
        raise ValueError(f"k is {k}, expected a positive multiple of the blocks of {source} and of {to} ({q.block})")
    if data.shape[0] % row:
        raise ValueError(f"data has {data.shape[0]} bytes, expected a multiple of {row}: rows of {k} in {source}")
    cdef int64_t rows = data.shape[0] // row, wrong
    cdef const float[::1] columns
    cdef const float *important = NULL
    if importance is not None:
        columns = np.ascontiguousarray(importance, np.float32)
        if columns.shape[0] != k or not np.isfinite(columns).all() or np.min(columns) < 0 or not np.max(columns) > 0:
            raise ValueError(f"importance must be {k} finite numbers, at least 0 and not all 0")
        # only ratios matter: sums of errors must neither overflow nor vanish; a power of two rounds nothing
        columns = np.ldexp(columns, -np.frexp(np.max(columns))[1])
        important = &columns[0]
    made = np.empty(rows * (k // q.block) * q.block_bytes, np.uint8)
    cdef uint8_t[::1] out = made
    if rows == 0:
        return made
    cdef pl_quantizing *work
    cdef int done
    with nogil:
        work = pl_quantizing_start(q, number, &data[0], important, rows, k, &out[0], quick, threads)
    if work == NULL:
        raise OutOfMemoryError("no memory for quantising, or no thread")
    failure = None
    while True:
        with nogil:
            done = pl_quantizing_wait(work, SLICE_MS)
        if done:
            break
        try:
            PyErr_CheckSignals()
            if progress is not None and failure is None:
                progress(pl_quantizing_progress(work))
        except BaseException as e:  # the job must end before its memory is freed
            failure = e
            pl_quantizing_cancel(work)
    if done < 0:  # this is a forked child; the job continues in the parent
        raise PellucidError("the process was forked while it was quantising")
    wrong = pl_quantizing_finish(work)
    if failure is not None:
        raise failure
    if wrong >= 0:
        raise OverflowError(wrong)
    return made


INTEGERS = {"F32": PL_INTEGERS_F32, "INT4": PL_INTEGERS_INT4, "Q8_0": PL_INTEGERS_Q8_0}


def make_integers(str to, const uint8_t[::1] codes not None, int bits, int64_t step_column, int64_t step_row,
                  int columns, int rows_of_word, int flip, order, const int32_t[::1] group not None,
                  const float[:, ::1] scale not None, const int16_t[:, ::1] zero not None, int64_t first, int64_t end):
    """Rows [first, end) of integers with scales and zero points (csrc/quantize/integers.h) -> their bytes in the format
    `to` (F32, INT4, Q8_0). Sizes are checked. May run on several threads at once."""
    cdef pl_integers w
    cdef const int32_t[::1] places
    cdef pl_integers_to format = INTEGERS[to]
    cdef int64_t k = group.shape[0], rows = scale.shape[0]
    w.codes, w.step_column, w.step_row, w.bits = &codes[0], step_column, step_row, bits
    w.columns, w.rows_of_word, w.flip, w.k, w.groups = columns, rows_of_word, flip, k, scale.shape[1]
    w.order, w.group, w.scale, w.zero = NULL, &group[0], &scale[0, 0], &zero[0, 0]
    if order is not None:
        places = order
        if places.shape[0] != k or np.min(order) < 0 or np.max(order) >= k:
            raise ValueError("an order of other columns")
        w.order = &places[0]
    last = (k - 1) // columns * step_column + (rows - 1) // rows_of_word * step_row
    inside = (columns if rows_of_word == 1 else rows_of_word) * bits // 8
    if (bits not in (4, 8) or columns < 1 or rows_of_word not in (1, 8) or not 0 <= first <= end <= rows
            or zero.shape[0] != rows or zero.shape[1] != scale.shape[1] or codes.shape[0] < last + inside
            or np.min(group) < 0 or np.max(group) >= scale.shape[1] or (to != "F32" and k % 32)):
        raise ValueError("sizes that do not fit together")
    made = np.empty((end - first) * (4 * k if to == "F32" else k // 32 * (19 if to == "INT4" else 34)), np.uint8)
    cdef uint8_t[::1] out = made
    if made.size:
        with nogil:
            pl_integers_make(&w, format, first, end, &out[0])
    return made


def make_fp8(const uint8_t[:, ::1] codes not None, const float[:, ::1] scale not None, block, int64_t first,
             float[:, ::1] out not None):
    """Codes (n, k) in e4m3 of rows [first, first + n) of a matrix that has a scale for each block of (rows, columns)
    -> out (n, k). Sizes are checked. May run on several threads at once."""
    cdef pl_fp8 w
    w.k, w.block_rows, w.block_columns = codes.shape[1], block[0], block[1]
    cdef int64_t n = codes.shape[0]
    if (w.block_rows < 1 or w.block_columns < 1 or first < 0 or (out.shape[0], out.shape[1]) != (n, w.k)
            or scale.shape[0] < -(-(first + n) // w.block_rows) or scale.shape[1] != -(-w.k // w.block_columns)):
        raise ValueError("sizes that do not fit together")
    if n and w.k:
        w.scale = &scale[0, 0]
        with nogil:
            pl_fp8_make(&w, &codes[0, 0], first, first + n, &out[0, 0])
