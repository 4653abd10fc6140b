# Part of _engine.pyx: the rows of a pass, over csrc/ops/op.h.

cdef class Rows:
    """The rows of one forward pass, and its sequences."""

    cdef pl_row *rows
    cdef pl_seq **seqs
    cdef int32_t *status
    cdef int n, n_seqs, n_wants
    cdef list keep

    def __dealloc__(self):
        free(self.rows)
        free(self.seqs)
        free(self.status)

    def __init__(self, Engine engine, parts, int at=-1, int want=PL_WANT_LOGITS, positions=None):
        """parts: [(Sequence, ids, first wanted row)]; at: slot of each part's first row, -1: its sequence's length;
        want: what is wanted of these rows; positions: for each part, its rows' positions if they differ from their
        slots, or None."""
        cdef Sequence seq
        cdef int32_t id, slot
        cdef const int32_t[::1] own
        cdef int r = 0, wanted
        cdef int64_t n = 0
        # Copied into lists, whose lengths can be trusted: a comprehension does not use a part's own __len__.
        self.keep = [(s, part.tolist() if isinstance(part, np.ndarray) else [id for id in part], first)
                     for s, part, first in parts]
        for _, part, _ in self.keep:
            n += len(part)
        if n > engine.max_rows:
            raise ValueError(f"{n} rows in a pass, expected 1 to {engine.max_rows}")
        self.rows = <pl_row *>calloc(n + 1, sizeof(pl_row))
        self.seqs = <pl_seq **>calloc(len(self.keep) + 1, sizeof(pl_seq *))
        self.status = <int32_t *>calloc(len(self.keep) + 1, sizeof(int32_t))
        if self.rows == NULL or self.seqs == NULL or self.status == NULL:
            raise OutOfMemoryError("no memory for the rows of a pass")
        self.n = <int>n
        for seq, part, first in self.keep:
            if seq is None or seq.engine is not engine:
                raise ValueError("a sequence of another model")
            wanted = r + min(first, len(part))
            self.seqs[self.n_seqs] = seq.seq
            slot = seq.seq.length if at < 0 else at
            if slot + <int64_t>len(part) > INT32_MAX:
                raise ValueError(f"at={at}: with {len(part)} rows, expected at most {INT32_MAX - len(part)}")
            own = None if positions is None else positions[self.n_seqs]
            if own is not None and (own.shape[0] != len(part) or (len(part) and np.min(own) < 0)):
                raise ValueError(f"positions[{self.n_seqs}]: expected {len(part)}, at least 0")
            for id in part:
                self.rows[r] = pl_row(token=id, seq=self.n_seqs, slot=slot, pos=slot,
                                      want=want if r >= wanted else PL_WANT_NONE)
                if own is not None:
                    self.rows[r].pos = own[r - (wanted - min(first, len(part)))]
                self.n_wants += r >= wanted
                slot += 1
                r += 1
            self.n_seqs += 1

    cdef dict errors(self):
        """After the pass: {index of a failed part: its exception}."""
        return {i: sequence_error(self.status[i]) for i in range(self.n_seqs) if self.status[i]}

    cdef list wanted(self):
        """The index of each wanted row's part."""
        return [self.rows[r].seq for r in range(self.n) if self.rows[r].want]
