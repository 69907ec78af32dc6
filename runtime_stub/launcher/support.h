/* Exit codes, messages, and the small helpers that all of the Linux launcher uses. */
#ifndef SATCHEL_SUPPORT_H
#define SATCHEL_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Also in EXIT_CODES of errors.py, where they are explained. */
enum exit_code {
    EXIT_USAGE = 2,
    EXIT_SYSTEM = 70,
    EXIT_DAMAGED = 71,
    EXIT_NO_CACHE = 72,
    EXIT_NO_SPACE = 73,
    EXIT_EXTRACT = 74,
    EXIT_START = 75,
};

/* What messages start with: how the pack was called, without its folder. */
extern const char *program_name;

/* Whether there are no arguments, as by a double click: then `fail` keeps the window open. */
extern bool started_bare;

/* Copy `text`, with control characters shown as \xNN: paths may hold anything. Returns the length
 * of what fitted. */
size_t escape(char *out, size_t size, const char *text);

/* Write one line to standard error; `fail` then ends the process. */
__attribute__((format(printf, 1, 2))) void tell(const char *format, ...);
__attribute__((format(printf, 2, 3), noreturn)) void fail(enum exit_code code, const char *format,
                                                          ...);

/* Memory and text that never fail: the process ends instead. Free what is large. */
void *allocate(size_t size);
__attribute__((format(printf, 1, 2))) char *text_of(const char *format, ...);

/* Move a fresh descriptor out of the way of the standard streams: where one of those is closed it
 * must stay closed, and what is meant for it must not end up in a file of ours. */
int above_streams(int descriptor);

/* Open what lies at `path` seen from `folder`, never through a link at its end, and never to be
 * inherited. */
int open_at(int folder, const char *path, int flags);

/* Whether `name` in `folder` still names the file or folder that is open as `descriptor`. */
bool is_named(int folder, const char *name, int descriptor);

/* Read exactly `length` bytes at `offset`. On failure errno is 0 if the file ends before. */
bool read_all(int descriptor, uint8_t *buffer, size_t length, uint64_t offset);
bool write_all(int descriptor, const uint8_t *data, size_t length);

/* Milliseconds on a clock that nobody sets. */
int64_t milliseconds(void);

#endif
