#define _GNU_SOURCE

#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "support.h"

static bool has_fixed_mtime(const struct stat *info)
{
    return info->st_mtim.tv_sec == FIXED_MTIME && info->st_mtim.tv_nsec == 0;
}

/* Whether a file is as extraction left it; `executable` says how that was. */
static bool is_untouched(const struct stat *info, bool executable)
{
    mode_t needed = executable ? S_IROTH | S_IXOTH : S_IROTH;
    if (info->st_uid == geteuid())
        needed <<= 6;
    return S_ISREG(info->st_mode) && is_ours_or_roots(info->st_uid)
           && (info->st_mode & (S_IWGRP | S_IWOTH)) == 0 && (info->st_mode & needed) == needed
           && has_fixed_mtime(info);
}

/* The index left in an extracted folder; NULL when it is missing or not as extraction left it. */
static uint8_t *load_index(int folder, const struct pack *pack, struct index *index)
{
    struct stat info;
    uint8_t *data = NULL;
    int file = open_at(folder, INDEX_FILE, O_RDONLY | O_NONBLOCK);
    if (file < 0)
        return NULL;
    const off_t longest = INDEX_HEAD_SIZE + (off_t)MAX_FILES * (12 + MAX_MEMBER_PATH);
    if (fstat(file, &info) == 0 && is_untouched(&info, false) && info.st_size <= longest) {
        data = allocate((size_t)info.st_size);
        if (!read_all(file, data, (size_t)info.st_size, 0)
            || !index_read(data, (size_t)info.st_size, pack->footer.runtime_size, index)) {
            free(data);
            data = NULL;
        }
    }
    close(file);
    return data;
}

static bool folders_are_sound(int folder, const struct member *member)
{
    char path[MAX_MEMBER_PATH + 1];
    struct stat info;
    for (size_t end = member->shared; next_new_folder(member, &end, path);)
        if (fstatat(folder, path, &info, AT_SYMLINK_NOFOLLOW) != 0
            || distrust_in_cache(&info) != NULL)
            return false;
    return true;
}

bool is_complete(int folder, const struct pack *pack, bool *has_loader)
{
    struct index index;
    struct member member;
    struct stat info;
    if (fstat(folder, &info) != 0 || distrust_in_cache(&info) != NULL)
        return false;
    uint8_t *data = load_index(folder, pack, &index);
    if (data == NULL)
        return false;
    bool complete = true;
    for (struct cursor cursor = index_start(&index, &member);
         complete && index_next(&cursor, &member);)
        complete = folders_are_sound(folder, &member)
                   && fstatat(folder, member.path, &info, AT_SYMLINK_NOFOLLOW) == 0
                   && (uint64_t)info.st_size == member.size
                   && is_untouched(&info, member.executable);
    *has_loader = index.has_loader;
    free(data);
    return complete;
}

bool holds_runtime(struct cache *cache, const struct pack *pack)
{
    int folder = open_at(cache->runtimes, pack->sha256, O_RDONLY | O_DIRECTORY);
    if (folder < 0)
        return false;
    /* Refused while it is being removed. Some file systems know no locks. */
    bool kept = flock(folder, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (!kept || !is_named(cache->runtimes, pack->sha256, folder)
        || !is_complete(folder, pack, &cache->has_loader)) {
        close(folder);
        return false;
    }
    if (cache->runtime >= 0)
        close(cache->runtime);
    cache->runtime = folder;
    return true;
}
