# Part of _engine.pyx: what is in memory: a model's weights, and sequences, over csrc/cache/sequence.h.

cdef class Loaded:
    """A model in memory, kept by an open engine, by views of it, and by calls that are still running."""

    cdef pl_model *model
    cdef Loaded base
    cdef object share

    def __dealloc__(self):
        pl_model_free(self.model)


cdef class Sequence:
    """Keys and values of one sequence in an engine's pool. One user at a time."""

    cdef pl_seq *seq
    cdef readonly Engine engine

    def __cinit__(self, Engine engine not None):
        cdef Loaded loaded = engine.open()  # until the pool has the sequence as a user: another thread may close it
        cdef pl_pool *pool = pl_model_pool(loaded.model)
        self.engine = engine
        with nogil:
            self.seq = pl_seq_new(pool)
        if self.seq == NULL:
            raise OutOfMemoryError("no memory for a sequence")

    def __dealloc__(self):
        with nogil:
            pl_seq_free(self.seq)

    @property
    def length(self):
        """Tokens stored."""
        return self.seq.length

    def fork(self):
        """-> a second sequence with the same contents."""
        cdef Sequence other = Sequence.__new__(Sequence, self.engine)
        cdef pl_seq *seq
        with nogil:
            seq = pl_seq_fork(self.seq)
        if seq == NULL:
            raise OutOfMemoryError("no memory for a sequence")
        other.seq, seq = seq, other.seq
        with nogil:
            pl_seq_free(seq)
        return other

    def rewind(self, int n):
        """Forgets tokens from n on -> the new length: n, or less if earlier tokens must be computed again. Recurrent
        layers can only go back to lengths whose state is kept."""
        cdef int left
        if n < 0 or n > self.seq.length:
            raise ValueError(f"n={n}: expected 0 to {self.seq.length}")
        with nogil:
            left = pl_seq_rewind(self.seq, n)
        return left

    def reaches(self, int n):
        """Whether the sequence can go back to exactly n tokens."""
        return n >= 0 and bool(pl_seq_reaches(self.seq, n))

    def reach(self, int n):
        """-> the greatest length up to n to which the sequence can go back."""
        return pl_seq_reach(self.seq, min(n, self.seq.length))

    def state(self):
        """-> float32: what all recurrent layers keep, group by group, as the engine lays it out (csrc/ops/op.h)."""
        cdef const float *data = NULL
        groups = self.engine.plan.states
        out = np.zeros(sum([group.n_layers * group.layer.floats for group in groups]), np.float32)
        cdef float[::1] values = out
        if groups:
            data = pl_seq_state(self.seq, self.engine.tables.plan.n_caches)
        if data != NULL and len(values):
            memcpy(&values[0], data, sizeof(float) * <size_t>len(values))
        return out

    def pages(self):
        """-> [(identity, bytes)] of the pages that the sequence holds. Forks hold some of the same."""
        cdef int64_t i, n = pl_seq_pages(self.seq, NULL, NULL, 0)
        cdef const pl_page **pages = <const pl_page **>calloc(n + 1, sizeof(pl_page *))
        cdef size_t *sizes = <size_t *>calloc(n + 1, sizeof(size_t))
        try:
            if pages == NULL or sizes == NULL:
                raise OutOfMemoryError("no memory for a list of pages")
            pl_seq_pages(self.seq, pages, sizes, n)
            return [(<size_t>pages[i], sizes[i]) for i in range(n)]
        finally:
            free(pages)
            free(sizes)

    def extents(self):
        """-> [(first, rows, passing, marks)] of each group (csrc/cache/sequence.h). These and `blocks` are the whole
        sequence."""
        cdef pl_extent all[PL_MAX_GROUPS]
        pl_seq_extents(self.seq, all)
        return [(all[i].first, all[i].rows, all[i].passing, [all[i].marks[j] for j in range(all[i].n_marks)])
                for i in range(self.seq.n_stores)]

    def blocks(self):
        """-> memoryviews of the pages, in the order of `pages`. Write to them only in a sequence that `restore` has
        filled, and do not use them once the sequence has been freed or changed."""
        return [PyMemoryView_FromMemory(<char *>(<pl_page *><size_t>page).data, size, PyBUF_WRITE)
                for page, size in self.pages()]

    def restore(self, int32_t length, extents):
        """Turns this sequence, which must be empty, into one of `length` tokens with these extents. The caller writes
        its blocks. Raises ValueError if no sequence of the model can have them, OutOfMemoryError."""
        cdef pl_extent all[PL_MAX_GROUPS]
        cdef int status
        memset(all, 0, sizeof(all))
        if self.seq.length or length < 0 or len(extents) != self.seq.n_stores:
            raise ValueError("these extents are not those of a sequence of this model")
        for i, (first, rows, passing, marks) in enumerate(extents):
            if len(marks) > PL_MAX_MARKS:
                raise ValueError("too many marks")
            all[i].first, all[i].rows, all[i].passing, all[i].n_marks = first, rows, passing, len(marks)
            for j, mark in enumerate(marks):
                all[i].marks[j] = mark
        while True:
            with nogil:
                status = pl_seq_restore(self.seq, length, all)
            if status == PL_CACHE_OK:
                return
            if status < 0:
                raise ValueError("these extents are not those of a sequence of this model")
            if self.engine.spare is None or not self.engine.spare():
                raise OutOfMemoryError("no memory for the sequence")

    def rows(self, int n):
        """How many of n further tokens one pass should take, so that recurrent layers keep states at regular
        intervals."""
        return pl_seq_rows(self.seq, n)

    def keys(self, int cache, int layer):
        """-> float32 (kv_heads, length, dk), (kv_heads, length, dv): the keys and values of all tokens in a layer of a
        cache, as attention multiplies them, keys in the file's order of channels; for tokens that the cache's window
        has passed, 0 or what it still holds. Runs on the engine's threads. ValueError if there is no such layer, or no
        token."""
        cdef pl_keys k
        cdef pl_task *task
        cdef pl_error error
        if not 0 <= cache < len(self.engine.plan.caches):
            raise ValueError(f"cache={cache}: expected 0 to {len(self.engine.plan.caches) - 1}")
        group = self.engine.plan.caches[cache]
        keys, values = [np.zeros((group.n_kv, self.seq.length, d), np.float32) for d in (group.dk, group.dv)]
        cdef float[::1] k_out = keys.reshape(-1), v_out = values.reshape(-1)
        k.seq, k.cache, k.layer, k.n = self.seq, cache, layer, self.seq.length
        k.keys = &k_out[0] if keys.size else NULL
        k.values = &v_out[0] if values.size else NULL
        error.text[0] = 0
        cdef Loaded loaded = self.engine.open()
        cdef pl_status status = pl_keys_start(loaded.model, &k, &task, &error)
        if status:
            raise_status(status, &error)
        finish_task(task, None, None)
        return keys, values
