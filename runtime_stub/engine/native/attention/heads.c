/* What the heads of a token pay attention to.
 *
 * The greatest score is not known before all cells were seen: what was summed up until then is
 * scaled down when it grows (Milakov and Gimelshein, https://arxiv.org/abs/1805.02867).
 */
#include "heads.h"

#ifdef __AVX2__

#include <float.h>
#include <math.h>
#include <string.h>

#include "sixteen.h"

/* What the registers hold: heads; cells whose scores are computed, or parts of a head's values. */
#ifdef __AVX512F__
enum { HEADS = 4, ABREAST = 4 };
#else
enum { HEADS = 2, ABREAST = 2 };
#endif

void clear(struct result *result, int size) {
    memset(result, 0, result_size(size));
    result->greatest = -INFINITY;
}

/* Where keys or values of a group begin. */
static const char *group_at(const struct ggml_tensor *tensor, int64_t sequence, int64_t group) {
    return (const char *)tensor->data + (size_t)group * tensor->nb[2] +
           (size_t)sequence * tensor->nb[3];
}

static const float *query_at(const struct task *task, int64_t token, int64_t head) {
    const struct ggml_tensor *queries = task->queries;
    return (const float *)((const char *)queries->data +
                           (size_t)(token % queries->ne[1]) * queries->nb[1] +
                           (size_t)head * queries->nb[2] +
                           (size_t)(token / queries->ne[1]) * queries->nb[3]);
}

static void widen(const char *from, int size, float *to) {
    for (int part = 0; part < size; part += SIXTEEN)
        store(to + part, load_halves((const uint16_t *)from + part));
}

static void fetch(const char *from, int size) {
    for (int first = 0; first < 2 * size; first += 64)
        _mm_prefetch(from + first, _MM_HINT_T0);
}

/* Where the block's cells begin among those that are near. Tokens of a text see the same ones but
 * for the last, or for the first and the last: what is missing comes behind the others. */
static int bring(const struct task *task, const struct block *block, int64_t sequence,
                 int64_t group, struct near *near) {
    int first = 0;
    if (near->sequence != sequence)
        near->count = 0;
    while (first < near->count && near->cells[first] != block->cells[0])
        first++;
    const int same = near->count - first < block->count ? near->count - first : block->count;
    if (first + block->count > NEAR - SIXTEEN ||
        memcmp(near->cells + first, block->cells, (size_t)same * sizeof *block->cells) != 0)
        first = near->count = 0;
    const char *keys = group_at(task->keys, sequence, group);
    const char *values = group_at(task->values, sequence, group);
    const int end = first + block->count;
    for (int place = near->count; place < end; place++) {
        const int index = place - first;
        const size_t cell = (size_t)block->cells[index];
        if (index + AHEAD < block->known) {
            const size_t soon = (size_t)block->cells[index + AHEAD];
            fetch(keys + soon * task->keys->nb[1], task->key_size);
            fetch(values + soon * task->values->nb[1], task->size);
        }
        widen(keys + cell * task->keys->nb[1], task->key_size, near->keys + place * task->key_size);
        widen(values + cell * task->values->nb[1], task->size, near->values + place * task->size);
        near->cells[place] = block->cells[index];
    }
    if (near->count < end) {
        near->count = end;
        near->sequence = sequence;
        /* Scores are computed of sixteen cells, be there fewer: not of what makes it slow. */
        memset(near->keys + end * task->key_size, 0,
               (size_t)(-block->count & (SIXTEEN - 1)) * (size_t)task->key_size * sizeof(float));
    }
    return first;
}

/* What the mask's values are multiplied with for a head (ALiBi: https://arxiv.org/abs/2108.12409). */
static float slope_of(const struct task *task, int64_t head) {
    if (task->bases[0] == 0)
        return 1;
    return head < task->first_biased
               ? powf(task->bases[0], (float)(head + 1))
               : powf(task->bases[1], (float)(2 * (head - task->first_biased) + 1));
}

static float power(float value) {
    return value == 0 ? 1 : _mm256_cvtss_f32(lower(exponential(each(value))));
}

/* tanh(x) = 1 - 2 / (e^2x + 1) */
INLINE sixteen hyperbolic_tangent(sixteen values) {
    const sixteen power = exponential(add(values, values));
    return subtract(each(1), divide(each(2), add(power, each(1))));
}

/* How well each cell's key fits the queries of some heads. */
INLINE void score(int heads, int size, const float *all_keys, int count,
                  const float *const *queries, float scores[HEADS][BLOCK]) {
    for (int first = 0; first < count; first += SIXTEEN) {
        sixteen products[HEADS][SIXTEEN];
        for (int cell = 0; cell < SIXTEEN; cell += ABREAST) {
            const float *keys = all_keys + (first + cell) * size;
            sixteen sums[HEADS][ABREAST];
            UNROLL for (int head = 0; head < heads; head++)
                UNROLL for (int next = 0; next < ABREAST; next++)
                    sums[head][next] = each(0);
            for (int part = 0; part < size; part += SIXTEEN) {
                sixteen own[ABREAST];
                UNROLL for (int next = 0; next < ABREAST; next++)
                    own[next] = hold(keys + next * size + part);
                UNROLL for (int head = 0; head < heads; head++) {
                    const sixteen query = hold(queries[head] + part);
                    UNROLL for (int next = 0; next < ABREAST; next++)
                        sums[head][next] = add_product(own[next], query, sums[head][next]);
                }
            }
            UNROLL for (int head = 0; head < heads; head++)
                UNROLL for (int next = 0; next < ABREAST; next++)
                    products[head][cell + next] = sums[head][next];
        }
        UNROLL for (int head = 0; head < heads; head++)
            store(scores[head] + first, sums_of(products[head]));
    }
}

/* Turn scores of some heads into weights, and add these up. Tells for each what its sums until now
 * must be multiplied with. */
INLINE void weigh(int heads, const struct task *task, const struct block *block, int64_t first,
                  float scores[HEADS][BLOCK], struct result *const *results, float *factors) {
    sixteen most[HEADS], sums[HEADS];
    UNROLL for (int head = 0; head < heads; head++) {
        const float slope = block->is_biased ? slope_of(task, first + head) : 0;
        most[head] = each(results[head]->greatest);
        for (int cell = 0; cell < block->count; cell += SIXTEEN) {
            sixteen values = multiply(load(scores[head] + cell), each(task->scale));
            if (task->cap != 0)
                values = multiply(hyperbolic_tangent(values), each(task->cap));
            if (block->is_biased)
                values = add_product(load(block->biases + cell), each(slope), values);
            if (block->count - cell < SIXTEEN)
                values = first_of(block->count - cell, values, each(-INFINITY));
            most[head] = larger(most[head], values);
            store(scores[head] + cell, values);
        }
    }
    float greatest[HEADS];
    UNROLL for (int head = 0; head < heads; head++) {
        /* Weights of scores that are all infinitely small are zero. */
        greatest[head] = largest_of(larger(each(-FLT_MAX), most[head]));
        sums[head] = each(0);
    }
    for (int cell = 0; cell < block->count; cell += SIXTEEN)
        UNROLL for (int head = 0; head < heads; head++) {
            const sixteen score = subtract(load(scores[head] + cell), each(greatest[head]));
            const sixteen weights = exponential(score);
            sums[head] = add(sums[head], weights);
            store(scores[head] + cell, weights);
        }
    UNROLL for (int head = 0; head < heads; head++) {
        struct result *result = results[head];
        factors[head] = power(result->greatest - greatest[head]);
        result->greatest = greatest[head];
        result->sum = result->sum * factors[head] + sum_of(sums[head]);
    }
}

/* Add some numbers of each cell's values, by its weight for some heads, to a factor of what these
 * come to. */
INLINE void add_values(int heads, int abreast, const float *values, int size, int count,
                       float weights[HEADS][BLOCK], const float *factors, float *const *to) {
    sixteen sums[HEADS][ABREAST];
    UNROLL for (int head = 0; head < heads; head++)
        UNROLL for (int part = 0; part < abreast; part++)
            sums[head][part] = multiply(load(to[head] + part * SIXTEEN), each(factors[head]));
    for (int cell = 0; cell < count; cell++, values += size) {
        sixteen parts[ABREAST];
        UNROLL for (int part = 0; part < abreast; part++)
            parts[part] = hold(values + part * SIXTEEN);
        UNROLL for (int head = 0; head < heads; head++) {
            const sixteen weight = each(weights[head][cell]);
            UNROLL for (int part = 0; part < abreast; part++)
                sums[head][part] = add_product(parts[part], weight, sums[head][part]);
        }
    }
    UNROLL for (int head = 0; head < heads; head++)
        UNROLL for (int part = 0; part < abreast; part++)
            store(to[head] + part * SIXTEEN, sums[head][part]);
}

INLINE void add_heads(int heads, const struct task *task, const struct block *block,
                      const float *keys, const float *values, int64_t token, int64_t first,
                      struct result *results, int64_t apart) {
    float scores[HEADS][BLOCK], factors[HEADS], *to[HEADS];
    const float *queries[HEADS];
    struct result *own[HEADS];
    UNROLL for (int head = 0; head < heads; head++) {
        queries[head] = query_at(task, token, first + head);
        own[head] = result_at(results, head * apart, task->size);
        to[head] = own[head]->values;
    }
    score(heads, task->key_size, keys, block->count, queries, scores);
    weigh(heads, task, block, first, scores, own, factors);
    for (int place = 0; place < task->size;) {
        const bool is_many = place + ABREAST * SIXTEEN <= task->size;
        if (is_many)
            add_values(heads, ABREAST, values + place, task->size, block->count, scores, factors, to);
        else
            add_values(heads, 1, values + place, task->size, block->count, scores, factors, to);
        const int done = (is_many ? ABREAST : 1) * SIXTEEN;
        place += done;
        UNROLL for (int head = 0; head < heads; head++)
            to[head] += done;
    }
}

void add_block(const struct task *task, const struct block *block, struct near *near, int64_t token,
               int64_t first, int heads, struct result *results, int64_t apart) {
    const int place =
        bring(task, block, token / task->queries->ne[1], first / task->heads, near);
    const float *keys = near->keys + place * task->key_size;
    const float *values = near->values + place * task->size;
    for (int head = 0; head < heads; head += HEADS) {
        const int64_t own = first + head;
        struct result *some = result_at(results, head * apart, task->size);
        switch (heads - head) {
            case 1: add_heads(1, task, block, keys, values, token, own, some, apart); break;
#ifdef __AVX512F__
            case 2: add_heads(2, task, block, keys, values, token, own, some, apart); break;
            case 3: add_heads(3, task, block, keys, values, token, own, some, apart); break;
#endif
            default: add_heads(HEADS, task, block, keys, values, token, own, some, apart);
        }
    }
}

void unite(struct result *one, const struct result *other, int size) {
    if (other->sum == 0)
        return;
    const float greatest = one->greatest > other->greatest ? one->greatest : other->greatest;
    const float own = power(one->greatest - greatest), new = power(other->greatest - greatest);
    one->greatest = greatest;
    one->sum = one->sum * own + other->sum * new;
    for (int first = 0; first < size; first += SIXTEEN)
        store(one->values + first, add_product(load(other->values + first), each(new),
                                               multiply(load(one->values + first), each(own))));
}

void write_result(const struct task *task, int64_t token, int64_t head,
                  const struct result *result) {
    float own = 1, sum = result->sum;
    if (task->sinks != NULL) {
        /* A score that no value belongs to: what the head pays to nothing. */
        const float sink = ((const float *)task->sinks->data)[head];
        const float greatest = result->greatest > sink ? result->greatest : sink;
        own = power(result->greatest - greatest);
        sum = sum * own + power(sink - greatest);
    }
    const sixteen factor = each(sum == 0 ? 0 : own / sum);
    float *to = task->to + (token * task->groups * task->heads + head) * task->size;
    for (int first = 0; first < task->size; first += SIXTEEN)
        store(to + first, multiply(load(result->values + first), factor));
}

#endif
