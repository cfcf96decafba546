// What launches need to know about the device, and the size of their workspace. No kernel is here.
#include <cuda_runtime.h>

#include "norm/cuda/launch.h"
#include "norm/cuda/tiling.h"

namespace rlv2v {

int64_t multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

int64_t workspace_bytes(const NormLayout& layout, int64_t processors) {
  // A pass has at most kWaves blocks for each multiprocessor, and one more for each set of columns that a block takes.
  // A block has at most 32 columns, and a column at most eight slots.
  const int64_t slots = layout.statistics(), slots_of_blocks = kWaves * processors * 32 * 8;
  // The sums and the seven constants of two normalizations, and a partial sum for the block more.
  const int64_t bytes_of_slot = 2 * (sizeof(GradSums<double>) + 7 * sizeof(double)) + sizeof(Partial);
  return bytes_of_slot * slots + static_cast<int64_t>(sizeof(Partial)) * slots_of_blocks;
}

}  // namespace rlv2v
