/* Extracted runtimes, and how a complete one is known. */
#ifndef SATCHEL_RUNTIME_H
#define SATCHEL_RUNTIME_H

#include <stdbool.h>

#include "cache.h"
#include "pack.h"

/* The mtime of all extracted files: 2000-01-01 00:00 UTC, COMPLETE_TIME in cache.py. Even, as FAT
 * keeps two-second steps. */
#define FIXED_MTIME 946684800

/* Whether an extracted folder holds every file of its index, untouched since. */
bool is_complete(int folder, const struct pack *pack, bool *has_loader);

/* Whether a cache that is open holds the pack's runtime, complete. If so, cache->runtime is its
 * folder with a shared lock, which keeps others from removing it for as long as it is open. */
bool holds_runtime(struct cache *cache, const struct pack *pack);

#endif
