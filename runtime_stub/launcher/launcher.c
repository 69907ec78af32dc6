/* The launcher: the first bytes of a pack. It finds the runtime in a cache folder, or extracts it
 * there once, and replaces itself with it.
 *
 *     <cache root>/                     ours alone: see "Trust" below
 *       runtimes/
 *         <sha256>/                     a complete runtime, named by the hash of its stored form
 *           .satchel-index              the archive's index, written last: names every file
 *           satchel-runtime             the program
 *           _internal/...               its libraries; ld-linux.so.2 is the loader to use
 *         <sha256>.lock                 held while extracting; its mtime says when last used
 *         .work-<16 of sha256>-<pid>/   being extracted or removed; swept by the next extraction
 *
 * A runtime is complete or absent: it is built in a work folder, flushed to disk and renamed. A
 * complete one is known by each file's size, owner, mode and mtime. Extraction sets all mtimes to
 * one fixed moment, so any later write shows, without reading (or hashing) a single file. That
 * catches accidents; against malice stands that nobody but us and root can write there.
 *
 * Nothing is written on a warm start, but for the lock's mtime once a day. */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"
#include "install.h"
#include "pack.h"
#include "runtime.h"
#include "support.h"

/* --- Starting ------------------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_variable(const char *entry, const char *name)
{
    return starts_with(entry, name) && entry[strlen(name)] == '=';
}

static bool is_any_variable(const char *entry, const char *const *names)
{
    for (; *names != NULL; names++)
        if (is_variable(entry, *names))
            return true;
    return false;
}

/* Variables that steer the host's dynamic loader and C library, and would steer ours. */
static bool is_hosts(const char *entry)
{
    static const char *const names[] = {"GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", NULL};
    return starts_with(entry, "LD_") || is_any_variable(entry, names);
}

/* Variables that only a launcher sets; from outside they are left over from another one. */
static bool is_launchers(const char *entry)
{
    static const char *const names[] = {"SATCHEL_PACK_FD",    "SATCHEL_PACK_PATH",
                                        "SATCHEL_RUNTIME",    "SATCHEL_CACHE_ROOT",
                                        "SATCHEL_ARGV0",      "SATCHEL_SIGINT_HELD",
                                        "SATCHEL_RUNTIME_FD", "SATCHEL_FIRST_START", NULL};
    return starts_with(entry, "SATCHEL_HOST_") || starts_with(entry, "_PYI_")
           || is_any_variable(entry, names);
}

/* Hold Ctrl-C back until the runtime can take it: an interpreter that is interrupted while it sets
 * itself up dies with a traceback. False if the caller holds it back already, or ignores it. */
static bool hold_interrupt(void)
{
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    return sigprocmask(SIG_BLOCK, &interrupt, &before) == 0 && sigismember(&before, SIGINT) == 0;
}

/* The runtime's environment; environment.py is the other side of this contract. */
static char **runtime_environment(char **host, const struct pack *pack, const struct cache *cache,
                                  bool chosen, const char *runtime, const char *argv0)
{
    const size_t added = 12 + 1;
    size_t count = 0, used = 0;
    while (host[count] != NULL)
        count++;
    char **environment = allocate((count + added + 1) * sizeof *environment);
    for (char **entry = host; *entry != NULL; entry++) {
        if (is_launchers(*entry) || (chosen && is_variable(*entry, "SATCHEL_CACHE")))
            continue;
        environment[used++] = is_hosts(*entry) ? text_of("SATCHEL_HOST_%s", *entry) : *entry;
    }
    environment[used++] = text_of("SATCHEL_PACK_FD=%d", pack->descriptor);
    environment[used++] = text_of("SATCHEL_PACK_PATH=%s", pack->path);
    environment[used++] = text_of("SATCHEL_RUNTIME=%s", runtime);
    environment[used++] = text_of("SATCHEL_RUNTIME_FD=%d", cache->runtime);
    environment[used++] = text_of("SATCHEL_CACHE_ROOT=%s", cache->root);
    environment[used++] = text_of("SATCHEL_ARGV0=%s", argv0);
    environment[used++] = text_of("LD_LIBRARY_PATH=%s/_internal", runtime);
    environment[used++] = text_of("_PYI_ARCHIVE_FILE=%s/%s", runtime, PROGRAM_FILE);
    environment[used++] = text_of("_PYI_PARENT_PROCESS_LEVEL=0");
    if (hold_interrupt())
        environment[used++] = text_of("SATCHEL_SIGINT_HELD=1");
    if (cache->extracted)
        environment[used++] = text_of("SATCHEL_FIRST_START=1");
    if (chosen)
        environment[used++] = text_of("SATCHEL_CACHE=%s", cache->root);
    environment[used] = NULL;
    return environment;
}

/* The runtime's command line: through its own dynamic loader, where it brings one. */
static char **runtime_command(const char *runtime, bool has_loader, int count, char **arguments)
{
    const size_t leading = 8;
    char **command = allocate((leading + (size_t)count + 1) * sizeof *command);
    char *program = text_of("%s/%s", runtime, PROGRAM_FILE);
    size_t used = 0;
    if (has_loader) {
        command[used++] = text_of("%s/%s", runtime, LOADER_FILE);
        command[used++] = text_of("--inhibit-cache");
        command[used++] = text_of("--library-path");
        command[used++] = text_of("%s/_internal", runtime);
        command[used++] = text_of("--argv0");
        command[used++] = program;
    }
    command[used++] = program;
    for (int i = 1; i < count; i++)
        command[used++] = arguments[i];
    command[used] = NULL;
    return command;
}

__attribute__((noreturn)) static void start(const struct cache *cache, const struct pack *pack,
                                            bool chosen, int count, char **arguments, char **host)
{
    stamp_last_use(cache, pack);
    char *runtime = text_of("%s/runtimes/%s", cache->root, pack->sha256);
    const char *argv0 = count > 0 ? arguments[0] : pack->path;
    char **environment = runtime_environment(host, pack, cache, chosen, runtime, argv0);
    char **command = runtime_command(runtime, cache->has_loader, count, arguments);
    /* Both stay open: the pack to read from, the folder to keep it from being removed. */
    if (fcntl(pack->descriptor, F_SETFD, 0) == 0 && fcntl(cache->runtime, F_SETFD, 0) == 0)
        execve(command[0], command, environment);
    fail(EXIT_START, "the runtime could not be started: %s: %s. %s", command[0], strerror(errno),
         errno == E2BIG ? "Use fewer or shorter arguments"
                        : "Remove its folder, it will be extracted again");
}

/* --- The whole of it ------------------------------------------------------------------------ */

/* Say why no candidate will do, and end. `worst` is what happened to each. */
__attribute__((noreturn)) static void fail_candidates(const struct candidates *list,
                                                      const enum verdict *verdicts)
{
    char *reasons = text_of("%s", "");
    enum verdict worst = UNUSABLE;
    for (int i = 0; i < list->count; i++)
        if (worst == UNUSABLE || verdicts[i] == NO_SPACE)
            worst = verdicts[i];
    for (int i = 0; i < list->count; i++) {
        const struct cache *cache = &list->cache[i];
        if (verdicts[i] == worst)
            reasons = text_of("%s%s%s: %s", reasons, reasons[0] == '\0' ? "" : "; ", cache->root,
                              cache->reason);
    }
    if (worst == NO_SPACE)
        fail(EXIT_NO_SPACE,
             "not enough disk space for the first start: %s. "
             "Free some, or set SATCHEL_CACHE to a folder on another disk",
             reasons);
    if (worst == FAILED)
        fail(EXIT_EXTRACT,
             "the runtime could not be extracted: %s. "
             "Set SATCHEL_CACHE to a folder on another disk",
             reasons);
    fail(EXIT_NO_CACHE,
         "%s: %s. Set SATCHEL_CACHE to a folder of your own that allows programs to run",
         list->chosen ? "the cache folder cannot be used" : "no cache folder can be used", reasons);
}

/* The first candidate that holds the runtime; else the first that it can be extracted to. */
static const struct cache *find_or_install(struct candidates *list, const struct pack *pack)
{
    enum verdict verdicts[MAX_CANDIDATES];
    for (int i = 0; i < list->count; i++)
        if (open_cache(&list->cache[i], false) && holds_runtime(&list->cache[i], pack))
            return &list->cache[i];

    mode_t mask = umask(077);
    for (int i = 0; i < list->count; i++) {
        verdicts[i] = install(&list->cache[i], pack);
        if (verdicts[i] == DAMAGED)
            fail(EXIT_DAMAGED, "the runtime inside the pack is damaged: %s. Copy the file again",
                 pack->path);
        if (verdicts[i] == READY) {
            umask(mask);
            return &list->cache[i];
        }
    }
    fail_candidates(list, verdicts);
}

int main(int count, char **arguments, char **environment)
{
    static struct pack pack;
    static struct candidates candidates;
    started_bare = count == 1;
    if (count > 0) {
        const char *slash = strrchr(arguments[0], '/');
        const char *name = slash != NULL ? slash + 1 : arguments[0];
        if (name[0] != '\0')
            program_name = name;
    }
    if (getuid() != geteuid() || getgid() != getegid())
        fail(EXIT_SYSTEM,
             "refuses to run with another user's rights: its set-user-ID bit is set. Clear it");
    open_pack(&pack);
    choose_candidates(&candidates, &pack, &count, arguments);
    const struct cache *cache = find_or_install(&candidates, &pack);
    start(cache, &pack, candidates.chosen, count, arguments, environment);
}
