#include "common/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace rlv2v {

void run_in_parallel(int64_t begin, int64_t end, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                     const void* context) {
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) { body(context, first, last); });
}

int64_t thread_count() { return torch::stable::get_num_threads(); }

}  // namespace rlv2v
