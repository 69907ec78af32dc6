/* A core for each thread that computes. */
#pragma once

#include <stdint.h>

enum { MOST_CPUS = 1024 };

struct cpus {
    uint64_t bits[MOST_CPUS / 64];
};

/* What each library for a kind of processor is told before it computes anything, under the name
 * `satchel_cores`. */
struct satchel_cores {
    struct cpus all; /* that this process may use */
    int32_t count;   /* of cores; 0 to leave threads to the kernel */
    const struct cpus *each;
};

/* For this library alone: names as plain as these mean something else elsewhere. */
#pragma GCC visibility push(hidden)

/* A thread that is to compute something calls this first: if there are as many threads as cores, the
 * kernel runs it on its own core and nowhere else from now on. */
void take_core(int thread, int threads);

/* Look how the kernel may run the calling thread, which takes no core yet: if somebody else has
 * changed that, no cores are taken any more. */
void heed_others(void);

/* The calling thread may run anywhere again. */
void leave_core(void);

#pragma GCC visibility pop
