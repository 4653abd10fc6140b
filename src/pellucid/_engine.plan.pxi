# Part of _engine.pyx: plans, and the kinds of operation they consist of, over csrc/ops/op.h and csrc/ops/table.h.

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
    def recurs(self):
        """Reads and writes its layer's state: a convolution or a recurrence over a sequence's rows."""
        return bool(pl_op_table[<int>self].recurs)

    @property
    def adds(self):
        """Adds a product to its output instead of replacing it."""
        return bool(pl_op_table[<int>self].reads & PL_OUT) and bool(pl_op_table[<int>self].multiplies)

    @property
    def routes(self):
        """Chooses experts for each row."""
        return bool(pl_op_table[<int>self].routes)

    @property
    def routed(self):
        """Reads, for each row, the matrices of the experts that were chosen for it."""
        return bool(pl_op_table[<int>self].routed)

    @property
    def wanted(self):
        """Computes only the rows whose logits are wanted."""
        return bool(pl_op_table[<int>self].wanted)

    @property
    def least_terms(self):
        """Minimum number of int8 terms of its activations."""
        return max(1, pl_op_table[<int>self].least_terms)


Kind = KindOfOperation("Kind", [(pl_op_table[i].name.decode().upper(), i) for i in range(PL_N_OPS)], module=__name__)


cdef numbers(const char *(*name_of)(int) noexcept):
    found, i = {}, 0
    while name_of(i) != NULL:
        found[name_of(i).decode()] = i
        i += 1
    return found


ROUTES = {"sigmoid": PL_ROUTE_SIGMOID, "top_first": PL_ROUTE_TOP_FIRST, "renorm": PL_ROUTE_RENORM,
          "group_sum2": PL_ROUTE_GROUP_SUM2, "sparse": PL_ROUTE_SPARSE}
ACTIVATIONS = numbers(pl_act_name)
NORMS = numbers(pl_norm_name)
MOST_TAPS = PL_MOST_TAPS
FLAGS = {"gated": PL_CONV_GATED, "delta": PL_SCAN_DELTA, "each": PL_SCAN_EACH, "all_heads": PL_ALL_HEADS,
         "per_head": PL_PER_HEAD, "rotate_only": PL_ROTATE_ONLY, "fresh": PL_FRESH, "weights": PL_WEIGHTS}


cdef bint is_made(data):
    """Whether bytes, or some of them, are computed on request (parts.Made)."""
    return hasattr(data, "make") or any(is_made(part) for part in getattr(data, "parts", ()))


cdef class Tables:
    """A plan's tables as C structs, valid while this object lives. packed: the matrices are already packed."""

    cdef pl_plan plan
    cdef list keep

    def __dealloc__(self):
        for i in range(self.plan.n_mats if self.plan.mats != NULL else 0):
            free(<void *>self.plan.mats[i].parts)
        for p in (<size_t>self.plan.ops, <size_t>self.plan.buf_dim, <size_t>self.plan.segs, <size_t>self.plan.mats,
                  <size_t>self.plan.vecs, <size_t>self.plan.ropes, <size_t>self.plan.caches, <size_t>self.plan.states):
            free(<void *><size_t>p)

    cdef void *table(self, Py_ssize_t n, size_t size) except NULL:
        cdef void *p = calloc(n + 1, size)
        if p == NULL:
            raise MemoryError
        return p

    cdef pl_source source(self, data):
        cdef const uint8_t[::1] raw
        cdef pl_source s
        s.fd, s.offset, s.src = -1, 0, NULL
        if not isinstance(data, np.ndarray):
            s.fd, s.offset = data.fileno(), data.offset
        elif data.size:
            raw = data
            self.keep.append(raw)
            s.src = &raw[0]
        return s

    def __init__(self, plan, bint packed):
        cdef pl_op *ops
        cdef int32_t *dims
        cdef pl_segment *segs
        cdef pl_mat_desc *mats
        cdef pl_vec_desc *vecs
        cdef pl_rope_desc *ropes
        cdef pl_cache_desc *caches
        cdef pl_source *parts
        cdef pl_state_desc *states
        cdef const float[::1] vec
        cdef const double[::1] freq
        self.keep = []
        self.plan.vocab = plan.vocab
        self.plan.ops = ops = <pl_op *>self.table(len(plan.ops), sizeof(pl_op))
        self.plan.n_ops = <int32_t>len(plan.ops)
        for i, o in enumerate(plan.ops):
            ops[i] = pl_op(kind=o.kind, layer=o.layer, inp=o.inp, to=o.out, tmp=o.tmp, seg=o.seg, n_seg=o.n_seg,
                           vec=o.vec, vec2=o.vec2, cache=o.cache, cache_layer=o.cache_layer, state=o.state,
                           state_layer=o.state_layer, rope=o.rope, act=o.act,
                           norm=o.norm, eps=o.eps, scale=o.scale, cap=o.cap, column=o.column, width=o.width,
                           pos_from=o.pos_from, pos_to=o.pos_to, each=o.each, top_k=o.top_k, route=o.route,
                           groups=o.groups, group_k=o.group_k, limit=o.limit, flags=o.flags)
        self.plan.buf_dim = dims = <int32_t *>self.table(len(plan.buffers), sizeof(int32_t))
        self.plan.n_bufs = <int32_t>len(plan.buffers)
        for i, b in enumerate(plan.buffers):
            dims[i] = b.dim
        self.plan.segs = segs = <pl_segment *>self.table(len(plan.segments), sizeof(pl_segment))
        self.plan.n_segs = <int32_t>len(plan.segments)
        for i, s in enumerate(plan.segments):
            segs[i] = pl_segment(mat=s.matrix, column=s.column, bias=s.bias, terms=s.terms, row_scale=s.row_scale,
                                 scale=s.scale, input=s.input, step=s.step)
        self.plan.mats = mats = <pl_mat_desc *>self.table(len(plan.matrices), sizeof(pl_mat_desc))
        self.plan.n_mats = <int32_t>len(plan.matrices)
        for i, m in enumerate(plan.matrices):
            mats[i].gguf_type = format_number(m.type)
            mats[i].rows, mats[i].k, mats[i].stack, mats[i].plain = m.rows, m.k, m.stack, m.plain
            mats[i].bytes = m.data.size
            mats[i].source.fd = -1
            if packed:
                continue
            if is_made(m.data):  # Engine.pack requests its bytes
                continue
            if not hasattr(m.data, "parts"):
                mats[i].source = self.source(m.data)
            elif m.data.parts:
                if len(m.data.parts) != m.stack:
                    raise PellucidError(f"matrix {i}: {len(m.data.parts)} parts of a stack of {m.stack}")
                parts = <pl_source *>self.table(len(m.data.parts), sizeof(pl_source))
                mats[i].parts = parts
                for j, part in enumerate(m.data.parts):
                    parts[j] = self.source(part)
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
            ropes[i].first, ropes[i].scale = r.first, r.scale
            if freq.shape[0]:
                ropes[i].freq = &freq[0]
        self.plan.caches = caches = <pl_cache_desc *>self.table(len(plan.caches), sizeof(pl_cache_desc))
        self.plan.n_caches = <int32_t>len(plan.caches)
        for i, c in enumerate(plan.caches):
            caches[i] = pl_cache_desc(n_layers=c.n_layers, n_q=c.n_q, n_kv=c.n_kv, dk=c.dk, dv=c.dv, window=c.window,
                                      causal=c.causal, shared=c.shared)
        self.plan.states = states = <pl_state_desc *>self.table(len(plan.states), sizeof(pl_state_desc))
        self.plan.n_states = <int32_t>len(plan.states)
        for i, g in enumerate(plan.states):
            states[i] = pl_state_desc(n_layers=g.n_layers, taps=g.layer.taps, channels=g.layer.channels,
                                      n_k=g.layer.n_k, n_v=g.layer.n_v, dk=g.layer.dk, dv=g.layer.dv,
                                      tiled=g.layer.tiled)


def packed_bytes(plan):
    """Bytes of a plan's packed matrices."""
    cdef Tables tables = Tables(plan, True)
    cdef pl_error error
    cdef int64_t found
    error.text[0] = 0
    cdef pl_status status = pl_plan_bytes(&tables.plan, &found, &error)
    if status:
        raise_status(status, &error)
    return found
