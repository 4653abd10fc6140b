# Part of _engine.pyx: samplers of sequences, and the results of a pass, over csrc/engine/sample.h.

# The sampler's steps in their default order, as numbered in csrc/engine/sample.h.
STEPS = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")


cdef class Sampler:
    """Chooses tokens from one sequence's logits. Options: csrc/engine/sample.h; `step` counts the draws.
    order: names from STEPS, each at most once; None for all. repeat_last, dry_range: how many of the last tokens given
    to `extend` count for the penalties and for DRY; -1 for all. Without `extend`, neither has an effect.
    mask: a bit for each token that may be drawn; a contiguous array of uint32 is not copied, and may change between
    two draws.
    """

    cdef pl_sample_params params
    cdef readonly uint64_t step
    cdef double mu          # mirostat's before the last draw
    cdef object keep
    cdef int32_t *ids       # (room) the tokens so far
    cdef uint8_t *breaks    # (room) whether each is, or ends, a sequence breaker
    cdef int32_t *matches   # (3, room) scratch, ids and lengths of pl_dry_match
    cdef Py_ssize_t n, n_drafts, room, repeat_last, dry_range
    cdef Py_ssize_t n_mask  # words
    cdef bint dry

    def __init__(self, *, float temperature=0.0, int top_k=0, float top_p=1.0, float min_p=0.0, float typical_p=1.0,
                 float top_n_sigma=0.0, float xtc_probability=0.0, float xtc_threshold=0.1, float dynatemp_range=0.0,
                 float dynatemp_exponent=1.0, float repeat_penalty=1.0, float presence_penalty=0.0,
                 float frequency_penalty=0.0, int repeat_last=-1, float dry_multiplier=0.0, float dry_base=1.75,
                 int dry_allowed_length=2, int dry_range=-1, int mirostat=0, float mirostat_tau=5.0,
                 float mirostat_eta=0.1, uint64_t seed=0, dict bias=None, int logprobs=-1, mask=None, order=None):
        cdef pl_sample_params *p = &self.params
        memset(p, 0, sizeof(self.params))
        p.temperature, p.top_k, p.top_p, p.min_p, p.typical_p = temperature, top_k, top_p, min_p, typical_p
        p.top_n_sigma, p.xtc_probability, p.xtc_threshold = top_n_sigma, xtc_probability, xtc_threshold
        p.dynatemp_range, p.dynatemp_exponent = dynatemp_range, dynatemp_exponent
        p.repeat_penalty, p.presence_penalty, p.frequency_penalty = repeat_penalty, presence_penalty, frequency_penalty
        p.dry_multiplier, p.dry_base, p.dry_allowed_length = dry_multiplier, dry_base, dry_allowed_length
        p.mirostat, p.mirostat_tau, p.mirostat_eta = mirostat, mirostat_tau, mirostat_eta
        p.mirostat_mu = 2 * mirostat_tau
        p.seed = seed
        p.n_logprobs = logprobs
        names = STEPS if order is None else tuple(order)
        if len(set(names)) < len(names):
            raise ValueError(f"order={order!r}: each name at most once")
        for i, name in enumerate(names):
            p.order[i] = STEPS.index(name)
        p.n_order = <int32_t>len(names)
        self.repeat_last, self.dry_range = repeat_last, dry_range
        self.dry = "dry" in names and dry_multiplier > 0 and dry_range != 0
        cdef int32_t[::1] ids
        cdef float[::1] values
        cdef uint32_t[::1] bits
        self.keep = []
        if bias:
            ids = np.fromiter(bias.keys(), np.int32, len(bias))
            values = np.fromiter(bias.values(), np.float32, len(bias))
            self.keep += [ids, values]
            p.n_bias = <int32_t>len(bias)
            p.bias_id = &ids[0]
            p.bias = &values[0]
        if mask is not None:
            bits = np.ascontiguousarray(mask, np.uint32)
            self.keep.append(bits)
            self.n_mask = bits.shape[0]
            if self.n_mask == 0:
                raise ValueError("mask is empty: expected a bit for each token of the vocabulary")
            p.mask = &bits[0]

    def __dealloc__(self):
        free(self.ids)
        free(self.breaks)
        free(self.matches)

    @property
    def length(self):
        """How many tokens `extend` was given."""
        return self.n

    @property
    def mirostat_mu(self):
        """The most bits of surprise that mirostat allows a token; changes with every draw."""
        return self.params.mirostat_mu

    cdef grow(self, Py_ssize_t n):
        cdef Py_ssize_t room = max(n, 2 * self.room, 256)
        cdef void *ids = realloc(self.ids, room * sizeof(int32_t))
        self.ids = <int32_t *>ids if ids != NULL else self.ids
        self.find_recent(&self.params, 0)  # which points into them, even if there is no memory for the rest
        cdef void *breaks = realloc(self.breaks, room)
        self.breaks = <uint8_t *>breaks if breaks != NULL else self.breaks
        # The last, as DRY's parameters point into them until `extend` sets them again.
        cdef void *matches = NULL
        if ids != NULL and breaks != NULL:
            matches = realloc(self.matches, 3 * room * sizeof(int32_t))
        if matches == NULL:
            raise OutOfMemoryError("no memory for a sampler's tokens")
        self.matches = <int32_t *>matches
        self.room = room

    def advance(self, int64_t n):
        """Counts n draws that were made by rows with offsets (see `Engine.forward`); -1: the last draw is lost, and is
        made again."""
        self.step += <uint64_t>n
        if n < 0 and self.params.mirostat:
            self.params.mirostat_mu = self.mu

    def draft(self, ids):
        """Sets the tokens guessed to follow those given to `extend`, for the penalties of rows with offsets, until the
        next call of `extend` or `draft`."""
        cdef int32_t[::1] guessed = np.ascontiguousarray(ids, np.int32)
        cdef Py_ssize_t n = guessed.shape[0]
        if self.dry or self.params.mirostat:
            raise ValueError("mirostat and DRY draw one token after another")
        self.n_drafts = 0
        if self.n + n > self.room:
            self.grow(self.n + n)
        if n:
            memcpy(self.ids + self.n, &guessed[0], n * sizeof(int32_t))
        self.n_drafts = n

    cdef void find_recent(self, pl_sample_params *p, Py_ssize_t offset) noexcept:
        """Sets the penalties' window to that after `offset` drafts."""
        cdef Py_ssize_t n = self.n + offset
        cdef Py_ssize_t back = n if self.repeat_last < 0 else min(n, self.repeat_last)
        p.n_recent, p.recent = <int32_t>back, self.ids + n - back

    cdef settings(self, pl_sample_params *p, Py_ssize_t offset):
        """Sets p to the parameters of a draw, `offset` draws after the next. Raises ValueError if they depend on the
        draws before it."""
        p[0] = self.params
        if not offset:
            return
        if self.dry or p.mirostat:
            raise ValueError("mirostat and DRY draw one token after another")
        if offset < 0:
            raise ValueError(f"offset={offset}: expected at least 0")
        if self.n:
            if offset > self.n_drafts:
                raise ValueError(f"offset={offset}: expected at most {self.n_drafts}, the tokens given to `draft`")
            self.find_recent(p, offset)

    def extend(self, ids, breaks=None):
        """Appends tokens generated since the last call. breaks: a byte per token, nonzero if it breaks repetitions."""
        cdef int32_t[::1] new = np.ascontiguousarray(ids, np.int32)
        cdef Py_ssize_t n = new.shape[0], back
        cdef const uint8_t[::1] flags = None
        cdef pl_sample_params *p = &self.params
        if breaks is not None:
            flags = breaks
            if flags.shape[0] != n:
                raise ValueError(f"{flags.shape[0]} breaks for {n} ids")
        if n == 0:
            return
        self.n_drafts = 0
        if self.n + n >= 2**31 // 3:
            raise ValueError(f"{self.n + n} tokens: expected fewer than {2**31 // 3}")
        if self.n + n > self.room:
            self.grow(self.n + n)
        memcpy(self.ids + self.n, &new[0], n * sizeof(int32_t))
        if breaks is None:
            memset(self.breaks + self.n, 0, n)
        else:
            memcpy(self.breaks + self.n, &flags[0], n)
        self.n += n
        self.find_recent(p, 0)
        if not self.dry:
            return
        back = self.n if self.dry_range < 0 else min(self.n, self.dry_range)
        p.dry_id, p.dry_length = self.matches + self.room, self.matches + 2 * self.room
        with nogil:
            p.n_dry = pl_dry_match(self.ids + self.n - back, self.breaks + self.n - back, <int>back,
                                   p.dry_allowed_length, self.matches, self.matches + self.room,
                                   self.matches + 2 * self.room)


cdef class Known:
    """Given in place of a row's sampler: the token is known, and is reported with its log probability and `logprobs`
    alternatives."""

    cdef int32_t id
    cdef int32_t logprobs

    def __init__(self, int32_t id, int32_t logprobs):
        self.id, self.logprobs = id, logprobs


cdef class Results:
    """Parameters and results of `pl_sample` for each wanted row."""

    cdef pl_sample_params *params
    cdef uint64_t *steps
    cdef pl_sampled *sampled
    cdef Py_ssize_t n
    cdef list tops
    cdef list masks         # of rows that have one of their own
    cdef int32_t *targets

    def __dealloc__(self):
        free(self.targets)
        free(self.params)
        free(self.steps)
        free(self.sampled)

    def __init__(self, list samplers, targets, int top, int vocab):
        """samplers: one per row, or (sampler, offset), or (sampler, offset, mask in place of the sampler's), or Known;
        or targets: an id per row, each reported with `top` alternatives."""
        cdef Sampler s
        cdef uint32_t[::1] bits
        cdef Py_ssize_t n = len(samplers if targets is None else targets), i, offset, n_mask
        self.n = n
        self.targets = <int32_t *>calloc(n + 1, sizeof(int32_t))
        self.params = <pl_sample_params *>calloc(n + 1, sizeof(pl_sample_params))
        self.steps = <uint64_t *>calloc(n + 1, sizeof(uint64_t))
        self.sampled = <pl_sampled *>calloc(n + 1, sizeof(pl_sampled))
        if self.targets == NULL or self.params == NULL or self.steps == NULL or self.sampled == NULL:
            raise OutOfMemoryError("no memory for a pass's results")
        self.tops = []
        self.masks = []
        if targets is not None:
            given = np.ascontiguousarray(targets, np.int32).tolist()
            for i in range(n):
                self.targets[i] = given[i]
                if not 0 <= self.targets[i] < vocab:
                    raise ValueError(f"targets[{i}]={self.targets[i]}: expected 0 to {vocab - 1}")
                self.params[i].target = &self.targets[i]
                self.params[i].n_logprobs = top
                self.make_room(i, vocab)
            return
        for i in range(n):
            one = samplers[i]
            if isinstance(one, Known):
                self.report(i, one, vocab)
                continue
            s, offset = one[:2] if isinstance(one, tuple) else (one, 0)
            s.settings(&self.params[i], offset)
            n_mask = s.n_mask
            if isinstance(one, tuple) and len(one) == 3:
                bits = one[2]
                self.masks.append(bits)
                n_mask, self.params[i].mask = bits.shape[0], &bits[0]
            if self.params[i].mask != NULL and n_mask != (vocab + 31) // 32:
                raise ValueError(f"samplers[{i}]: a mask of {n_mask} words, expected {(vocab + 31) // 32}, a bit for "
                                 f"each of {vocab} tokens")
            self.steps[i] = s.step + <uint64_t>offset
            self.make_room(i, vocab)

    cdef report(self, Py_ssize_t i, Known known, int vocab):
        if not 0 <= known.id < vocab:
            raise ValueError(f"samplers[{i}]: token {known.id}, expected 0 to {vocab - 1}")
        self.targets[i] = known.id
        self.params[i].target = &self.targets[i]
        self.params[i].n_logprobs = known.logprobs
        self.make_room(i, vocab)

    cdef make_room(self, Py_ssize_t i, int vocab):
        """Allocates the alternatives of row i; called for each row in order."""
        cdef int32_t[::1] ids
        cdef float[::1] logprobs
        top = None
        if self.params[i].n_logprobs > 0:
            n_top = self.params[i].n_logprobs = min(self.params[i].n_logprobs, vocab)
            ids, logprobs = top = (np.empty(n_top, np.int32), np.empty(n_top, np.float32))
            self.sampled[i].top_id = &ids[0]
            self.sampled[i].top_logprob = &logprobs[0]
        self.tops.append(top)

    cdef list alternatives(self, Py_ssize_t i):
        top = self.tops[i]
        return [] if top is None else list(zip(top[0].tolist(), top[1].tolist(), strict=True))

    cdef list take(self, list samplers, list failed):
        """-> [(id, logprob or None, [(id, logprob)])], and advances samplers without an offset; of targets [(logprob,
        alternatives)]. failed: whether each row failed (its result is None); None: no row did."""
        cdef Sampler s
        cdef Py_ssize_t i
        cdef list out = []
        for i in range(self.n):
            if failed is not None and failed[i]:
                out.append(None)
                continue
            if samplers is None:
                out.append((self.sampled[i].logprob, self.alternatives(i)))
                continue
            one = samplers[i]
            if isinstance(one, Known):
                out.append((self.targets[i], self.sampled[i].logprob, self.alternatives(i)))
                continue
            if isinstance(one, tuple):
                s = one[0]
            else:
                s = one
                s.step += 1
                s.mu = s.params.mirostat_mu
                s.params.mirostat_mu = self.sampled[i].mirostat_mu
            out.append((self.sampled[i].id, self.sampled[i].logprob if s.params.n_logprobs >= 0 else None,
                        self.alternatives(i)))
        return out
