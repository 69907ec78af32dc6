/* Operations on interleaved weights, shared out among threads. */
#include "product.h"

#include "interleaving.h"
#include "multiply.h"

/* States so few and short that each thread prepares all of them for itself, in less time than
 * threads take to wait for each other. */
#define FEW (4 * 4096)
/* Bytes of states that are multiplied with some weights before others are looked at: they and the
 * weights of a group should stay in a core's own cache. */
#define NEAR (192 * 1024)
/* Portions for each thread, taken when done with the last: one may be slower than others. */
#define PORTIONS 8

struct states {
    size_t count, blocks;
};

static struct states states_of(const struct ggml_tensor *op) {
    const struct ggml_tensor *states = op->src[1];
    return (struct states){
        .count = (size_t)(states->ne[1] * states->ne[2] * states->ne[3]),
        .blocks = (size_t)states->ne[0] / COLUMNS,
    };
}

static bool are_few(struct states states) { return states.count * states.blocks * COLUMNS <= FEW; }

static const float *state_at(const struct ggml_tensor *states, size_t index) {
    const size_t first = (size_t)states->ne[1], second = (size_t)states->ne[2];
    return (const float *)((const char *)states->data + index % first * states->nb[1] +
                           index / first % second * states->nb[2] +
                           index / first / second * states->nb[3]);
}

/* Products of the groups of rows from `first` to `end` with all states. */
static void multiply_groups(const struct ggml_tensor *op, struct states states,
                            const struct block *blocks, int64_t first, int64_t end) {
    const struct ggml_tensor *weights = op->src[0];
    const struct format *format = format_of(weights->type);
    const size_t stride = op->nb[1], near = NEAR / (states.blocks * sizeof(struct block));
    const size_t portion = near < 8 ? 8 : near / 8 * 8;
    for (size_t state = 0; state < states.count; state += portion) {
        const size_t left = states.count - state;
        for (int64_t group = first; group < end; group++)
            multiply(format, (const uint8_t *)weights->data + group * ROWS * weights->nb[1],
                     states.blocks, blocks + state * states.blocks, left < portion ? left : portion,
                     (char *)op->data + group * ROWS * sizeof(float) + state * stride, stride);
    }
}

static void matrix_product(const struct ggml_compute_params *params, struct ggml_tensor *op) {
    const struct ggml_tensor *weights = op->src[0], *states = op->src[1];
    GGML_ASSERT(states->type == GGML_TYPE_F32 && states->nb[0] == sizeof(float));
    GGML_ASSERT(op->type == GGML_TYPE_F32 && ggml_is_contiguous(op));
    const struct format *format = format_of(weights->type);
    const struct states shape = states_of(op);
    const int64_t groups = weights->ne[1] / ROWS, threads = params->nth;
    struct block *blocks = params->wdata;
    if (are_few(shape)) {
        blocks += (size_t)params->ith * shape.count * shape.blocks;
        for (size_t state = 0; state < shape.count; state++)
            quantize(format, state_at(states, state), shape.blocks, blocks + state * shape.blocks);
        multiply_groups(op, shape, blocks, groups * params->ith / threads,
                        groups * (params->ith + 1) / threads);
        return;
    }
    for (size_t state = (size_t)params->ith; state < shape.count; state += (size_t)threads)
        quantize(format, state_at(states, state), shape.blocks, blocks + state * shape.blocks);
    if (params->ith == 0)
        ggml_threadpool_chunk_set(params->threadpool, 0);
    ggml_barrier(params->threadpool);
    const int64_t portions = groups < threads * PORTIONS ? groups : threads * PORTIONS;
    for (;;) {
        const int64_t portion = ggml_threadpool_chunk_add(params->threadpool, 1);
        if (portion >= portions)
            return;
        multiply_groups(op, shape, blocks, groups * portion / portions,
                        groups * (portion + 1) / portions);
    }
}

static void rows_by_number(const struct ggml_compute_params *params, struct ggml_tensor *op) {
    const struct ggml_tensor *weights = op->src[0], *numbers = op->src[1];
    GGML_ASSERT(numbers->type == GGML_TYPE_I32 && ggml_is_contiguous(numbers));
    GGML_ASSERT(op->type == GGML_TYPE_F32 && ggml_is_contiguous(op));
    for (int64_t index = params->ith; index < ggml_nelements(numbers); index += params->nth) {
        const int32_t row = ((const int32_t *)numbers->data)[index];
        GGML_ASSERT(row >= 0 && row < weights->ne[1]);
        read_row(weights, row, (float *)op->data + index * weights->ne[0]);
    }
}

bool is_of_interleaved(const struct ggml_tensor *op) {
    if (op->src[0] != NULL && is_interleaved(op->src[0]))
        return true;
    for (int source = 0; source < GGML_MAX_SRC && op->src[source] != NULL; source++) {
        const struct ggml_tensor *tensor = op->src[source];
        GGML_ASSERT(!is_interleaved(tensor) &&
                    !(tensor->view_src != NULL && is_interleaved(tensor->view_src)));
    }
    return false;
}

size_t interleaved_size(const struct ggml_tensor *op, int threads) {
    if (op->op != GGML_OP_MUL_MAT)
        return 0;
    const struct states states = states_of(op);
    const size_t size = states.count * states.blocks * sizeof(struct block);
    return are_few(states) ? size * (size_t)threads : size;
}

void compute_interleaved(const struct ggml_compute_params *params, struct ggml_tensor *op) {
    if (op->op == GGML_OP_MUL_MAT)
        matrix_product(params, op);
    else if (op->op == GGML_OP_GET_ROWS)
        rows_by_number(params, op);
    else
        GGML_ABORT("%s of interleaved weights", ggml_op_name(op->op));
}

static bool can_interleave(const struct ggml_tensor *weights) {
    /* A row is whole blocks in any case. */
    return multiplies() && format_of(weights->type) != NULL && weights->extra == NULL &&
           weights->ne[1] % ROWS == 0 && weights->ne[2] == 1 && weights->ne[3] == 1 &&
           ggml_is_contiguous(weights);
}

static void interleave_to(const struct ggml_tensor *weights, void *to) {
    interleave(weights, format_of(weights->type), to);
}

static void mark(struct ggml_tensor *weights) { weights->extra = &interleaved; }

__attribute__((visibility("default"))) const struct satchel_interleaving satchel_interleaving = {
    .can = can_interleave,
    .write = interleave_to,
    .mark = mark,
};
