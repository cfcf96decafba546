#include "conv3d/cpu/kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "common/winograd_guard.h"
#include "conv3d/cpu/direct_simd.h"
#include "conv3d/cpu/pack_simd.h"
#include "conv3d/cpu/winograd_simd.h"

namespace rlv2v {
namespace {

// Frames of a block: the two before it are transformed again, so there must be many.
constexpr int64_t kBlockFrames = 16;
// Rows of the matrices of a block. They stream the weights, so there must be many, and the block must stay near L2.
constexpr int64_t kBlockRows = 256, kLeastRows = 48;
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

// The weight for a call that reads s.channels and writes s.outputs.
template <class T>
Scratch<T> packed_for(const Conv3dShape& s, const T* weight, bool transposed, bool winograd) {
  const int64_t outputs = transposed ? s.channels : s.outputs, channels = transposed ? s.outputs : s.channels;
  Scratch<T> packed(RLV2V_BEST(packed_conv3d_size(outputs, channels, transposed, winograd, weight)));
  parallel_for(0, 3 * s.channels, 16, [&](int64_t begin, int64_t end) {
    RLV2V_BEST(pack_conv3d(outputs, channels, transposed, winograd, weight, begin, end, packed.get()));
  });
  return packed;
}

// Frames of so few tiles may show one large value to all of them, so that their energies do not differ.
constexpr int64_t kFewTiles = 16;

// Which tiles of the frames that are read Winograd's rounding would show in, by frame and tile; `any`: whether there is
// one. The energies tell at once that nearly all frames have none.
struct UnsafeTiles {
  std::vector<char> tiles;
  bool any = false;
};

UnsafeTiles find_unsafe(const Frame<const float>* frames, int64_t count, const Conv3dShape& s, const float* energies) {
  const int64_t tiles = s.tiles(), vectors = RLV2V_BEST(conv3d_vectors(s.channels));
  UnsafeTiles found{std::vector<char>(count * tiles)};
  std::atomic<bool> any{false};
  parallel_for(0, count, std::max<int64_t>(1, kElementGrain / (vectors * tiles)), [&](int64_t begin, int64_t end) {
    std::vector<float> sums(tiles);
    for (int64_t f = begin; f < end; ++f) {
      if (!frames[f].data) continue;
      const float* of_frame = energies + f * vectors * tiles;
      sums.assign(of_frame, of_frame + tiles);
      for (int64_t v = 1; v < vectors; ++v)
        for (int64_t i = 0; i < tiles; ++i) sums[i] += of_frame[v * tiles + i];
      float least = std::numeric_limits<float>::infinity(), most = 0;
      bool finite = true;
      for (const float sum : sums) {
        if (sum > 0 && sum < least) least = sum;
        if (sum > most) most = sum;
        finite = finite && std::isfinite(sum);
      }
      // Infinity where the least is large: then no finite sum is far from it.
      const float safe = kWinogradRange * kWinogradRange * least;
      if (finite && most <= safe && tiles >= kFewTiles) continue;
      for (int64_t i = 0; i < tiles; ++i) {
        if (std::isfinite(sums[i]) && sums[i] <= safe && tiles >= kFewTiles) continue;
        if (!RLV2V_BEST(conv3d_is_unsafe(frames[f], s, i))) continue;
        found.tiles[f * tiles + i] = 1;
        any.store(true, std::memory_order_relaxed);
      }
    }
  });
  found.any = any.load();
  return found;
}

// Computes again, as a plain convolution, the tiles of all results that see an unsafe one.
void mend_unsafe(const Conv3d<float>& call, const float* weight, bool transposed) {
  const Conv3dShape& s = call.shape;
  const int64_t tiles = s.tiles(), read = s.frames + 2;
  const UnsafeTiles unsafe = find_unsafe(call.in, s.clips * read, s, call.energies);
  if (!unsafe.any) return;
  std::vector<int64_t> again;
  for (int64_t i = 0; i < s.clips * s.frames * tiles; ++i) {
    const int64_t clip = i / tiles / s.frames, frame = i / tiles % s.frames;
    const char* first = unsafe.tiles.data() + (clip * read + frame) * tiles + i % tiles;
    if (first[0] || first[tiles] || first[2 * tiles]) again.push_back(i);
  }
  const Scratch<float> packed = packed_for(s, weight, transposed, false);
  Conv3d<float> exact = call;
  exact.packed = packed.get();
  parallel_for(0, static_cast<int64_t>(again.size()), 1, [&](int64_t begin, int64_t end) {
    const Scratch<float> scratch(RLV2V_BEST(conv3d_direct_scratch_size(exact)));
    for (int64_t i = begin; i < end; ++i) RLV2V_BEST(conv3d_direct(exact, again[i], again[i] + 1, scratch.get()));
  });
}

void run_blocks(const Conv3d<float>& call) {
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

int64_t energies_of(const Conv3dShape& s, int64_t frames, int64_t channels) {
  return s.clips * frames * RLV2V_BEST(conv3d_vectors(channels)) * s.tiles();
}

void run_winograd(Conv3d<float> call, const float* weight, bool transposed) {
  const Conv3dShape& s = call.shape;
  const Scratch<float> packed = packed_for(s, weight, transposed, true);
  const Scratch<float> energies(energies_of(s, s.frames + 2, s.channels));
  call.packed = packed.get();
  call.energies = energies.get();
  run_blocks(call);
  mend_unsafe(call, weight, transposed);
}

bool all_finite(const Frame<const float>* frames, int64_t count, const float* energies, int64_t per_frame) {
  for (int64_t f = 0; f < count; ++f) {
    // One that is not finite makes the sum so.
    float sum = 0;
    for (int64_t i = 0; i < per_frame; ++i) sum += energies[f * per_frame + i] * 0.0f;
    if (frames[f].data && !std::isfinite(sum)) return false;
  }
  return true;
}

// Whether every value was finite, so that none has spoilt sums in which a plain convolution would not have it.
bool run_winograd_grad_weight(const Conv3dGradWeight<float>& call) {
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
  const int64_t in = s.clips * (s.frames + 2), grads = s.clips * s.frames;
  return all_finite(call.in, in, call.energies, RLV2V_BEST(conv3d_vectors(s.channels)) * s.tiles()) &&
         all_finite(call.grad, grads, call.grad_energies, RLV2V_BEST(conv3d_vectors(s.outputs)) * s.tiles());
}

}  // namespace

template <class T>
void run_conv3d(Conv3d<T> call, const T* weight, bool transposed, bool exact) {
  if constexpr (sizeof(T) == sizeof(float))
    if (!exact) return run_winograd(call, weight, transposed);
  const Scratch<T> packed = packed_for(call.shape, weight, transposed, false);
  call.packed = packed.get();
  parallel_for(0, call.shape.clips * call.shape.frames * call.shape.tiles(), 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(RLV2V_BEST(conv3d_direct_scratch_size(call)));
    RLV2V_BEST(conv3d_direct(call, begin, end, scratch.get()));
  });
}

template <class T>
void run_conv3d_grad_weight(Conv3dGradWeight<T> call, bool exact) {
  const Conv3dShape& s = call.shape;
  if constexpr (sizeof(T) == sizeof(float))
    if (!exact) {
      const Scratch<float> energies(energies_of(s, s.frames + 2, s.channels));
      const Scratch<float> grad_energies(energies_of(s, s.frames, s.outputs));
      call.energies = energies.get();
      call.grad_energies = grad_energies.get();
      if (run_winograd_grad_weight(call)) return;
    }
  parallel_for(0, s.channels, 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> scratch(RLV2V_BEST(conv3d_direct_weight_scratch_size(call)));
    RLV2V_BEST(conv3d_direct_weight(call, begin, end, scratch.get()));
  });
}

template void run_conv3d(Conv3d<float>, const float*, bool, bool);
template void run_conv3d(Conv3d<double>, const double*, bool, bool);
template void run_conv3d_grad_weight(Conv3dGradWeight<float>, bool);
template void run_conv3d_grad_weight(Conv3dGradWeight<double>, bool);

}  // namespace rlv2v
