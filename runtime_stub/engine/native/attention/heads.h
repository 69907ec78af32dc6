/* What the heads of a token pay attention to, over some of the cells that it sees. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cells.h"
#include "ggml.h"

/* What is asked for. Heads of a group have the same keys and values. */
struct task {
    const struct ggml_tensor *queries, *keys, *values, *mask, *sinks;
    float *to;
    int64_t cells, tokens, groups; /* tokens of all sequences */
    int heads;                     /* of a group */
    int key_size, size;            /* numbers of a key, and of a head's values */
    float scale, cap;              /* of scores; no cap: 0 */
    float bases[2];                /* of what the mask's values are multiplied with; 0: with 1 */
    int64_t first_biased;          /* so many heads take the first base */
};

/* What a head comes to: the greatest score, the sum of the weights, each of which is e to the power
 * of the score less the greatest one, and the sum of all values by their weights. */
struct result {
    float greatest, sum;
    float unused[14];
    float values[];
};

static inline size_t result_size(int size) {
    return sizeof(struct result) + (size_t)size * sizeof(float);
}
static inline struct result *result_at(void *results, int64_t index, int size) {
    return (struct result *)((char *)results + (size_t)index * result_size(size));
}

/* Keys and values of a group's cells, in 32 bits: of some that follow each other in a block, and of
 * those behind them in others. */
enum { NEAR = 2 * BLOCK };
struct near {
    float *keys, *values; /* of NEAR cells each */
    int64_t sequence;
    int count;
    int32_t cells[NEAR];
};

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* A result of no cells. */
void clear(struct result *result, int size);

/* Add cells to the results of some heads, the `first` of all and those that follow it, which are of
 * one group; results are `apart` from each other. What is near is taken from there: clear its
 * count for another group. */
void add_block(const struct task *task, const struct block *block, struct near *near, int64_t token,
               int64_t first, int heads, struct result *results, int64_t apart);

/* Add what `other` comes to to `one`. */
void unite(struct result *one, const struct result *other, int size);

/* Write what a head of a token pays attention to where it is wanted. */
void write_result(const struct task *task, int64_t token, int64_t head,
                  const struct result *result);

#pragma GCC visibility pop
