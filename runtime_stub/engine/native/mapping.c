/* Linked into libllama when it is built: what a model inside a larger file needs.
 *
 * llama.cpp maps the whole file a model lies in, populates the mapping and asks
 * the kernel to read all of it ahead. In a pack that would read the runtime and
 * every other model as well. The linker sends libllama's calls of mmap here
 * (--wrap=mmap): between satchel_map_window(offset, length) and
 * satchel_map_window(0, 0), on the calling thread, a mapping of a whole file
 * keeps its addresses, but only the window is backed by the file; the rest is
 * reserved address space that costs nothing and can't be read.
 *
 * A mapped file that shrinks under us raises SIGBUS at the next touch.
 * satchel_on_bus_error turns that into one line and an exit code.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static _Thread_local uint64_t window_offset;
static _Thread_local uint64_t window_length;

EXPORT void satchel_map_window(uint64_t offset, uint64_t length) {
    window_offset = offset;
    window_length = length;
}

void *__real_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);

void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) {
    if (window_length == 0 || fd < 0 || offset != 0 || addr != NULL)
        return __real_mmap(addr, length, prot, flags, fd, offset);

    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t first = window_offset & ~(page - 1);
    uint64_t last = (window_offset + window_length + page - 1) & ~(page - 1);
    if (last > (length + page - 1) / page * page)
        last = (length + page - 1) / page * page;
    if (first >= last) {
        errno = EINVAL;
        return MAP_FAILED;
    }

    char *base = __real_mmap(NULL, length, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return MAP_FAILED;
    void *inside = __real_mmap(base + first, last - first, prot, flags | MAP_FIXED, fd,
                               (off_t)first);
    if (inside == MAP_FAILED) {
        const int saved = errno;
        munmap(base, length);
        errno = saved;
        return MAP_FAILED;
    }
    return base;
}

static char bus_message[512];
static int bus_exit_code;

static void on_bus_error(int signal_number) {
    (void)signal_number;
    ssize_t ignored = write(STDERR_FILENO, bus_message, strlen(bus_message));
    (void)ignored;
    _exit(bus_exit_code);
}

/* Write `message` to standard error and leave with `exit_code` at SIGBUS. */
EXPORT void satchel_on_bus_error(const char *message, int exit_code) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    strncpy(bus_message, message, sizeof bus_message - 1);
    bus_exit_code = exit_code;
    action.sa_handler = on_bus_error;
    sigaction(SIGBUS, &action, NULL);
}
