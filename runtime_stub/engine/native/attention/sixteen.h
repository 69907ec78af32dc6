/* Sixteen numbers at once, in one register or in two: the same steps in the same order, so that
 * every kind of processor gets the same, bit by bit. */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { SIXTEEN = 16 };

#ifdef __AVX512F__

typedef __m512 sixteen;

INLINE sixteen each(float value) { return _mm512_set1_ps(value); }
INLINE sixteen load(const float *from) { return _mm512_loadu_ps(from); }
INLINE sixteen load_halves(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
INLINE void store(float *to, sixteen values) { _mm512_storeu_ps(to, values); }
/* Load for several uses: the compiler would load it again for each. */
INLINE sixteen hold(const float *from) {
    sixteen values = load(from);
    __asm__("" : "+v"(values));
    return values;
}
INLINE sixteen add(sixteen one, sixteen other) { return _mm512_add_ps(one, other); }
INLINE sixteen subtract(sixteen from, sixteen value) { return _mm512_sub_ps(from, value); }
INLINE sixteen multiply(sixteen one, sixteen other) { return _mm512_mul_ps(one, other); }
INLINE sixteen divide(sixteen value, sixteen by) { return _mm512_div_ps(value, by); }
INLINE sixteen add_product(sixteen one, sixteen other, sixteen to) {
    return _mm512_fmadd_ps(one, other, to);
}
INLINE sixteen larger(sixteen one, sixteen other) { return _mm512_max_ps(one, other); }
INLINE sixteen smaller(sixteen one, sixteen other) { return _mm512_min_ps(one, other); }
INLINE sixteen nearest(sixteen value) {
    return _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2 to the power of whole numbers from -126 to 127. */
INLINE sixteen power_of_two(sixteen whole) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
/* `values`, or zero where `of` is less than `least`. */
INLINE sixteen unless_less(sixteen of, sixteen least, sixteen values) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, least, _CMP_NLT_UQ), values);
}
/* The first `count` of `values`, and then what `others` are. */
INLINE sixteen first_of(int count, sixteen values, sixteen others) {
    return _mm512_mask_mov_ps(others, (__mmask16)((1u << count) - 1), values);
}
INLINE __m256 lower(sixteen values) { return _mm512_castps512_ps256(values); }
INLINE __m256 upper(sixteen values) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(values), 1));
}

INLINE sixteen sums_of_two(sixteen one, sixteen other) {
    return add(_mm512_shuffle_f32x4(one, other, 0x44), _mm512_shuffle_f32x4(one, other, 0xEE));
}
/* The sum of each of sixteen: lanes i and i + 8 first, then 4 apart, 2, and 1. */
INLINE sixteen sums_of(const sixteen rows[SIXTEEN]) {
    sixteen quads[4];
    UNROLL for (int place = 0; place < 4; place++) {
        const sixteen one = sums_of_two(rows[place], rows[place + 4]);
        const sixteen other = sums_of_two(rows[place + 8], rows[place + 12]);
        quads[place] = add(_mm512_shuffle_f32x4(one, other, 0x88),
                           _mm512_shuffle_f32x4(one, other, 0xDD));
    }
    const sixteen one = add(_mm512_shuffle_ps(quads[0], quads[1], 0x44),
                            _mm512_shuffle_ps(quads[0], quads[1], 0xEE));
    const sixteen other = add(_mm512_shuffle_ps(quads[2], quads[3], 0x44),
                              _mm512_shuffle_ps(quads[2], quads[3], 0xEE));
    return add(_mm512_shuffle_ps(one, other, 0x88), _mm512_shuffle_ps(one, other, 0xDD));
}

#else

typedef struct {
    __m256 low, high;
} sixteen;

INLINE __m256 lower(sixteen values) { return values.low; }
INLINE __m256 upper(sixteen values) { return values.high; }
INLINE sixteen each(float value) {
    return (sixteen){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
INLINE sixteen load(const float *from) {
    return (sixteen){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
INLINE sixteen load_halves(const uint16_t *from) {
    return (sixteen){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                     _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}
INLINE void store(float *to, sixteen values) {
    _mm256_storeu_ps(to, values.low);
    _mm256_storeu_ps(to + 8, values.high);
}
INLINE sixteen hold(const float *from) {
    sixteen values = load(from);
    __asm__("" : "+x"(values.low), "+x"(values.high));
    return values;
}
INLINE sixteen add(sixteen one, sixteen other) {
    return (sixteen){_mm256_add_ps(one.low, other.low), _mm256_add_ps(one.high, other.high)};
}
INLINE sixteen subtract(sixteen from, sixteen value) {
    return (sixteen){_mm256_sub_ps(from.low, value.low), _mm256_sub_ps(from.high, value.high)};
}
INLINE sixteen multiply(sixteen one, sixteen other) {
    return (sixteen){_mm256_mul_ps(one.low, other.low), _mm256_mul_ps(one.high, other.high)};
}
INLINE sixteen divide(sixteen value, sixteen by) {
    return (sixteen){_mm256_div_ps(value.low, by.low), _mm256_div_ps(value.high, by.high)};
}
INLINE sixteen add_product(sixteen one, sixteen other, sixteen to) {
    return (sixteen){_mm256_fmadd_ps(one.low, other.low, to.low),
                     _mm256_fmadd_ps(one.high, other.high, to.high)};
}
INLINE sixteen larger(sixteen one, sixteen other) {
    return (sixteen){_mm256_max_ps(one.low, other.low), _mm256_max_ps(one.high, other.high)};
}
INLINE sixteen smaller(sixteen one, sixteen other) {
    return (sixteen){_mm256_min_ps(one.low, other.low), _mm256_min_ps(one.high, other.high)};
}
INLINE sixteen nearest(sixteen value) {
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (sixteen){_mm256_round_ps(value.low, NEAREST), _mm256_round_ps(value.high, NEAREST)};
}
INLINE __m256 power_of_two_of_eight(__m256 whole) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
INLINE sixteen power_of_two(sixteen whole) {
    return (sixteen){power_of_two_of_eight(whole.low), power_of_two_of_eight(whole.high)};
}
INLINE sixteen unless_less(sixteen of, sixteen least, sixteen values) {
    return (sixteen){
        _mm256_and_ps(_mm256_cmp_ps(of.low, least.low, _CMP_NLT_UQ), values.low),
        _mm256_and_ps(_mm256_cmp_ps(of.high, least.high, _CMP_NLT_UQ), values.high),
    };
}
INLINE sixteen first_of(int count, sixteen values, sixteen others) {
    const __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), all = _mm256_set1_epi32(count);
    const __m256i low = _mm256_cmpgt_epi32(all, steps);
    const __m256i high = _mm256_cmpgt_epi32(all, _mm256_add_epi32(steps, _mm256_set1_epi32(8)));
    return (sixteen){_mm256_blendv_ps(others.low, values.low, _mm256_castsi256_ps(low)),
                     _mm256_blendv_ps(others.high, values.high, _mm256_castsi256_ps(high))};
}

INLINE __m256 eight_sums_of(const sixteen rows[8]) {
    __m256 pairs[4];
    UNROLL for (int place = 0; place < 4; place++) {
        const __m256 one = _mm256_add_ps(rows[place].low, rows[place].high);
        const __m256 other = _mm256_add_ps(rows[place + 4].low, rows[place + 4].high);
        pairs[place] = _mm256_add_ps(_mm256_permute2f128_ps(one, other, 0x20),
                                     _mm256_permute2f128_ps(one, other, 0x31));
    }
    const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(pairs[0], pairs[1], 0x44),
                                     _mm256_shuffle_ps(pairs[0], pairs[1], 0xEE));
    const __m256 other = _mm256_add_ps(_mm256_shuffle_ps(pairs[2], pairs[3], 0x44),
                                       _mm256_shuffle_ps(pairs[2], pairs[3], 0xEE));
    return _mm256_add_ps(_mm256_shuffle_ps(one, other, 0x88), _mm256_shuffle_ps(one, other, 0xDD));
}
INLINE sixteen sums_of(const sixteen rows[SIXTEEN]) {
    return (sixteen){eight_sums_of(rows), eight_sums_of(rows + 8)};
}

#endif

INLINE float sum_of(sixteen values) {
    const __m256 eight = _mm256_add_ps(lower(values), upper(values));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
INLINE float largest_of(sixteen values) {
    const __m256 eight = _mm256_max_ps(lower(values), upper(values));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* e to the power of `values`, to the last bit or two; below e^-87 zero, never more than e^88.
 * 2^n e^r, r at most ln(2) / 2 from zero, where eight terms of its series are enough. */
INLINE sixteen exponential(sixteen values) {
    const sixteen least = each(-87.0f);
    /* What is no number stays none: of two, the second comes out. */
    const sixteen bound = smaller(each(88.0f), larger(least, values));
    const sixteen whole = nearest(multiply(bound, each(1.44269504f)));
    /* ln(2), in two parts: the first has few bits, and its product with a whole number is exact. */
    sixteen rest = add_product(whole, each(-0.693359375f), bound);
    rest = add_product(whole, each(2.12194440e-4f), rest);
    sixteen sum = each(1.0f / 5040);
    const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1, 1};
    UNROLL for (size_t term = 0; term < sizeof terms / sizeof *terms; term++)
        sum = add_product(sum, rest, each(terms[term]));
    return unless_less(values, least, multiply(sum, power_of_two(whole)));
}
