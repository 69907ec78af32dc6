/* Linked into libllama when it is built: empties memory without writing to it.
 *
 * llama.cpp fills a new context's cache with zeros. The kernel has only just promised that
 * memory, all of it zero; writing makes it real, which takes half a second for each gigabyte,
 * and keeps it for a context that is never filled. The linker sends libllama's calls of
 * ggml_backend_buffer_clear here (--wrap): of ordinary memory, whole pages are handed back
 * instead. Linux gives pages full of zeros for those when they are touched again, also where
 * they were in use. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ggml-backend.h"

/* Smaller ones are sooner written than handed back. */
enum { LEAST = 1 << 20 };

void __real_ggml_backend_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value);
void __wrap_ggml_backend_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value);

void __wrap_ggml_backend_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    const size_t size = ggml_backend_buffer_get_size(buffer);
    /* Other types are mapped files, or no memory of this process. */
    if (value != 0 || size < LEAST ||
        ggml_backend_buffer_get_type(buffer) != ggml_backend_cpu_buffer_type()) {
        __real_ggml_backend_buffer_clear(buffer, value);
        return;
    }
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t start = (uintptr_t)ggml_backend_buffer_get_base(buffer);
    const uintptr_t end = start + size;
    const uintptr_t first = (start + page - 1) & ~(page - 1);
    const uintptr_t last = end & ~(page - 1);
    /* Fails where pages are locked in memory, for example. */
    if (madvise((void *)first, last - first, MADV_DONTNEED) != 0) {
        __real_ggml_backend_buffer_clear(buffer, value);
        return;
    }
    memset((void *)start, 0, first - start);
    memset((void *)last, 0, end - last);
}
