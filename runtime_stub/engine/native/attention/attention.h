/* Attention of tokens over the cells of the cache, in the place of ggml's own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "ggml-cpu-impl.h"

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* Whether `op` is attention of a kind that is computed here. */
bool is_attention(const struct ggml_tensor *op);

/* Bytes of memory that this takes with so many threads. */
size_t attention_size(const struct ggml_tensor *op, int threads);

/* Compute the part of it that falls to the calling thread. */
void attend(const struct ggml_compute_params *params, struct ggml_tensor *op);

#pragma GCC visibility pop
