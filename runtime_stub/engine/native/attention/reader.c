/* A token's way through the cells that it sees: in spans, whose length depends on nothing but how
 * many cells these are. */
#include "reader.h"

#include "numbers.h"

#ifdef __AVX2__

/* Cells of a short span, and spans of a token at most: longer ones follow. */
enum { SPAN = 128, SPANS = 32 };

/* All heads have the same one (is_attention). */
static const uint16_t *mask_at(const struct task *task, int64_t token) {
    const struct ggml_tensor *mask = task->mask;
    if (mask == NULL)
        return NULL;
    const int64_t first = task->queries->ne[1];
    return (const uint16_t *)((const char *)mask->data + (size_t)(token % first) * mask->nb[1] +
                              (size_t)(token / first % mask->ne[3]) * mask->nb[3]);
}

static struct spans spans_of(int64_t seen) {
    const int64_t shortest = larger_of(1, (seen + SPAN - 1) / SPAN);
    const int64_t length = (shortest + SPANS - 1) / SPANS;
    return (struct spans){.count = (shortest + length - 1) / length, .length = length * SPAN};
}

int64_t most_spans(int64_t cells) {
    return larger_of(1, smaller_of(SPANS, (cells + SPAN - 1) / SPAN));
}

struct reader reader_of(const struct task *task, int64_t token) {
    const uint16_t *mask = mask_at(task, token);
    const int64_t seen = count_seen(mask, task->cells);
    return (struct reader){
        .token = token,
        .seen = seen,
        .spans = spans_of(seen),
        .cursor = cursor_at(mask, task->cells, 0),
    };
}

int64_t cells_of(const struct reader *reader) {
    const int64_t left = reader->seen - reader->span * reader->spans.length;
    return larger_of(0, smaller_of(left, reader->spans.length));
}

void go_to(struct reader *reader, int64_t span) {
    const int64_t first = smaller_of(span * reader->spans.length, reader->seen);
    reader->cursor = cursor_at(reader->cursor.mask, reader->cursor.cells, first);
    reader->span = span;
}

#endif
