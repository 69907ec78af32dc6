#define _GNU_SOURCE

#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zstd.h>

#include "runtime.h"
#include "support.h"

#define PROGRESS_QUIET_MS 1000
#define WINDOW_LOG_MAX 27
#define FLUSH_HELPERS 7

static int create_at(int folder, const char *path, mode_t mode)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    return above_streams(openat(folder, path, flags, mode));
}

struct unpacking {
    struct cache *cache;
    const struct pack *pack;
    int folder;
    uint8_t *index_data;
    size_t index_length; /* of all of it; INDEX_HEAD_SIZE until its head has been read */
    size_t index_filled;
    struct index index;
    struct cursor cursor;
    struct member member; /* being written */
    int file;             /* its descriptor, or -1 */
    uint64_t left;        /* bytes it still lacks */
    bool complete;
    int64_t started; /* for the progress line */
    int percent; /* shown last */
    int shown;   /* length of the progress line, 0 without */
};

static enum verdict fail_file(struct unpacking *unpacking, const char *path)
{
    int error = errno;
    return because(unpacking->cache, verdict_of(error, FAILED), "%s: %s", path, strerror(error));
}

static enum verdict close_file(struct unpacking *unpacking, const char *path)
{
    static const struct timespec fixed[2] = {{.tv_sec = FIXED_MTIME}, {.tv_sec = FIXED_MTIME}};
    int file = unpacking->file;
    unpacking->file = -1;
    /* Start writing back now, so that flushing all files later does not wait for each. */
    sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE);
    bool stamped = futimens(file, fixed) == 0;
    int error = errno;
    if (close(file) == 0 && stamped)
        return READY;
    errno = stamped ? errno : error;
    return fail_file(unpacking, path);
}

static enum verdict create_file(struct unpacking *unpacking)
{
    const struct member *member = &unpacking->member;
    char folder[MAX_MEMBER_PATH + 1];
    for (size_t end = member->shared; next_new_folder(member, &end, folder);)
        if (mkdirat(unpacking->folder, folder, 0700) != 0)
            return fail_file(unpacking, folder);
    mode_t mode = member->executable ? 0700 : 0600;
    unpacking->file = create_at(unpacking->folder, member->path, mode);
    unpacking->left = member->size;
    return unpacking->file < 0 ? fail_file(unpacking, member->path) : READY;
}

/* Close what is full and go on to the next file that wants bytes. */
static enum verdict next_file(struct unpacking *unpacking)
{
    for (;;) {
        enum verdict verdict = READY;
        if (unpacking->file >= 0)
            verdict = close_file(unpacking, unpacking->member.path);
        if (verdict != READY)
            return verdict;
        if (!index_next(&unpacking->cursor, &unpacking->member)) {
            unpacking->complete = true;
            return READY;
        }
        verdict = create_file(unpacking);
        if (verdict != READY || unpacking->left > 0)
            return verdict;
    }
}

/* Take index bytes from *data; once all are there, check them before anything is created. */
static enum verdict feed_index(struct unpacking *unpacking, const uint8_t **data, size_t *length)
{
    size_t missing = unpacking->index_length - unpacking->index_filled;
    size_t taken = *length < missing ? *length : missing;
    memcpy(unpacking->index_data + unpacking->index_filled, *data, taken);
    unpacking->index_filled += taken;
    *data += taken;
    *length -= taken;
    if (taken < missing)
        return READY;
    if (unpacking->index_length == INDEX_HEAD_SIZE) {
        size_t whole = index_length(unpacking->index_data);
        if (whole <= INDEX_HEAD_SIZE)
            return DAMAGED;
        uint8_t *larger = allocate(whole);
        memcpy(larger, unpacking->index_data, INDEX_HEAD_SIZE);
        free(unpacking->index_data);
        unpacking->index_data = larger;
        unpacking->index_length = whole;
        return READY;
    }
    if (!index_read(unpacking->index_data, unpacking->index_length,
                    unpacking->pack->footer.runtime_size, &unpacking->index))
        return DAMAGED;
    unpacking->cursor = index_start(&unpacking->index, &unpacking->member);
    return next_file(unpacking);
}

/* Take decoded bytes of the archive: its index, then its files. */
static enum verdict feed(struct unpacking *unpacking, const uint8_t *data, size_t length)
{
    enum verdict verdict = READY;
    while (length > 0 && verdict == READY) {
        if (unpacking->index_filled < unpacking->index_length) {
            verdict = feed_index(unpacking, &data, &length);
            continue;
        }
        if (unpacking->complete)
            return DAMAGED; /* more than the index says */
        size_t part = length < unpacking->left ? length : (size_t)unpacking->left;
        if (!write_all(unpacking->file, data, part))
            return fail_file(unpacking, unpacking->member.path);
        data += part;
        length -= part;
        unpacking->left -= part;
        if (unpacking->left == 0)
            verdict = next_file(unpacking);
    }
    return verdict;
}

/* Show how far it is, on a terminal and if it takes long. */
static void show_progress(struct unpacking *unpacking, uint64_t done)
{
    char line[256], name[128];
    int percent = (int)(done * 100 / unpacking->pack->footer.runtime_length);
    if (percent == unpacking->percent || milliseconds() - unpacking->started < PROGRESS_QUIET_MS
        || !isatty(STDERR_FILENO))
        return;
    unpacking->percent = percent;
    escape(name, sizeof name, program_name);
    unpacking->shown = snprintf(line, sizeof line, "\r%s: first start, unpacking … %2d %%", name,
                                percent);
    if (write(STDERR_FILENO, line, (size_t)unpacking->shown) < 0)
        unpacking->shown = 0;
}

static void erase_progress(const struct unpacking *unpacking)
{
    char line[300];
    if (unpacking->shown == 0)
        return;
    int length = snprintf(line, sizeof line, "\r%*s\r", unpacking->shown, "");
    if (write(STDERR_FILENO, line, (size_t)length) < 0)
        return;
}

/* Decode one piece of the stream; *ended becomes true with the frame's last byte. */
static enum verdict decode(struct unpacking *unpacking, ZSTD_DCtx *decoder, ZSTD_inBuffer *input,
                           uint8_t *buffer, bool *ended)
{
    ZSTD_outBuffer output;
    do {
        output = (ZSTD_outBuffer){buffer, ZSTD_DStreamOutSize(), 0};
        size_t left = ZSTD_decompressStream(decoder, &output, input);
        if (ZSTD_isError(left))
            return DAMAGED;
        enum verdict verdict = feed(unpacking, buffer, output.pos);
        if (verdict != READY)
            return verdict;
        *ended = left == 0;
        if (*ended)
            return input->pos == input->size ? READY : DAMAGED;
    } while (input->pos < input->size || output.pos == output.size);
    return READY;
}

/* Decode the whole stream while hashing it as stored. */
static enum verdict unpack_stream(struct unpacking *unpacking, ZSTD_DCtx *decoder, uint8_t *stored,
                                  uint8_t *decoded)
{
    const struct footer *footer = &unpacking->pack->footer;
    struct sha256 hash;
    uint8_t digest[SHA256_SIZE];
    bool ended = false;
    sha256_start(&hash);
    for (uint64_t done = 0; done < footer->runtime_length;) {
        uint64_t left = footer->runtime_length - done;
        size_t length = left < ZSTD_DStreamInSize() ? (size_t)left : ZSTD_DStreamInSize();
        if (ended || !read_all(unpacking->pack->descriptor, stored, length,
                               footer->runtime_offset + done))
            return DAMAGED;
        sha256_update(&hash, stored, length);
        ZSTD_inBuffer input = {stored, length, 0};
        enum verdict verdict = decode(unpacking, decoder, &input, decoded, &ended);
        if (verdict != READY)
            return verdict;
        done += length;
        show_progress(unpacking, done);
    }
    sha256_finish(&hash, digest);
    bool sound = ended && unpacking->complete
                 && memcmp(digest, footer->runtime_sha256, sizeof digest) == 0;
    return sound ? READY : DAMAGED;
}

/* The index goes in last: without it a folder is not complete. */
static enum verdict write_index(struct unpacking *unpacking)
{
    unpacking->file = create_at(unpacking->folder, INDEX_FILE, 0600);
    if (unpacking->file < 0
        || !write_all(unpacking->file, unpacking->index_data, unpacking->index_length))
        return fail_file(unpacking, INDEX_FILE);
    return close_file(unpacking, INDEX_FILE);
}

/* Flush one file or folder; returns errno. Some file systems can't, and say so: no failure. */
static int flush(int folder, const char *path)
{
    int file = open_at(folder, path, O_RDONLY);
    if (file < 0)
        return errno;
    int error = fsync(file) == 0 ? 0 : errno;
    close(file);
    return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP ? 0 : error;
}

/* Flushing files one by one waits for the disk as often as there are files; disks take many such
 * requests together (200 files: 0.7 s by one thread, 0.04 s by four). */
struct flushing {
    int folder;
    pthread_mutex_t mutex; /* for all below */
    struct cursor cursor;
    struct member member; /* flushed, but for its new folders from `folder_end` on */
    size_t folder_end;
    int error;
    char path[MAX_MEMBER_PATH + 1]; /* what the error is about */
};

/* The next file or folder to flush, if there is one. */
static bool next_to_flush(struct flushing *flushing, char path[MAX_MEMBER_PATH + 1])
{
    if (flushing->error != 0)
        return false;
    if (next_new_folder(&flushing->member, &flushing->folder_end, path))
        return true;
    if (!index_next(&flushing->cursor, &flushing->member))
        return false;
    flushing->folder_end = flushing->member.shared;
    memcpy(path, flushing->member.path, sizeof flushing->member.path);
    return true;
}

static void *keep_flushing(void *argument)
{
    struct flushing *flushing = argument;
    char path[MAX_MEMBER_PATH + 1];
    pthread_mutex_lock(&flushing->mutex);
    while (next_to_flush(flushing, path)) {
        pthread_mutex_unlock(&flushing->mutex);
        int error = flush(flushing->folder, path);
        pthread_mutex_lock(&flushing->mutex);
        if (error != 0 && flushing->error == 0) {
            flushing->error = error;
            memcpy(flushing->path, path, sizeof path);
        }
    }
    pthread_mutex_unlock(&flushing->mutex);
    return NULL;
}

static enum verdict flush_all(struct unpacking *unpacking)
{
    struct flushing flushing = {.folder = unpacking->folder, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_t helpers[FLUSH_HELPERS];
    int count = 0;
    flushing.cursor = index_start(&unpacking->index, &flushing.member);
    while (count < FLUSH_HELPERS
           && pthread_create(&helpers[count], NULL, keep_flushing, &flushing) == 0)
        count++;
    keep_flushing(&flushing);
    while (count > 0)
        pthread_join(helpers[--count], NULL);
    if (flushing.error == 0) {
        strcpy(flushing.path, INDEX_FILE);
        flushing.error = flush(flushing.folder, INDEX_FILE);
    }
    if (flushing.error == 0)
        flushing.error = flush(flushing.folder, ".");
    errno = flushing.error;
    return flushing.error == 0 ? READY : fail_file(unpacking, flushing.path);
}

enum verdict extract(struct cache *cache, const struct pack *pack, int folder)
{
    struct unpacking unpacking = {
        .cache = cache, .pack = pack, .folder = folder, .file = -1, .started = milliseconds()};
    ZSTD_DCtx *decoder = ZSTD_createDCtx();
    uint8_t *stored = allocate(ZSTD_DStreamInSize());
    uint8_t *decoded = allocate(ZSTD_DStreamOutSize());
    unpacking.index_length = INDEX_HEAD_SIZE;
    unpacking.index_data = allocate(INDEX_HEAD_SIZE);
    if (decoder == NULL)
        fail(EXIT_SYSTEM, "out of memory. Close other programs and try again");
    ZSTD_DCtx_setParameter(decoder, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);

    enum verdict verdict = unpack_stream(&unpacking, decoder, stored, decoded);
    if (verdict == READY)
        verdict = write_index(&unpacking);
    if (verdict == READY)
        verdict = flush_all(&unpacking);
    /* On a file system that keeps no times or modes every start would extract again. */
    if (verdict == READY && !is_complete(folder, pack, &cache->has_loader))
        verdict = because(cache, FAILED, "its disk does not keep files as they are written");
    erase_progress(&unpacking);
    if (unpacking.file >= 0)
        close(unpacking.file);
    ZSTD_freeDCtx(decoder);
    free(stored);
    free(decoded);
    free(unpacking.index_data);
    return verdict;
}
