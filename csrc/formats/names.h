/* The names and numbers of weight formats, without their layouts. */
#ifndef PL_FORMATS_NAMES_H
#define PL_FORMATS_NAMES_H

#include <stdint.h>

/* ggml's number of a weight format that the engine runs, by name ("Q4_K"); -1 for others. */
int pl_format_number(const char *name);
/* Bytes of a row of k weights in the format of ggml's number; -1 if k is not a multiple of its block. */
int64_t pl_format_row(int number, int64_t k);
/* Whether the two products of a pair of codes with activations of eight bits fill 16 bits. */
int pl_format_wide(int number);
/* Name of format i = 0, 1, ..., NULL after the last. */
const char *pl_format_name(int i);

#endif
