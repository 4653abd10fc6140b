/* Recurrent layers, scalar reference. */
#include "fill.h"
#include "simd.h"

static void conv(const pl_conv *c, int n, float *y)
{
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < c->taps; j++) {
            const float x = c->by[j] ? c->x[j][i] * c->by[j][i] : c->x[j][i], one = c->w[j * c->w_stride + i] * x;
            sum = j ? sum + one : one;
        }
        y[i] = c->bias ? sum + c->bias[i] : sum;
    }
}

static float fold(const float acc[4])
{
    return (acc[0] + acc[2]) + (acc[1] + acc[3]);
}

/* One column of one row; state: (dk), 16 floats apart. decays: (dk), or NULL. */
static float step(const pl_scan *s, const float *q, const float *key, float v, float decay, const float *decays,
                  float gain, float q_scale, float k_scale, float *state)
{
    float acc[4] = {0}, sum[4] = {0}, w = v;
    if (s->delta) {
        for (int k = 0; k < s->dk; k++)
            acc[k % 4] = pl_fma1(state[PL_SCAN_COLUMNS * k], decays ? key[k] * decays[k] : key[k], acc[k % 4]);
        w = v - fold(acc) * (decays ? k_scale : decay * k_scale);
    }
    w = w * (gain * k_scale);
    for (int k = 0; k < s->dk; k++) {
        float *to = state + PL_SCAN_COLUMNS * k;
        *to = pl_fma1(key[k], w, *to * (decays ? decays[k] : decay));
        sum[k % 4] = pl_fma1(*to, q[k], sum[k % 4]);
    }
    return fold(sum) * q_scale + v * s->skip;
}

static int scan(const pl_scan *s)
{
    uint32_t bad = 0;
    for (int i = 0; i < s->n; i++) {
        const ptrdiff_t at = i * s->stride, gate = i * s->gate_stride;
        for (int j = 0; j < s->cols; j++)
            s->out[i * s->out_stride + j] = step(s, s->q + at, s->k + at, s->v[at + j],
                                                 s->decays ? 0.0f : s->decay[gate], s->decays ? s->decays + gate : NULL,
                                                 s->gain[gate], s->q_scale[gate], s->k_scale[gate], s->state + j);
    }
    for (int i = 0; i < s->dk * PL_SCAN_COLUMNS; i++)
        bad |= (pl_load32(s->state + i) & 0x7f800000u) == 0x7f800000u;
    return (int)bad;
}

void pl_fill_recurrent_scalar(pl_kernels *k)
{
    k->conv = conv;
    k->scan = scan;
}
