# cython: boundscheck=False, wraparound=False
"""csrc/engine/sample.c for tests and benchmarks: takes a row of logits, returns a token and the sampler's reports."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy as np

cdef extern from "cpu/detect.h":
    int PL_N_ISA
    const char *pl_isa_name(int isa)
    int pl_isa_find(const char *name)
    int pl_isa_runs(int isa)

cdef extern from "kernels/kernels.h":
    ctypedef struct pl_kernels:
        pass

cdef extern from "kernels/select.h":
    const pl_kernels *pl_kernels_get(int isa)

cdef extern from "engine/sample.h":
    int PL_N_STEPS
    ctypedef struct pl_sample_params:
        float temperature, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty, top_n_sigma
        float xtc_probability, xtc_threshold, dynatemp_range, dynatemp_exponent, dry_multiplier, dry_base
        float mirostat_tau, mirostat_eta
        double mirostat_mu
        int32_t top_k, n_bias, n_logprobs, n_recent, n_order, dry_allowed_length, n_dry, mirostat
        uint64_t seed
        uint8_t order[9]
        const uint32_t *mask
        const int32_t *bias_id
        const float *bias
        const int32_t *recent
        const int32_t *dry_id
        const int32_t *dry_length
    ctypedef struct pl_sampled:
        int32_t id, n_kept, kept_room
        float logprob
        double mirostat_mu
        int32_t *top_id
        float *top_logprob
        int32_t *kept_id
        float *kept_prob
    size_t pl_sample_scratch(int vocab)
    double pl_sample_uniform(uint64_t seed, uint64_t step, uint32_t stream)
    int pl_dry_match(const int32_t *ids, const uint8_t *breaks, int n, int least, int32_t *z, int32_t *out_id,
                     int32_t *out_length) nogil
    int pl_sample(const pl_kernels *k, const pl_sample_params *p, float *logits, int vocab, uint64_t step,
                  void *scratch, pl_sampled *out) nogil


def isas():
    """Names of the instruction sets that this build holds and this processor runs."""
    return [pl_isa_name(i).decode() for i in range(PL_N_ISA) if pl_isa_runs(i) and pl_kernels_get(i) != NULL]


def uniform(seed, step, stream=0):
    """The random number in [0, 1) of (seed, step), both below 2**64, and a stream."""
    return pl_sample_uniform(seed, step, stream)


def dry_match(ids, least, breaks=None):
    """-> [(token, length)]: tokens that followed earlier occurrences of the last `length` >= least ids."""
    cdef const int32_t[::1] x = np.ascontiguousarray(ids, np.int32)
    cdef const uint8_t[::1] b = None if breaks is None else np.ascontiguousarray(breaks, np.uint8)
    cdef int n = x.shape[0]
    cdef int32_t[:, ::1] room = np.empty((3, n + 1), np.int32)
    cdef int32_t start = 0
    found = pl_dry_match(&x[0] if n else &start, NULL if breaks is None or not n else &b[0], n, least, &room[0, 0],
                         &room[1, 0], &room[2, 0])
    return [(room[1, i], room[2, i]) for i in range(found)]


def scratch_bytes(int vocab):
    """Bytes of scratch that a sampler needs for this vocabulary."""
    return pl_sample_scratch(vocab)


cdef class Sampler:
    """Options, and the scratch for rows of `vocab` logits. By default every step is off.
    mask: bool (vocab), True for allowed tokens. bias: {id: addition}. recent: ids that penalties count. dry:
    [(id, length)] from dry_match. order: numbers of the steps (csrc/engine/sample.h); None for all.
    n_logprobs: alternatives of the raw logits, -1 for no log probabilities.
    """

    cdef pl_sample_params params
    cdef const pl_kernels *kernels
    cdef int vocab
    cdef bint changes
    cdef void *scratch
    cdef float *row
    cdef object held

    def __cinit__(self, str isa, int vocab, *, float temperature=1, int top_k=0, float typical_p=1, float top_p=1,
                  float min_p=0, float top_n_sigma=0, float xtc_probability=0, float xtc_threshold=0.1,
                  float dynatemp_range=0, float dynatemp_exponent=1, seed=0, mask=None, bias=None, recent=None,
                  float repeat_penalty=1, float presence_penalty=0, float frequency_penalty=0, dry=(),
                  float dry_multiplier=0, float dry_base=1.75, int dry_allowed_length=2, int mirostat=0,
                  float mirostat_tau=5, float mirostat_eta=0.1, mirostat_mu=None, int n_logprobs=-1, order=None):
        cdef int found = pl_isa_find(isa.encode())
        cdef const int32_t[::1] ids
        cdef const float[::1] values
        cdef const uint32_t[::1] words
        if vocab < 1:
            raise ValueError(f"vocab={vocab}: at least 1 is expected")
        if found < 0 or not pl_isa_runs(found) or pl_kernels_get(found) == NULL:
            raise ValueError(f"isa={isa!r}: expected one of {isas()}")
        self.kernels = pl_kernels_get(found)
        self.vocab = vocab
        self.held = []
        p = &self.params
        memset(p, 0, sizeof(self.params))
        p.temperature, p.top_k, p.typical_p, p.top_p, p.min_p = temperature, top_k, typical_p, top_p, min_p
        p.top_n_sigma, p.xtc_probability, p.xtc_threshold = top_n_sigma, xtc_probability, xtc_threshold
        p.dynatemp_range, p.dynatemp_exponent = dynatemp_range, dynatemp_exponent
        p.seed = seed
        p.repeat_penalty, p.presence_penalty, p.frequency_penalty = repeat_penalty, presence_penalty, frequency_penalty
        p.dry_multiplier, p.dry_base, p.dry_allowed_length = dry_multiplier, dry_base, dry_allowed_length
        p.mirostat, p.mirostat_tau, p.mirostat_eta = mirostat, mirostat_tau, mirostat_eta
        p.mirostat_mu = 2 * mirostat_tau if mirostat_mu is None else mirostat_mu
        p.n_logprobs = min(n_logprobs, vocab)
        steps = range(PL_N_STEPS) if order is None else order
        p.n_order = len(steps)
        for i, step in enumerate(steps):
            p.order[i] = step
        if mask is not None:
            allowed = np.zeros((vocab + 31) // 32 * 32, bool)
            allowed[:vocab] = mask
            words = np.packbits(allowed, bitorder="little").view("<u4").astype(np.uint32)
            p.mask = &words[0]
            self.held.append(words)
        if bias:
            ids = np.fromiter(bias.keys(), np.int32)
            values = np.fromiter(bias.values(), np.float32)
            p.bias_id, p.bias, p.n_bias = &ids[0], &values[0], len(ids)
            self.held += [ids, values]
        if recent is not None and len(recent):
            ids = np.ascontiguousarray(recent, np.int32)
            p.recent, p.n_recent = &ids[0], len(ids)
            self.held.append(ids)
        if len(dry):
            ids = np.array([d[0] for d in dry], np.int32)
            p.dry_id, p.n_dry = &ids[0], len(dry)
            self.held.append(ids)
            ids = np.array([d[1] for d in dry], np.int32)
            p.dry_length = &ids[0]
            self.held.append(ids)
        self.changes = bool(mask is not None or bias or p.n_recent or p.n_dry or xtc_probability > 0)
        self.scratch = malloc(pl_sample_scratch(vocab))
        self.row = <float *> malloc(vocab * sizeof(float))
        if self.scratch == NULL or self.row == NULL:
            raise MemoryError(f"scratch for a vocabulary of {vocab}")

    def __dealloc__(self):
        free(self.scratch)
        free(self.row)

    cdef int run(self, float *logits, uint64_t step, pl_sampled *out) noexcept nogil:
        if self.changes:
            memcpy(self.row, logits, self.vocab * sizeof(float))
            logits = self.row
        return pl_sample(self.kernels, &self.params, logits, self.vocab, step, self.scratch, out)

    cdef check(self, logits):
        if logits.dtype != np.float32 or logits.shape != (self.vocab,) or not logits.flags.c_contiguous:
            raise ValueError(f"logits: contiguous float32 of shape ({self.vocab},) expected, not "
                             f"{logits.dtype} of shape {logits.shape}")
        return logits

    def draw(self, logits, step=0):
        """The token of this step; if pl_sample rejects the row, its status: -1 for the logits, -2 for the options.

        logits (vocab) do not change.
        """
        cdef float[::1] x = self.check(logits)
        cdef pl_sampled out
        out.top_id = out.kept_id = NULL
        out.top_logprob = out.kept_prob = NULL
        cdef uint64_t at = step
        cdef int status
        with nogil:
            status = self.run(&x[0], at, &out)
        return status if status else out.id

    def sample(self, logits, step=0):
        """As draw, with everything that pl_sample reports: a dict, or None if it rejects the row.

        id, logprob, n_kept, mirostat_mu, top_id and top_logprob (n_logprobs), kept_id and kept_prob (n_kept, most
        probable first).
        """
        cdef float[::1] x = self.check(logits)
        cdef int n_top = max(self.params.n_logprobs, 0)
        top_id, top_logprob = np.full(n_top + 1, -7, np.int32), np.full(n_top + 1, -7, np.float32)
        kept_id, kept_prob = np.full(self.vocab, -7, np.int32), np.full(self.vocab, -7, np.float32)
        cdef int32_t[::1] a = top_id, c = kept_id
        cdef float[::1] b = top_logprob, d = kept_prob
        cdef pl_sampled out
        out.top_id, out.top_logprob, out.kept_id, out.kept_prob = &a[0], &b[0], &c[0], &d[0]
        out.kept_room = self.vocab
        if self.run(&x[0], step, &out):
            return None
        return {"id": out.id, "logprob": out.logprob, "n_kept": out.n_kept, "mirostat_mu": out.mirostat_mu,
                "top_id": top_id[:n_top], "top_logprob": top_logprob[:n_top],
                "kept_id": kept_id[:out.n_kept], "kept_prob": kept_prob[:out.n_kept]}

    def draws(self, logits, int n, first=0):
        """The tokens of steps first .. first + n - 1: int32 (n); -1 if pl_sample rejects the row."""
        cdef float[::1] x = self.check(logits)
        ids = np.empty(n, np.int32)
        cdef int32_t[::1] y = ids
        cdef uint64_t step = first
        cdef pl_sampled out
        cdef int i
        out.top_id = out.kept_id = NULL
        out.top_logprob = out.kept_prob = NULL
        with nogil:
            for i in range(n):
                y[i] = -1 if self.run(&x[0], step + i, &out) else out.id
        return ids


def sample(isa, logits, step=0, **settings):
    """Sampler.sample of one row."""
    return Sampler(isa, len(logits), **settings).sample(logits, step)


def sample_many(isa, logits, n, first=0, **settings):
    """Sampler.draws of one row."""
    return Sampler(isa, len(logits), **settings).draws(logits, n, first)
