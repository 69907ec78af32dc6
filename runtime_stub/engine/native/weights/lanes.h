/* What multiply.c wants of a processor, for sixteen or eight rows at once: VNNI's four products of
 * bytes, summed up, or where it lacks that, AVX2's two. Integers are exact: all give the same. */
#pragma once

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)

enum { LANES = 16, AT_ONCE = 8, SIGNED = false };
typedef __m512i ints;
typedef __v16su words;
typedef __m512 floats;

INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE floats each(float value) { return _mm512_set1_ps(value); }
INLINE ints each_int(int32_t value) { return _mm512_set1_epi32(value); }
INLINE floats to_floats(ints values) { return _mm512_cvtepi32_ps(values); }
INLINE floats product(floats one, floats other) { return _mm512_mul_ps(one, other); }
INLINE floats add_product(floats one, floats other, floats to) {
    return _mm512_fmadd_ps(one, other, to);
}
INLINE void store(void *to, floats values) { _mm512_storeu_ps(to, values); }
INLINE ints load(const uint8_t *from) { return _mm512_loadu_si512(from); }
INLINE words load_bytes(const uint8_t *from) {
    return (words)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}
INLINE words load_signed_bytes(const uint8_t *from) {
    return (words)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
}
INLINE ints flip_signs(ints bytes) { return _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)); }
INLINE floats load_halves(const uint8_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
/* `values` with a fifth bit: of each four, half a byte of `bits`. */
INLINE ints with_fifths(ints values, const uint8_t *bits) {
    uint64_t set;
    memcpy(&set, bits, sizeof set);
    return _mm512_mask_add_epi8(values, set, values, _mm512_set1_epi8(16));
}
/* To each of `sums` the products of its four of each of `weights` with as many of `state`. A quant
 * has `bits`. */
INLINE ints add_dots(ints sums, const ints *weights, const int8_t *state, int quads, int bits) {
    (void)bits;
    UNROLL for (int quad = 0; quad < quads; quad++) {
        int32_t four;
        memcpy(&four, state + 4 * quad, sizeof four);
        sums = _mm512_dpbusd_epi32(sums, weights[quad], _mm512_set1_epi32(four));
    }
    return sums;
}

#else

enum { LANES = 8, AT_ONCE = 4 };
typedef __m256i ints;
typedef __v8su words;
typedef __m256 floats;

INLINE floats zeros(void) { return _mm256_setzero_ps(); }
INLINE floats each(float value) { return _mm256_set1_ps(value); }
INLINE ints each_int(int32_t value) { return _mm256_set1_epi32(value); }
INLINE floats to_floats(ints values) { return _mm256_cvtepi32_ps(values); }
INLINE floats product(floats one, floats other) { return _mm256_mul_ps(one, other); }
INLINE floats add_product(floats one, floats other, floats to) {
    return _mm256_fmadd_ps(one, other, to);
}
INLINE void store(void *to, floats values) { _mm256_storeu_ps(to, values); }
INLINE ints load(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE words load_bytes(const uint8_t *from) {
    return (words)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}
INLINE words load_signed_bytes(const uint8_t *from) {
    return (words)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
}
INLINE ints flip_signs(ints bytes) { return _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)); }
INLINE floats load_halves(const uint8_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
INLINE ints with_fifths(ints values, const uint8_t *bits) {
    int32_t set;
    memcpy(&set, bits, sizeof set);
    /* Each of the 32 bits to a byte of its own. */
    const ints bytes = _mm256_shuffle_epi8(
        _mm256_set1_epi32(set),
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const ints own = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const ints found = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
    return _mm256_or_si256(values, _mm256_and_si256(found, _mm256_set1_epi8(16)));
}

#ifdef __AVXVNNI__

enum { SIGNED = false };
INLINE ints add_dots(ints sums, const ints *weights, const int8_t *state, int quads, int bits) {
    (void)bits;
    UNROLL for (int quad = 0; quad < quads; quad++) {
        int32_t four;
        memcpy(&four, state + 4 * quad, sizeof four);
        sums = _mm256_dpbusd_avx_epi32(sums, weights[quad], _mm256_set1_epi32(four));
    }
    return sums;
}

#else

/* Two products of bytes are summed up in sixteen bits, where those of a whole byte that is never
 * negative have no room: such quants are signed. */
enum { SIGNED = true };
INLINE ints add_dots(ints sums, const ints *weights, const int8_t *state, int quads, int bits) {
    /* Sums of so many pairs stay below 2^15: 2 x 127 times 15, 31, 63 or 128 each. */
    const int together = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    const int step = together < quads ? together : quads;
    UNROLL for (int first = 0; first < quads; first += step) {
        ints pairs = _mm256_setzero_si256();
        UNROLL for (int quad = first; quad < first + step; quad++) {
            int32_t four;
            memcpy(&four, state + 4 * quad, sizeof four);
            ints other = _mm256_set1_epi32(four), own = weights[quad];
            if (bits == 8) {
                other = _mm256_sign_epi8(other, own);
                own = _mm256_abs_epi8(own);
            }
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(own, other));
        }
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sums;
}

#endif
#endif
