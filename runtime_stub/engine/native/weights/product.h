/* The operations that know interleaved weights: products with states, and the reading of rows. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "ggml-cpu-impl.h"

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* Whether `op` is about interleaved weights. Ends the process where it takes them as an operand
 * that must not be: a mistake of ours, after which only wrong numbers could come. */
bool is_of_interleaved(const struct ggml_tensor *op);

/* Bytes of memory that this takes with so many threads. */
size_t interleaved_size(const struct ggml_tensor *op, int threads);

/* Compute the part of it that falls to the calling thread. */
void compute_interleaved(const struct ggml_compute_params *params, struct ggml_tensor *op);

#pragma GCC visibility pop
