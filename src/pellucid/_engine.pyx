"""Binding of csrc/pellucid.h: checks arguments, releases the GIL, maps status codes to exceptions.

Knows nothing of files, text or architectures: takes a plan (plan.py), returns arrays and token ids.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from enum import IntEnum

import numpy as np

from pellucid.errors import ClosedError, IsaError, ModelFileError, NumericsError, OutOfMemoryError, PellucidError

# Milliseconds of waiting between two checks for signals and cancellation.
cdef enum:
    SLICE_MS = 20

KV_TYPES = ("f32", "f16", "bf16", "int8")


class Cancelled(Exception):
    """A task ended early because `cancel` returned true; no sequence has changed."""


class Unreadable(Exception):
    """A matrix's bytes cannot be read: (reason, index of the matrix, offset in its file)."""


cdef raise_status(pl_status status, pl_error *error):
    text = error.text.decode("utf-8", "replace")
    if status == PL_E_MEMORY:
        raise OutOfMemoryError(text)
    if status == PL_E_ISA:
        raise IsaError(text)
    if status == PL_E_CANCELLED:
        raise Cancelled(text)
    if status == PL_E_FILE:
        raise Unreadable(text, error.mat, error.offset)
    if status == PL_E_ARGUMENT:
        raise ValueError(text)
    raise PellucidError(text)


cdef sequence_error(int32_t status):
    """The exception for one sequence of a pass that failed, by the first of its PL_BAD_* bits."""
    if status & PL_BAD_KEYS:
        return NumericsError("the model's keys or values are not finite numbers, or too large for the cache's type")
    if status & PL_BAD_LOGITS:
        return NumericsError("the model's logits are not finite numbers")
    return ValueError("penalties, logit_bias and mask together leave no token to draw")


cdef finish_task(pl_task *task, cancel, progress):
    """Waits for a task in slices, so that signals are handled, then finishes it; raises if it failed."""
    cdef pl_error error
    cdef pl_status status
    cdef int done
    failure = None
    while True:
        with nogil:
            done = pl_task_wait(task, SLICE_MS)
        if done:
            break
        try:
            PyErr_CheckSignals()
            if progress is not None and failure is None:
                progress(pl_task_progress(task))
            if cancel is not None and cancel():
                pl_task_cancel(task)
        except BaseException as e:  # the task must end before its memory is freed
            failure = e
            pl_task_cancel(task)
    if done < 0:  # this is a forked child; the task continues in the parent
        raise PellucidError("the process was forked while the model was computing")
    error.text[0] = 0
    status = pl_task_finish(task, &error)
    if failure is not None:
        raise failure
    if status:
        raise_status(status, &error)


def isas():
    """[(name, built, runs)] of every known tier."""
    return [(pl_isa_name(<pl_isa>i).decode(), bool(pl_isa_built(<pl_isa>i)), bool(pl_isa_runs(<pl_isa>i)))
            for i in range(PL_N_ISA)]


def find_isa(name):
    """-> a tier's name: `name` if this build and CPU have it, the best tier for None. Raises IsaError."""
    if name is None:
        return pl_isa_name(pl_isa_best()).decode()
    known = isas()
    for n, built, runs in known:
        if n == name:
            if not built:
                raise IsaError(f"instruction set {name!r} is not built", isa=name)
            if not runs:
                raise IsaError(f"this CPU lacks instruction set {name!r}", isa=name)
            return n
    usable = ", ".join(n for n, built, runs in known if built and runs)
    raise IsaError(f"unknown instruction set {name!r}; this machine runs: {usable}", isa=name)


def cpu_name():
    return pl_cpu_name().decode("utf-8", "replace").strip()


def topology():
    """-> (default number of threads, reason)."""
    cdef pl_topology t
    pl_topology_read(b"", &t)
    return t.threads, t.why.decode("utf-8", "replace")


def format_number(str name):
    """ggml's number of a weight format, or -1 if the engine does not support it."""
    return pl_format_number(name.encode())


def format_names():
    names, i = [], 0
    while pl_format_name(i) != NULL:
        names.append(pl_format_name(i).decode())
        i += 1
    return names


include "_sampler.pxi"


cdef class Sequence:
    """Keys and values of one sequence in an engine's pool. One user at a time."""

    cdef pl_seq *seq
    cdef readonly Engine engine

    def __cinit__(self, Engine engine not None):
        cdef pl_pool *pool = pl_model_pool(engine.open())
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
        """Forgets tokens from n on -> the new length: n, or less if earlier tokens must be computed again."""
        cdef int left
        if n < 0 or n > self.seq.length:
            raise ValueError(f"n={n}: expected 0 to {self.seq.length}")
        with nogil:
            left = pl_seq_rewind(self.seq, n)
        return left


include "_engine.plan.pxi"
include "_engine.tuning.pxi"


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

    def __init__(self, Engine engine, parts, int at=-1):
        """parts: [(Sequence, ids, first wanted row)]; at: slot of each part's first row, -1: its sequence's length."""
        cdef Sequence seq
        cdef int32_t id, slot
        cdef int r = 0, want
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
            want = r + min(first, len(part))
            self.seqs[self.n_seqs] = seq.seq
            slot = seq.seq.length if at < 0 else at
            if slot + <int64_t>len(part) > INT32_MAX:
                raise ValueError(f"at={at}: with {len(part)} rows, expected at most {INT32_MAX - len(part)}")
            for id in part:
                self.rows[r] = pl_row(token=id, seq=self.n_seqs, slot=slot, pos=slot, want=r >= want)
                self.n_wants += r >= want
                slot += 1
                r += 1
            self.n_seqs += 1

    cdef dict errors(self):
        """After the pass: {index of a failed part: its exception}."""
        return {i: sequence_error(self.status[i]) for i in range(self.n_seqs) if self.status[i]}

    cdef list wanted(self):
        """The index of each wanted row's part."""
        return [self.rows[r].seq for r in range(self.n) if self.rows[r].want]


cdef class Engine:
    """A plan with its weights packed, ready to run. Thread-safe; forward passes are queued.
    base: an engine whose packed weights and options this one uses for another plan over the same matrices. The new
    engine has its own cache, and is closed when `base` is.
    """

    cdef pl_model *model
    cdef Tables tables      # weights until packed; the plan's sizes, even if `plan` is changed
    cdef object __weakref__
    cdef Engine base
    cdef readonly object plan
    cdef readonly int max_rows, vocab
    cdef bint closed

    def __cinit__(self, plan, *, str isa="", int threads=0, str kv="f32", int least_terms=0, int max_rows=0,
                  int64_t cache_bytes=0, tuning=None, Engine base=None):
        cdef Tables tables = Tables(plan, base is not None)
        cdef pl_error error
        cdef pl_options options
        cdef pl_status status
        error.text[0] = 0
        if base is not None:
            status = pl_model_view(base.open(), &tables.plan, &self.model, &error)
            max_rows = base.max_rows
        else:
            options.isa = pl_isa_find(isa.encode())
            options.threads = threads
            options.kv = KV_TYPES.index(kv)
            options.least_terms = least_terms
            options.max_rows = max_rows
            options.cache_bytes = cache_bytes
            options.tuning = to_tuning(isa, tuning)
            status = pl_model_new(&tables.plan, &options, &self.model, &error)
        if status:
            raise_status(status, &error)
        self.plan = plan
        self.tables = tables
        self.base = base
        self.vocab = plan.vocab
        self.max_rows = max_rows

    def __dealloc__(self):
        if self.model != NULL:
            pl_model_free(self.model)

    cdef pl_model *open(self) except NULL:
        if self.closed:
            raise ClosedError
        if self.base is not None:
            self.base.open()
        return self.model

    def close(self):
        """Prevents new passes. Memory is released with the last reference."""
        self.closed = True

    def tune(self, values):
        """Uses another tuning ({name: value}, None: the default) from the next pass on; call it between passes. It
        changes no bit of any result. Raises ValueError."""
        cdef pl_tuning tuning = to_tuning(self.info()["isa"], values)
        pl_model_tune(self.open(), &tuning)

    def pack(self, progress=None):
        """Reads and packs every matrix, on all threads. progress: called repeatedly with the fraction done.
        Raises ModelFileError if a file has become shorter or cannot be read.
        """
        cdef pl_task *task
        cdef pl_error error
        error.text[0] = 0
        cdef pl_status status = pl_pack_start(self.open(), &task, &error)
        if status:
            raise_status(status, &error)
        try:
            finish_task(task, None, progress)
        except Unreadable as e:
            why, number, offset = e.args
            m = self.plan.matrices[number]
            raise ModelFileError(why, file=m.data.file.path, field=m.name, offset=offset,
                                 expected=f"{m.data.size} bytes of it from byte {m.data.offset} on") from None
        self.tables.keep = None

    def info(self):
        """-> dict of isa, packed_bytes, work_bytes, huge_pages, cache_bytes."""
        cdef pl_model_info i
        pl_model_info_get(self.open(), &i)
        return {"isa": i.isa.decode(), "packed_bytes": i.packed_bytes, "work_bytes": i.work_bytes,
                "huge_pages": bool(i.huge_pages), "cache_bytes": pl_pool_bytes(pl_model_pool(self.model)),
                "cache_bytes_used": pl_pool_bytes_used(pl_model_pool(self.model))}

    cdef check_matrix(self, int matrix):
        if not 0 <= matrix < self.tables.plan.n_mats:
            raise ValueError(f"matrix={matrix}: expected 0 to {self.tables.plan.n_mats - 1}")

    def matrix_bytes(self, int matrix):
        """Bytes of a matrix in the engine's memory."""
        self.check_matrix(matrix)
        return pl_model_mat_bytes(self.open(), matrix)

    def matrix(self, int matrix, rows=None):
        """-> float32 (rows, k): a matrix dequantised, bit-identical to decoding its file. rows: (from, to)."""
        self.check_matrix(matrix)
        cdef const pl_mat_desc *m = &self.tables.plan.mats[matrix]
        cdef int r, first = 0, end = m.rows
        if rows is not None:
            first, end = rows
            if not 0 <= first <= end <= m.rows:
                raise ValueError(f"rows={rows}: expected a range within 0 to {m.rows}")
        cdef float[:, ::1] out = np.empty((end - first, m.k), np.float32)
        cdef pl_model *model = self.open()
        with nogil:
            for r in range(first, end):
                pl_model_mat_row(model, matrix, r, &out[r - first, 0])
        return np.asarray(out)

    def forward(self, parts, *, list samplers=None, targets=None, int top=0, out=None, cancel=None, dict failed=None):
        """One forward pass over rows of one or several sequences.

        parts: [(Sequence, ids, first)]: appends ids, a list or an array, to the sequence; rows from `first` on are
        wanted (first = len(ids): none). `out`, float32 (wanted rows, vocab), receives the logits; or `samplers`, one
        per wanted row, choose tokens -> [(id, logprob | None, [(id, logprob), ...])]; or `targets`, an id per wanted
        row, are scored, each with the `top` most probable tokens -> [(logprob, [(id, logprob), ...])].
        cancel: called about every 20 ms; if it returns true, the pass ends with `Cancelled` and nothing is appended.
        Raises ValueError, OutOfMemoryError, Cancelled; no sequence has then changed.
        A sequence that fails (its keys or logits: NumericsError; its penalties, biases and mask: ValueError) does not
        change; the others grow, with the results that they would have had without it. failed: receives {index of the
        part: its error}, and the results of that part's rows are None; without it the first such error is raised.
        """
        cdef Rows rows = Rows(self, parts)
        cdef Results results = None
        cdef pl_pass p
        memset(&p, 0, sizeof(p))
        p.op_to = self.tables.plan.n_ops
        if samplers is not None:
            if len(samplers) != rows.n_wants:
                raise ValueError(f"{len(samplers)} samplers for {rows.n_wants} rows")
            results = Results(samplers, None, 0, self.vocab)
        elif targets is not None:
            if len(targets) != rows.n_wants:
                raise ValueError(f"{len(targets)} targets for {rows.n_wants} rows")
            results = Results(None, targets, max(top, 0), self.vocab)
        if results is not None:
            p.sample, p.step, p.sampled = results.params, results.steps, results.sampled
        self.run_pass(&p, rows, out, cancel)
        errors = rows.errors()
        found = None if results is None else results.take(samplers, [part in errors for part in rows.wanted()])
        if failed is not None:
            failed.update(errors)
        elif errors:
            raise errors[min(errors)]
        return found

    cdef run_pass(self, pl_pass *p, Rows rows, out, cancel):
        cdef pl_task *task
        cdef pl_error error
        cdef float[:, ::1] store
        error.text[0] = 0
        p.n_rows, p.rows, p.n_seqs, p.seqs, p.status = rows.n, rows.rows, rows.n_seqs, rows.seqs, rows.status
        if out is not None:
            if out.shape != (rows.n_wants, self.vocab):
                raise ValueError(f"out has shape {out.shape}, expected {(rows.n_wants, self.vocab)}")
            if rows.n_wants:
                store = out
                p.store = &store[0, 0]
        cdef pl_model *model = self.open()
        cdef pl_status status
        with nogil:
            status = pl_forward_start(model, p, &task, &error)
        if status:
            raise_status(status, &error)
        finish_task(task, cancel, None)

    def observe(self, parts, *, ops=None, feeds=None, taps=(), times=False, out=None, cancel=None, int at=-1):
        """Runs a forward pass, or a part of one, and records its buffers.
        ops: (from, to), the operations to run, default all. A pass over some of them works on tokens already stored:
        `at` is the slot of the (one) sequence's first row, nothing is appended, stored keys and values do not change.
        Rows attend to the keys and values that these operations compute, if any, and to the stored ones before them.
        (Without rope_append and attend no stored token is needed: any rows from at=0 on are allowed.)
        feeds: {buffer: float32 (rows, dim)}, written first. taps: [(op, buffer)], copied after that operation.
        -> ({(op, buffer): float32 (rows, dim)}, int64 nanoseconds of each operation or None).
        """
        cdef Rows rows = Rows(self, parts, at)
        cdef pl_pass p
        cdef float[:, ::1] view
        cdef int64_t[::1] ns
        memset(&p, 0, sizeof(p))
        p.op_from, p.op_to = (0, self.tables.plan.n_ops) if ops is None else ops
        feeds = {} if feeds is None else feeds
        arrays, keep = {}, []
        for buf in [*feeds, *(t[1] for t in taps)]:
            if not 0 <= buf < self.tables.plan.n_bufs:
                raise ValueError(f"no buffer {buf}")
        cdef pl_tap *c_feeds = <pl_tap *>calloc(len(feeds) + len(taps) + 1, sizeof(pl_tap))
        cdef pl_tap *c_taps = c_feeds + len(feeds)
        if c_feeds == NULL:
            raise OutOfMemoryError("no memory for taps")
        try:
            for i, (buf, data) in enumerate(feeds.items()):
                shape = (rows.n, self.tables.plan.buf_dim[buf])
                if data.shape != shape:
                    raise ValueError(f"feed of buffer {buf} has shape {data.shape}, expected {shape}")
                view = np.ascontiguousarray(data, np.float32)
                keep.append(view)
                c_feeds[i] = pl_tap(op=0, buf=buf, data=&view[0, 0])
            for i, (op, buf) in enumerate(taps):
                view = arrays[op, buf] = np.empty((rows.n, self.tables.plan.buf_dim[buf]), np.float32)
                c_taps[i] = pl_tap(op=op, buf=buf, data=&view[0, 0])
            p.n_feeds, p.n_taps, p.feeds, p.taps = <int32_t>len(feeds), <int32_t>len(taps), c_feeds, c_taps
            op_ns = None
            if times:
                ns = op_ns = np.zeros(self.tables.plan.n_ops, np.int64)
                p.op_ns = &ns[0]
            self.run_pass(&p, rows, out, cancel)
        finally:
            free(c_feeds)
        for error in rows.errors().values():
            raise error
        return arrays, op_ns

    def attention(self, q, k, groups, positions, *, float scale, int window=0, scores=None, weights=None):
        """Attention weights from queries and keys, on the engine's threads.

        q: float32 (heads, m, d), rows at `positions` (ascending). k: (kv_heads, n, d); groups: each head's KV head. A
        row sees the last `window` (0: all) of the keys up to its own position. Fills one or both of `scores`
        (heads, m, n), q . k * scale or -inf for keys that a row does not see, and `weights`, their softmax; `weights`
        must hold zeros.
        """
        cdef const float[:, :, ::1] c_q = q, c_k = k
        cdef const int32_t[::1] c_groups = np.ascontiguousarray(groups, np.int32)
        cdef const int32_t[::1] c_positions = np.ascontiguousarray(positions, np.int32)
        cdef float[:, :, ::1] c_scores, c_weights
        cdef pl_attention a
        cdef pl_task *task
        cdef pl_error error
        heads, m, d = q.shape
        kv_heads, n = k.shape[:2]
        if k.shape[2] != d or len(c_groups) != heads or len(c_positions) != m or not q.size or not k.size:
            raise ValueError(f"q {q.shape}, k {k.shape}, {len(c_groups)} groups and {len(c_positions)} positions "
                             "do not fit together")
        memset(&a, 0, sizeof(a))
        for name, out in (("scores", scores), ("weights", weights)):
            if out is not None and out.shape != (heads, m, n):
                raise ValueError(f"{name} has shape {out.shape}, expected {(heads, m, n)}")
        if scores is not None:
            c_scores = scores
            a.scores = &c_scores[0, 0, 0]
        if weights is not None:
            c_weights = weights
            a.weights = &c_weights[0, 0, 0]
        a.heads, a.kv_heads, a.m, a.n, a.d, a.window, a.scale = heads, kv_heads, m, n, d, window, scale
        a.q, a.k, a.group, a.position = &c_q[0, 0, 0], &c_k[0, 0, 0], &c_groups[0], &c_positions[0]
        error.text[0] = 0
        cdef pl_status status = pl_attention_start(self.open(), &a, &task, &error)
        if status:
            raise_status(status, &error)
        finish_task(task, None, None)


include "_engine.probe.pxi"
