/* Which cells of the cache a token sees: those that its mask does not hide. */
#include "cells.h"

#ifdef __AVX2__

#include <immintrin.h>

enum { AT_ONCE = 16 };

static const uint16_t HIDDEN = 0xFC00; /* Minus infinity, in sixteen bits. */

/* A bit for each of the sixteen cells from `first` that the token sees. */
static inline uint32_t seen_from(const uint16_t *mask, int64_t first, int64_t cells) {
    const int64_t left = cells - first;
    uint32_t seen = left < AT_ONCE ? (1u << left) - 1 : 0xFFFF;
    if (mask == NULL)
        return seen;
    if (left < AT_ONCE) {
        for (int64_t cell = 0; cell < left; cell++)
            if (mask[first + cell] == HIDDEN)
                seen &= ~(1u << cell);
        return seen;
    }
    const __m256i hidden = _mm256_cmpeq_epi16(
        _mm256_loadu_si256((const __m256i *)(mask + first)), _mm256_set1_epi16((int16_t)HIDDEN));
    return ~(uint32_t)_mm_movemask_epi8(_mm_packs_epi16(
               _mm256_castsi256_si128(hidden), _mm256_extracti128_si256(hidden, 1))) &
           0xFFFF;
}

int64_t count_seen(const uint16_t *mask, int64_t cells) {
    int64_t count = 0;
    for (int64_t first = 0; first < cells; first += AT_ONCE)
        count += __builtin_popcount(seen_from(mask, first, cells));
    return count;
}

struct cursor cursor_at(const uint16_t *mask, int64_t cells, int64_t skipped) {
    struct cursor cursor = {.mask = mask, .cells = cells};
    while (skipped > 0) {
        cursor.seen = seen_from(mask, cursor.next, cells);
        cursor.next += AT_ONCE;
        const int found = __builtin_popcount(cursor.seen);
        if (found <= skipped)
            cursor.seen = 0;
        else
            for (int64_t cell = 0; cell < skipped; cell++)
                cursor.seen &= cursor.seen - 1;
        skipped -= found;
    }
    return cursor;
}

void take(struct cursor *cursor, int64_t most, struct block *block) {
    const int room = most < BLOCK ? (int)most : BLOCK;
    const __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i biased = _mm256_setzero_si256();
    int count = 0, some_biased = 0;
    while (count < room) {
        if (cursor->seen == 0) {
            cursor->seen = seen_from(cursor->mask, cursor->next, cursor->cells);
            cursor->next += AT_ONCE;
        }
        const int64_t first = cursor->next - AT_ONCE;
        if (cursor->seen == 0xFFFF && count + AT_ONCE <= room) {
            __m256i *to = (__m256i *)(block->cells + count);
            const __m256i low = _mm256_add_epi32(_mm256_set1_epi32((int32_t)first), steps);
            _mm256_storeu_si256(to, low);
            _mm256_storeu_si256(to + 1, _mm256_add_epi32(low, _mm256_set1_epi32(8)));
            if (cursor->mask != NULL)
                biased = _mm256_or_si256(
                    biased, _mm256_loadu_si256((const __m256i *)(cursor->mask + first)));
            count += AT_ONCE;
            cursor->seen = 0;
            continue;
        }
        for (; cursor->seen != 0 && count < room; cursor->seen &= cursor->seen - 1) {
            const int64_t cell = first + __builtin_ctz(cursor->seen);
            block->cells[count++] = (int32_t)cell;
            if (cursor->mask != NULL)
                some_biased |= cursor->mask[cell];
        }
    }
    block->count = count;
    block->is_biased = some_biased != 0 || !_mm256_testz_si256(biased, biased);
    if (block->is_biased)
        for (int cell = 0; cell < count; cell++)
            block->biases[cell] = _cvtsh_ss(cursor->mask[block->cells[cell]]);
}

#endif
