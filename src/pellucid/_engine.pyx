"""Binding of csrc/pellucid.h: checks arguments, releases the GIL, maps status codes to exceptions.

Knows nothing of files, text or architectures: takes a plan (plan.py), returns arrays and token ids.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
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
        raise Unreadable(text, error.mat, error.part, error.offset)
    if status == PL_E_ARGUMENT:
        raise ValueError(text)
    raise PellucidError(text)


cdef sequence_error(int32_t status):
    """The exception for one sequence of a pass that failed, by the first of its PL_BAD_* bits."""
    if status & PL_BAD_KEYS:
        return NumericsError("the model's keys or values are not finite numbers, or too large for the cache's type")
    if status & PL_BAD_LOGITS:
        return NumericsError("the model's logits or hidden states are not finite numbers")
    return ValueError("penalties, logit_bias and mask together leave no token to draw")


cdef finish_task(pl_task *task, cancel, progress, meanwhile=None, masks=None):
    """Waits for a task in slices, so that signals are handled, then finishes it; raises if it failed. masks, then
    meanwhile: called once while the task runs; `masks` writes the masks that its rows wait for."""
    cdef pl_error error
    cdef pl_status status
    cdef int done
    failure = None
    if masks is not None or meanwhile is not None:
        try:
            if masks is not None:
                masks()
                pl_task_masks_ready(task)
            if meanwhile is not None:
                meanwhile()
        except BaseException as e:
            failure = e
            pl_task_cancel(task)
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


include "_engine.machine.pxi"
include "_sampler.pxi"


include "_engine.sequence.pxi"
include "_engine.plan.pxi"
include "_engine.tuning.pxi"
include "_engine.rows.pxi"
include "_engine.quantize.pxi"


def share_huge(int fd, size_t size):
    """Moves an in-memory file into pages of 2 MB, each of which must have begun -> whether all of it lies in those."""
    cdef int huge
    with nogil:
        huge = pl_share_huge(fd, size)
    return bool(huge)


cdef class Engine:
    """A plan with its weights packed, ready to run. Thread-safe; forward passes are queued.
    base: an engine whose packed weights and options this one uses for another plan over the same matrices. The new
    engine has its own cache, and is closed when `base` is.
    share: a sharing.Place: where other processes have the packed weights, or will, once this one has packed them.
    slow_page_ns: processor time above which a huge page of weights counts as slow (csrc/cpu/settle.h); 0: 1.5 ms.
    """

    cdef Loaded loaded      # None once it is closed
    cdef Tables tables      # weights until packed; the plan's sizes, even if `plan` is changed
    cdef object __weakref__
    cdef Engine base
    cdef readonly object plan
    cdef public object spare  # called if memory is short: frees what nobody needs -> whether there was any
    cdef readonly int max_rows, vocab, dim
    cdef readonly str kv

    def __cinit__(self, plan, *, str isa="", int threads=0, str kv="f32", int least_terms=0, int max_rows=0,
                  int64_t cache_bytes=0, int64_t checkpoints=0, tuning=None, Engine base=None, share=None,
                  int64_t slow_page_ns=0):
        cdef Tables tables = Tables(plan, base is not None)
        cdef Loaded loaded = Loaded()
        cdef pl_error error
        cdef pl_options options
        cdef pl_status status
        error.text[0] = 0
        loaded.share = share
        if base is not None:
            loaded.base = base.open()
            status = pl_model_view(loaded.base.model, &tables.plan, &loaded.model, &error)
            max_rows = base.max_rows
        else:
            options.isa = pl_isa_find(isa.encode())
            options.threads = threads
            options.kv = KV_TYPES.index(kv)
            options.least_terms = least_terms
            options.max_rows = max_rows
            options.cache_bytes = cache_bytes
            options.checkpoints = checkpoints
            options.tuning = to_tuning(isa, tuning)
            options.share_fd = -1 if share is None else share.fd
            options.share_packed = share is not None and share.packed
            options.slow_page_ns = slow_page_ns
            status = pl_model_new(&tables.plan, &options, &loaded.model, &error)
        if status:
            raise_status(status, &error)
        self.plan = plan
        self.loaded = loaded
        self.tables = tables
        self.base = base
        self.kv = kv if base is None else base.kv
        self.vocab = plan.vocab
        self.dim = tables.plan.buf_dim[max(tables.plan.ops[tables.plan.n_ops - 1].inp, 0)]
        self.max_rows = max_rows

    cdef Loaded open(self):
        """The model in memory, which a call keeps while it runs without the interpreter's lock. Raises ClosedError."""
        if self.loaded is None:
            raise ClosedError
        if self.base is not None:
            self.base.open()
        return self.loaded

    def close(self):
        """Prevents new passes. Memory is released when the last running call ends, and a sequence's pages when the
        sequence is freed."""
        self.loaded = None

    def tune(self, values):
        """Uses another tuning ({name: value}, None: the default) from the next pass on; call it between passes. It
        changes no bit of any result. Raises ValueError."""
        cdef pl_tuning tuning = to_tuning(self.info()["isa"], values)
        pl_model_tune(self.open().model, &tuning)

    def pack(self, progress=None):
        """Reads and packs every matrix, on all threads, unless another process has. progress: called repeatedly
        with the fraction done. Raises ModelFileError if a file has become shorter or cannot be read.
        """
        matrices = self.plan.matrices
        cdef Py_ssize_t first = 0, end
        cdef Loaded loaded = self.open()
        if loaded.share is not None and loaded.share.packed:
            first = len(matrices)
        done, total = 0, sum(m.data.size for m in matrices) or 1
        while first < len(matrices):
            end = first + 1
            made = None
            if is_made(matrices[first].data):  # its bytes live until it is packed
                made = matrices[first].data.view(np.uint8)
            else:
                while end < len(matrices) and not is_made(matrices[end].data):
                    end += 1
            share = sum(m.data.size for m in matrices[first:end]) / total
            self.pack_range(first, end, made, progress, done, share)
            done += share
            first = end
        self.tables.keep = None
        pl_model_seal(loaded.model)
        if loaded.share is not None:
            loaded.share.finish()

    cdef pack_range(self, Py_ssize_t first, Py_ssize_t end, made, progress, before, share):
        """Packs matrices [first, end). made: the bytes of the only one; None: the plan says where they are. For
        progress: these are `share` of all bytes, and `before` of all are packed already."""
        cdef pl_task *task
        cdef pl_error error
        cdef const uint8_t[::1] raw
        cdef const uint8_t *src = NULL
        error.text[0] = 0
        if made is not None and made.size:
            raw = made
            src = &raw[0]
        cdef Loaded loaded = self.open()
        cdef pl_status status = pl_pack_start(loaded.model, <int>first, <int>end, src, &task, &error)
        if status:
            raise_status(status, &error)
        try:
            finish_task(task, None, None if progress is None else lambda part: progress(before + part * share))
        except Unreadable as e:
            why, number, part, offset = e.args
            m = self.plan.matrices[number]
            data = m.data.parts[part] if hasattr(m.data, "parts") else m.data
            raise ModelFileError(why, file=data.file.path, field=m.name, offset=offset,
                                 expected=f"{data.size} bytes of it from byte {data.offset} on") from None

    @property
    def recurs(self):
        """Whether the model has recurrent layers, which can only go back to lengths whose state is kept."""
        return self.tables.plan.n_states > 0

    def info(self):
        """-> dict of isa, packed_bytes, work_bytes, work (their address), pages (of weights, as in csrc/cpu/settle.h),
        cache_bytes, cache_bytes_used, checkpoint_bytes."""
        cdef pl_model_info i
        cdef pl_model *model = self.open().model
        cdef pl_pool *pool = pl_model_pool(model)
        pl_model_info_get(model, &i)
        cdef int64_t room = pl_pool_bytes(pool), used = pl_pool_bytes_used(pool)
        return {"isa": i.isa.decode(), "packed_bytes": i.packed_bytes, "work_bytes": i.work_bytes,
                "work": <size_t>i.work, "pages": ("huge", "gathering", "gathered", "small")[i.pages],
                "cache_bytes": room, "cache_bytes_used": used, "checkpoint_bytes": i.checkpoint_bytes}

    cdef check_matrix(self, int matrix):
        if not 0 <= matrix < self.tables.plan.n_mats:
            raise ValueError(f"matrix={matrix}: expected 0 to {self.tables.plan.n_mats - 1}")

    def matrix_bytes(self, int matrix):
        """Bytes of a matrix in the engine's memory."""
        self.check_matrix(matrix)
        return pl_model_mat_bytes(self.open().model, matrix)

    def read_matrix(self, int matrix, function):
        """Calls a function with a memoryview of a matrix in the engine's memory; the function must not keep it."""
        self.check_matrix(matrix)
        cdef Loaded loaded = self.open()
        cdef const void *data = pl_model_mat_data(loaded.model, matrix)
        function(PyMemoryView_FromMemory(<char *>data, pl_model_mat_bytes(loaded.model, matrix), PyBUF_READ))

    def matrix(self, int matrix, rows=None):
        """-> float32 (rows, k): a matrix dequantised, bit-identical to decoding its file; a stack of matrices as one.
        rows: (from, to)."""
        self.check_matrix(matrix)
        cdef const pl_mat_desc *m = &self.tables.plan.mats[matrix]
        cdef int r, all = m.rows * m.stack, first = 0, end = all
        if rows is not None:
            first, end = rows
            if not 0 <= first <= end <= all:
                raise ValueError(f"rows={rows}: expected a range within 0 to {all}")
        cdef float[:, ::1] out = np.empty((end - first, m.k), np.float32)
        cdef Loaded loaded = self.open()
        cdef const pl_model *model = loaded.model
        with nogil:
            for r in range(first, end):
                pl_model_mat_row(model, matrix, r, &out[r - first, 0])
        return np.asarray(out)

    def forward(self, parts, *, list samplers=None, targets=None, int top=0, out=None, hidden=None, positions=None,
                cancel=None, dict failed=None, list found=None, meanwhile=None, masks=None):
        """One forward pass over rows of one or several sequences.

        parts: [(Sequence, ids, first)]: appends ids, a list or an array, to the sequence; rows from `first` on are
        wanted (first = len(ids): none). `out`, float32 (wanted rows, vocab), receives the logits; or `samplers`, one
        per wanted row, choose tokens -> [(id, logprob | None, [(id, logprob), ...])]; (sampler, offset) draws as the
        sampler would that many draws later, if it drew what `Sampler.draft` was given, and does not advance it;
        (sampler, offset, mask) with a mask, uint32, in place of its own;
        `Known` reports a token; or `targets`, an id per wanted row, are scored, each with the `top` most probable
        tokens -> [(logprob, [(id, logprob), ...])]; or `hidden`, float32 (wanted rows, dim), receives the rows after
        the final norm, and no logits are computed.
        positions: an int32 array for each part, of its rows' positions, or None: those of its slots.
        cancel: called about every 20 ms; if it returns true, the pass ends with `Cancelled` and nothing is appended.
        meanwhile: called once, while the pass runs; it must use none of the sequences and samplers. masks: called
        before that, to write the samplers' masks; no row that has one is drawn before it returns.
        Raises ValueError, OutOfMemoryError, Cancelled; no sequence has then changed.
        A sequence that fails (its keys or logits: NumericsError; its penalties, biases and mask: ValueError) does not
        change; the others grow, with the results that they would have had without it. failed: a dict that receives
        {index of the part: its error}; that part's results are None. Without it the first such error is raised. found:
        a list that also receives the results, before a signal can end the call.
        """
        cdef Rows rows = Rows(self, parts, -1, PL_WANT_LOGITS if hidden is None else PL_WANT_HIDDEN, positions)
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
            p.late_masks = masks is not None
        self.store_hidden(&p, rows, hidden)
        self.run_pass(&p, rows, out, cancel, meanwhile, masks)
        errors = rows.errors()
        taken = None
        if results is not None:
            wrong = [part in errors for part in rows.wanted()] if errors else None
            taken = results.take(samplers, wrong)
        if found is not None:
            found.extend(taken or ())
        if failed is not None:
            failed.update(errors)
        elif errors:
            raise errors[min(errors)]
        return taken

    cdef run_pass(self, pl_pass *p, Rows rows, out, cancel, meanwhile=None, masks=None):
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
        cdef Loaded loaded = self.open()
        cdef pl_model *model = loaded.model
        cdef pl_status status
        while True:
            with nogil:
                status = pl_forward_start(model, p, &task, &error)
            if status != PL_E_MEMORY or self.spare is None or not self.spare():
                break
        if status:
            raise_status(status, &error)
        finish_task(task, cancel, None, meanwhile, masks)

    def observe(self, parts, *, ops=None, feeds=None, taps=(), times=False, out=None, hidden=None, targets=None,
                int top=0, list samplers=None, list found=None, cancel=None, int at=-1):
        """Runs a forward pass, or a part of one, and records its buffers.
        ops: (from, to), the operations to run, default all. A pass over some of them works on tokens already stored:
        `at` is the slot of the (one) sequence's first row, nothing is appended, stored keys and values do not change.
        Rows attend to the keys and values that these operations compute, if any, and to the stored ones before them.
        (Without rope_append and attend no stored token is needed: any rows from at=0 on are allowed.)
        feeds: {buffer: float32 (rows, dim)}, written first. taps: [(op, buffer)], copied after that operation.
        out, hidden, targets with top, samplers: as for `forward`; found: a list that receives what `forward` gives for
        targets or samplers.
        -> ({(op, buffer): float32 (rows, dim)}, int64 nanoseconds of each operation or None).
        """
        cdef Rows rows = Rows(self, parts, at, PL_WANT_LOGITS if hidden is None else PL_WANT_HIDDEN)
        cdef Results results = None
        cdef pl_pass p
        cdef float[:, ::1] view
        cdef int64_t[::1] ns
        memset(&p, 0, sizeof(p))
        p.op_from, p.op_to = (0, self.tables.plan.n_ops) if ops is None else ops
        if targets is not None:
            if len(targets) != rows.n_wants:
                raise ValueError(f"{len(targets)} targets for {rows.n_wants} rows")
            results = Results(None, targets, max(top, 0), self.vocab)
        elif samplers is not None:
            if len(samplers) != rows.n_wants:
                raise ValueError(f"{len(samplers)} samplers for {rows.n_wants} rows")
            results = Results(samplers, None, 0, self.vocab)
        if results is not None:
            p.sample, p.step, p.sampled = results.params, results.steps, results.sampled
        self.store_hidden(&p, rows, hidden)
        feeds = {} if feeds is None else feeds
        taps = [*dict.fromkeys((op, buf) for op, buf in taps)]  # each has one array
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
        if results is not None:
            found.extend(results.take(samplers, None))
        return arrays, op_ns

    cdef store_hidden(self, pl_pass *p, Rows rows, hidden):
        """Where the rows that want their hidden state put it; None: nowhere."""
        cdef float[:, ::1] store
        if hidden is None:
            return
        if hidden.shape != (rows.n_wants, self.dim):
            raise ValueError(f"hidden has shape {hidden.shape}, expected {(rows.n_wants, self.dim)}")
        if rows.n_wants:
            store = hidden
            p.hidden = &store[0, 0]

    def attention(self, q, k, groups, positions, *, float scale, int window=0, bint causal=True, float cap=0,
                  sinks=None, scores=None, weights=None):
        """Attention weights from queries and keys, on the engine's threads.

        q: float32 (heads, m, d), rows at `positions` (ascending). k: (kv_heads, n, d); groups: each head's KV head. A
        row sees the last `window` (0: all) of the keys up to its own position, and without `causal` as many of those
        after it. Fills one or both of `scores` (heads, m, n), q . k * scale (under a soft `cap`, if any) or -inf for
        keys that a row does not see, and `weights`, their softmax; `weights` must hold zeros. sinks: a score of each
        head that takes part in the softmax but has no key.
        """
        cdef const float[:, :, ::1] c_q = q, c_k = k
        cdef const int32_t[::1] c_groups = np.ascontiguousarray(groups, np.int32)
        cdef const int32_t[::1] c_positions = np.ascontiguousarray(positions, np.int32)
        cdef float[:, :, ::1] c_scores, c_weights
        cdef const float[::1] c_sinks
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
        a.causal, a.cap = causal, cap
        if sinks is not None:
            c_sinks = np.ascontiguousarray(sinks, np.float32)
            if len(c_sinks) != heads:
                raise ValueError(f"{len(c_sinks)} sinks, expected {heads}")
            a.sinks = &c_sinks[0]
        a.q, a.k, a.group, a.position = &c_q[0, 0, 0], &c_k[0, 0, 0], &c_groups[0], &c_positions[0]
        error.text[0] = 0
        cdef Loaded loaded = self.open()
        cdef pl_status status = pl_attention_start(loaded.model, &a, &task, &error)
        if status:
            raise_status(status, &error)
        finish_task(task, None, None)


include "_engine.probe.pxi"
include "_engine.trial.pxi"
