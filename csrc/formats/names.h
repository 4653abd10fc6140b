/* The names and numbers of weight formats, without their layouts. */
#ifndef PL_FORMATS_NAMES_H
#define PL_FORMATS_NAMES_H

/* ggml's number of a weight format that the engine runs, by name ("Q4_K"); -1 for others. */
int pl_format_number(const char *name);
/* Name of format i = 0, 1, ..., NULL after the last. */
const char *pl_format_name(int i);

#endif
