/* The product of interleaved weights with the states of a model. */
#pragma once

#include "tile.h"

/* COLUMNS numbers of a state, as whole ones. */
struct block {
    float scale;
    float sum;         /* of the numbers */
    int32_t starts[2]; /* what a dot product of each half with a tile begins with, to make up for
                        * its offset */
    int8_t quants[COLUMNS];
};

#pragma GCC visibility push(hidden)

/* Whether this build for a processor can do it. */
bool multiplies(void);

/* `count` blocks of the numbers at `from`, to be multiplied with `format`. */
void quantize(const struct format *format, const float *from, size_t count, struct block *to);

/* The products of the sixteen rows of `group` with `count` states, each of them in `blocks` of
 * `states`; those with the next state go `stride` bytes further on from `to`.
 *
 * A product is the same, whatever others it is made with. */
void multiply(const struct format *format, const uint8_t *group, size_t blocks,
              const struct block *states, size_t count, char *to, size_t stride);

#pragma GCC visibility pop
