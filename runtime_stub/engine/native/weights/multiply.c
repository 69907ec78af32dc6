/* Multiplies tiles with blocks of states. */
#include "multiply.h"

#ifndef __AVX2__

bool multiplies(void) { return false; }

void quantize(const struct format *format, const float *from, size_t count, struct block *to) {
    (void)format, (void)from, (void)count, (void)to;
}

void multiply(const struct format *format, const uint8_t *group, size_t blocks,
              const struct block *states, size_t count, char *to, size_t stride) {
    (void)format, (void)group, (void)blocks, (void)states, (void)count, (void)to, (void)stride;
}

#else

#include "lanes.h"

bool multiplies(void) { return true; }

/* Bytes between the weights that are multiplied and those that are fetched meanwhile: a core's own
 * prefetching starts anew with each page, and behind each matrix. */
#define AHEAD 8192

INLINE int bits_of(const struct format *format) {
    return format->is_whole ? 8 : 4 + format->high_bits;
}

/* A span's quants of LANES rows from `row` on, a byte each. */
INLINE void unpack(const struct format *format, const uint8_t *tile, int span, int row,
                   ints *weights) {
    const uint8_t *quants = tile + format->quants + span * quants_size(format) + 4 * row;
    const uint8_t *high = tile + format->high + span * high_size(format);
    if (format->is_whole) {
        UNROLL for (int quad = 0; quad < QUADS; quad++) {
            const ints bytes = load(quants + 4 * ROWS * quad);
            weights[quad] = SIGNED ? flip_signs(bytes) : bytes;
        }
        return;
    }
    UNROLL for (int quad = 0; quad < QUADS / 2; quad++) {
        const words both = (words)load(quants + 4 * ROWS * quad);
        weights[quad] = (ints)(both & 0x0f0f0f0f);
        weights[quad + QUADS / 2] = (ints)(both >> 4 & 0x0f0f0f0f);
    }
    if (format->high_bits == 1) {
        UNROLL for (int quad = 0; quad < QUADS; quad++)
            weights[quad] = with_fifths(weights[quad], high + ROWS / 2 * quad + row / 2);
    } else if (format->high_bits == 2) {
        UNROLL for (int quad = 0; quad < QUADS; quad++) {
            const words four = (words)load(high + 4 * (ROWS * (quad / 4) + row));
            const words pair = four >> quad % 4 * 2 & 0x03030303;
            weights[quad] = (ints)((words)weights[quad] | pair << 4);
        }
    }
}

/* By what the quants of each half of a span are multiplied, and what is added. */
struct steps {
    floats scales[2], minima;
};

INLINE struct steps steps_of(const struct format *format, const uint8_t *tile, int span, int row) {
    const floats scales = load_halves(tile + 2 * row);
    floats minima = zeros();
    if (format->has_minima)
        minima = load_halves(tile + format->minima + 2 * row);
    if (format->spans == 1)
        return (struct steps){{scales, scales}, minima};
    const uint8_t *own = tile + format->span_scales + row;
    if (!format->has_minima) {
        const words first = load_signed_bytes(own + 2 * ROWS * span);
        const words second = load_signed_bytes(own + 2 * ROWS * span + ROWS);
        return (struct steps){{product(scales, to_floats((ints)first)),
                               product(scales, to_floats((ints)second))},
                              minima};
    }
    own += 3 * ROWS * (span % 4);
    const words one = load_bytes(own), two = load_bytes(own + ROWS);
    const words three = load_bytes(own + 2 * ROWS);
    const words scale = span < 4 ? one & 63 : one >> 6 | two >> 6 << 2 | three >> 6 << 4;
    const words minimum = span < 4 ? two & 63 : three & 63;
    const floats both = product(scales, to_floats((ints)scale));
    return (struct steps){{both, both}, product(minima, to_floats((ints)-minimum))};
}

/* `sums` and the product of a span with a state's block. */
INLINE floats add_block(const struct format *format, floats sums, const struct steps *steps,
                        const ints *weights, const struct block *block) {
    const int bits = bits_of(format);
    const floats scale = each(block->scale);
    if (format->spans > 1 && !format->has_minima) { /* a scale for each half */
        const ints first =
            add_dots(each_int(block->starts[0]), weights, block->quants, QUADS / 2, bits);
        const ints second = add_dots(each_int(block->starts[1]), weights + QUADS / 2,
                                     block->quants + COLUMNS / 2, QUADS / 2, bits);
        const floats half = product(to_floats(first), steps->scales[0]);
        return add_product(add_product(to_floats(second), steps->scales[1], half), scale, sums);
    }
    const ints dots = add_dots(each_int(block->starts[0] + block->starts[1]), weights,
                               block->quants, QUADS, bits);
    sums = add_product(to_floats(dots), product(steps->scales[0], scale), sums);
    return format->has_minima ? add_product(steps->minima, each(block->sum), sums) : sums;
}

/* `multiply` with `count` states, at most AT_ONCE. */
INLINE void multiply_some(const struct format *format, const uint8_t *group, size_t blocks,
                          const struct block *states, const int count, char *to, size_t stride) {
    for (int row = 0; row < ROWS; row += LANES) {
        const uint8_t *tile = group;
        floats sums[AT_ONCE];
        UNROLL for (int state = 0; state < count; state++)
            sums[state] = zeros();
        for (size_t first = 0; first < blocks; first += format->spans, tile += format->tile_size) {
            for (int line = 0; row == 0 && line < format->tile_size; line += 64)
                _mm_prefetch((const char *)tile + AHEAD + line, _MM_HINT_T0);
            for (int span = 0; span < format->spans; span++) {
                ints weights[QUADS];
                unpack(format, tile, span, row, weights);
                const struct steps steps = steps_of(format, tile, span, row);
                UNROLL for (int state = 0; state < count; state++)
                    sums[state] = add_block(format, sums[state], &steps, weights,
                                            states + state * blocks + first + span);
            }
        }
        UNROLL for (int state = 0; state < count; state++)
            store(to + state * stride + row * sizeof(float), sums[state]);
    }
}

INLINE void multiply_all(const struct format *format, const uint8_t *group, size_t blocks,
                         const struct block *states, size_t count, char *to, size_t stride) {
#define AS_LONG_AS(SOME)                                                                         \
    for (; count >= SOME; count -= SOME, states += SOME * blocks, to += SOME * stride)           \
        multiply_some(format, group, blocks, states, SOME, to, stride);
    AS_LONG_AS(AT_ONCE)
    AS_LONG_AS(4)
    AS_LONG_AS(2)
    AS_LONG_AS(1)
#undef AS_LONG_AS
}

void multiply(const struct format *format, const uint8_t *group, size_t blocks,
              const struct block *states, size_t count, char *to, size_t stride) {
    /* Each with a format that the compiler knows. */
    switch (format->type) {
        case GGML_TYPE_Q4_0: multiply_all(&Q4_0, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q4_1: multiply_all(&Q4_1, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q5_0: multiply_all(&Q5_0, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q5_1: multiply_all(&Q5_1, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q4_K: multiply_all(&Q4_K, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q5_K: multiply_all(&Q5_K, group, blocks, states, count, to, stride); break;
        case GGML_TYPE_Q6_K: multiply_all(&Q6_K, group, blocks, states, count, to, stride); break;
        default: multiply_all(&Q8_0, group, blocks, states, count, to, stride); break;
    }
}

/* The greatest of eight. */
INLINE float greatest(__m256 values) {
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(values, 1), _mm256_castps256_ps128(values));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* The sums of each half of 32 bytes. */
INLINE void sums_of(__m256i bytes, int32_t *halves) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m256i four = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    four = _mm256_add_epi32(four, _mm256_unpackhi_epi64(four, four));
    four = _mm256_add_epi32(four, _mm256_shuffle_epi32(four, 1));
    halves[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(four));
    halves[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(four, 1));
}

void quantize(const struct format *format, const float *from, size_t count, struct block *to) {
    const int offset = SIGNED && format->is_whole ? 0 : format->offset;
    const __m256 sign = _mm256_set1_ps(-0.0F);
    /* What packing to bytes does to their order, undone. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (; count > 0; count--, from += COLUMNS, to++) {
        __m256 numbers[4], most = _mm256_setzero_ps();
        UNROLL for (int part = 0; part < 4; part++) {
            numbers[part] = _mm256_loadu_ps(from + 8 * part);
            most = _mm256_max_ps(most, _mm256_andnot_ps(sign, numbers[part]));
        }
        const float scale = greatest(most) / 127, steps = scale > 0 ? 1 / scale : 0;
        __m256i quants[4];
        UNROLL for (int part = 0; part < 4; part++)
            quants[part] = _mm256_cvtps_epi32(_mm256_mul_ps(numbers[part], _mm256_set1_ps(steps)));
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(quants[0], quants[1]),
                               _mm256_packs_epi32(quants[2], quants[3])),
            order);
        int32_t halves[2];
        sums_of(bytes, halves);
        to->scale = scale;
        to->sum = scale * (float)(halves[0] + halves[1]);
        for (int half = 0; half < 2; half++)
            to->starts[half] = -offset * halves[half];
        _mm256_storeu_si256((__m256i *)to->quants, bytes);
    }
}

#endif
