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
        double quota
        int threads
        char why[96]
    void pl_topology_read(const char *root, pl_topology *t)

    ctypedef struct pl_op:
        int32_t kind, layer, to "out", tmp, seg, n_seg, vec, vec2, cache, cache_layer, rope, act, norm
        int32_t inp "in"
        float eps, scale, cap
        int32_t column, width, pos_from, pos_to, each
    ctypedef struct pl_op_desc:
        const char *name
        uint8_t reads, segments, least_terms, stores, attends, wanted
    enum:
        PL_N_OPS
        PL_OUT
        PL_SEGS_LOOKUP
    const pl_op_desc *pl_op_table
    const char *pl_act_name(int i)
    const char *pl_norm_name(int i)
    enum:
        PL_BAD_KEYS
        PL_BAD_LOGITS
    ctypedef struct pl_segment:
        int32_t mat, column, bias, terms
    ctypedef struct pl_mat_desc:
        int32_t gguf_type, rows, k, plain, fd
        int64_t offset
        const uint8_t *src
        int64_t bytes
    ctypedef struct pl_vec_desc:
        const float *data
        int32_t n
    ctypedef struct pl_rope_desc:
        const double *freq
        int32_t n_rot, halves
    ctypedef struct pl_cache_desc:
        int32_t n_layers, n_q, n_kv, dk, dv, window
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
        int32_t vocab
    ctypedef struct pl_row:
        int32_t token, seq, slot, pos, want

    ctypedef struct pl_pool:
        pass
    ctypedef struct pl_seq:
        int32_t length
    int64_t pl_pool_bytes(pl_pool *pool)
    int64_t pl_pool_bytes_used(pl_pool *pool)
    pl_seq *pl_seq_new(pl_pool *pool)
    void pl_seq_free(pl_seq *seq)
    pl_seq *pl_seq_fork(pl_seq *seq)
    int32_t pl_seq_rewind(pl_seq *seq, int32_t n)

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
        int32_t mat
        int64_t offset
    int pl_format_number(const char *name)
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
        int64_t cache_bytes
        pl_tuning tuning
    ctypedef struct pl_model_info:
        const char *isa
        int64_t packed_bytes, work_bytes
        int huge_pages, max_rows
    pl_status pl_model_new(const pl_plan *plan, const pl_options *options, pl_model **model, pl_error *error)
    pl_status pl_model_view(const pl_model *base, const pl_plan *plan, pl_model **view, pl_error *error)
    void pl_model_free(pl_model *model)
    void pl_model_tune(pl_model *model, const pl_tuning *tuning)
    void pl_model_info_get(const pl_model *model, pl_model_info *info)
    pl_pool *pl_model_pool(pl_model *model)
    int64_t pl_model_mat_bytes(const pl_model *model, int mat)
    void pl_model_mat_row(const pl_model *model, int mat, int row, float *dst)
    pl_status pl_pack_start(pl_model *model, pl_task **task, pl_error *error)

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
        int32_t *status
        int32_t op_from, op_to, n_feeds, n_taps
        const pl_tap *feeds
        const pl_tap *taps
        int64_t *op_ns
    pl_status pl_forward_start(pl_model *model, const pl_pass *p, pl_task **task, pl_error *error)
    ctypedef struct pl_attention:
        int32_t heads, kv_heads, m, n, d, window
        float scale
        const float *q
        const float *k
        const int32_t *group
        const int32_t *position
        float *scores
        float *weights
    pl_status pl_attention_start(pl_model *model, const pl_attention *attention, pl_task **task, pl_error *error)
    int pl_task_wait(pl_task *task, int ms)
    void pl_task_cancel(pl_task *task)
    double pl_task_progress(const pl_task *task)
    pl_status pl_task_finish(pl_task *task, pl_error *error)

    ctypedef struct pl_probe:
        pass
    enum:
        PL_N_PROBES
    pl_status pl_probe_new(int isa, int threads, int64_t bytes, int small, pl_probe **probe, pl_error *error)
    void pl_probe_free(pl_probe *probe)
    int pl_probe_has(const pl_probe *probe, int kind)
    pl_status pl_probe_run(pl_probe *probe, int kind, int64_t n, double *done, int64_t *ns, pl_error *error)
    ctypedef struct pl_product:
        int format, k, n, terms
        int64_t from_ "from", bytes
        int times, cold
        pl_tuning tuning
    pl_status pl_probe_product(pl_probe *probe, const pl_product *product, double *done, int64_t *ns, pl_error *error)
