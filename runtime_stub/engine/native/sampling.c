/* Linked into libllama when it is built: chooses a token without looking at every one of them
 * more than once.
 *
 * llama.cpp's samplers take a table of all tokens, twelve bytes each, made anew for every token
 * that is generated, although the first thing that most chains of samplers do is to leave the
 * 40 likeliest. Here those are found first, and only they are shown to the chain: the same
 * tokens, in the same order, so that it chooses as it would have. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "llama.h"

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { MOST = 128, BLOCK = 64 };

/* Put a token where it belongs in a list that falls from the likeliest on; of equals, the one
 * that came first stays first. The last of a full list drops out. */
static int32_t insert(llama_token_data *list, int32_t count, int32_t most, int32_t id, float logit) {
    int32_t place = count < most ? count : most - 1;
    for (; place > 0 && list[place - 1].logit < logit; place--)
        list[place] = list[place - 1];
    list[place] = (llama_token_data){id, logit, 0.0f};
    return count < most ? count + 1 : most;
}

static int32_t likeliest(const float *logits, int32_t size, llama_token_data *list, int32_t most) {
    int32_t count = 0;
    float least = -INFINITY;
    for (int32_t first = 0; first < size; first += BLOCK) {
        const int32_t end = size - first < BLOCK ? size : first + BLOCK;
        /* Nearly every block holds nothing of interest: this loop is the one that counts, and
         * compilers make it compare several at once. */
        int above = 0;
        for (int32_t id = first; id < end; id++)
            above |= logits[id] > least;
        if (!above)
            continue;
        for (int32_t id = first; id < end; id++) {
            if (!(logits[id] > least))
                continue;
            count = insert(list, count, most, id, logits[id]);
            if (count == most)
                least = list[most - 1].logit;
        }
    }
    return count;
}

/* How a token is chosen: by `chain` among the `most` (up to 128) likeliest, with `bias` added to
 * the logits of the `biased` tokens. */
struct satchel_choice {
    struct llama_sampler *chain;
    const int32_t *biased;
    const float *bias;
    int32_t biases;
    int32_t most;
};

/* Choose a token after place `index` of the batch. The chain is not told what was chosen. Returns
 * -1 where no token has a chance, or the place has no logits. */
EXPORT int32_t satchel_choose_token(const struct satchel_choice *choice,
                                    struct llama_context *context, int32_t index);

EXPORT int32_t satchel_choose_token(const struct satchel_choice *choice,
                                    struct llama_context *context, int32_t index) {
    llama_token_data list[MOST];
    const int32_t biases = choice->biases;
    float *logits = llama_get_logits_ith(context, index);
    if (logits == NULL || choice->most < 1 || choice->most > MOST)
        return -1;
    const struct llama_vocab *vocabulary = llama_model_get_vocab(llama_get_model(context));
    const int32_t size = llama_vocab_n_tokens(vocabulary);

    /* Other choices may start from the same logits: what is added is taken back exactly. */
    float *unbiased = biases > 0 ? malloc((size_t)biases * sizeof *unbiased) : NULL;
    if (biases > 0 && unbiased == NULL)
        return -1;
    for (int32_t place = 0; place < biases; place++) {
        unbiased[place] = logits[choice->biased[place]];
        logits[choice->biased[place]] += choice->bias[place];
    }
    const int32_t count = likeliest(logits, size, list, choice->most);
    for (int32_t place = biases; place-- > 0;)
        logits[choice->biased[place]] = unbiased[place];
    free(unbiased);
    if (count == 0)
        return -1;

    llama_token_data_array array = {list, (size_t)count, -1, true};
    llama_sampler_apply(choice->chain, &array);
    if (array.selected < 0 || (size_t)array.selected >= array.size)
        return -1;
    return array.data[array.selected].id;
}

/* Compute the batch; where that succeeds, and a place of it has one of `choices`, put the token
 * that follows it into `chosen`. Returns what llama_decode does.
 *
 * At once and in one call: what has just been computed is near, and so is the code. Anything done
 * in between has to be fetched from memory, which takes longer than doing it. */
EXPORT int32_t satchel_decode(struct llama_context *context, const struct llama_batch *batch,
                              const struct satchel_choice *const *choices, int32_t *chosen);

EXPORT int32_t satchel_decode(struct llama_context *context, const struct llama_batch *batch,
                              const struct satchel_choice *const *choices, int32_t *chosen) {
    const int32_t result = llama_decode(context, *batch);
    for (int32_t index = 0; result == 0 && index < batch->n_tokens; index++)
        if (choices[index] != NULL)
            chosen[index] = satchel_choose_token(choices[index], context, index);
    return result;
}
