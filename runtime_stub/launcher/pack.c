#define _GNU_SOURCE

#include "pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

static void open_itself(struct pack *pack)
{
    static const char self[] = "/proc/self/exe";
    const char *called = (const char *)getauxval(AT_EXECFN);
    pack->descriptor = above_streams(open(self, O_RDONLY | O_CLOEXEC));
    ssize_t length = readlink(self, pack->path, sizeof pack->path - 1);
    if (length > 0) {
        pack->path[length] = '\0';
    } else if (called == NULL || realpath(called, pack->path) == NULL) {
        fail(EXIT_SYSTEM, "cannot find its own file: %s. Mount /proc", strerror(errno));
    }
    if (pack->descriptor < 0)
        pack->descriptor = above_streams(open(pack->path, O_RDONLY | O_CLOEXEC));
    if (pack->descriptor < 0)
        fail(EXIT_SYSTEM, "cannot open its own file: %s: %s. Make it readable", pack->path,
             strerror(errno));
}

__attribute__((noreturn)) static void fail_damaged(const struct pack *pack)
{
    fail(EXIT_DAMAGED, "the pack is cut short or damaged: %s. Copy the file again", pack->path);
}

__attribute__((noreturn)) static void fail_reading(const struct pack *pack)
{
    if (errno == 0)
        fail_damaged(pack);
    fail(EXIT_SYSTEM, "cannot read its own file: %s: %s. Check the disk that it lies on",
         pack->path, strerror(errno));
}

static enum footer_status read_tail(struct pack *pack, uint64_t file_size, uint64_t window)
{
    size_t length = (size_t)(file_size < window ? file_size : window);
    uint8_t *tail = allocate(length);
    if (!read_all(pack->descriptor, tail, length, file_size - length))
        fail_reading(pack);
    enum footer_status status = find_footer(tail, length, file_size, &pack->footer);
    free(tail);
    return status;
}

static void find_runtime(struct pack *pack)
{
    struct stat info;
    if (fstat(pack->descriptor, &info) != 0)
        fail_reading(pack);
    enum footer_status status = read_tail(pack, (uint64_t)info.st_size, FOOTER_SIZE);
    if (status != FOOTER_FOUND) /* signed, or damaged */
        status = read_tail(pack, (uint64_t)info.st_size, FOOTER_SIZE + FOOTER_WINDOW);
    if (status == FOOTER_NEWER)
        fail(EXIT_DAMAGED,
             "the pack has format version %u, its launcher knows %d: %s. "
             "Make it again with one version of satchel",
             pack->footer.version, FORMAT_VERSION, pack->path);
    if (status != FOOTER_FOUND)
        fail_damaged(pack);
    for (int i = 0; i < SHA256_SIZE; i++)
        snprintf(pack->sha256 + 2 * i, 3, "%02x", pack->footer.runtime_sha256[i]);
}

void open_pack(struct pack *pack)
{
    open_itself(pack);
    find_runtime(pack);
}
