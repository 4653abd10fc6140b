/* A plan as plain data: the flat list of operations that one forward pass runs, and the tables they refer to.
 *
 * Built once per model (in Python, a short file per architecture), validated by engine/plan.c, run by
 * engine/forward.c. All ids are indices into the tables of `pl_plan`; where allowed, -1 means that there is none.
 */
#ifndef PL_OP_H
#define PL_OP_H

#include <stdint.h>

typedef enum {
    PL_OP_EMBED,     /* out = table[token] * scale */
    PL_OP_NORM,      /* columns [column, column + width) of out = norm(those of in), in groups of `each` columns; width
                        * and each 0: all. The other columns keep their values; out may be in */
    PL_OP_LINEAR,    /* out[columns of a segment] = segment(in) + bias. A stack of matrices (heads): matrix e reads all
                      * columns of in, or the e-th of as many equal parts, and writes columns from column + e * step
                      * on */
    PL_OP_HEAD_NORM, /* out = in, norm of each query head with weight vec, of each key head with weight vec2 */
    PL_OP_ROPE_APPEND, /* rotate q and k inside `in`, unless rope is -1; append k and v to the cache. vec: q is also
                        * multiplied by vec[min(position / width, each - 1)] */
    PL_OP_ATTEND, /* out = attention of the q in `in` over the cache. vec: a sink per head, a score without a value */
    PL_OP_LINEAR_ADD, /* tmp = segment(in) + bias, with a vec tmp = norm(tmp); out += tmp * scale */
    PL_OP_GLU,        /* out = act(segment 0 of in) * segment 1 of in; with one segment: act(segment 0 of in). vec:
                        * the parameters of xielu */
    PL_OP_HEAD,       /* rows with want: hidden = norm(in), logits = softcap(segment(hidden)); an encoder's head has
                        * no segment */
    PL_OP_ROUTE, /* tmp = segment(in), a score per expert; out (2 k): a row's k experts, ascending, and their weights */
    PL_OP_EXPERTS,     /* out (k * ff): act(gate_e in) * up_e in for each expert e listed in tmp, a route's out */
    PL_OP_EXPERTS_ADD, /* out += scale * sum over a row's experts, ascending, of weight * (down_e in + bias_e);
                        * PL_FRESH: out = */
    PL_OP_SCALE_ADD,   /* columns [column, column + width) of out, rows at positions [pos_from, pos_to):
                        * out = out * scale + vec (without vec: out * scale); with in != out:
                        * out = (out + in) * scale + vec */
    PL_OP_GATE,        /* column c of out *= act(column `column` + c / each of in) */
    PL_OP_CONV,        /* out = act(convolution over a sequence's rows of columns [column, column + channels) of in);
                        * PL_CONV_GATED: of B * x, times C, for in = B, C, x from `column` on */
    PL_OP_SCAN,        /* out = the recurrence (kernels.h) of the queries, keys and values in `in`; tmp: gates */
    PL_OP_REORDER,     /* column c of out = column vec[c] of in */
    PL_OP_REATTEND,    /* recomputes the output of head `column` of an attend with the same in, out and cache, for rows
                        * at positions [pos_from, pos_to): over those of the first `width` keys for which vec is not 0,
                        * and all keys after them; PL_WEIGHTS: the values weighted by vec. each: vec has a row for each
                        * position. vec2: the sinks */
    PL_N_OPS
} pl_op_kind;

/* Flags of operations. */
enum {
    PL_CONV_GATED = 1,
    PL_SCAN_DELTA = 2,   /* in: q, k, v; tmp from `column` on: beta, then dt. Without it, Mamba 2: v, k, q; dt */
    PL_SCAN_EACH = 4,    /* with delta: tmp holds a dt, and the vector a bias, for each key channel of each head */
    PL_ALL_HEADS = 16,   /* head_norm: all query heads are one row, and all key heads are one */
    PL_PER_HEAD = 32,    /* head_norm: each head has its own weights; norm: each group has */
    PL_ROTATE_ONLY = 64, /* rope_append: nothing is appended; `in` may hold queries alone */
    PL_FRESH = 128,      /* experts_add: the sum replaces what `out` holds */
    PL_WEIGHTS = 256,    /* reattend: vec has the weights of the keys */
};

/* The norm of norm, linear_add and head. */
typedef enum {
    PL_NORM_RMS,   /* rms_norm(x) * vec */
    PL_NORM_LAYER, /* layer_norm(x) * vec, + vec2 if there is one */
    PL_NORM_L2,    /* x / sqrt(sum(x^2) + eps) * vec */
    PL_NORM_NONE,  /* x: for a head whose rows are normed already */
    PL_N_NORMS
} pl_norm; /* vec -1: no weight, in operations that always norm */

/* How a route's scores become weights. With no flag: softmax over all experts. The k with the greatest scores are
 * chosen, of equal ones those with lower numbers. vec is added for the choice only; vec2 has a factor for each
 * expert. */
enum {
    PL_ROUTE_SIGMOID = 1,    /* sigmoid of each score in place of softmax */
    PL_ROUTE_TOP_FIRST = 2,  /* softmax over the chosen */
    PL_ROUTE_RENORM = 4,     /* weights are divided by (their sum + limit) */
    PL_ROUTE_GROUP_SUM2 = 8, /* a group's score is the sum of its two best experts', else its best expert's */
    PL_ROUTE_SPARSE = 16,    /* each of the chosen in turn, best first: softmax over it and the experts left near it */
    PL_ROUTE_ALL = 31
};

enum { PL_MAX_TOP_K = 64, PL_MAX_EXPERTS = 512 };

typedef struct pl_op {
    int32_t kind, layer;        /* layer: -1 outside the layers */
    int32_t in, out, tmp;       /* buffers */
    int32_t seg, n_seg;         /* segments */
    int32_t vec, vec2;          /* float vectors */
    int32_t cache, cache_layer; /* cache group, and index of the layer in it */
    int32_t state, state_layer; /* the same of a recurrent layer */
    int32_t rope;
    int32_t act, norm;     /* pl_act, pl_norm */
    float eps, scale, cap; /* scale: embedding's, attention's, of sums or weights; cap: of logits or scores, 0 = none;
                            * scan: the least dt of Mamba 2 */
    int32_t column, width, pos_from, pos_to, each; /* each: of scale_add, 1: vec has a row for each position */
    int32_t top_k;                                 /* k: experts per row */
    int32_t route, groups, group_k;                /* PL_ROUTE_*; groups, 0: none; the best group_k of them are used */
    float limit; /* route: added to the sum of weights; glu, experts: the gate is at most this, the other factor between
                  * -this and this, 0 = none; scan: the greatest dt of Mamba 2, 0 = none */
    int32_t flags;
} pl_op;

/* A part of a linear: a matrix, whose rows give columns [column, column + rows) of the output. */
typedef struct pl_segment {
    int32_t mat, column, bias;
    int32_t terms;     /* minimum int8 terms of its activations, 1 or 2; the model's options can raise it */
    int32_t row_scale; /* vector with a factor per row, -1: none. y = scale * row_scale[r] * (W x) + bias */
    float scale;
    int32_t in;   /* linear: a buffer that this segment reads instead of the operation's; -1: none */
    int32_t step; /* linear, of a stack: columns from one matrix's output to the next one's */
} pl_segment;

/* The place of a matrix's bytes. */
typedef struct pl_source {
    int32_t fd;         /* a file ... */
    int64_t offset;     /* ... from this offset on; read only while packing */
    const uint8_t *src; /* or their address in memory, else NULL */
} pl_source;

/* A matrix (rows, k) in its file's format; or a stack of such matrices, one for each expert or head. */
typedef struct pl_mat_desc {
    int32_t gguf_type, rows, k;
    int32_t stack;          /* matrices */
    int32_t plain;          /* 1: kept as the file stores it (an untied embedding), not packed */
    pl_source from;         /* one matrix after the other ... */
    const pl_source *parts; /* ... or (stack), where each of them is; NULL: `from` */
    int64_t bytes;          /* must be stack * rows * row bytes */
} pl_mat_desc;

typedef struct pl_vec_desc {
    const float *data;
    int32_t n;
} pl_vec_desc;

/* Rotary embedding: angle of pair i at position p is p * freq[i]. */
typedef struct pl_rope_desc {
    const double *freq; /* (n_rot / 2) */
    int32_t n_rot;      /* rotated dimensions of a head ... */
    int32_t first;      /* ... from this one on */
    int32_t halves;     /* 1: pairs (i, i + n_rot/2); 0: pairs (2i, 2i + 1) */
    double scale;       /* factor of cosines and sines */
} pl_rope_desc;

/* Layers of the same kind, window, head counts and widths, whose keys and values share pages. */
typedef struct pl_cache_desc {
    int32_t n_layers, n_q, n_kv, dk, dv;
    int32_t window; /* a row at slot i sees slots j with i - window < j <= i; 0: all j <= i */
    int32_t causal; /* 0: later slots too, j < i + window (window 0: all); the whole sequence is then one pass */
    int32_t shared; /* 1: a value is the first dv columns of its key */
} pl_cache_desc;

/* What recurrent layers of one kind keep of a sequence, in float32. vec of a convolution: (taps, channels); vec2: its
 * bias. vec of a scan: for each value head A, dt's bias and (Mamba 2) D; dt = softplus(dt + bias) within its bounds,
 * decay = exp(A dt), gain = dt or sigmoid(beta); with eps, queries and keys are divided by sqrt(sum of squares +
 * eps). */
typedef struct pl_state_desc {
    int32_t n_layers, taps, channels; /* (taps - 1, channels) inputs of the convolution */
    int32_t n_k, n_v, dk, dv;         /* (n_v, dv / 16, dk, 16); n_v = 0: no recurrence */
    int32_t tiled;                    /* value head j has key head j % n_k, else j / (n_v / n_k) */
} pl_state_desc;

typedef struct pl_plan {
    const pl_op *ops;
    int32_t n_ops;
    const int32_t *buf_dim;
    int32_t n_bufs;
    const pl_segment *segs;
    int32_t n_segs;
    const pl_mat_desc *mats;
    int32_t n_mats;
    const pl_vec_desc *vecs;
    int32_t n_vecs;
    const pl_rope_desc *ropes;
    int32_t n_ropes;
    const pl_cache_desc *caches;
    int32_t n_caches;
    const pl_state_desc *states;
    int32_t n_states;
    int32_t vocab;
} pl_plan;

/* What a pass computes from a row of the residual stream after the last layer. */
enum {
    PL_WANT_NONE,
    PL_WANT_LOGITS,
    PL_WANT_HIDDEN, /* the row after the final norm */
    PL_N_WANTS
};

/* One row of a forward pass. Rows of a sequence are consecutive and take ascending slots without gaps, starting at its
 * length. */
typedef struct pl_row {
    int32_t token;
    int32_t seq;  /* index into the pass's sequences */
    int32_t slot; /* place in the cache */
    int32_t pos;  /* rope position */
    int32_t want; /* PL_WANT_* */
} pl_row;

/* Why a sequence fails in a pass; the other sequences continue. The bits of several reasons may be set. */
enum {
    PL_BAD_KEYS = 1,    /* keys, values or a state are not finite, or too large for the cache's type */
    PL_BAD_LOGITS = 2,  /* the model's logits, or its hidden state, are not finite */
    PL_BAD_OPTIONS = 4, /* the sequence's penalties, biases and mask leave no token to draw */
};

#endif
