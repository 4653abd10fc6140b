#include "table.h"

#include <stddef.h>

#include "ops.h"

const pl_op_desc pl_op_table[PL_N_OPS] = {
    [PL_OP_EMBED] = {.name = "embed", .run = pl_op_embed, .writes = PL_OUT, .segments = PL_SEGS_LOOKUP, .n_segs = 1},
    [PL_OP_NORM] = {.name = "norm",
                    .run = pl_op_norm,
                    .check = pl_check_norm,
                    .reads = PL_IN,
                    .writes = PL_OUT,
                    .in_place = PL_MAYBE,
                    .keeps = PL_MAYBE},
    [PL_OP_LINEAR] = {.name = "linear",
                      .run = pl_op_linear,
                      .check = pl_check_linear,
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
                   .scratch_segs = 2,
                   .multiplies = 1,
                   .segments = PL_SEGS_WHOLE,
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
    [PL_OP_ROUTE] = {.name = "route",
                     .run = pl_op_route,
                     .check = pl_check_route,
                     .reads = PL_IN,
                     .writes = PL_OUT,
                     .scratch = PL_TMP,
                     .own_tmp = 1,
                     .multiplies = 1,
                     .segments = PL_SEGS_SCORES,
                     .n_segs = 1,
                     .least_terms = 2,
                     .routes = 1,
                     .start = PL_BY_TILES,
                     .end = PL_BY_ROWS,
                     .end_vec = PL_BY_ROWS},
    [PL_OP_EXPERTS] = {.name = "experts",
                       .run = pl_op_experts,
                       .check = pl_check_experts,
                       .reads = PL_IN | PL_TMP,
                       .writes = PL_OUT,
                       .own_tmp = 1,
                       .multiplies = 1,
                       .segments = PL_SEGS_EXPERTS,
                       .routed = 1,
                       .start = PL_BY_ITEMS,
                       .end = PL_BY_ITEMS,
                       .end_vec = PL_BY_ITEMS},
    [PL_OP_EXPERTS_ADD] = {.name = "experts_add",
                           .run = pl_op_experts_add,
                           .check = pl_check_experts_add,
                           .reads = PL_IN | PL_OUT | PL_TMP,
                           .writes = PL_OUT,
                           .own_tmp = 1,
                           .multiplies = 1,
                           .segments = PL_SEGS_EXPERTS,
                           .n_segs = 1,
                           .routed = 1,
                           .start = PL_BY_TILES,
                           .end = PL_BY_TILES,
                           .end_vec = PL_BY_TILES},
    [PL_OP_SCALE_ADD] = {.name = "scale_add",
                         .run = pl_op_scale_add,
                         .check = pl_check_scale_add,
                         .reads = PL_IN,
                         .writes = PL_OUT,
                         .in_place = PL_MAYBE,
                         .keeps = 1},
    [PL_OP_GATE] =
        {.name = "gate", .run = pl_op_gate, .check = pl_check_gate, .reads = PL_IN | PL_OUT, .writes = PL_OUT},
    [PL_OP_CONV] = {.name = "conv",
                    .run = pl_op_conv,
                    .check = pl_check_conv,
                    .reads = PL_IN,
                    .writes = PL_OUT,
                    .recurs = PL_CONV_PART,
                    .start = PL_BY_TILES,
                    .end = PL_BY_TILES,
                    .end_vec = PL_BY_TILES},
    [PL_OP_SCAN] = {.name = "scan",
                    .run = pl_op_scan,
                    .check = pl_check_scan,
                    .reads = PL_IN | PL_TMP,
                    .writes = PL_OUT,
                    .recurs = PL_SCAN_PART,
                    .start = PL_BY_ROWS,
                    .end = PL_BY_ITEMS,
                    .end_vec = PL_BY_ITEMS},
    [PL_OP_REORDER] =
        {.name = "reorder", .run = pl_op_reorder, .check = pl_check_reorder, .reads = PL_IN, .writes = PL_OUT},
    [PL_OP_REATTEND] = {.name = "reattend",
                        .run = pl_op_reattend,
                        .check = pl_check_reattend,
                        .reads = PL_IN,
                        .writes = PL_OUT,
                        .keeps = 1,
                        .attends = 1},
};

const char *pl_act_name(int i)
{
    static const char *const names[PL_N_ACTS] = {
        [PL_ACT_SILU] = "silu",   [PL_ACT_GELU_TANH] = "gelu_tanh", [PL_ACT_GELU] = "gelu",
        [PL_ACT_RELU2] = "relu2", [PL_ACT_SIGMOID] = "sigmoid",     [PL_ACT_NONE] = "none",
        [PL_ACT_OAI] = "oai",     [PL_ACT_XIELU] = "xielu",
    };
    return i >= 0 && i < PL_N_ACTS ? names[i] : NULL;
}

int pl_op_scratch(const pl_op *op)
{
    const pl_op_desc *d = &pl_op_table[op->kind];
    return op->n_seg < d->scratch_segs ? 0 : d->scratch;
}

int pl_op_keeps(const pl_plan *p, const pl_op *op)
{
    const pl_op_desc *d = &pl_op_table[op->kind];
    return d->keeps == PL_MAYBE ? op->width && op->width != p->buf_dim[op->out] : d->keeps;
}

int pl_op_reads_out(const pl_plan *p, const pl_op *op)
{
    const pl_op_desc *d = &pl_op_table[op->kind];
    int adds = d->reads & PL_OUT && !(d->routed && op->flags & PL_FRESH);
    return adds || (d->writes & PL_OUT && pl_op_keeps(p, op));
}

int pl_op_stores(const pl_op *op)
{
    return pl_op_table[op->kind].stores && !(op->flags & PL_ROTATE_ONLY);
}

const char *pl_check_heads(const pl_plan *p, const pl_op *op)
{
    if (!pl_inside(op->cache, p->n_caches))
        return "its cache group";
    const pl_cache_desc *c = &p->caches[op->cache];
    int kv = c->n_kv * (c->dk + (c->shared ? 0 : c->dv));
    return p->buf_dim[op->in] == c->n_q * c->dk + kv ? NULL : "its input's width";
}

const char *pl_check_queries(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_heads(p, op);
    if (!wrong || !pl_inside(op->cache, p->n_caches))
        return wrong;
    const pl_cache_desc *c = &p->caches[op->cache];
    return p->buf_dim[op->in] == c->n_q * c->dk ? NULL : wrong;
}

const char *pl_check_cache_layer(const pl_plan *p, const pl_op *op)
{
    const char *wrong = pl_check_heads(p, op);
    return wrong ? wrong : pl_inside(op->cache_layer, p->caches[op->cache].n_layers) ? NULL : "its cache layer";
}
