/* The pack: this process's own executable file, and what its footer says. */
#ifndef SATCHEL_PACK_H
#define SATCHEL_PACK_H

#include <limits.h>

#include "format.h"

#define HEX_SIZE (2 * SHA256_SIZE + 1)

struct pack {
    int descriptor;
    char path[PATH_MAX]; /* absolute */
    struct footer footer;
    char sha256[HEX_SIZE]; /* the runtime's: the name of its folder */
};

/* Open the pack and find its runtime; ends the process if that is not possible. */
void open_pack(struct pack *pack);

#endif
