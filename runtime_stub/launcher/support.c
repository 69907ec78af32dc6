#define _GNU_SOURCE

#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

const char *program_name = "satchel";
bool started_bare = false;

/* Whether a control character starts here: one of ASCII's, or of the second set in UTF-8. */
static bool is_control(const unsigned char *c)
{
    return *c < 0x20 || *c == 0x7f || (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0);
}

size_t escape(char *out, size_t size, const char *text)
{
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && used + 5 < size; c++) {
        if (is_control(c) || (c > (const unsigned char *)text && is_control(c - 1) && *c >= 0x80))
            used += (size_t)snprintf(out + used, 5, "\\x%02x", *c);
        else
            out[used++] = (char)*c;
    }
    out[used] = '\0';
    return used;
}

static void say(const char *format, va_list values)
{
    static char text[4 * PATH_MAX], line[5 * PATH_MAX];
    size_t used = escape(line, PATH_MAX, program_name);
    line[used++] = ':';
    line[used++] = ' ';
    vsnprintf(text, sizeof text, format, values);
    used += escape(line + used, sizeof line - used - 1, text);
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        return; /* nobody is listening */
}

void tell(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    say(format, values);
    va_end(values);
}

/* Started by a double click in a window that is there for us alone? As in desktop.py. */
static bool window_closes(void)
{
    const char *x = getenv("DISPLAY"), *wayland = getenv("WAYLAND_DISPLAY");
    return ((x != NULL && x[0] != '\0') || (wayland != NULL && wayland[0] != '\0')) &&
           getsid(0) == getpid() && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
}

void fail(enum exit_code code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    say(format, values);
    va_end(values);
    if (started_bare && window_closes()) {
        static const char wait[] = "Press Enter to close this window.";
        char key;
        if (write(STDERR_FILENO, wait, sizeof wait - 1) > 0 && read(STDIN_FILENO, &key, 1) < 0)
            exit(code);
    }
    exit(code);
}

void *allocate(size_t size)
{
    void *memory = malloc(size > 0 ? size : 1);
    if (memory == NULL)
        fail(EXIT_SYSTEM, "out of memory: %zu bytes. Close other programs and try again", size);
    return memory;
}

char *text_of(const char *format, ...)
{
    char *text;
    va_list values;
    va_start(values, format);
    if (vasprintf(&text, format, values) < 0)
        fail(EXIT_SYSTEM, "out of memory. Close other programs and try again");
    va_end(values);
    return text;
}

int above_streams(int descriptor)
{
    if (descriptor < 0 || descriptor > STDERR_FILENO)
        return descriptor;
    int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = errno;
    close(descriptor);
    errno = error;
    return moved;
}

int open_at(int folder, const char *path, int flags)
{
    return above_streams(openat(folder, path, flags | O_NOFOLLOW | O_CLOEXEC));
}

bool is_named(int folder, const char *name, int descriptor)
{
    struct stat named, held;
    return fstat(descriptor, &held) == 0
           && fstatat(folder, name, &named, AT_SYMLINK_NOFOLLOW) == 0
           && named.st_ino == held.st_ino && named.st_dev == held.st_dev;
}

bool read_all(int descriptor, uint8_t *buffer, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t count = pread(descriptor, buffer, length, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0) {
            errno = count == 0 ? 0 : errno; /* 0: the file ends here */
            return false;
        }
        buffer += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return true;
}

bool write_all(int descriptor, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t count = write(descriptor, data, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return false;
        data += count;
        length -= (size_t)count;
    }
    return true;
}

int64_t milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
