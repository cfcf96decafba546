#include "conv3d/cpu/kernels.h"

#include <algorithm>
#include <cstring>

#include "common/parallel.h"
#include "conv3d/cpu/direct_simd.h"
#include "conv3d/cpu/pack_simd.h"
#include "conv3d/cpu/winograd_simd.h"

namespace rlv2v {
namespace {

// Frames of a block: the two before it are transformed again, so there must be many.
constexpr int64_t kBlockFrames = 16;
// Rows of the matrices of a block. They stream the weights, so there must be many, and the block must stay near L2.
constexpr int64_t kBlockRows = 128, kLeastRows = 48;
// A block of the weight gradient reads and writes all sums, so it is larger; all threads work on it.
constexpr int64_t kWeightRows = 512, kWeightBytes = 8 << 20;
// Blocks for each thread, so that the threads end at about the same time.
constexpr int64_t kBlocksPerThread = 4;

int64_t parts_of(int64_t size, int64_t most) { return (size + most - 1) / most; }

// `size` cut into parts of nearly equal size of at most `most`: the largest.
int64_t part(int64_t size, int64_t most) {
  const int64_t parts = parts_of(size, std::max<int64_t>(1, most));
  return parts_of(size, parts);
}

Conv3dBlocks blocks_of(const Conv3dShape& s, int64_t rows) {
  const int64_t frames = part(s.frames, kBlockFrames);
  int64_t tiles = rows / frames;
  // Whole rows of tiles, where there are several.
  if (tiles > s.across()) tiles -= tiles % s.across();
  return {s, frames, part(s.tiles(), tiles)};
}

// The same, with enough blocks for all threads while they are not too small.
Conv3dBlocks blocks_for_threads(const Conv3dShape& s) {
  Conv3dBlocks blocks = blocks_of(s, kBlockRows);
  const int64_t threads = thread_count(), wanted = threads > 1 ? kBlocksPerThread * threads : 1;
  while (blocks.count() < wanted && blocks.frames * blocks.tiles >= 2 * kLeastRows && blocks.tiles > 1)
    blocks.tiles = part(s.tiles(), (blocks.tiles + 1) / 2);
  return blocks;
}

void run_winograd(const Conv3d<float>& call) {
  const Conv3dShape& s = call.shape;
  const Conv3dBlocks blocks = blocks_for_threads(s);
  const int64_t inputs_size = RLV2V_BEST(conv3d_inputs_size(blocks));
  const int64_t products_size = RLV2V_BEST(conv3d_products_size(blocks));
  const int64_t panels = RLV2V_BEST(conv3d_multiply_units(s));
  if (blocks.count() >= thread_count()) {
    parallel_for(0, blocks.count(), 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> inputs(inputs_size), products(products_size);
      for (int64_t i = begin; i < end; ++i) {
        const Conv3dBlock block = blocks.at(i);
        RLV2V_BEST(conv3d_transform(call, block, 0, RLV2V_BEST(conv3d_transform_units(s, block)), inputs.get()));
        RLV2V_BEST(conv3d_multiply(call, block, 0, panels, inputs.get(), products.get()));
      }
    });
    return;
  }
  const Scratch<float> inputs(inputs_size);
  for (int64_t i = 0; i < blocks.count(); ++i) {
    const Conv3dBlock block = blocks.at(i);
    parallel_for(0, RLV2V_BEST(conv3d_transform_units(s, block)), 1, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(conv3d_transform(call, block, begin, end, inputs.get()));
    });
    parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> products(products_size);
      RLV2V_BEST(conv3d_multiply(call, block, begin, end, inputs.get(), products.get()));
    });
  }
}

void run_winograd_grad_weight(const Conv3dGradWeight<float>& call) {
  const Conv3dShape& s = call.shape;
  const int64_t row_bytes = RLV2V_BEST(conv3d_weight_scratch_size(Conv3dBlocks{s, 1, 1})) * sizeof(float);
  const int64_t rows = std::max(kBlockRows, std::min(kWeightRows, kWeightBytes / row_bytes));
  const Conv3dBlocks blocks = blocks_of(s, rows);
  const int64_t sums_size = RLV2V_BEST(conv3d_weight_sums_size(s));
  const Scratch<float> scratch(RLV2V_BEST(conv3d_weight_scratch_size(blocks))), sums(sums_size);
  std::memset(sums.get(), 0, sums_size * sizeof(float));
  for (int64_t i = 0; i < blocks.count(); ++i) {
    const Conv3dBlock block = blocks.at(i);
    parallel_for(0, RLV2V_BEST(conv3d_weight_transform_units(s, block)), 1, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(conv3d_weight_transform(call, block, begin, end, scratch.get()));
    });
    parallel_for(0, RLV2V_BEST(conv3d_weight_accumulate_units(s)), 1, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(conv3d_weight_accumulate(call, block, begin, end, scratch.get(), sums.get()));
    });
  }
  parallel_for(0, s.channels, 4,
               [&](int64_t begin, int64_t end) { RLV2V_BEST(conv3d_weight_finish(call, begin, end, sums.get())); });
}

}  // namespace

template <class T>
Scratch<T> packed_conv3d(int64_t outputs, int64_t channels, bool transposed, bool exact, const T* weight) {
  const bool winograd = sizeof(T) == sizeof(float) && !exact;
  Scratch<T> packed(RLV2V_BEST(packed_conv3d_size(outputs, channels, transposed, winograd, weight)));
  parallel_for(0, 3 * (transposed ? outputs : channels), 16, [&](int64_t begin, int64_t end) {
    RLV2V_BEST(pack_conv3d(outputs, channels, transposed, winograd, weight, begin, end, packed.get()));
  });
  return packed;
}

template <class T>
void run_conv3d(const Conv3d<T>& call, bool exact) {
  if constexpr (sizeof(T) == sizeof(float))
    if (!exact) return run_winograd(call);
  parallel_for(0, call.shape.clips * call.shape.frames * call.shape.tiles(), 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(RLV2V_BEST(conv3d_direct_scratch_size(call)));
    RLV2V_BEST(conv3d_direct(call, begin, end, scratch.get()));
  });
}

template <class T>
void run_conv3d_grad_weight(const Conv3dGradWeight<T>& call, bool exact) {
  if constexpr (sizeof(T) == sizeof(float))
    if (!exact) return run_winograd_grad_weight(call);
  parallel_for(0, call.shape.channels, 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(RLV2V_BEST(conv3d_direct_weight_scratch_size(call)));
    RLV2V_BEST(conv3d_direct_weight(call, begin, end, scratch.get()));
  });
}

template Scratch<float> packed_conv3d(int64_t, int64_t, bool, bool, const float*);
template Scratch<double> packed_conv3d(int64_t, int64_t, bool, bool, const double*);
template void run_conv3d(const Conv3d<float>&, bool);
template void run_conv3d(const Conv3d<double>&, bool);
template void run_conv3d_grad_weight(const Conv3dGradWeight<float>&, bool);
template void run_conv3d_grad_weight(const Conv3dGradWeight<double>&, bool);

}  // namespace rlv2v
