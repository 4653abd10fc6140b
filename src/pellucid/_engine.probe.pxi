# Part of _engine.pyx: measures the machine's limits.

PROBES = ("read_4k", "read_2m", "int8", "bf16", "f32", "clock")  # as numbered in csrc/pellucid.h


cdef class Probe:
    """Measures the machine's limits on the engine's threads, with the loops of a tier. One user at a time.
    size: bytes of each of the two buffers to read. Raises IsaError, OutOfMemoryError.
    """

    cdef pl_probe *probe

    def __cinit__(self, *, str isa, int threads, int64_t size):
        cdef pl_error error
        cdef pl_status status
        cdef int number = pl_isa_find(isa.encode())
        with nogil:
            status = pl_probe_new(number, threads, size, &self.probe, &error)
        if status:
            raise_status(status, &error)

    def __dealloc__(self):
        pl_probe_free(self.probe)

    def has(self, str kind):
        """Whether this machine and tier can run it: read_2m needs 2 MB pages, bf16 an instruction."""
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
