/* What each of ggml's builds for a kind of processor offers (product.c), for all weights of a model
 * to be interleaved (model.cpp). */
#pragma once

#include <stdbool.h>

#include "ggml.h"

struct satchel_interleaving {
    /* Whether this processor gains by `weights` being interleaved, and they are not. */
    bool (*can)(const struct ggml_tensor *weights);
    /* Write them to `to`, as many bytes as they have. */
    void (*write)(const struct ggml_tensor *weights, void *to);
    /* Say that they are, which the operations of a graph look at. */
    void (*mark)(struct ggml_tensor *weights);
};
