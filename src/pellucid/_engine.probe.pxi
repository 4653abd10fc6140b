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
        cdef int part, parts = <int>((size >> 25) + 1)  # of 32 MB: Ctrl-C takes effect between them
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
        int8_wide is available only where it differs from int8."""
        return bool(pl_probe_has(self.probe, PROBES.index(kind)))

    def run(self, str kind, int64_t n):
        """n rounds of one of PROBES -> (bytes read, operations or cycles of all threads, nanoseconds): elapsed time for
        reads, else processor time, which does not include waiting for a processor."""
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

    def products(self, products, *, double seconds=60.0):
        """Products of `rows` rows of k activations by weights of a quantised format, one after another -> nanoseconds
        of each that begins within `seconds`. products: {"format", "k", "rows", "size": bytes of weights} each, and
        where they differ from these: "at": 0, the weights' first byte in the buffer in 2 MB pages; "terms": 1;
        "times": 1, repetitions; "cold": False, True: no cache holds the weights at the start (x86-64);
        "tuning": None, the processor's.
        Raises ValueError for numbers out of range, OutOfMemoryError.
        """
        cdef pl_error error
        cdef pl_status status
        cdef int i, count = len(products)
        cdef int64_t limit = <int64_t>(min(max(seconds, 0.0), 3600.0) * 1e9)
        cdef pl_product *made = <pl_product *>calloc(max(count, 1), sizeof(pl_product))
        cdef int64_t *ns = <int64_t *>calloc(max(count, 1), sizeof(int64_t))
        try:
            if not made or not ns:
                raise MemoryError
            for i, o in enumerate(products):
                o = {"at": 0, "terms": 1, "times": 1, "cold": False, "tuning": None, **o}
                made[i].format = pl_format_number(o["format"].encode())
                made[i].k, made[i].n, made[i].terms, made[i].times = o["k"], o["rows"], o["terms"], o["times"]
                made[i].from_, made[i].bytes, made[i].cold = o["at"], o["size"], o["cold"]
                made[i].tuning = to_tuning(self.isa, o["tuning"])
            with nogil:
                status = pl_probe_products(self.probe, made, count, limit, ns, &error)
            if status:
                raise_status(status, &error)
            return [ns[i] for i in range(count) if ns[i] >= 0]
        finally:
            free(made)
            free(ns)
