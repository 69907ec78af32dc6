#define _GNU_SOURCE

#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "support.h"

#define MAX_LINKS 40

enum verdict because(struct cache *cache, enum verdict verdict, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(cache->reason, sizeof cache->reason, format, values);
    va_end(values);
    return verdict;
}

enum verdict verdict_of(int error, enum verdict otherwise)
{
    return error == ENOSPC || error == EDQUOT ? NO_SPACE : otherwise;
}

/* --- Candidates ----------------------------------------------------------------------------- */

static const char *absolute_variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] == '/' ? value : NULL;
}

/* The length of a folder's path without slashes at its end. */
static int trimmed(const char *path)
{
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/')
        length--;
    return (int)length;
}

static const char *home_folder(void)
{
    const char *home = absolute_variable("HOME");
    if (home != NULL)
        return home;
    struct passwd *user = getpwuid(geteuid());
    return user != NULL && user->pw_dir != NULL && user->pw_dir[0] == '/' ? user->pw_dir : NULL;
}

__attribute__((format(printf, 2, 3))) static void add_candidate(struct candidates *list,
                                                                const char *format, ...)
{
    struct cache *cache = &list->cache[list->count];
    va_list values;
    va_start(values, format);
    if (vsnprintf(cache->root, sizeof cache->root, format, values) < (int)sizeof cache->root)
        list->count++; /* else no file in it could be named */
    va_end(values);
    cache->runtimes = cache->runtime = -1;
}

/* The user's cache folder as platformdirs names it, beside the pack, the temporary folder. */
static void find_candidates(struct candidates *list, const struct pack *pack)
{
    const char *xdg = absolute_variable("XDG_CACHE_HOME");
    const char *home = xdg != NULL ? NULL : home_folder();
    const char *temporary = absolute_variable("TMPDIR");
    if (xdg != NULL)
        add_candidate(list, "%.*s/satchel", trimmed(xdg), xdg);
    else if (home != NULL)
        add_candidate(list, "%.*s/.cache/satchel", trimmed(home), home);
    int folder = (int)(strrchr(pack->path, '/') - pack->path);
    add_candidate(list, "%.*s/.satchel-cache", folder, pack->path);
    if (temporary == NULL)
        temporary = "/tmp";
    add_candidate(list, "%.*s/satchel-%lu", trimmed(temporary), temporary,
                  (unsigned long)geteuid());
}

/* The value of a leading --satchel-cache option, which is taken out of the arguments. */
static const char *take_cache_option(int *count, char **arguments)
{
    static const char option[] = "--satchel-cache";
    const size_t length = sizeof option - 1;
    if (*count < 2 || strncmp(arguments[1], option, length) != 0)
        return NULL;
    char end = arguments[1][length];
    if (end != '\0' && end != '=')
        return NULL; /* an option of the runtime's that starts alike */
    int taken = end == '=' ? 1 : 2;
    const char *value = end == '=' ? arguments[1] + length + 1 : arguments[2];
    if (value == NULL || value[0] == '\0')
        fail(EXIT_USAGE, "--satchel-cache needs a folder. Try --satchel-cache DIR");
    *count -= taken;
    memmove(arguments + 1, arguments + 1 + taken, (size_t)*count * sizeof *arguments);
    return value;
}

/* Make `path` absolute and drop slashes at its end. */
static bool make_absolute(char out[PATH_MAX], const char *path)
{
    char here[PATH_MAX] = "";
    if (path[0] != '/' && getcwd(here, sizeof here) == NULL)
        return false;
    int length = snprintf(out, PATH_MAX, "%s%s%s", here, path[0] == '/' ? "" : "/", path);
    if (length >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return false;
    }
    while (length > 1 && out[length - 1] == '/')
        out[--length] = '\0';
    return true;
}

void choose_candidates(struct candidates *list, const struct pack *pack, int *count,
                              char **arguments)
{
    const char *choice = take_cache_option(count, arguments);
    if (choice == NULL)
        choice = getenv("SATCHEL_CACHE");
    list->chosen = choice != NULL && choice[0] != '\0';
    if (!list->chosen) {
        find_candidates(list, pack);
        return;
    }
    list->count = 1;
    list->cache[0].runtimes = list->cache[0].runtime = -1;
    if (!make_absolute(list->cache[0].root, choice))
        fail(EXIT_NO_CACHE, "the cache folder cannot be used: %s: %s. Choose another", choice,
             strerror(errno));
}

/* --- Trust ----------------------------------------------------------------------------------
 *
 * What lies in a cache is executed. So a cache root and all below it must belong to us (or to
 * root, to be read only), without a link, and nobody else may write there. On the way to it links
 * are fine, if they are ours or root's; folders must be, too, or another user could swap what
 * lies in them after we looked. For the same reason a folder open to everyone must be sticky. */

/* Inside a user namespace that does not map root, root's folders (/, /home, /tmp) show the
 * kernel's overflow user. Elsewhere that is an ordinary stranger. */
static bool is_unmapped_root(uid_t owner)
{
    if (owner != 65534)
        return false;
    char map[64] = "";
    unsigned long inside = 0, outside = 0, count = 0;
    int descriptor = open_at(AT_FDCWD, "/proc/self/uid_map", O_RDONLY);
    if (descriptor < 0)
        return false;
    ssize_t length = pread(descriptor, map, sizeof map - 1, 0);
    close(descriptor);
    return length > 0 && sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3
           && count < UINT32_MAX;
}

bool is_ours_or_roots(uid_t owner)
{
    return owner == geteuid() || owner == 0;
}

/* Why a step on the way to a cache root is not to be trusted; NULL if it is. */
static const char *distrust_on_the_way(const struct stat *step)
{
    if (!is_ours_or_roots(step->st_uid) && !is_unmapped_root(step->st_uid))
        return S_ISLNK(step->st_mode) ? "is another user's symbolic link"
                                      : "belongs to another user";
    if (S_ISDIR(step->st_mode) && (step->st_mode & (S_IWOTH | S_ISVTX)) == S_IWOTH)
        return "can be changed by every user";
    return NULL;
}

const char *distrust_in_cache(const struct stat *info)
{
    if (S_ISLNK(info->st_mode))
        return "is a symbolic link";
    if (!S_ISDIR(info->st_mode))
        return "is not a folder";
    if (!is_ours_or_roots(info->st_uid))
        return "belongs to another user";
    return info->st_mode & (S_IWGRP | S_IWOTH) ? "can be changed by other users" : NULL;
}

/* Why nothing extracted below `folder` could be run; NULL if it could. */
static const char *unfit_to_run(int folder)
{
    struct statvfs system;
    return fstatvfs(folder, &system) == 0 && system.f_flag & ST_NOEXEC
               ? "its disk does not allow programs to run (noexec)"
               : NULL;
}

/* Open one part of a path, a link as such. With `create`, make it a folder if it is missing and
 * something extracted there could be run. */
static int open_part(struct cache *cache, int folder, const char *part, bool create)
{
    int next = open_at(folder, part, O_PATH);
    if (next < 0 && errno == ENOENT && create) {
        const char *unfit = unfit_to_run(folder);
        if (unfit != NULL) {
            because(cache, UNUSABLE, "%s", unfit);
            return -1;
        }
        if (mkdirat(folder, part, 0700) == 0 || errno == EEXIST)
            next = open_at(folder, part, O_PATH);
    }
    if (next < 0)
        because(cache, UNUSABLE, "%s: %s", part, strerror(errno));
    return next;
}

/* Put the target of the link `link` in front of what is left of the path. */
static bool follow(int link, char rest[PATH_MAX])
{
    char target[PATH_MAX], joined[PATH_MAX];
    ssize_t length = readlinkat(link, "", target, sizeof target - 1);
    if (length <= 0)
        return false;
    target[length] = '\0';
    if (snprintf(joined, sizeof joined, "%s/%s", target, rest) >= (int)sizeof joined)
        return false;
    memcpy(rest, joined, sizeof joined);
    return true;
}

/* Open the cache root step by step, trusting each. Returns a descriptor, or -1 and the reason. */
static int open_root(struct cache *cache, bool create)
{
    char rest[PATH_MAX], part[NAME_MAX + 1];
    struct stat info = {0};
    int folder = open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY);
    memcpy(rest, cache->root, sizeof rest);
    for (int links = 0; folder >= 0;) {
        const char *start = rest + strspn(rest, "/");
        size_t length = strcspn(start, "/");
        const char *after = start + length + strspn(start + length, "/");
        if (length == 0)
            return folder;
        if (length > NAME_MAX) {
            because(cache, UNUSABLE, "%s", strerror(ENAMETOOLONG));
            break;
        }
        memcpy(part, start, length);
        part[length] = '\0';
        bool last = *after == '\0';
        memmove(rest, after, strlen(after) + 1);

        int next = open_part(cache, folder, part, create);
        if (next < 0)
            break;
        const char *distrust = fstat(next, &info) != 0 ? strerror(errno)
                               : last                  ? distrust_in_cache(&info)
                                                       : distrust_on_the_way(&info);
        bool is_link = S_ISLNK(info.st_mode);
        if (distrust == NULL && is_link && (++links > MAX_LINKS || !follow(next, rest)))
            distrust = "is a symbolic link that leads nowhere";
        if (distrust != NULL) {
            because(cache, UNUSABLE, "%s %s", part, distrust);
            close(next);
            break;
        }
        if (is_link) { /* its target starts here, or at / */
            close(next);
            if (rest[0] != '/')
                continue;
            next = open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY);
        }
        close(folder);
        folder = next;
    }
    if (folder >= 0)
        close(folder);
    return -1;
}

bool open_cache(struct cache *cache, bool create)
{
    struct stat root_info, info;
    if (cache->runtimes >= 0)
        return true;
    if (!is_utf8(cache->root)) { /* what Python is frozen with can't start from there */
        because(cache, UNUSABLE, "its path is not UTF-8 text");
        return false;
    }
    int root = open_root(cache, create);
    if (root < 0)
        return false;
    int error = create && mkdirat(root, "runtimes", 0700) != 0 ? errno : 0;
    int runtimes = open_at(root, "runtimes", O_RDONLY | O_DIRECTORY);
    if (runtimes < 0 && (error == 0 || error == EEXIST))
        error = errno;
    bool opened = runtimes >= 0 && fstat(root, &root_info) == 0 && fstat(runtimes, &info) == 0;
    close(root);
    if (!opened) {
        because(cache, UNUSABLE, "runtimes: %s", strerror(error));
        return false;
    }
    const char *distrust = distrust_in_cache(&info);
    if (distrust == NULL)
        distrust = unfit_to_run(runtimes);
    if (distrust != NULL) {
        because(cache, UNUSABLE, "runtimes: %s", distrust);
        close(runtimes);
        return false;
    }
    cache->runtimes = runtimes;
    cache->ours = root_info.st_uid == geteuid() && info.st_uid == geteuid();
    return true;
}
