/* Linked into libllama: tells where in the cache a sequence lies.
 *
 * Attention adds up cells in the order in which they lie in the cache, and a new token's cell is the
 * first that is free. So the last bits of an answer depend on whether that comes behind those of the
 * tokens before it.
 */
#include "llama-kv-cache.h"

namespace {

/* llama.cpp keeps its cells to itself: a member's name may be said in an explicit instantiation,
 * whoever may use it otherwise. */
template <typename Member, Member member> struct told {
    friend Member cells_of(const llama_kv_cache *) { return member; }
};
using cells_member = std::shared_ptr<llama_kv_cells_vec> llama_kv_cache::*;
cells_member cells_of(const llama_kv_cache *);
template struct told<cells_member, &llama_kv_cache::v_cells_impl>;

} // namespace

extern "C" __attribute__((visibility("default"))) int32_t
satchel_has_room_before(const llama_context *context, llama_seq_id sequence);

/* Whether a cell is free before the last one of a sequence. 0 where memory is not one cache that all
 * sequences share. */
int32_t satchel_has_room_before(const llama_context *context, llama_seq_id sequence) {
    const auto *cache = dynamic_cast<llama_kv_cache *>(llama_get_memory(context));
    if (cache == nullptr)
        return 0;
    const llama_kv_cells_vec &all = *(cache->*cells_of(cache));
    if (all.size() != 1)
        return 0;
    bool is_room = false;
    for (uint32_t cell = 0; cell < all[0].size(); cell++)
        if (all[0].is_empty(cell))
            is_room = true;
        else if (is_room && all[0].seq_has(cell, sequence))
            return 1;
    return 0;
}
