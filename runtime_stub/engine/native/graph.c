/* Linked into each build of ggml for a kind of processor: what of a graph is computed by our code, and
 * on which core.
 *
 * ggml asks for each operation whether something other than its own code does it
 * (ggml_cpu_extra_compute_forward), and how much memory that takes. The linker sends both
 * questions here first, and whoever wants a graph computed (--wrap).
 */
#include "attention/attention.h"
#include "cores.h"
#include "ggml-cpu.h"
#include "weights/product.h"

bool __real_ggml_cpu_extra_compute_forward(struct ggml_compute_params *params,
                                           struct ggml_tensor *op);
bool __wrap_ggml_cpu_extra_compute_forward(struct ggml_compute_params *params,
                                           struct ggml_tensor *op);
bool __real_ggml_cpu_extra_work_size(int threads, const struct ggml_tensor *op, size_t *size);
bool __wrap_ggml_cpu_extra_work_size(int threads, const struct ggml_tensor *op, size_t *size);

enum ggml_status __real_ggml_graph_compute(struct ggml_cgraph *graph, struct ggml_cplan *plan);
enum ggml_status __wrap_ggml_graph_compute(struct ggml_cgraph *graph, struct ggml_cplan *plan);

enum ggml_status __wrap_ggml_graph_compute(struct ggml_cgraph *graph, struct ggml_cplan *plan) {
    heed_others();
    take_core(0, plan->n_threads);
    const enum ggml_status status = __real_ggml_graph_compute(graph, plan);
    leave_core();
    return status;
}

bool __wrap_ggml_cpu_extra_compute_forward(struct ggml_compute_params *params,
                                           struct ggml_tensor *op) {
    if (params->ith > 0)
        take_core(params->ith, params->nth);
    if (is_of_interleaved(op))
        compute_interleaved(params, op);
    else if (is_attention(op))
        attend(params, op);
    else
        return __real_ggml_cpu_extra_compute_forward(params, op);
    return true;
}

bool __wrap_ggml_cpu_extra_work_size(int threads, const struct ggml_tensor *op, size_t *size) {
    if (is_of_interleaved(op))
        *size = interleaved_size(op, threads);
    else if (is_attention(op))
        *size = attention_size(op, threads);
    else
        return __real_ggml_cpu_extra_work_size(threads, op, size);
    return true;
}
