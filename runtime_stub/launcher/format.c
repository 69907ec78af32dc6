#include "format.h"

#include <string.h>

#define MAGIC_SIZE 16
#define RECORD_SIZE 12
#define MAX_RUNTIME_SIZE ((uint64_t)1 << 50)

/* Where each field lies; see FOOTER_LAYOUT in bundle.py. */
enum {
    AT_VERSION = 16,
    AT_FOOTER_SIZE = 20,
    AT_PACK_SIZE = 24,
    AT_MANIFEST_OFFSET = 32,
    AT_MANIFEST_LENGTH = 40,
    AT_RUNTIME_OFFSET = 80,
    AT_RUNTIME_LENGTH = 88,
    AT_RUNTIME_SIZE = 96,
    AT_RUNTIME_SHA256 = 104,
    AT_LAUNCHER_LENGTH = 136,
    AT_RESERVED = 144,
    AT_FOOTER_SHA256 = 224,
};

static uint64_t little_endian(const uint8_t *bytes, unsigned count)
{
    uint64_t value = 0;
    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

/* The magic, which must not lie in the launcher as it is, or a search for the footer could find
 * the launcher: kept masked, and volatile so that no compiler unmasks it early. */
static void footer_magic(uint8_t magic[MAGIC_SIZE])
{
    static const volatile uint8_t masked[MAGIC_SIZE] = {
        0x89 ^ 0xa5, 's' ^ 0xa5, 'a' ^ 0xa5, 't' ^ 0xa5, 'c' ^ 0xa5, 'h' ^ 0xa5,
        'e' ^ 0xa5,  'l' ^ 0xa5, ' ' ^ 0xa5, 'p' ^ 0xa5, 'a' ^ 0xa5, 'c' ^ 0xa5,
        'k' ^ 0xa5,  0x0d ^ 0xa5, 0x0a ^ 0xa5, 0x1a ^ 0xa5,
    };
    for (int i = 0; i < MAGIC_SIZE; i++)
        magic[i] = masked[i] ^ 0xa5;
}

/* Whether `length` bytes at `offset` lie between `start` and `end`. */
static bool lies_between(uint64_t start, uint64_t offset, uint64_t length, uint64_t end)
{
    return offset >= start && offset <= end && length <= end - offset;
}

static bool reserved_is_zero(const uint8_t *bytes)
{
    for (int i = AT_RESERVED; i < AT_FOOTER_SHA256; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* Read the footer at `bytes`, which starts at `offset` of the file. A sound one that belongs
 * elsewhere (a pack's footer inside other data) counts as missing. */
static enum footer_status read_footer(const uint8_t *bytes, uint64_t offset, struct footer *footer)
{
    uint8_t digest[SHA256_SIZE];
    footer->version = (uint32_t)little_endian(bytes + AT_VERSION, 4);
    if (footer->version > FORMAT_VERSION)
        return FOOTER_NEWER;
    sha256_of(bytes, AT_FOOTER_SHA256, digest);
    if (footer->version != FORMAT_VERSION
        || memcmp(digest, bytes + AT_FOOTER_SHA256, sizeof digest) != 0
        || little_endian(bytes + AT_FOOTER_SIZE, 4) != FOOTER_SIZE || !reserved_is_zero(bytes))
        return FOOTER_DAMAGED;

    footer->pack_size = little_endian(bytes + AT_PACK_SIZE, 8);
    if (footer->pack_size != offset + FOOTER_SIZE)
        return FOOTER_MISSING;
    footer->runtime_offset = little_endian(bytes + AT_RUNTIME_OFFSET, 8);
    footer->runtime_length = little_endian(bytes + AT_RUNTIME_LENGTH, 8);
    footer->runtime_size = little_endian(bytes + AT_RUNTIME_SIZE, 8);
    memcpy(footer->runtime_sha256, bytes + AT_RUNTIME_SHA256, SHA256_SIZE);

    uint64_t launcher = little_endian(bytes + AT_LAUNCHER_LENGTH, 8);
    uint64_t manifest = little_endian(bytes + AT_MANIFEST_OFFSET, 8);
    uint64_t manifest_length = little_endian(bytes + AT_MANIFEST_LENGTH, 8);
    if (!lies_between(launcher, footer->runtime_offset, footer->runtime_length, offset)
        || !lies_between(launcher, manifest, manifest_length, offset)
        || footer->runtime_length == 0 || footer->runtime_size > MAX_RUNTIME_SIZE)
        return FOOTER_DAMAGED;
    return FOOTER_FOUND;
}

enum footer_status find_footer(const uint8_t *tail, size_t length, uint64_t file_size,
                               struct footer *footer)
{
    enum footer_status problem = FOOTER_MISSING;
    uint8_t magic[MAGIC_SIZE];
    struct footer nearest = {0};
    footer_magic(magic);
    for (size_t after = length < FOOTER_SIZE ? 0 : length - FOOTER_SIZE + 1; after > 0; after--) {
        const uint8_t *here = tail + after - 1;
        if (here[0] != magic[0] || memcmp(here, magic, MAGIC_SIZE) != 0)
            continue;
        enum footer_status status = read_footer(here, file_size - length + after - 1, footer);
        if (status == FOOTER_FOUND)
            return status;
        if (problem == FOOTER_MISSING) {
            problem = status;
            nearest = *footer;
        }
    }
    *footer = nearest;
    return problem;
}

/* The length of the UTF-8 character at `text`, which ends with a NUL byte; 0 if it is none. */
static size_t character_length(const uint8_t *text)
{
    uint8_t low = 0x80, high = 0xbf;
    size_t length;
    if (text[0] < 0x80)
        return 1;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    length = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (text[0] == 0xe0)
        low = 0xa0; /* shorter forms exist */
    else if (text[0] == 0xed)
        high = 0x9f; /* surrogates */
    else if (text[0] == 0xf0)
        low = 0x90;
    else if (text[0] == 0xf4)
        high = 0x8f; /* past U+10FFFF */
    if (text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

bool is_utf8(const char *text)
{
    size_t length;
    for (const uint8_t *here = (const uint8_t *)text; *here != '\0'; here += length)
        if ((length = character_length(here)) == 0)
            return false;
    return true;
}

/* The same rules as check_path in archive.py. `path` holds no NUL byte. */
static bool path_is_safe(const char *path)
{
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.')
            || (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        part += length;
        if (*part == '\0')
            break;
    }
    return is_utf8(path) && strchr(path, '\\') == NULL && strcmp(path, INDEX_FILE) != 0;
}

size_t index_length(const uint8_t *head)
{
    uint64_t length = little_endian(head + 12, 4);
    if (memcmp(head, "satchelA", 8) != 0 || little_endian(head + 8, 4) > MAX_FILES
        || length > (uint64_t)MAX_FILES * (RECORD_SIZE + MAX_MEMBER_PATH))
        return 0;
    return INDEX_HEAD_SIZE + (size_t)length;
}

struct cursor index_start(const struct index *index, struct member *member)
{
    member->path[0] = '\0';
    return (struct cursor){index->data + INDEX_HEAD_SIZE, index->data + index->length};
}

bool index_next(struct cursor *cursor, struct member *member)
{
    size_t rest = (size_t)(cursor->end - cursor->position);
    if (rest < RECORD_SIZE)
        return false;
    const char *path = (const char *)cursor->position + RECORD_SIZE;
    size_t length = (size_t)little_endian(cursor->position + 10, 2);
    if (length > MAX_MEMBER_PATH || length > rest - RECORD_SIZE)
        return false;

    member->shared = 0;
    for (size_t i = 0; i < length && path[i] != '\0' && path[i] == member->path[i]; i++)
        if (path[i] == '/')
            member->shared = i + 1;
    memcpy(member->path, path, length);
    member->path[length] = '\0';
    member->size = little_endian(cursor->position, 8);
    member->executable = (little_endian(cursor->position + 8, 2) & 0111) != 0;
    cursor->position += RECORD_SIZE + length;
    return true;
}

bool index_read(const uint8_t *data, size_t length, uint64_t size_limit, struct index *index)
{
    *index = (struct index){.data = data, .length = length};
    if (length < INDEX_HEAD_SIZE || index_length(data) != length)
        return false;

    char previous[MAX_MEMBER_PATH + 1] = "";
    struct member member;
    struct cursor cursor = index_start(index, &member);
    uint64_t count = 0, size = 0;
    bool has_program = false;
    for (const uint8_t *record = cursor.position; index_next(&cursor, &member);) {
        size_t path_length = (size_t)(cursor.position - record) - RECORD_SIZE;
        if (strlen(member.path) != path_length || !path_is_safe(member.path)
            || strcmp(member.path, previous) <= 0 || member.size > size_limit - size)
            return false;
        size += member.size;
        count++;
        has_program = has_program || (strcmp(member.path, PROGRAM_FILE) == 0 && member.executable);
        index->has_loader = index->has_loader
                            || (strcmp(member.path, LOADER_FILE) == 0 && member.executable);
        memcpy(previous, member.path, path_length + 1);
        record = cursor.position;
    }
    return cursor.position == cursor.end && count == little_endian(data + 8, 4) && has_program;
}

bool next_new_folder(const struct member *member, size_t *end, char *folder)
{
    const char *slash = strchr(member->path + *end, '/');
    if (slash == NULL)
        return false;
    size_t length = (size_t)(slash - member->path);
    memcpy(folder, member->path, length);
    folder[length] = '\0';
    *end = length + 1;
    return true;
}
