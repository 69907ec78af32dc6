/* Which cells of the cache a token sees. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    BLOCK = 64, /* cells, at most, that are looked at together */
    AHEAD = 24, /* of those that follow, which are asked for in advance */
};

/* Cells that a token sees, one after the other. */
struct cursor {
    const uint16_t *mask; /* a number of sixteen bits for each cell; NULL: all are seen */
    int64_t cells;
    int64_t next;  /* the first of the next sixteen */
    uint32_t seen; /* of the last sixteen, those that were not taken yet */
};

/* Some of them. What the mask says of each is added to its score; nothing unless biased. */
struct block {
    int count, known; /* behind them lie those that follow, as far as they are known */
    bool is_biased;
    int32_t cells[BLOCK + AHEAD];
    float biases[BLOCK];
};

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* How many of the first `cells` are seen. */
int64_t count_seen(const uint16_t *mask, int64_t cells);

/* Behind the first `skipped` that are seen, of which there must be as many. */
struct cursor cursor_at(const uint16_t *mask, int64_t cells, int64_t skipped);

/* The next ones, at most so many, of which there must be one at least. */
void take(struct cursor *cursor, int64_t most, struct block *block);

#pragma GCC visibility pop
