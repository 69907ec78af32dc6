/* Interleaves rows, and reads one of them back. */
#include "tile.h"

#include <string.h>

char interleaved;

/* A row's block as llama.cpp has it: where its parts begin, in bytes. Quants of four bits are two
 * a byte: columns of one half of a span beside those of the other, or where there are more spans,
 * of one span beside the next. */
struct layout {
    int scale, minimum, span_scales, high, quants;
};

static struct layout layout_of(const struct format *format) {
    switch (format->type) {
        case GGML_TYPE_Q4_K: return (struct layout){0, 2, 4, 0, 16};
        case GGML_TYPE_Q5_K: return (struct layout){0, 2, 4, 16, 48};
        case GGML_TYPE_Q6_K: return (struct layout){208, 0, 192, 128, 0};
        default: {
            const int high = 2 + 2 * format->has_minima;
            return (struct layout){0, 2, 0, high, high + 4 * format->high_bits};
        }
    }
}

static inline uint32_t word_at(const uint8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static inline void put_word(uint8_t *bytes, uint32_t word) { memcpy(bytes, &word, sizeof word); }

#define EACH 0x01010101u /* a byte's value, in each byte of a word */

/* The lower four bits of columns 4 * quad to 4 * quad + 3 of a span, a byte each. */
static inline uint32_t nibbles(const struct format *format, const uint8_t *quants, int span,
                               int quad) {
    switch (format->type) {
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
            return word_at(quants + span / 2 * 32 + 4 * quad) >> span % 2 * 4 & 15 * EACH;
        case GGML_TYPE_Q6_K: /* spans 0 and 2 share bytes, as do 1 and 3, and so on */
            return word_at(quants + span / 4 * 64 + span % 2 * 32 + 4 * quad) >>
                       span / 2 % 2 * 4 & 15 * EACH;
        default: return word_at(quants + 4 * (quad % 4)) >> quad / 4 * 4 & 15 * EACH;
    }
}

/* Their high bits, likewise. */
static inline uint32_t high_bits(const struct format *format, const uint8_t *high, int span,
                                 int quad) {
    switch (format->type) {
        case GGML_TYPE_Q5_K: return word_at(high + 4 * quad) >> span & EACH;
        case GGML_TYPE_Q6_K:
            return word_at(high + span / 4 * 32 + 4 * quad) >> span % 4 * 2 & 3 * EACH;
        default: {
            const uint32_t four = word_at(high) >> 4 * quad & 15;
            return (four | four << 7 | four << 14 | four << 21) & EACH;
        }
    }
}

/* Six bits each of scales and minima: eight of both in twelve bytes. Spans 0 to 3 have six bits of
 * a byte, the others four bits of one and two left over in another (llama.cpp's Q4_K). Here, for
 * each row: three bytes for spans `span` and `span + 4`. */
static void interleave_six_bits(const uint8_t *from, int row, uint8_t *to) {
    for (int span = 0; span < 4; span++, to += 3 * ROWS) {
        const int scale = from[span] & 63, minimum = from[span + 4] & 63;
        const int next_scale = (from[span + 8] & 15) | from[span] >> 6 << 4;
        const int next_minimum = from[span + 8] >> 4 | from[span + 4] >> 6 << 4;
        to[row] = (uint8_t)(scale | (next_scale & 3) << 6);
        to[ROWS + row] = (uint8_t)(minimum | (next_scale >> 2 & 3) << 6);
        to[2 * ROWS + row] = (uint8_t)(next_minimum | next_scale >> 4 << 6);
    }
}

/* Write a row's span of quants. */
static inline void interleave_span(const struct format *format, const uint8_t *high,
                                   const uint8_t *quants, int span, int row, uint8_t *to_high,
                                   uint8_t *to_quants) {
    if (format->is_whole) {
        for (int quad = 0; quad < QUADS; quad++) /* from 0 on */
            put_word(to_quants + 4 * (ROWS * quad + row), word_at(quants + 4 * quad) ^ 0x80 * EACH);
        return;
    }
    for (int quad = 0; quad < QUADS / 2; quad++)
        put_word(to_quants + 4 * (ROWS * quad + row),
                 nibbles(format, quants, span, quad) |
                     nibbles(format, quants, span, quad + QUADS / 2) << 4);
    if (format->high_bits == 1) {
        /* Of each four columns one bit a column: half a byte, beside that of the next row. */
        for (int quad = 0; quad < QUADS; quad++) {
            const uint32_t bits = high_bits(format, high, span, quad);
            const uint32_t four = (bits | bits >> 7 | bits >> 14 | bits >> 21) & 15;
            uint8_t *const byte = to_high + ROWS / 2 * quad + row / 2;
            *byte = (uint8_t)(row % 2 ? *byte | four << 4 : four);
        }
    } else if (format->high_bits == 2) {
        /* Of each sixteen columns two bits a column, those of four quads in a byte. */
        for (int half = 0; half < 2; half++) {
            uint32_t four = 0;
            for (int quad = 0; quad < 4; quad++)
                four |= high_bits(format, high, span, 4 * half + quad) << 2 * quad;
            put_word(to_high + 4 * (ROWS * half + row), four);
        }
    }
}

/* The blocks at `from`, one in each `row_size` bytes, as the tile `to`. */
static inline void interleave_block(const struct format *format, const uint8_t *from,
                                    size_t row_size, uint8_t *to) {
    const struct layout layout = layout_of(format);
    for (int row = 0; row < ROWS; row++, from += row_size) {
        memcpy(to + 2 * row, from + layout.scale, 2);
        if (format->has_minima)
            memcpy(to + format->minima + 2 * row, from + layout.minimum, 2);
        if (format->spans > 1 && format->has_minima)
            interleave_six_bits(from + layout.span_scales, row, to + format->span_scales);
        else if (format->spans > 1)
            for (int half = 0; half < 2 * format->spans; half++)
                to[format->span_scales + ROWS * half + row] = from[layout.span_scales + half];
        for (int span = 0; span < format->spans; span++)
            interleave_span(format, from + layout.high, from + layout.quants, span, row,
                            to + format->high + span * high_size(format),
                            to + format->quants + span * quants_size(format));
    }
}

static inline __attribute__((always_inline)) void
interleave_all(const struct ggml_tensor *weights, const struct format *format, uint8_t *to) {
    const size_t row_size = weights->nb[1];
    const int64_t blocks = weights->ne[0] / (COLUMNS * format->spans);
    const uint8_t *group = weights->data;
    for (int64_t row = 0; row < weights->ne[1]; row += ROWS, group += ROWS * row_size)
        for (int64_t block = 0; block < blocks; block++, to += format->tile_size)
            interleave_block(format, group + block * format->block_size, row_size, to);
}

void interleave(const struct ggml_tensor *weights, const struct format *format, uint8_t *to) {
    /* Each with a format that the compiler knows. */
    switch (format->type) {
        case GGML_TYPE_Q4_0: interleave_all(weights, &Q4_0, to); break;
        case GGML_TYPE_Q4_1: interleave_all(weights, &Q4_1, to); break;
        case GGML_TYPE_Q5_0: interleave_all(weights, &Q5_0, to); break;
        case GGML_TYPE_Q5_1: interleave_all(weights, &Q5_1, to); break;
        case GGML_TYPE_Q8_0: interleave_all(weights, &Q8_0, to); break;
        case GGML_TYPE_Q4_K: interleave_all(weights, &Q4_K, to); break;
        case GGML_TYPE_Q5_K: interleave_all(weights, &Q5_K, to); break;
        default: interleave_all(weights, &Q6_K, to); break;
    }
}

/* By what the quants of half a span are multiplied, and what is added. */
struct step {
    float scale, minimum;
};

static struct step step_of(const struct format *format, const uint8_t *tile, int lane, int span,
                           int half) {
    ggml_fp16_t both[2] = {0};
    memcpy(both, tile + 2 * lane, 2);
    if (format->has_minima)
        memcpy(both + 1, tile + format->minima + 2 * lane, 2);
    struct step step = {ggml_fp16_to_fp32(both[0]), ggml_fp16_to_fp32(both[1])};
    if (format->spans == 1)
        return step;
    const uint8_t *scales = tile + format->span_scales + lane;
    if (!format->has_minima) {
        step.scale *= (int8_t)scales[ROWS * (2 * span + half)];
        return step;
    }
    scales += 3 * ROWS * (span % 4);
    const int one = scales[0], two = scales[ROWS], three = scales[2 * ROWS];
    step.scale *= (float)(span < 4 ? one & 63 : one >> 6 | two >> 6 << 2 | three >> 6 << 4);
    step.minimum *= -(float)(span < 4 ? two & 63 : three & 63);
    return step;
}

static int quant_at(const struct format *format, const uint8_t *tile, int lane, int span,
                    int column) {
    const uint8_t *quants = tile + format->quants + span * quants_size(format) + 4 * lane;
    const uint8_t *high = tile + format->high + span * high_size(format);
    if (format->is_whole)
        return quants[4 * ROWS * (column / 4) + column % 4];
    /* The second half of the columns is in the upper halves of the first half's bytes. */
    int quant = quants[4 * ROWS * (column % 16 / 4) + column % 4] >> column / 16 * 4 & 15;
    if (format->high_bits == 1)
        quant |= (high[ROWS / 2 * (column / 4) + lane / 2] >> (lane % 2 * 4 + column % 4) & 1) << 4;
    else if (format->high_bits == 2)
        quant |= (high[4 * (ROWS * (column / 16) + lane) + column % 4] >> column / 4 % 4 * 2 & 3)
                 << 4;
    return quant;
}

void read_row(const struct ggml_tensor *weights, int64_t row, float *to) {
    const struct format *format = format_of(weights->type);
    const int lane = (int)(row % ROWS);
    const uint8_t *tile = (const uint8_t *)weights->data + (row - lane) * weights->nb[1];
    const uint8_t *end = tile + ROWS * weights->nb[1];
    for (; tile < end; tile += format->tile_size)
        for (int span = 0; span < format->spans; span++)
            for (int half = 0; half < 2; half++) {
                const struct step step = step_of(format, tile, lane, span, half);
                for (int column = 16 * half; column < 16 * (half + 1); column++) {
                    const int quant = quant_at(format, tile, lane, span, column);
                    *to++ = step.scale * (float)(quant - format->offset) + step.minimum;
                }
            }
}
