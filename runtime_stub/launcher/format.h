/* The two binary formats a launcher reads: a pack's footer and a runtime's index.
 *
 * Pure functions over bytes, without system calls, so that every platform's launcher can share
 * them. Their definition is Python's: FOOTER_LAYOUT in bundle.py, and archive.py. */
#ifndef SATCHEL_FORMAT_H
#define SATCHEL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sha256.h"

#define FORMAT_VERSION 1
#define FOOTER_SIZE 256
#define FOOTER_WINDOW (1024 * 1024) /* how far before the end of the file it may end */

#define MAX_FILES 20000
#define MAX_MEMBER_PATH 1024
#define INDEX_HEAD_SIZE 16
#define INDEX_FILE ".satchel-index"   /* the index's copy in an extracted folder */
#define PROGRAM_FILE "satchel-runtime" /* what is started */
#define LOADER_FILE "_internal/ld-linux.so.2"  /* the dynamic loader that starts it, if it has its own */

/* Whether `text`, which ends with a NUL byte, is UTF-8. */
bool is_utf8(const char *text);

enum footer_status { FOOTER_FOUND, FOOTER_MISSING, FOOTER_NEWER, FOOTER_DAMAGED };

struct footer {
    uint32_t version;
    uint64_t pack_size;
    uint64_t runtime_offset;
    uint64_t runtime_length;
    uint64_t runtime_size;
    uint8_t runtime_sha256[SHA256_SIZE];
};

/* Look for a footer in `tail`, the last `length` bytes of a file of `file_size` bytes: backwards,
 * because a code signature may follow it. */
enum footer_status find_footer(const uint8_t *tail, size_t length, uint64_t file_size,
                               struct footer *footer);

struct index {
    const uint8_t *data; /* borrowed */
    size_t length;
    bool has_loader;
};

struct member {
    uint64_t size;
    bool executable;
    size_t shared; /* leading bytes of `path` that are folders of the member before as well */
    char path[MAX_MEMBER_PATH + 1];
};

struct cursor {
    const uint8_t *position, *end;
};

/* Length of the whole index, from its first INDEX_HEAD_SIZE bytes; 0 if they are not one's. */
size_t index_length(const uint8_t *head);

/* Check all of an index. False for anything that archive.py would not have written, that needs
 * more than `size_limit` bytes, or that holds no program to start. */
bool index_read(const uint8_t *data, size_t length, uint64_t size_limit, struct index *index);

/* Go through the members of an index that `index_read` has accepted. `member` must be kept from
 * call to call. */
struct cursor index_start(const struct index *index, struct member *member);
bool index_next(struct cursor *cursor, struct member *member);

/* Go through the folders that `member` needs and no member before it did, outermost first:
 * start with *end = member->shared; `folder` takes MAX_MEMBER_PATH + 1 bytes. Each folder is seen
 * once, since sorting by bytes keeps all files below a folder together. */
bool next_new_folder(const struct member *member, size_t *end, char *folder);

#endif
