/* Linked into libllama: interleaves the weights of a model.
 *
 * Those that are only ever multiplied with states, and the table of tokens where it is the last
 * layer's as well. Whatever else a model does with weights needs them as they are in the file.
 *
 * They are written to memory of our own, which then takes the place of the mapped file: all
 * addresses stay what they were, and whoever unmaps the file unmaps it.
 */
#include "interleaving.h"
#include "llama-model.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uintptr_t HUGE_PAGE = 2 << 20;

const char *const MULTIPLIED[] = {
    "attn_q.weight",      "attn_k.weight",   "attn_v.weight",  "attn_qkv.weight",
    "attn_output.weight", "ffn_gate.weight", "ffn_up.weight",  "ffn_down.weight",
};

bool is_only_multiplied(const std::string &name, bool is_tied) {
    if (name == "output.weight" || (is_tied && name == "token_embd.weight"))
        return true;
    if (name.rfind("blk.", 0) != 0)
        return false;
    const std::string rest = name.substr(name.find('.', 4) + 1);
    return std::any_of(std::begin(MULTIPLIED), std::end(MULTIPLIED),
                       [&](const char *each) { return rest == each; });
}

/* A part of the mapped file: weights to be interleaved, or what is copied as it is. */
struct part {
    uint8_t *first, *end;
    ggml_tensor *weights;
};

/* Memory that is written in place of [first, end), and then put there. */
class replacement {
  public:
    replacement(uint8_t *first, uint8_t *end) : old(first), size(end - first) {
        /* As far from the beginning of a huge page as the old one, so that huge ones can move. */
        const size_t room = size + HUGE_PAGE;
        void *all = mmap(nullptr, room, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED)
            return;
        const uintptr_t start = reinterpret_cast<uintptr_t>(all);
        const uintptr_t skip = (reinterpret_cast<uintptr_t>(old) - start) % HUGE_PAGE;
        memory = static_cast<uint8_t *>(all) + skip;
        if (skip > 0)
            munmap(all, skip);
        munmap(memory + size, HUGE_PAGE - skip);
        madvise(memory, size, MADV_HUGEPAGE);
    }

    replacement(const replacement &) = delete;
    replacement &operator=(const replacement &) = delete;

    ~replacement() {
        if (memory != nullptr)
            munmap(memory, size);
    }

    /* What will be at `address`; null where there was no memory. */
    uint8_t *of(const uint8_t *address) const {
        return memory == nullptr ? nullptr : memory + (address - old);
    }

    bool put() {
        mprotect(memory, size, PROT_READ);
        if (mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, old) == MAP_FAILED) {
            /* The kernel unmaps what is to be replaced, and may fail afterwards. */
            if (msync(old, size, MS_ASYNC) != 0 && errno == ENOMEM)
                GGML_ABORT("the model is no longer mapped: there is no memory for its weights");
            return false;
        }
        memory = nullptr;
        return true;
    }

  private:
    uint8_t *const old;
    const size_t size;
    uint8_t *memory = nullptr;
};

/* What a mapped buffer consists of: `weights`, and all else from its first page to its last. Empty
 * where they overlap, as no sound file's do. */
std::vector<part> parts_of(ggml_backend_buffer_t buffer, std::vector<ggml_tensor *> weights) {
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    const auto base = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
    const uintptr_t end = base + ggml_backend_buffer_get_size(buffer);
    const auto at = [](uintptr_t address) { return reinterpret_cast<uint8_t *>(address); };
    std::sort(weights.begin(), weights.end(),
              [](auto *one, auto *other) { return one->data < other->data; });
    std::vector<part> parts;
    uint8_t *next = at(base / page * page);
    for (ggml_tensor *tensor : weights) {
        auto *first = static_cast<uint8_t *>(tensor->data);
        if (first < next || first + ggml_nbytes(tensor) > at(end))
            return {};
        parts.push_back({next, first, nullptr});
        next = first + ggml_nbytes(tensor);
        parts.push_back({first, next, tensor});
    }
    parts.push_back({next, at((end + page - 1) / page * page), nullptr});
    return parts;
}

/* Returns how many bytes of weights are interleaved. */
size_t interleave_buffer(ggml_backend_buffer_t buffer, const std::vector<ggml_tensor *> &weights,
                         const satchel_interleaving *processor, int threads) {
    size_t bytes = 0;
    for (const ggml_tensor *tensor : weights)
        bytes += ggml_nbytes(tensor);
    const std::vector<part> parts = parts_of(buffer, weights);
    /* All of the buffer becomes memory of our own: not for a few of its weights. */
    if (parts.empty() || bytes < ggml_backend_buffer_get_size(buffer) / 2)
        return 0;
    replacement memory(parts.front().first, parts.back().end);
    if (memory.of(parts.front().first) == nullptr)
        return 0;
    std::atomic<size_t> next{0};
    const auto work = [&] {
        for (size_t index = next++; index < parts.size(); index = next++) {
            const part &own = parts[index];
            if (own.weights != nullptr)
                processor->write(own.weights, memory.of(own.first));
            else
                memcpy(memory.of(own.first), own.first, own.end - own.first);
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
        for (int thread = 1; thread < threads; thread++)
            others.emplace_back(work);
    } catch (const std::exception &) {
        /* No more threads are allowed: fewer do it. */
    }
    work();
    for (std::thread &other : others)
        other.join();
    if (!memory.put())
        return 0;
    for (ggml_tensor *tensor : weights)
        processor->mark(tensor);
    return bytes;
}

size_t interleave_buffers(const llama_model *model, const satchel_interleaving *processor,
                          int threads) {
    const bool is_tied = model->get_tensor("output.weight") == nullptr;
    std::vector<ggml_backend_buffer_t> buffers;
    std::vector<ggml_tensor *> weights;
    for (const auto &[name, tensor] : llama_internal_get_tensor_map(model)) {
        if (tensor->buffer == nullptr || !is_only_multiplied(name, is_tied) ||
            strcmp(ggml_backend_buffer_name(tensor->buffer), "CPU_Mapped") != 0 ||
            !processor->can(tensor))
            continue;
        weights.push_back(tensor);
        if (std::find(buffers.begin(), buffers.end(), tensor->buffer) == buffers.end())
            buffers.push_back(tensor->buffer);
    }
    size_t bytes = 0;
    for (ggml_backend_buffer_t buffer : buffers) {
        std::vector<ggml_tensor *> own;
        std::copy_if(weights.begin(), weights.end(), std::back_inserter(own),
                     [&](const ggml_tensor *tensor) { return tensor->buffer == buffer; });
        bytes += interleave_buffer(buffer, own, processor, threads);
    }
    return bytes;
}

} // namespace

/* Interleave the mapped weights of `model` that `processor` can, where they are most of them, on
 * `threads` threads. Returns how many bytes. Nothing may use the model meanwhile. */
extern "C" {
__attribute__((visibility("default"))) size_t
satchel_interleave_model(const llama_model *model, const satchel_interleaving *processor,
                         int threads);
}

size_t satchel_interleave_model(const llama_model *model, const satchel_interleaving *processor,
                                int threads) {
    /* Another device would be given the weights, and take them for what they were. */
    if (ggml_backend_dev_count() != 1)
        return 0;
    try {
        return interleave_buffers(model, processor, threads);
    } catch (const std::exception &) {
        return 0;
    }
}
