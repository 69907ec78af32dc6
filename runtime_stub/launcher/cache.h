/* Cache folders: which there are, and whether what lies in them may be executed. */
#ifndef SATCHEL_CACHE_H
#define SATCHEL_CACHE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "pack.h"

#define MAX_CANDIDATES 3

/* What became of a cache candidate. */
enum verdict {
    READY,    /* holds a complete runtime */
    UNUSABLE, /* not trusted, not writable, or programs can't be run from it */
    NO_SPACE,
    FAILED,  /* extraction broke off */
    DAMAGED, /* the pack's fault: trying elsewhere does not help */
};

struct cache {
    char root[PATH_MAX]; /* absolute */
    int runtimes;        /* descriptor of its `runtimes` folder, or -1 */
    bool ours;           /* else root's: to be read only */
    int runtime;         /* once READY: its folder, locked against removal, or -1 */
    bool has_loader;     /* once READY: whether the runtime brings its dynamic loader */
    bool extracted;      /* by this start */
    char reason[512];    /* why it is not READY */
};

struct candidates {
    struct cache cache[MAX_CANDIDATES];
    int count;
    bool chosen; /* by SATCHEL_CACHE or --satchel-cache: then there is one */
};

/* List the candidates, best first. A leading --satchel-cache option is taken out of the
 * arguments. */
void choose_candidates(struct candidates *list, const struct pack *pack, int *count,
                       char **arguments);

/* Open the cache's `runtimes` folder if it can be trusted, with `create` making what is missing;
 * else note the reason. */
bool open_cache(struct cache *cache, bool create);

/* Note why `cache` can't be used; hands `verdict` through. */
__attribute__((format(printf, 3, 4))) enum verdict because(struct cache *cache,
                                                           enum verdict verdict,
                                                           const char *format, ...);

/* NO_SPACE for the errors that mean it. */
enum verdict verdict_of(int error, enum verdict otherwise);

bool is_ours_or_roots(uid_t owner);

/* Why a folder inside a cache is not to be trusted; NULL if it is. */
const char *distrust_in_cache(const struct stat *info);

#endif
