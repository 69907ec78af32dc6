/* Any bytes as the end of a file: whatever footer is found lies inside of it. */
#include <stdlib.h>

#include "format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct footer footer;
    uint64_t before = size > 0 ? (uint64_t)data[0] << 32 : 0; /* what lies before the tail */
    uint64_t file_size = before + size;
    if (find_footer(data, size, file_size, &footer) != FOOTER_FOUND)
        return 0;
    if (footer.version != FORMAT_VERSION || footer.pack_size > file_size
        || footer.pack_size < FOOTER_SIZE || footer.runtime_length == 0
        || footer.runtime_offset > footer.pack_size - FOOTER_SIZE
        || footer.runtime_length > footer.pack_size - FOOTER_SIZE - footer.runtime_offset)
        abort();
    return 0;
}
