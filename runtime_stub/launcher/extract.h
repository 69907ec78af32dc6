/* Extracting a pack's runtime into an empty folder. */
#ifndef SATCHEL_EXTRACT_H
#define SATCHEL_EXTRACT_H

#include "cache.h"
#include "pack.h"

/* Extract into `folder`, verified and flushed to disk. On any verdict but READY the folder holds
 * rubbish, and `cache` the reason. */
enum verdict extract(struct cache *cache, const struct pack *pack, int folder);

#endif
