# Part of _engine.pyx: plans, and the kinds of operation that they are made of, over csrc/ops/op.h and csrc/ops/table.h.

class KindOfOperation(IntEnum):
    """A kind of operation, with its properties from the engine's table (csrc/ops/table.h)."""

    @property
    def lookup(self):
        """Reads one row of its matrix for each token."""
        return pl_op_table[<int>self].segments == PL_SEGS_LOOKUP

    @property
    def stores(self):
        """Appends keys and values to its layer of the cache."""
        return bool(pl_op_table[<int>self].stores)

    @property
    def attends(self):
        """Reads its layer of the cache."""
        return bool(pl_op_table[<int>self].attends)

    @property
    def adds(self):
        """Adds to its output instead of replacing it."""
        return bool(pl_op_table[<int>self].reads & PL_OUT)

    @property
    def wanted(self):
        """Computes only the rows whose logits are wanted."""
        return bool(pl_op_table[<int>self].wanted)

    @property
    def least_terms(self):
        """Least number of int8 terms of its activations."""
        return max(1, pl_op_table[<int>self].least_terms)


Kind = KindOfOperation("Kind", [(pl_op_table[i].name.decode().upper(), i) for i in range(PL_N_OPS)], module=__name__)


cdef numbers(const char *(*name_of)(int) noexcept):
    found, i = {}, 0
    while name_of(i) != NULL:
        found[name_of(i).decode()] = i
        i += 1
    return found


ACTIVATIONS = numbers(pl_act_name)
NORMS = numbers(pl_norm_name)


cdef class Tables:
    """A plan's tables as C structs, valid while this object lives. packed: the matrices are already packed."""

    cdef pl_plan plan
    cdef list keep

    def __dealloc__(self):
        for p in (<size_t>self.plan.ops, <size_t>self.plan.buf_dim, <size_t>self.plan.segs, <size_t>self.plan.mats,
                  <size_t>self.plan.vecs, <size_t>self.plan.ropes, <size_t>self.plan.caches):
            free(<void *><size_t>p)

    cdef void *table(self, Py_ssize_t n, size_t size) except NULL:
        cdef void *p = calloc(n + 1, size)
        if p == NULL:
            raise MemoryError
        return p

    def __init__(self, plan, bint packed):
        cdef pl_op *ops
        cdef int32_t *dims
        cdef pl_segment *segs
        cdef pl_mat_desc *mats
        cdef pl_vec_desc *vecs
        cdef pl_rope_desc *ropes
        cdef pl_cache_desc *caches
        cdef const uint8_t[::1] raw
        cdef const float[::1] vec
        cdef const double[::1] freq
        self.keep = []
        self.plan.vocab = plan.vocab
        self.plan.ops = ops = <pl_op *>self.table(len(plan.ops), sizeof(pl_op))
        self.plan.n_ops = <int32_t>len(plan.ops)
        for i, o in enumerate(plan.ops):
            ops[i] = pl_op(kind=o.kind, layer=o.layer, inp=o.inp, to=o.out, tmp=o.tmp, seg=o.seg, n_seg=o.n_seg,
                           vec=o.vec, vec2=o.vec2, cache=o.cache, cache_layer=o.cache_layer, rope=o.rope, act=o.act,
                           norm=o.norm, eps=o.eps, scale=o.scale, cap=o.cap, column=o.column, width=o.width,
                           pos_from=o.pos_from, pos_to=o.pos_to, each=o.each)
        self.plan.buf_dim = dims = <int32_t *>self.table(len(plan.buffers), sizeof(int32_t))
        self.plan.n_bufs = <int32_t>len(plan.buffers)
        for i, b in enumerate(plan.buffers):
            dims[i] = b.dim
        self.plan.segs = segs = <pl_segment *>self.table(len(plan.segments), sizeof(pl_segment))
        self.plan.n_segs = <int32_t>len(plan.segments)
        for i, s in enumerate(plan.segments):
            segs[i] = pl_segment(mat=s.matrix, column=s.column, bias=s.bias, terms=s.terms)
        self.plan.mats = mats = <pl_mat_desc *>self.table(len(plan.matrices), sizeof(pl_mat_desc))
        self.plan.n_mats = <int32_t>len(plan.matrices)
        for i, m in enumerate(plan.matrices):
            mats[i].gguf_type = format_number(m.type)
            mats[i].rows, mats[i].k, mats[i].plain = m.rows, m.k, m.plain
            mats[i].bytes, mats[i].fd = m.data.size, -1
            if packed:
                continue
            if not isinstance(m.data, np.ndarray):
                mats[i].fd, mats[i].offset = m.data.fileno(), m.data.offset
            elif m.data.size:
                raw = m.data
                self.keep.append(raw)
                mats[i].src = &raw[0]
        self.plan.vecs = vecs = <pl_vec_desc *>self.table(len(plan.vectors), sizeof(pl_vec_desc))
        self.plan.n_vecs = <int32_t>len(plan.vectors)
        for i, v in enumerate(plan.vectors):
            vec = v.data
            self.keep.append(vec)
            vecs[i].n = <int32_t>vec.shape[0]
            if vec.shape[0]:
                vecs[i].data = &vec[0]
        self.plan.ropes = ropes = <pl_rope_desc *>self.table(len(plan.ropes), sizeof(pl_rope_desc))
        self.plan.n_ropes = <int32_t>len(plan.ropes)
        for i, r in enumerate(plan.ropes):
            freq = r.freq
            self.keep.append(freq)
            ropes[i].n_rot, ropes[i].halves = <int32_t>(2 * freq.shape[0]), r.halves
            if freq.shape[0]:
                ropes[i].freq = &freq[0]
        self.plan.caches = caches = <pl_cache_desc *>self.table(len(plan.caches), sizeof(pl_cache_desc))
        self.plan.n_caches = <int32_t>len(plan.caches)
        for i, c in enumerate(plan.caches):
            caches[i] = pl_cache_desc(n_layers=c.n_layers, n_q=c.n_q, n_kv=c.n_kv, dk=c.dk, dv=c.dv, window=c.window)
