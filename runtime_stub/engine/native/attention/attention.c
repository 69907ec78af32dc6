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
#include "numbers.h"
#include "reader.h"

enum {
    /* Tokens that cells are brought near for at once, at most. */
    TOKENS = 16,
    /* Units of work for each thread: they are not all alike. */
    UNITS = 8,
    /* Heads of a group that are computed together even if there are too few units. */
    FEWEST_HEADS = 4,
    /* Bytes of what spans come to until they are added up, at most: of all threads, where these
     * share spans, and of one, where they share tokens. */
    ROOM = 32 << 20,
    OWN_ROOM = 1 << 20,
    ALIGNMENT = 64,
    /* Keys and values have a multiple of so many numbers. */
    PARTS = 16,
};

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

/* Heads that are computed together, of one group. */
struct heads {
    int64_t first;
    int count;
};

/* How to cut the work of all heads into as many pieces as are wanted, or as there can be. */
struct cut {
    int heads;      /* of a group that stay together: all, or some */
    int64_t pieces; /* of a group */
};

static struct cut cut_for(const struct task *task, int64_t wanted) {
    if (task->groups >= wanted || task->heads <= FEWEST_HEADS)
        return (struct cut){.heads = task->heads, .pieces = 1};
    return (struct cut){
        .heads = FEWEST_HEADS,
        .pieces = (task->heads + FEWEST_HEADS - 1) / FEWEST_HEADS,
    };
}

static struct heads piece_of(const struct task *task, struct cut cut, int64_t index) {
    const int64_t group = index / cut.pieces, first = index % cut.pieces * cut.heads;
    return (struct heads){
        .first = group * task->heads + first,
        .count = (int)smaller_of(cut.heads, task->heads - first),
    };
}

/* What some heads come to for some tokens, over the next span of each, and where it ends: results
 * of tokens and of heads are so far apart. Block by block: tokens of a text see nearly the same
 * cells, which are near then. */
static void read_span(const struct task *task, struct near *near, const struct reader *readers,
                      int tokens, struct heads heads, struct result *results,
                      int64_t tokens_apart, int64_t heads_apart, struct cursor *ends) {
    int64_t left[TOKENS];
    for (int index = 0; index < tokens; index++) {
        ends[index] = readers[index].cursor;
        left[index] = cells_of(readers + index);
        for (int head = 0; head < heads.count; head++)
            clear(result_at(results, index * tokens_apart + head * heads_apart, task->size),
                  task->size);
    }
    near->count = 0;
    for (bool is_done = false; !is_done;) {
        is_done = true;
        for (int index = 0; index < tokens; index++) {
            if (left[index] == 0)
                continue;
            struct block block;
            take(ends + index, left[index], &block);
            add_block(task, &block, near, readers[index].token, heads.first, heads.count,
                      result_at(results, index * tokens_apart, task->size), heads_apart);
            left[index] -= block.count;
            is_done = is_done && left[index] == 0;
        }
    }
}

/* Go on to the next span. */
static void go_on(struct reader *readers, int tokens, const struct cursor *ends) {
    for (int index = 0; index < tokens; index++) {
        readers[index].cursor = ends[index];
        readers[index].span++;
    }
}

/* Bytes of what a thread brings near. */
static size_t near_size(const struct task *task) {
    return NEAR * (size_t)(task->key_size + task->size) * sizeof(float);
}

/* A thread's memory for that, and what lies behind that of all threads. */
static struct near near_of(const struct ggml_compute_params *params, const struct task *task,
                           void **behind) {
    const uintptr_t first = ((uintptr_t)params->wdata + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    float *own = (float *)(first + (size_t)params->ith * near_size(task));
    *behind = (void *)(first + (size_t)params->nth * near_size(task));
    return (struct near){.keys = own, .values = own + NEAR * task->key_size};
}

/* For how many tokens to bring cells near at once, for as many units of work as are wanted, where
 * each token makes so many. */
static int64_t tokens_together(const struct task *task, int64_t units, int64_t wanted) {
    return larger_of(1, smaller_of(task->tokens * units / wanted, TOKENS));
}

/* For how many a thread has room that shares tokens. */
static int64_t tokens_of_thread(const struct task *task) {
    const int64_t room = OWN_ROOM / (int64_t)(2 * (size_t)task->heads * result_size(task->size));
    return larger_of(1, smaller_of(smaller_of(TOKENS, task->tokens), room));
}

/* What all spans of all tokens may come to. */
static int64_t span_results(const struct task *task) {
    return task->tokens * task->groups * task->heads * most_spans(task->cells);
}

/* Whether threads share the spans of tokens. */
static bool is_split(const struct task *task, int threads) {
    return threads > 1 && task->tokens <= TOKENS &&
           (size_t)span_results(task) * result_size(task->size) <= ROOM;
}

/* Each thread takes some spans. */
static void share_spans(const struct ggml_compute_params *params, const struct task *task) {
    const int64_t all = task->groups * task->heads, room = most_spans(task->cells);
    void *results;
    struct near near = near_of(params, task, &results);
    struct reader readers[TOKENS];
    int64_t most = 0;
    for (int64_t token = 0; token < task->tokens; token++) {
        readers[token] = reader_of(task, token);
        most = larger_of(most, readers[token].spans.count);
    }
    const int64_t wanted = UNITS * params->nth, parts = smaller_of(most, wanted);
    const int64_t together = tokens_together(task, task->groups * parts, wanted);
    const int64_t sets = (task->tokens + together - 1) / together;
    const struct cut cut = cut_for(task, wanted / (sets * parts));
    /* A cell's groups lie side by side: best one thread reads them all, if enough is left for
     * the others. */
    const int64_t pieces = task->groups * cut.pieces;
    const int64_t bundles = 2 * sets * parts < wanted ? pieces : 1;
    const int64_t bundle = pieces / bundles;
    for (int64_t unit = params->ith; unit < bundles * parts * sets; unit += params->nth) {
        const int64_t part = unit / bundles % parts, token = unit / bundles / parts * together;
        const int tokens = (int)smaller_of(together, task->tokens - token);
        const int64_t first = most * part / parts, end = most * (part + 1) / parts;
        struct reader *own = readers + token;
        struct cursor ends[TOKENS];
        for (int index = 0; index < tokens; index++)
            go_to(own + index, first);
        for (int64_t span = first; span < end; span++, go_on(own, tokens, ends))
            for (int64_t index = 0; index < bundle; index++) {
                const struct heads heads = piece_of(task, cut, unit % bundles * bundle + index);
                const int64_t place = (token * all + heads.first) * room + span;
                read_span(task, &near, own, tokens, heads, result_at(results, place, task->size),
                          all * room, room, ends);
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

/* Each thread takes some tokens, whenever it is done with others. */
static void share_tokens(const struct ggml_compute_params *params, const struct task *task) {
    if (params->ith == 0)
        ggml_threadpool_chunk_set(params->threadpool, 0);
    ggml_barrier(params->threadpool);
    const int size = task->size;
    const int64_t room = tokens_of_thread(task) * task->heads;
    void *results;
    struct near near = near_of(params, task, &results);
    struct result *whole = result_at(results, 2 * params->ith * room, size);
    struct result *more = result_at(whole, room, size);
    const int64_t wanted = UNITS * params->nth;
    const int64_t together = smaller_of(tokens_together(task, task->groups, wanted),
                                        tokens_of_thread(task));
    const int64_t sets = (task->tokens + together - 1) / together;
    const struct cut cut = cut_for(task, wanted / sets);
    for (;;) {
        const int64_t unit = ggml_threadpool_chunk_add(params->threadpool, 1);
        if (unit >= sets * task->groups * cut.pieces)
            return;
        const struct heads heads = piece_of(task, cut, unit / sets);
        /* The last tokens of a text take longest: nobody is to wait for them at the end. */
        const int64_t first = (sets - 1 - unit % sets) * together;
        const int tokens = (int)smaller_of(together, task->tokens - first);
        struct reader readers[TOKENS];
        int64_t most = 0;
        for (int index = 0; index < tokens; index++) {
            readers[index] = reader_of(task, first + index);
            most = larger_of(most, readers[index].spans.count);
        }
        struct cursor ends[TOKENS];
        read_span(task, &near, readers, tokens, heads, whole, heads.count, 1, ends);
        for (int64_t span = 1; span < most; span++) {
            go_on(readers, tokens, ends);
            read_span(task, &near, readers, tokens, heads, more, heads.count, 1, ends);
            for (int index = 0; index < tokens * heads.count; index++)
                unite(result_at(whole, index, size), result_at(more, index, size), size);
        }
        for (int index = 0; index < tokens * heads.count; index++)
            write_result(task, first + index / heads.count, heads.first + index % heads.count,
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
    const int64_t of_threads = 2 * tokens_of_thread(&task) * task.heads * threads;
    /* Fewer threads may come than were planned with, and share differently. */
    const int64_t of_spans = is_split(&task, threads) ? span_results(&task) : 0;
    return ALIGNMENT + (size_t)threads * near_size(&task) +
           (size_t)larger_of(of_threads, of_spans) * result_size(task.size);
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
