/* A plan as plain data: the flat list of operations that one forward pass runs, and the tables they refer to.
 *
 * Built once per model (in Python, a short file per architecture), validated by engine/plan.c, run by
 * engine/forward.c. All ids are indices into the tables of `pl_plan`; where allowed, -1 means that there is none.
 */
#ifndef PL_OP_H
#define PL_OP_H

#include <stdint.h>

typedef enum {
    PL_OP_EMBED,       /* out = table[token] * scale */
    PL_OP_NORM,        /* out = norm(in) */
    PL_OP_LINEAR,      /* out[columns of a segment] = segment(in) + bias */
    PL_OP_HEAD_NORM,   /* out = in, rms_norm of each query head * vec, of each key head * vec2 */
    PL_OP_ROPE_APPEND, /* rotate q and k inside `in`; append k and v to the cache */
    PL_OP_ATTEND,      /* out = attention of the q in `in` over the cache */
    PL_OP_LINEAR_ADD,  /* tmp = segment(in) + bias, with a vec tmp = norm(tmp); out += tmp */
    PL_OP_GLU,         /* out = act(segment 0 of in) * segment 1 of in */
    PL_OP_HEAD,        /* rows with want: logits = softcap(segment(norm(in))) */
    PL_OP_SCALE_ADD,   /* columns [column, column + width) of out, rows at positions [pos_from, pos_to):
                        * out = out * scale + vec (without vec: out * scale) */
    PL_N_OPS
} pl_op_kind;

/* The norm of norm, linear_add and head. */
typedef enum {
    PL_NORM_RMS,   /* rms_norm(x) * vec */
    PL_NORM_LAYER, /* layer_norm(x) * vec, + vec2 if there is one */
    PL_N_NORMS
} pl_norm;

typedef struct pl_op {
    int32_t kind, layer;        /* layer: -1 outside the layers */
    int32_t in, out, tmp;       /* buffers */
    int32_t seg, n_seg;         /* segments */
    int32_t vec, vec2;          /* float vectors */
    int32_t cache, cache_layer; /* cache group, and index of the layer in it */
    int32_t rope;
    int32_t act, norm;     /* pl_act, pl_norm */
    float eps, scale, cap; /* scale: embedding's, attention's or scale_add's; cap: of the logits, 0 = none */
    int32_t column, width, pos_from, pos_to, each; /* scale_add; each: 1: vec has a row for each position */
} pl_op;

/* A part of a linear: a matrix, whose rows give columns [column, column + rows) of the output. */
typedef struct pl_segment {
    int32_t mat, column, bias;
    int32_t terms; /* least number of int8 terms of its activations, 1 or 2; the model's options can raise it */
} pl_segment;

/* A matrix (rows, k) in its file's format. */
typedef struct pl_mat_desc {
    int32_t gguf_type, rows, k;
    int32_t plain;      /* 1: kept as the file stores it (an untied embedding), not packed */
    int32_t fd;         /* file with the matrix's bytes ... */
    int64_t offset;     /* ... from this offset on; read only while packing */
    const uint8_t *src; /* or their address in memory, else NULL */
    int64_t bytes;      /* must be rows * row bytes */
} pl_mat_desc;

typedef struct pl_vec_desc {
    const float *data;
    int32_t n;
} pl_vec_desc;

/* Rotary embedding: angle of pair i at position p is p * freq[i]. */
typedef struct pl_rope_desc {
    const double *freq; /* (n_rot / 2) */
    int32_t n_rot;      /* rotated dimensions of a head: the first n_rot */
    int32_t halves;     /* 1: pairs (i, i + n_rot/2); 0: pairs (2i, 2i + 1) */
} pl_rope_desc;

/* Layers of the same kind, window, head counts and widths, whose keys and values share pages. */
typedef struct pl_cache_desc {
    int32_t n_layers, n_q, n_kv, dk, dv;
    int32_t window; /* a row sees this many of the latest tokens, including itself; 0 = all */
} pl_cache_desc;

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
    int32_t vocab;
} pl_plan;

/* One row of a forward pass. Rows of a sequence are consecutive and take ascending slots without gaps, starting at its
 * length. */
typedef struct pl_row {
    int32_t token;
    int32_t seq;  /* index into the pass's sequences */
    int32_t slot; /* place in the cache */
    int32_t pos;  /* rope position */
    int32_t want; /* 1: compute this row's logits */
} pl_row;

/* Why a sequence fails in a pass; the other sequences continue. The bits of several reasons may be set. */
enum {
    PL_BAD_KEYS = 1,    /* keys or values are not finite, or too large for the cache's type */
    PL_BAD_LOGITS = 2,  /* the model's logits are not finite */
    PL_BAD_OPTIONS = 4, /* the sequence's penalties, biases and mask leave no token to draw */
};

#endif
