/* Attention of tokens over the cells of the cache: what of it each thread computes.
 *
 * ggml takes one head of one token after the other, and of those one cell after the other. Here the
 * heads that share keys and values take a cell together, many cells at a time, and what a token does
 * not see costs next to nothing.
 *
 * What comes out depends on the cells that a token sees and their order, and on nothing else: not
 * on threads, nor on the batch's other tokens, nor on where in the cache the cells lie, nor on the
 * kind of processor. A token's cells are taken in spans, whose length depends on their number
 * alone, and what the spans come to is added up in their order.
 */
#include "attention.h"

#ifdef __AVX2__

#include <math.h>
#include <string.h>

#include "heads.h"

enum {
    /* Cells of a short span, and spans of a token at most: longer ones follow. */
    SPAN = 128,
    SPANS = 32,
    /* Tokens that cells are brought near for at once, at most. */
    TOKENS = 16,
    /* Bytes of what spans come to that are kept until they are added up, at most. */
    ROOM = 4 << 20,
    /* Units of work for each thread: they are not all alike. */
    UNITS = 8,
    ALIGNMENT = 64,
    /* Keys and values have a multiple of so many numbers. */
    PARTS = 16,
};

/* All heads have the same one (is_attention). */
static const uint16_t *mask_at(const struct task *task, int64_t token) {
    const struct ggml_tensor *mask = task->mask;
    if (mask == NULL)
        return NULL;
    const int64_t first = task->queries->ne[1];
    return (const uint16_t *)((const char *)mask->data + (size_t)(token % first) * mask->nb[1] +
                              (size_t)(token / first % mask->ne[3]) * mask->nb[3]);
}

static struct task task_of(const struct ggml_tensor *op) {
    const struct ggml_tensor *queries = op->src[0], *keys = op->src[1];
    struct task task = {
        .queries = queries,
        .keys = keys,
        .values = op->src[2],
        .mask = op->src[3],
        .sinks = op->src[4],
        .cells = keys->ne[1],
        .tokens = queries->ne[1] * queries->ne[3],
        .groups = keys->ne[2],
        .heads = (int)(queries->ne[2] / keys->ne[2]),
        .key_size = (int)keys->ne[0],
        .size = (int)op->src[2]->ne[0],
        .to = (float *)op->data,
    };
    float bias;
    memcpy(&task.scale, op->op_params, sizeof(float));
    memcpy(&bias, op->op_params + 1, sizeof(float));
    memcpy(&task.cap, op->op_params + 2, sizeof(float));
    if (task.cap != 0)
        task.scale /= task.cap;
    if (bias > 0) {
        task.first_biased = 1;
        while (task.first_biased * 2 <= queries->ne[2])
            task.first_biased *= 2;
        task.bases[0] = powf(2, -bias / (float)task.first_biased);
        task.bases[1] = powf(2, -bias / 2 / (float)task.first_biased);
    }
    return task;
}

/* How many spans a token's cells are taken in, and how many of them each has but for the last. */
struct spans {
    int64_t count, length;
};

static struct spans spans_of(int64_t cells) {
    const int64_t most = (cells + SPAN - 1) / SPAN;
    const int64_t length = (most + SPANS - 1) / SPANS;
    return (struct spans){
        .count = most == 0 ? 1 : (most + length - 1) / length,
        .length = length * SPAN,
    };
}

static int64_t smaller_of(int64_t one, int64_t other) { return one < other ? one : other; }

/* A token, and how far its cells were taken. */
struct reader {
    int64_t token, seen;
    struct spans spans;
    struct cursor cursor;
};

static struct reader reader_of(const struct task *task, int64_t token) {
    const uint16_t *mask = mask_at(task, token);
    const int64_t seen = count_seen(mask, task->cells);
    return (struct reader){
        .token = token,
        .seen = seen,
        .spans = spans_of(seen),
        .cursor = cursor_at(mask, task->cells, 0),
    };
}

static void go_to(struct reader *reader, int64_t span) {
    const int64_t first = smaller_of(span * reader->spans.length, reader->seen);
    reader->cursor = cursor_at(reader->cursor.mask, reader->cursor.cells, first);
}

/* What all heads of a group come to for some tokens, over the cells of one of their spans: results
 * of tokens and of heads are so far apart. Block by block, and of a text's tokens the last first:
 * what it has brought near is what those before it see. */
static void read_span(const struct task *task, struct near *near, struct reader *readers,
                      int tokens, int64_t group, int64_t span, struct result *results,
                      int64_t tokens_apart, int64_t heads_apart) {
    int64_t left[TOKENS];
    for (int index = 0; index < tokens; index++) {
        const struct reader *reader = readers + index;
        left[index] = smaller_of(reader->seen - span * reader->spans.length, reader->spans.length);
        for (int head = 0; head < task->heads; head++)
            clear(result_at(results, index * tokens_apart + head * heads_apart, task->size),
                  task->size);
    }
    near->count = 0;
    for (bool is_done = false; !is_done;) {
        is_done = true;
        for (int index = tokens - 1; index >= 0; index--) {
            if (left[index] <= 0)
                continue;
            struct block block;
            take(&readers[index].cursor, left[index], &block);
            add_block(task, &block, near, readers[index].token, group,
                      result_at(results, index * tokens_apart, task->size), heads_apart);
            left[index] -= block.count;
            is_done = is_done && left[index] <= 0;
        }
    }
}

/* Bytes of what a thread brings near. */
static size_t near_size(const struct task *task) {
    return BLOCK * (size_t)(task->key_size + task->size) * sizeof(float);
}

/* A thread's memory for that, and what lies behind that of all threads. */
static struct near near_of(const struct ggml_compute_params *params, const struct task *task,
                           void **behind) {
    const uintptr_t first = ((uintptr_t)params->wdata + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    float *own = (float *)(first + (size_t)params->ith * near_size(task));
    *behind = (void *)(first + (size_t)params->nth * near_size(task));
    return (struct near){.keys = own, .values = own + BLOCK * task->key_size};
}

/* For how many tokens to bring cells near at once, for as many units of work as are wanted, where
 * each token makes so many. */
static int64_t tokens_together(const struct task *task, int64_t units, int64_t wanted) {
    const int64_t tokens = smaller_of(task->tokens * units / wanted, TOKENS);
    return tokens < 1 ? 1 : tokens;
}

/* What all spans of all tokens may come to. */
static int64_t span_results(const struct task *task) {
    return task->tokens * task->groups * task->heads * spans_of(task->cells).count;
}

/* Whether a token's spans are shared among threads. */
static bool is_split(const struct task *task, int threads) {
    return threads > 1 && task->tokens <= TOKENS &&
           (size_t)span_results(task) * result_size(task->size) <= ROOM;
}

/* Each thread takes some spans of each group. */
static void share_spans(const struct ggml_compute_params *params, const struct task *task) {
    const int64_t all = task->groups * task->heads, room = spans_of(task->cells).count;
    void *results;
    struct near near = near_of(params, task, &results);
    struct reader readers[TOKENS];
    int64_t most = 0;
    for (int64_t token = 0; token < task->tokens; token++) {
        readers[token] = reader_of(task, token);
        if (readers[token].spans.count > most)
            most = readers[token].spans.count;
    }
    const int64_t wanted = UNITS * params->nth, parts = smaller_of(most, wanted);
    const int64_t together = tokens_together(task, task->groups * parts, wanted);
    const int64_t sets = (task->tokens + together - 1) / together;
    for (int64_t unit = params->ith; unit < task->groups * parts * sets; unit += params->nth) {
        const int64_t group = unit / sets / parts, part = unit / sets % parts;
        const int64_t token = unit % sets * together;
        const int tokens = (int)smaller_of(together, task->tokens - token);
        const int64_t first = most * part / parts, end = most * (part + 1) / parts;
        for (int index = 0; index < tokens; index++)
            go_to(readers + token + index, first);
        for (int64_t span = first; span < end; span++) {
            const int64_t index = (token * all + group * task->heads) * room + span;
            read_span(task, &near, readers + token, tokens, group, span,
                      result_at(results, index, task->size), all * room, room);
        }
    }
    ggml_barrier(params->threadpool);
    for (int64_t index = params->ith; index < task->tokens * all; index += params->nth) {
        struct result *result = result_at(results, index * room, task->size);
        for (int64_t span = 1; span < readers[index / all].spans.count; span++)
            unite(result, result_at(results, index * room + span, task->size), task->size);
        write_result(task, index / all, index % all, result);
    }
}

/* Each thread takes some tokens of a group, whenever it is done with others. */
static void share_tokens(const struct ggml_compute_params *params, const struct task *task) {
    if (params->ith == 0)
        ggml_threadpool_chunk_set(params->threadpool, 0);
    ggml_barrier(params->threadpool);
    const int size = task->size, heads = task->heads;
    void *results;
    struct near near = near_of(params, task, &results);
    struct result *whole = result_at(results, 2 * TOKENS * params->ith * heads, size);
    struct result *more = result_at(whole, TOKENS * heads, size);
    const int64_t together = tokens_together(task, task->groups, UNITS * params->nth);
    const int64_t parts = (task->tokens + together - 1) / together;
    for (;;) {
        const int64_t unit = ggml_threadpool_chunk_add(params->threadpool, 1);
        if (unit >= task->groups * parts)
            return;
        const int64_t group = unit / parts, first = unit % parts * together;
        const int tokens = (int)smaller_of(together, task->tokens - first);
        struct reader readers[TOKENS];
        int64_t most = 0;
        for (int index = 0; index < tokens; index++) {
            readers[index] = reader_of(task, first + index);
            if (readers[index].spans.count > most)
                most = readers[index].spans.count;
        }
        read_span(task, &near, readers, tokens, group, 0, whole, heads, 1);
        for (int64_t span = 1; span < most; span++) {
            read_span(task, &near, readers, tokens, group, span, more, heads, 1);
            for (int index = 0; index < tokens * heads; index++)
                unite(result_at(whole, index, size), result_at(more, index, size), size);
        }
        for (int index = 0; index < tokens * heads; index++)
            write_result(task, first + index / heads, group * heads + index % heads,
                         result_at(whole, index, size));
    }
}

static bool is_rows(const struct ggml_tensor *tensor, enum ggml_type type) {
    return tensor->type == type && tensor->nb[0] == ggml_type_size(type) &&
           tensor->ne[0] % PARTS == 0;
}

bool is_attention(const struct ggml_tensor *op) {
    if (op->op != GGML_OP_FLASH_ATTN_EXT)
        return false;
    const struct ggml_tensor *queries = op->src[0], *keys = op->src[1], *values = op->src[2],
                             *mask = op->src[3];
    return is_rows(queries, GGML_TYPE_F32) && is_rows(keys, GGML_TYPE_F16) &&
           is_rows(values, GGML_TYPE_F16) && queries->ne[2] % keys->ne[2] == 0 &&
           values->ne[2] == keys->ne[2] && keys->ne[3] == queries->ne[3] &&
           values->ne[3] == queries->ne[3] &&
           (mask == NULL || (mask->ne[2] == 1 && mask->nb[0] == sizeof(uint16_t)));
}

size_t attention_size(const struct ggml_tensor *op, int threads) {
    const struct task task = task_of(op);
    const int64_t of_threads = 2 * TOKENS * task.heads * threads, of_spans = span_results(&task);
    /* Fewer threads may come than were planned with, and share differently. */
    const bool is_more = is_split(&task, threads) && of_spans > of_threads;
    return ALIGNMENT + (size_t)threads * near_size(&task) +
           (size_t)(is_more ? of_spans : of_threads) * result_size(task.size);
}

void attend(const struct ggml_compute_params *params, struct ggml_tensor *op) {
    const struct task task = task_of(op);
    if (is_split(&task, params->nth))
        share_spans(params, &task);
    else
        share_tokens(params, &task);
}

#else

bool is_attention(const struct ggml_tensor *op) {
    (void)op;
    return false;
}

size_t attention_size(const struct ggml_tensor *op, int threads) {
    (void)op, (void)threads;
    return 0;
}

void attend(const struct ggml_compute_params *params, struct ggml_tensor *op) {
    (void)params, (void)op;
}

#endif
