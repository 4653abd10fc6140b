#include "table.h"

#include <stddef.h>

#include "ops.h"

const pl_op_desc pl_op_table[PL_N_OPS] = {
    [PL_OP_EMBED] = {.name = "embed", .run = pl_op_embed, .writes = PL_OUT, .segments = PL_SEGS_LOOKUP, .n_segs = 1},
    [PL_OP_NORM] = {.name = "norm", .run = pl_op_norm, .check = pl_check_norm, .reads = PL_IN, .writes = PL_OUT},
    [PL_OP_LINEAR] = {.name = "linear",
                      .run = pl_op_linear,
                      .reads = PL_IN,
                      .writes = PL_OUT,
                      .multiplies = 1,
                      .segments = PL_SEGS_SIDE_BY_SIDE,
                      .start = PL_BY_TILES,
                      .end = PL_BY_TILES,
                      .end_vec = PL_BY_TILES},
    [PL_OP_HEAD_NORM] = {.name = "head_norm",
                         .run = pl_op_head_norm,
                         .check = pl_check_head_norm,
                         .reads = PL_IN,
                         .writes = PL_OUT,
                         .in_place = 1,
                         .keeps = 1},
    [PL_OP_ROPE_APPEND] = {.name = "rope_append",
                           .run = pl_op_rope_append,
                           .check = pl_check_rope_append,
                           .reads = PL_IN,
                           .writes = PL_OUT,
                           .in_place = 1,
                           .keeps = 1,
                           .stores = 1},
    [PL_OP_ATTEND] = {.name = "attend",
                      .run = pl_op_attend,
                      .check = pl_check_attend,
                      .reads = PL_IN,
                      .writes = PL_OUT,
                      .attends = 1,
                      .start = PL_BY_ITEMS,
                      .end = PL_BY_ITEMS,
                      .end_vec = PL_BY_ITEMS},
    [PL_OP_LINEAR_ADD] = {.name = "linear_add",
                          .run = pl_op_linear_add,
                          .check = pl_check_linear_add,
                          .reads = PL_IN | PL_OUT,
                          .writes = PL_OUT,
                          .scratch = PL_TMP,
                          .multiplies = 1,
                          .segments = PL_SEGS_WHOLE,
                          .n_segs = 1,
                          .start = PL_BY_TILES,
                          .end = PL_BY_TILES,
                          .end_vec = PL_BY_ROWS},
    [PL_OP_GLU] = {.name = "glu",
                   .run = pl_op_glu,
                   .check = pl_check_glu,
                   .reads = PL_IN,
                   .writes = PL_OUT,
                   .scratch = PL_TMP,
                   .multiplies = 1,
                   .segments = PL_SEGS_WHOLE,
                   .n_segs = 2,
                   .start = PL_BY_TILES,
                   .end = PL_BY_TILES,
                   .end_vec = PL_BY_TILES},
    [PL_OP_HEAD] = {.name = "head",
                    .run = pl_op_head,
                    .check = pl_check_head,
                    .reads = PL_IN,
                    .multiplies = 1,
                    .own_rows = 1,
                    .segments = PL_SEGS_VOCAB,
                    .n_segs = 1,
                    .least_terms = 2,
                    .wanted = 1,
                    .start = PL_BY_TILES,
                    .end = PL_BY_TILES,
                    .end_vec = PL_BY_TILES},
    [PL_OP_SCALE_ADD] = {.name = "scale_add",
                         .run = pl_op_scale_add,
                         .check = pl_check_scale_add,
                         .reads = PL_IN,
                         .writes = PL_OUT,
                         .in_place = 1,
                         .keeps = 1},
};

const char *pl_act_name(int i)
{
    static const char *const names[] = {[PL_ACT_SILU] = "silu", [PL_ACT_GELU_TANH] = "gelu_tanh"};
    return i >= 0 && i < (int)(sizeof names / sizeof *names) ? names[i] : NULL;
}

const char *pl_check_heads(const pl_plan *p, const pl_op *op)
{
    if (!pl_inside(op->cache, p->n_caches))
        return "its cache group";
    const pl_cache_desc *c = &p->caches[op->cache];
    return p->buf_dim[op->in] == c->n_q * c->dk + c->n_kv * (c->dk + c->dv) ? NULL : "its input's width";
}

const char *pl_check_cache_layer(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_heads(p, op);
    return wrong ? wrong : pl_inside(op->cache_layer, p->caches[op->cache].n_layers) ? NULL : "its cache layer";
}
