/* Any bytes as a runtime's index: whatever is accepted has sound paths, each once, in order. */
#include <stdlib.h>
#include <string.h>

#include "format.h"

#define SIZE_LIMIT (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(const char *path)
{
    if (path[0] == '/' || path[0] == '\0' || strchr(path, '\\') != NULL || !is_utf8(path))
        abort();
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') || strncmp(part, "../", 3) == 0
            || strcmp(part, "..") == 0)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char previous[MAX_MEMBER_PATH + 1] = "", folder[MAX_MEMBER_PATH + 1];
    struct index index;
    struct member member;
    uint64_t total = 0;
    if (size >= INDEX_HEAD_SIZE && index_length(data) > INDEX_HEAD_SIZE + (size_t)MAX_FILES * 1036)
        abort();
    if (!index_read(data, size, SIZE_LIMIT, &index))
        return 0;
    for (struct cursor cursor = index_start(&index, &member); index_next(&cursor, &member);) {
        check_path(member.path);
        if (strcmp(previous, member.path) >= 0 || (total += member.size) > SIZE_LIMIT)
            abort();
        for (size_t end = member.shared; next_new_folder(&member, &end, folder);)
            if (strncmp(folder, member.path, strlen(folder)) != 0)
                abort();
        strcpy(previous, member.path);
    }
    return 0;
}
