/* A token's way through the cells that it sees. */
#pragma once

#include "cells.h"
#include "heads.h"

/* How many spans a token's cells are taken in, and how many of them each has but for the last. */
struct spans {
    int64_t count, length;
};

/* A token, and the span of its cells that comes next. */
struct reader {
    int64_t token, seen, span;
    struct spans spans;
    struct cursor cursor;
};

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* At the first span. */
struct reader reader_of(const struct task *task, int64_t token);

/* Make the one with this number the next span. */
void go_to(struct reader *reader, int64_t span);

/* How many cells the next span has: none, if there is none. */
int64_t cells_of(const struct reader *reader);

/* How many spans a token may have, whatever it sees of so many cells: not more cells make more
 * spans, but longer ones, too. */
int64_t most_spans(int64_t cells);

#pragma GCC visibility pop
