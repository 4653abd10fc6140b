"""Mirrors csrc/pellucid.h."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "pellucid.h" nogil:
    ctypedef enum pl_isa:
        PL_N_ISA
    const char *pl_isa_name(pl_isa isa)
    int pl_isa_built(pl_isa isa)
    int pl_isa_runs(pl_isa isa)
    int pl_isa_find(const char *name)
    pl_isa pl_isa_best()
    const char *pl_cpu_name()

    ctypedef struct pl_topology:
        int logical, physical
        double quota, processors
        int threads
        char why[128]
    void pl_topology_read(const char *root, pl_topology *t)

    ctypedef struct pl_quantizer:
        const char *name
        int gguf, block, block_bytes
    ctypedef struct pl_integers:
        const uint8_t *codes
        int64_t step_column, step_row
        int bits, columns, rows_of_word, flip
        int64_t k, groups
        const int32_t *order
        const int32_t *group
        const float *scale
        const int16_t *zero
    ctypedef enum pl_integers_to:
        PL_INTEGERS_F32
        PL_INTEGERS_INT4
        PL_INTEGERS_Q8_0
    ctypedef struct pl_fp8:
        int64_t k, block_rows, block_columns
        const float *scale

    void pl_fp8_make(const pl_fp8 *w, const uint8_t *codes, int64_t first, int64_t to, float *out) noexcept nogil
    void pl_integers_make(const pl_integers *w, pl_integers_to format, int64_t first, int64_t to,
                          uint8_t *out) noexcept nogil
    ctypedef struct pl_quantizing:
        pass
    const pl_quantizer *pl_quantizer_get(int i)
    const pl_quantizer *pl_quantizer_find(const char *name)
    pl_quantizing *pl_quantizing_start(const pl_quantizer *q, int source, const uint8_t *src,
                                       const float *importance, int64_t rows, int64_t k, uint8_t *out, int quick,
                                       int threads)
    int pl_quantizing_wait(pl_quantizing *work, int ms)
    void pl_quantizing_cancel(pl_quantizing *work)
    double pl_quantizing_progress(pl_quantizing *work)
    int64_t pl_quantizing_finish(pl_quantizing *work)

    ctypedef struct pl_op:
        int32_t kind, layer, to "out", tmp, seg, n_seg, vec, vec2, cache, cache_layer, state, state_layer
        int32_t rope, act, norm
        int32_t inp "in"
        float eps, scale, cap
        int32_t column, width, pos_from, pos_to, each, top_k, route, groups, group_k
        float limit
        int32_t flags
    ctypedef struct pl_op_desc:
        const char *name
        uint8_t reads, multiplies, segments, least_terms, stores, attends, recurs, wanted, routes, routed
    enum:
        PL_N_OPS
        PL_ALL_HEADS
        PL_PER_HEAD
        PL_ROTATE_ONLY
        PL_FRESH
        PL_WEIGHTS
        PL_OUT
        PL_SEGS_LOOKUP
        PL_ROUTE_SIGMOID
        PL_ROUTE_TOP_FIRST
        PL_ROUTE_RENORM
        PL_ROUTE_GROUP_SUM2
        PL_ROUTE_SPARSE
    const pl_op_desc *pl_op_table
    const char *pl_act_name(int i)
    const char *pl_norm_name(int i)
    enum:
        PL_BAD_KEYS
        PL_BAD_LOGITS
    ctypedef struct pl_segment:
        int32_t mat, column, bias, terms, row_scale
        float scale
        int32_t input "in"
        int32_t step
    ctypedef struct pl_source:
        int32_t fd
        int64_t offset
        const uint8_t *src
    ctypedef struct pl_mat_desc:
        int32_t gguf_type, rows, k, stack, plain
        pl_source source "from"
        const pl_source *parts
        int64_t bytes
    ctypedef struct pl_vec_desc:
        const float *data
        int32_t n
    ctypedef struct pl_rope_desc:
        const double *freq
        int32_t n_rot, first, halves
        double scale
    ctypedef struct pl_cache_desc:
        int32_t n_layers, n_q, n_kv, dk, dv, window, causal, shared
    enum:
        PL_MOST_TAPS
        PL_CONV_GATED, PL_SCAN_DELTA, PL_SCAN_EACH
    ctypedef struct pl_state_desc:
        int32_t n_layers, taps, channels, n_k, n_v, dk, dv, tiled
    ctypedef struct pl_plan:
        const pl_op *ops
        int32_t n_ops
        const int32_t *buf_dim
        int32_t n_bufs
        const pl_segment *segs
        int32_t n_segs
        const pl_mat_desc *mats
        int32_t n_mats
        const pl_vec_desc *vecs
        int32_t n_vecs
        const pl_rope_desc *ropes
        int32_t n_ropes
        const pl_cache_desc *caches
        int32_t n_caches
        const pl_state_desc *states
        int32_t n_states
        int32_t vocab
    ctypedef struct pl_row:
        int32_t token, seq, slot, pos, want
    enum:
        PL_WANT_NONE, PL_WANT_LOGITS, PL_WANT_HIDDEN

    ctypedef struct pl_pool:
        pass
    enum:
        PL_MAX_GROUPS, PL_MAX_MARKS, PL_CACHE_OK
    ctypedef struct pl_page:
        uint8_t *data
    ctypedef struct pl_extent:
        int32_t first, rows, n_marks, passing
        int32_t marks[16]
    ctypedef struct pl_seq:
        int32_t length, n_stores
    int64_t pl_pool_bytes(pl_pool *pool)
    int64_t pl_pool_bytes_used(pl_pool *pool)
    pl_seq *pl_seq_new(pl_pool *pool)
    void pl_seq_free(pl_seq *seq)
    pl_seq *pl_seq_fork(pl_seq *seq)
    int32_t pl_seq_rewind(pl_seq *seq, int32_t n)
    int32_t pl_seq_reach(const pl_seq *seq, int32_t n)
    int pl_seq_reaches(const pl_seq *seq, int32_t n)
    int64_t pl_seq_pages(const pl_seq *seq, const pl_page **pages, size_t *bytes, int64_t most)
    void pl_seq_extents(const pl_seq *seq, pl_extent *extents)
    int pl_seq_restore(pl_seq *seq, int32_t length, const pl_extent *extents)
    int32_t pl_seq_rows(const pl_seq *seq, int32_t rows)
    const float *pl_seq_state(const pl_seq *seq, int group)

    int PL_N_STEPS
    ctypedef struct pl_sample_params:
        float temperature, top_p, min_p, typical_p, top_n_sigma
        float xtc_probability, xtc_threshold, dynatemp_range, dynatemp_exponent
        int32_t top_k, n_order
        uint8_t order[9]
        uint64_t seed
        const uint32_t *mask
        int32_t n_bias
        const int32_t *bias_id
        const float *bias
        int32_t n_logprobs
        const int32_t *target
        float repeat_penalty, presence_penalty, frequency_penalty
        int32_t n_recent
        const int32_t *recent
        float dry_multiplier, dry_base
        int32_t dry_allowed_length, n_dry
        const int32_t *dry_id
        const int32_t *dry_length
        int32_t mirostat
        float mirostat_tau, mirostat_eta
        double mirostat_mu
    ctypedef struct pl_sampled:
        int32_t id
        float logprob
        double mirostat_mu
        int32_t n_kept
        int32_t *top_id
        float *top_logprob
        int32_t *kept_id
        float *kept_prob
        int32_t kept_room
    int pl_dry_match(const int32_t *ids, const uint8_t *breaks, int n, int least, int32_t *z, int32_t *out_id,
                     int32_t *out_length) nogil

    ctypedef enum pl_status:
        PL_OK, PL_E_MEMORY, PL_E_PLAN, PL_E_ARGUMENT, PL_E_ISA, PL_E_CANCELLED, PL_E_FILE
    ctypedef struct pl_error:
        char text[256]
        int32_t mat, part
        int64_t offset
    int pl_format_number(const char *name)
    int64_t pl_format_row(int number, int64_t k)
    int pl_format_wide(int number)
    const char *pl_format_name(int i)
    ctypedef struct pl_model:
        pass
    ctypedef struct pl_task:
        pass
    ctypedef struct pl_tuning:
        int32_t ahead_bytes  # and so on: one int32 for each of pl_tuning_name's names
    enum:
        PL_N_TUNING
    const char *pl_tuning_name(int i)
    void pl_tuning_limits(int i, int32_t *least, int32_t *most)
    void pl_tuning_default(int isa, pl_tuning *tuning)
    ctypedef struct pl_options:
        int isa, threads, kv, least_terms, max_rows
        int64_t cache_bytes, checkpoints
        int share_fd, share_packed
        int64_t slow_page_ns
        pl_tuning tuning
    ctypedef struct pl_model_info:
        const char *isa
        int64_t packed_bytes, work_bytes
        const void *work
        int pages, max_rows
        int64_t checkpoint_bytes
    pl_status pl_model_new(const pl_plan *plan, const pl_options *options, pl_model **model, pl_error *error)
    pl_status pl_model_view(const pl_model *base, const pl_plan *plan, pl_model **view, pl_error *error)
    pl_status pl_plan_bytes(const pl_plan *plan, int64_t *bytes, pl_error *error)
    int pl_share_huge(int fd, size_t bytes)
    void pl_model_seal(pl_model *model)
    void pl_model_free(pl_model *model)
    void pl_model_tune(pl_model *model, const pl_tuning *tuning)
    void pl_model_info_get(const pl_model *model, pl_model_info *info)
    pl_pool *pl_model_pool(pl_model *model)
    int64_t pl_model_mat_bytes(const pl_model *model, int mat)
    const void *pl_model_mat_data(const pl_model *model, int mat)
    void pl_model_mat_row(const pl_model *model, int mat, int row, float *dst)
    pl_status pl_pack_start(pl_model *model, int first, int end, const uint8_t *src, pl_task **task, pl_error *error)

    ctypedef struct pl_tap:
        int32_t op, buf
        float *data
    ctypedef struct pl_pass:
        int32_t n_rows
        const pl_row *rows
        int32_t n_seqs
        pl_seq *const *seqs
        float *store
        const pl_sample_params *sample
        const uint64_t *step
        pl_sampled *sampled
        int32_t late_masks
        float *hidden
        int32_t *status
        int32_t op_from, op_to, n_feeds, n_taps
        const pl_tap *feeds
        const pl_tap *taps
        int64_t *op_ns
    pl_status pl_forward_start(pl_model *model, const pl_pass *p, pl_task **task, pl_error *error)
    ctypedef struct pl_attention:
        int32_t heads, kv_heads, m, n, d, window, causal
        float scale, cap
        const float *sinks
        const float *q
        const float *k
        const int32_t *group
        const int32_t *position
        float *scores
        float *weights
    pl_status pl_attention_start(pl_model *model, const pl_attention *attention, pl_task **task, pl_error *error)
    ctypedef struct pl_keys:
        const pl_seq *seq
        int32_t cache, layer, n
        float *keys
        float *values
    pl_status pl_keys_start(pl_model *model, const pl_keys *keys, pl_task **task, pl_error *error)
    int pl_task_wait(pl_task *task, int ms)
    void pl_task_cancel(pl_task *task)
    void pl_task_masks_ready(pl_task *task)
    double pl_task_progress(const pl_task *task)
    pl_status pl_task_finish(pl_task *task, pl_error *error)

    ctypedef struct pl_probe:
        pass
    enum:
        PL_N_PROBES
    pl_status pl_probe_new(int isa, int threads, int64_t bytes, int small, pl_probe **probe, pl_error *error)
    pl_status pl_probe_touch(pl_probe *probe, int part, int parts, pl_error *error)
    void pl_probe_free(pl_probe *probe)
    int pl_probe_has(const pl_probe *probe, int kind)
    pl_status pl_probe_run(pl_probe *probe, int kind, int64_t n, double *done, int64_t *ns, pl_error *error)
    ctypedef struct pl_product:
        int format, k, n, terms
        int64_t from_ "from", bytes
        int times, cold
        pl_tuning tuning
    pl_status pl_probe_products(pl_probe *probe, const pl_product *products, int count, int64_t limit, int64_t *ns,
                                pl_error *error)
    ctypedef struct pl_trial:
        pass
    pl_status pl_trial_new(int isa, int format, int k, int n, int terms, const pl_tuning *tuning, const float *x,
                           pl_trial **trial, pl_error *error)
    void pl_trial_free(pl_trial *trial)
    size_t pl_trial_scratch(const pl_trial *trial)
    void pl_trial_run(const pl_trial *trial, const uint8_t *packed, int tiles, int times, void *scratch, float *y)
    int64_t pl_tile_size(int format, int64_t k)
    pl_status pl_pack_rows(int format, const uint8_t *raw, int rows, int k, uint8_t *packed, pl_error *error)
