/* How the rows of a weight matrix lie interleaved, so that one load of the processor's fetches
 * the same columns of sixteen rows.
 *
 * llama.cpp keeps each row for itself, in blocks of 32 or 256 columns: scales, then quants. Here
 * sixteen rows that follow each other are a group, and a block of all of them is a tile: first
 * their sixteen scales, then their minima where the type has them, and so on; of the quants four
 * columns at a time of each row. A tile takes exactly what its sixteen blocks took, and a matrix
 * what it took before.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml.h"

enum {
    ROWS = 16,
    COLUMNS = 32, /* that are multiplied with one scale of a state's */
    QUADS = COLUMNS / 4,
};

/* What tells the types apart. */
struct format {
    enum ggml_type type;
    int spans;         /* of COLUMNS in a tile */
    bool has_minima;   /* value = scale * quant + minimum; else scale * (quant - offset) */
    int high_bits;     /* of a quant, which are kept apart from its lower four */
    bool is_whole;     /* a quant is a byte of its own, not half of one */
    int offset;        /* of a quant as the tile holds it, which is never negative */
    int block_size;    /* bytes of a row's block */
    /* Where these begin in a tile, in bytes. Scales are at its very beginning. */
    int minima;        /* of two bytes, as are scales */
    int span_scales;   /* of each span, by which those for the tile are multiplied */
    int high, quants;
    int tile_size;
};

/* Types with blocks of COLUMNS. */
#define PLAIN(TYPE, MINIMA, HIGH, WHOLE, OFFSET)                                                 \
    {                                                                                            \
        .type = TYPE, .spans = 1, .has_minima = MINIMA, .high_bits = HIGH, .is_whole = WHOLE,    \
        .offset = OFFSET, .block_size = 2 + 2 * (MINIMA) + 4 * (HIGH) + ((WHOLE) ? 32 : 16),     \
        .minima = 2 * ROWS, .high = (2 + 2 * (MINIMA)) * ROWS,                                   \
        .quants = (2 + 2 * (MINIMA) + 4 * (HIGH)) * ROWS,                                        \
        .tile_size = (2 + 2 * (MINIMA) + 4 * (HIGH) + ((WHOLE) ? 32 : 16)) * ROWS,               \
    }

static const struct format Q4_0 = PLAIN(GGML_TYPE_Q4_0, 0, 0, 0, 8);
static const struct format Q4_1 = PLAIN(GGML_TYPE_Q4_1, 1, 0, 0, 0);
static const struct format Q5_0 = PLAIN(GGML_TYPE_Q5_0, 0, 1, 0, 16);
static const struct format Q5_1 = PLAIN(GGML_TYPE_Q5_1, 1, 1, 0, 0);
static const struct format Q8_0 = PLAIN(GGML_TYPE_Q8_0, 0, 0, 1, 128);

/* Types with blocks of 256: scales of scales. Those of Q4_K and Q5_K have six bits, as have their
 * minima: four of them in three bytes. Q6_K has one for each half of a span. */
static const struct format Q4_K = {
    .type = GGML_TYPE_Q4_K, .spans = 8, .has_minima = true, .block_size = 144,
    .minima = 2 * ROWS, .span_scales = 4 * ROWS, .high = 16 * ROWS, .quants = 16 * ROWS,
    .tile_size = 144 * ROWS,
};
static const struct format Q5_K = {
    .type = GGML_TYPE_Q5_K, .spans = 8, .has_minima = true, .high_bits = 1, .block_size = 176,
    .minima = 2 * ROWS, .span_scales = 4 * ROWS, .high = 16 * ROWS, .quants = 48 * ROWS,
    .tile_size = 176 * ROWS,
};
static const struct format Q6_K = {
    .type = GGML_TYPE_Q6_K, .spans = 8, .high_bits = 2, .offset = 32, .block_size = 210,
    .span_scales = 2 * ROWS, .high = 18 * ROWS, .quants = 82 * ROWS, .tile_size = 210 * ROWS,
};

static inline const struct format *format_of(enum ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_0: return &Q4_0;
        case GGML_TYPE_Q4_1: return &Q4_1;
        case GGML_TYPE_Q5_0: return &Q5_0;
        case GGML_TYPE_Q5_1: return &Q5_1;
        case GGML_TYPE_Q8_0: return &Q8_0;
        case GGML_TYPE_Q4_K: return &Q4_K;
        case GGML_TYPE_Q5_K: return &Q5_K;
        case GGML_TYPE_Q6_K: return &Q6_K;
        default: return NULL;
    }
}

/* Bytes of a span's high bits, and of its quants, in a tile. */
static inline int high_size(const struct format *format) {
    return format->high_bits * COLUMNS / 8 * ROWS;
}
static inline int quants_size(const struct format *format) {
    return (format->is_whole ? COLUMNS : COLUMNS / 2) * ROWS;
}

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* Tensors whose rows are interleaved have this in `extra`. */
extern char interleaved;

static inline bool is_interleaved(const struct ggml_tensor *tensor) {
    return tensor->extra == &interleaved;
}

/* Write `weights`, of that format, to `to` with their rows interleaved. */
void interleave(const struct ggml_tensor *weights, const struct format *format, uint8_t *to);

/* Write row `row` of the interleaved `weights` to `to`, as numbers. */
void read_row(const struct ggml_tensor *weights, int64_t row, float *to);

#pragma GCC visibility pop
