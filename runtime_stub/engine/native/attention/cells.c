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

/* Write the next cells behind the first `count`, until there are `room` or no more; how many. Says
 * whether the mask has something to add to the score of any. */
static int collect(struct cursor *cursor, int32_t *cells, int count, int room, bool *is_biased) {
    const __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    while (count < room) {
        if (cursor->seen == 0) {
            if (cursor->next >= cursor->cells)
                break;
            cursor->seen = seen_from(cursor->mask, cursor->next, cursor->cells);
            cursor->next += AT_ONCE;
        }
        const int32_t first = (int32_t)(cursor->next - AT_ONCE);
        if (cursor->seen == 0xFFFF && count + AT_ONCE <= room) {
            const __m256i low = _mm256_add_epi32(_mm256_set1_epi32(first), steps);
            _mm256_storeu_si256((__m256i *)(cells + count), low);
            _mm256_storeu_si256((__m256i *)(cells + count + 8),
                                _mm256_add_epi32(low, _mm256_set1_epi32(8)));
            count += AT_ONCE;
            cursor->seen = 0;
            if (cursor->mask == NULL)
                continue;
            const __m256i all = _mm256_loadu_si256((const __m256i *)(cursor->mask + first));
            *is_biased = *is_biased || !_mm256_testz_si256(all, all);
        }
        for (; cursor->seen != 0 && count < room; cursor->seen &= cursor->seen - 1) {
            const int32_t cell = first + __builtin_ctz(cursor->seen);
            cells[count++] = cell;
            *is_biased = *is_biased || (cursor->mask != NULL && cursor->mask[cell] != 0);
        }
    }
    return count;
}

void take(struct cursor *cursor, int64_t most, struct block *block) {
    const int room = most < BLOCK ? (int)most : BLOCK;
    block->is_biased = false;
    block->count = collect(cursor, block->cells, 0, room, &block->is_biased);
    struct cursor following = *cursor;
    bool is_biased = false;
    block->known =
        collect(&following, block->cells, block->count, block->count + AHEAD, &is_biased);
    if (block->is_biased)
        for (int index = 0; index < block->count; index++)
            block->biases[index] = _cvtsh_ss(cursor->mask[block->cells[index]]);
}

#endif
