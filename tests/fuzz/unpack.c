/* Any bytes as a pack's runtime: extraction stays inside its work folder, and what it accepts is
 * complete. The first byte says whether the rest is the stored stream or an archive to be stored.
 *
 *     <folder made for this process>/    watched: nothing may appear in it but
 *       work/                            the work folder
 *       canary                           a file that must stay as it is */
#define _GNU_SOURCE

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "extract.h"
#include "runtime.h"
#include "support.h"

#define RUNTIME_SIZE (1 << 20)
#define CANARY "untouched"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char top[] = "/dev/shm/satchel-fuzz-XXXXXX";
static int top_folder = -1;

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

static void remove_top(void)
{
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void prepare(void)
{
    if (top_folder >= 0)
        return;
    if (mkdtemp(top) == NULL || (top_folder = open(top, O_RDONLY | O_DIRECTORY)) < 0)
        abort();
    atexit(remove_top);
    int canary = openat(top_folder, "canary", O_WRONLY | O_CREAT, 0600);
    if (canary < 0 || write(canary, CANARY, sizeof CANARY) != sizeof CANARY || close(canary) != 0)
        abort();
}

static void check_outside(void)
{
    char content[sizeof CANARY + 1] = "";
    int canary = openat(top_folder, "canary", O_RDONLY);
    if (canary < 0 || read(canary, content, sizeof content) != sizeof CANARY
        || strcmp(content, CANARY) != 0)
        abort();
    close(canary);
    DIR *list = fdopendir(openat(top_folder, ".", O_RDONLY | O_DIRECTORY));
    for (struct dirent *item; (item = readdir(list)) != NULL;)
        if (item->d_name[0] != '.' && strcmp(item->d_name, "work") != 0
            && strcmp(item->d_name, "canary") != 0)
            abort();
    closedir(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct pack pack;
    static struct cache cache;
    char path[PATH_MAX];
    bool has_loader;
    if (size < 2)
        return 0;
    prepare();
    bool plain = data[0] & 1;
    size_t bound = ZSTD_compressBound(size);
    uint8_t *stored = malloc(bound);
    if (stored == NULL)
        return 0;
    if (plain)
        bound = ZSTD_compress(stored, bound, data + 1, size - 1, 1);
    else
        memcpy(stored, data + 1, bound = size - 1);
    pack.descriptor = memfd_create("pack", MFD_CLOEXEC);
    if (pack.descriptor < 0 || write(pack.descriptor, stored, bound) != (ssize_t)bound)
        abort();
    pack.footer.runtime_offset = 0;
    pack.footer.runtime_length = bound;
    pack.footer.runtime_size = RUNTIME_SIZE;
    sha256_of(stored, bound, pack.footer.runtime_sha256);
    free(stored);

    snprintf(path, sizeof path, "%s/work", top);
    if (mkdir(path, 0700) != 0)
        abort();
    int folder = open(path, O_RDONLY | O_DIRECTORY);
    if (extract(&cache, &pack, folder) == READY && !is_complete(folder, &pack, &has_loader))
        abort();
    close(folder);
    close(pack.descriptor);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    check_outside();
    return 0;
}
