/* A core for each thread that computes.
 *
 * Threads wait for each other after each operation, some hundred times for a token, and whoever waits
 * long sleeps until another wakes it. Linux likes to run the woken thread where the waking one runs. So
 * once something else takes one of two processors for a moment, both threads go on on the other, one
 * after the other, even when the first is idle again: every step takes twice as long and more, until
 * the kernel balances its load. Where there are as many threads as cores, there is nothing to balance.
 *
 * A thread of OpenMP does nothing but compute: it stays on its core. The one that started them does
 * other things, too, and starts threads and processes, which inherit where they may run: it leaves
 * its core when it has computed.
 */
#define _GNU_SOURCE
#include "cores.h"

#include <stdbool.h>

#ifdef __linux__

#include <sched.h>
#include <string.h>

/* Found by its name. */
__attribute__((visibility("default"))) struct satchel_cores satchel_cores;

/* One more than the number of the core that this thread has taken; 0 for none. */
static _Thread_local int32_t taken;

static void run_on(const struct cpus *cpus) {
    /* Where that is refused, the kernel goes on as it likes. */
    sched_setaffinity(0, sizeof *cpus, (const cpu_set_t *)cpus);
}

void take_core(int thread, int threads) {
    const bool is_one_each = threads > 1 && threads == satchel_cores.count;
    const int32_t wanted = is_one_each ? thread + 1 : 0;
    if (wanted == taken)
        return;
    taken = wanted;
    run_on(wanted > 0 ? satchel_cores.each + thread : &satchel_cores.all);
}

void heed_others(void) {
    struct cpus now;
    memset(&now, 0, sizeof now);
    if (satchel_cores.count == 0 || taken > 0)
        return;
    const bool is_told = sched_getaffinity(0, sizeof now, (cpu_set_t *)&now) == 0;
    if (is_told && memcmp(&now, &satchel_cores.all, sizeof now) == 0)
        return;
    satchel_cores.count = 0;
    if (is_told)
        satchel_cores.all = now;
}

void leave_core(void) {
    if (taken > 0)
        run_on(&satchel_cores.all);
    taken = 0;
}

#else

void take_core(int thread, int threads) { (void)thread, (void)threads; }
void heed_others(void) {}
void leave_core(void) {}

#endif
