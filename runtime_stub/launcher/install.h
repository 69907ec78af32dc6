/* Bringing a runtime into a cache: one extraction, however many starts ask for it. */
#ifndef SATCHEL_INSTALL_H
#define SATCHEL_INSTALL_H

#include "cache.h"
#include "pack.h"

/* Make sure that the cache holds the runtime, extracting it if need be. */
enum verdict install(struct cache *cache, const struct pack *pack);

/* Note that the runtime is in use, for whoever prunes the cache; written once a day at most. */
void stamp_last_use(const struct cache *cache, const struct pack *pack);

#endif
