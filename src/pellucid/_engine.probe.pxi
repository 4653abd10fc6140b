# Part of _engine.pyx: measures the machine's limits.

PROBES = ("read_4k", "read_2m", "int8", "int8_wide", "bf16", "f32", "clock")  # as numbered in csrc/pellucid.h


cdef class Probe:
    """Measures the machine's limits on the engine's threads, with the loops of a tier. One user at a time.
    size: bytes of the buffer in 2 MB pages, and with `small` of one in 4 KB pages. Raises IsaError, OutOfMemoryError.
    """

    cdef pl_probe *probe
    cdef str isa

    def __cinit__(self, *, str isa, int threads, int64_t size, bint small=True):
        cdef pl_error error
        cdef pl_status status
        cdef int number = pl_isa_find(isa.encode())
        self.isa = isa
        with nogil:
            status = pl_probe_new(number, threads, size, small, &self.probe, &error)
        if status:
            raise_status(status, &error)
        cdef int part, parts = <int>((size >> 25) + 1)  # of 32 MB: between them Ctrl-C ends it
        for part in range(parts):
            with nogil:
                status = pl_probe_touch(self.probe, part, parts, &error)
            if status:
                raise_status(status, &error)
            PyErr_CheckSignals()

    def __dealloc__(self):
        pl_probe_free(self.probe)

    def has(self, str kind):
        """Whether this machine and tier can run it: read_2m needs 2 MB pages, bf16 an instruction;
        int8_wide is there where int8 is another."""
        return bool(pl_probe_has(self.probe, PROBES.index(kind)))

    def run(self, str kind, int64_t n):
        """n rounds of one of PROBES -> (bytes read, operations or cycles of all threads, nanoseconds): elapsed ones of
        reads, else of processor time, which does not count a thread's waiting for a processor."""
        cdef pl_error error
        cdef pl_status status
        cdef double done = 0
        cdef int64_t ns = 0
        cdef int number = PROBES.index(kind)
        with nogil:
            status = pl_probe_run(self.probe, number, n, &done, &ns, &error)
        if status:
            raise_status(status, &error)
        return done, ns

    def product(self, str format, *, int k, int rows, int64_t size, int64_t at=0, int terms=1, int times=1,
                bint cold=False, tuning=None):
        """Products of `rows` rows of k activations by weights of a quantised format, `size` bytes of them from byte
        `at` of the buffer in 2 MB pages on, `times` times -> (bytes of weights read by all threads, nanoseconds).
        cold: no cache holds the weights at the start (x86-64).
        Raises ValueError for numbers out of range, OutOfMemoryError.
        """
        cdef pl_error error
        cdef pl_status status
        cdef pl_product product
        cdef double done = 0
        cdef int64_t ns = 0
        product.format = pl_format_number(format.encode())
        product.k, product.n, product.terms, product.times = k, rows, terms, times
        product.from_, product.bytes, product.cold = at, size, cold
        product.tuning = to_tuning(self.isa, tuning)
        with nogil:
            status = pl_probe_product(self.probe, &product, &done, &ns, &error)
        if status:
            raise_status(status, &error)
        return done, ns
