#define _GNU_SOURCE

#include "install.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "extract.h"
#include "runtime.h"
#include "support.h"

#define STAMP_AGE (24 * 60 * 60)
#define SPACE_MARGIN (8 * 1024 * 1024) /* folders, partly filled blocks */
#define MEGABYTE 1000000
#define LOCK_POLL_MS 20
#define LOCK_QUIET_MS 500

/* --- The lock ------------------------------------------------------------------------------- */

static int open_lock(const struct cache *cache, const struct pack *pack)
{
    char name[HEX_SIZE + 5];
    snprintf(name, sizeof name, "%s.lock", pack->sha256);
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    return above_streams(openat(cache->runtimes, name, flags, 0600));
}

/* Lock the file, waiting for whoever holds it. False where the file system knows no locks. */
static bool wait_for_lock(int lock)
{
    const struct timespec poll = {.tv_nsec = LOCK_POLL_MS * 1000000L};
    const int64_t start = milliseconds();
    bool told = false;
    while (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return false;
        if (!told && milliseconds() - start >= LOCK_QUIET_MS) {
            tell("waiting for another start to finish extracting");
            told = true;
        }
        nanosleep(&poll, NULL);
    }
    return true;
}

/* Open and lock the runtime's lock file; *held stays false where that is not supported. Returns
 * its descriptor, which unlocks by being closed, or -1. */
static int take_lock(const struct cache *cache, const struct pack *pack, bool *held)
{
    for (;;) {
        char name[HEX_SIZE + 5];
        int lock = open_lock(cache, pack);
        if (lock < 0)
            return -1;
        *held = wait_for_lock(lock);
        snprintf(name, sizeof name, "%s.lock", pack->sha256);
        /* Whoever prunes the cache may have removed the file while we waited: then the next
         * start would lock another one. */
        if (!*held || is_named(cache->runtimes, name, lock))
            return lock;
        close(lock);
    }
}

void stamp_last_use(const struct cache *cache, const struct pack *pack)
{
    struct stat info;
    char name[HEX_SIZE + 5];
    snprintf(name, sizeof name, "%s.lock", pack->sha256);
    if (!cache->ours)
        return;
    if (fstatat(cache->runtimes, name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        int64_t age = (int64_t)time(NULL) - (int64_t)info.st_mtim.tv_sec;
        if (age >= 0 && age < STAMP_AGE)
            return;
    }
    int lock = open_lock(cache, pack);
    if (lock < 0)
        return; /* read-only */
    futimens(lock, NULL);
    close(lock);
}

/* --- Work folders --------------------------------------------------------------------------- */

/* Remove what is left behind, as far as possible; the next extraction sweeps the rest. */
static void remove_tree(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return;
    int folder = open_at(parent, name, O_RDONLY | O_DIRECTORY);
    DIR *list = folder < 0 ? NULL : fdopendir(folder);
    if (list == NULL) {
        if (folder >= 0)
            close(folder);
        return;
    }
    for (struct dirent *item; (item = readdir(list)) != NULL;)
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            remove_tree(folder, item->d_name);
    closedir(list);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* What all work folders of this runtime start with. */
static void work_prefix(const struct pack *pack, char prefix[32])
{
    snprintf(prefix, 32, ".work-%.16s-", pack->sha256);
}

/* Remove work folders of starts that were interrupted. Only under the lock: all others that could
 * own one are waiting for it. */
static void sweep(const struct cache *cache, const struct pack *pack)
{
    char prefix[32];
    work_prefix(pack, prefix);
    int folder = open_at(cache->runtimes, ".", O_RDONLY | O_DIRECTORY);
    DIR *list = folder < 0 ? NULL : fdopendir(folder);
    if (list == NULL) {
        if (folder >= 0)
            close(folder);
        return;
    }
    for (struct dirent *item; (item = readdir(list)) != NULL;)
        if (strncmp(item->d_name, prefix, strlen(prefix)) == 0)
            remove_tree(cache->runtimes, item->d_name);
    closedir(list);
}

/* Find a name for a work folder that nobody uses: our process id, and a number where processes on
 * other machines or in other containers share the cache without locks. With `create`, make the
 * folder. */
static bool name_work_folder(const struct cache *cache, const struct pack *pack, bool create,
                             char name[NAME_MAX])
{
    char prefix[32];
    struct stat info;
    work_prefix(pack, prefix);
    for (int attempt = 0; attempt < 100; attempt++) {
        snprintf(name, NAME_MAX, "%s%ld", prefix, (long)getpid());
        if (attempt > 0)
            snprintf(name + strlen(name), 16, "-%d", attempt);
        bool found = create ? mkdirat(cache->runtimes, name, 0700) == 0
                            : fstatat(cache->runtimes, name, &info, AT_SYMLINK_NOFOLLOW) != 0;
        if (found)
            return true;
        if (create && errno != EEXIST)
            return false;
    }
    return false;
}

/* Take away what lies in the runtime's place and is not complete. Renamed first, so that it is
 * never seen half removed. */
static void discard_damaged(const struct cache *cache, const struct pack *pack)
{
    char aside[NAME_MAX];
    if (name_work_folder(cache, pack, false, aside)
        && renameat(cache->runtimes, pack->sha256, cache->runtimes, aside) == 0)
        remove_tree(cache->runtimes, aside);
}

/* Put a finished work folder in the runtime's place. Without locks another start may have been
 * faster: then its runtime is as good as ours. */
static enum verdict publish(struct cache *cache, const struct pack *pack, const char *work)
{
    for (int attempt = 0; attempt < 10; attempt++) {
        if (renameat(cache->runtimes, work, cache->runtimes, pack->sha256) == 0) {
            fsync(cache->runtimes);
            return READY;
        }
        if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
            break;
        if (holds_runtime(cache, pack)) {
            remove_tree(cache->runtimes, work);
            return READY;
        }
        discard_damaged(cache, pack);
    }
    return because(cache, FAILED, "%s: %s", work, strerror(errno));
}

static unsigned long long megabytes_needed(const struct pack *pack)
{
    return (pack->footer.runtime_size + SPACE_MARGIN + MEGABYTE - 1) / MEGABYTE;
}

static enum verdict check_space(struct cache *cache, const struct pack *pack)
{
    struct statvfs system;
    if (fstatvfs(cache->runtimes, &system) != 0 || system.f_blocks == 0)
        return READY; /* it does not say; writing will */
    uint64_t available = (uint64_t)system.f_bavail * system.f_frsize;
    if (available >= pack->footer.runtime_size + SPACE_MARGIN)
        return READY;
    return because(cache, NO_SPACE, "needs %llu MB, %llu MB are free", megabytes_needed(pack),
                   (unsigned long long)(available / MEGABYTE));
}

/* Extract into a work folder and publish it; nothing of it stays if that fails. */
static enum verdict extract_and_publish(struct cache *cache, const struct pack *pack)
{
    char work[NAME_MAX];
    enum verdict verdict = check_space(cache, pack);
    if (verdict != READY)
        return verdict;
    if (!name_work_folder(cache, pack, true, work))
        return because(cache, verdict_of(errno, UNUSABLE), "%s", strerror(errno));
    int folder = open_at(cache->runtimes, work, O_RDONLY | O_DIRECTORY);
    if (folder < 0) {
        verdict = because(cache, UNUSABLE, "%s", strerror(errno));
    } else {
        verdict = extract(cache, pack, folder);
        close(folder);
    }
    if (verdict == READY)
        verdict = publish(cache, pack, work);
    if (verdict != READY)
        remove_tree(cache->runtimes, work);
    if (verdict == NO_SPACE) {
        char *error = text_of("%s", cache->reason);
        because(cache, NO_SPACE, "needs %llu MB; %s", megabytes_needed(pack), error);
        free(error);
    }
    return verdict;
}

enum verdict install(struct cache *cache, const struct pack *pack)
{
    bool locked = false;
    if (!open_cache(cache, true))
        return UNUSABLE;
    if (!cache->ours)
        return because(cache, UNUSABLE, "belongs to root, and holds no sound copy of the runtime");
    int lock = take_lock(cache, pack, &locked);
    if (lock < 0)
        return because(cache, verdict_of(errno, UNUSABLE), "%s", strerror(errno));
    enum verdict verdict = READY;
    if (!holds_runtime(cache, pack)) {
        if (locked) {
            discard_damaged(cache, pack);
            sweep(cache, pack);
        }
        verdict = extract_and_publish(cache, pack);
        cache->extracted = verdict == READY;
        if (verdict == READY && !holds_runtime(cache, pack))
            verdict = because(cache, FAILED, "it was removed again at once");
    }
    close(lock);
    return verdict;
}
