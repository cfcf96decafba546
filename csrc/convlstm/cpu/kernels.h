// What both time loops use: frames to and from the kernels' layout, and the kernels of one time step, with the choice
// between Winograd's convolution and the direct one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "common/winograd_guard.h"
#include "convlstm/cpu/direct_simd.h"
#include "convlstm/cpu/pack_simd.h"
#include "convlstm/cpu/sequence.h"
#include "convlstm/cpu/winograd_simd.h"

namespace rlv2v {

// Elements whose copying repays waking a second thread.
constexpr int64_t kCopyGrain = 16384;
// Patches of the direct kernels stay in L2.
constexpr int64_t kPatchBytes = 192 * 1024;
constexpr int64_t kMaxColumns = 64;

// Winograd's convolution is used where it at least halves the multiplications, counting those that its tiles waste
// beyond the edges of the image.
template <class T>
bool use_winograd(const ConvLSTMShape& s, bool exact) {
  const bool has_kernel = s.kernel_h == s.kernel_w && (s.kernel_h == 3 || s.kernel_h == 5);
  return sizeof(T) == sizeof(float) && !exact && has_kernel && 2 * 36 * winograd_tiles(s) <= s.taps() * s.pixels();
}

// Copies an image of every sample; `first` is that of sample 0.
template <class T>
void copy_frames(const ConvLSTMShape& s, int64_t channels, const ConvLSTMFrameCopy<T>& first, int64_t from_batch,
                 int64_t to_batch) {
  const int64_t grain = std::max<int64_t>(1, kCopyGrain / std::max<int64_t>(1, s.width * channels));
  parallel_for(0, s.batch * s.height, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t b = begin / s.height, row = begin % s.height, rows = std::min(s.height - row, end - begin);
      ConvLSTMFrameCopy<T> copy = first;
      copy.from += b * from_batch;
      copy.to += b * to_batch;
      RLV2V_BEST(copy_rows(copy, row, row + rows));
      begin += rows;
    }
  });
}

// Copies frame `step` of every sample to NHWC, or adds it to what is there.
template <class T>
void pack_frames(const ConvLSTMShape& s, int64_t channels, const Frames<const T>& from, int64_t step, T* to,
                 bool add = false) {
  const int64_t row = s.width * channels;
  copy_frames<T>(
      s, channels,
      {from.data + step * from.time, from.channel, from.row, from.column, to, 1, row, channels, channels, s.width, add},
      from.batch, s.height * row);
}

// Copies from NHWC to frame `step` of every sample.
template <class T>
void unpack_frames(const ConvLSTMShape& s, int64_t channels, const T* from, const Frames<T>& to, int64_t step) {
  const int64_t row = s.width * channels;
  copy_frames<T>(
      s, channels,
      {from, 1, row, channels, to.data + step * to.time, to.channel, to.row, to.column, channels, s.width, false},
      s.height * row, to.batch);
}

// A state in NHWC, or nothing where there is none.
template <class T>
Scratch<T> pack_state(const ConvLSTMShape& s, const Frames<const T>& state) {
  Scratch<T> packed(state.data ? s.pixels() * s.hidden : 0);
  if (state.data) pack_frames(s, s.hidden, state, 0, packed.get());
  return packed;
}

template <class T>
void fill_zero(T* data, int64_t count) {
  parallel_for(0, count, 1 << 16,
               [&](int64_t begin, int64_t end) { std::memset(data + begin, 0, (end - begin) * sizeof(T)); });
}

// As large tiles as L2 holds, but several for each thread. `element`: bytes of a number.
inline ConvLSTMTiling direct_tiling(const ConvLSTMShape& s, int64_t channels, int64_t element) {
  ConvLSTMTiling tiling{1, std::min(s.width, kMaxColumns)};
  const int64_t row_bytes = (tiling.columns + s.kernel_w - 1) * channels * element;
  const int64_t wanted = 4 * thread_count();
  while (tiling.rows < s.height && (2 * tiling.rows + s.kernel_h - 1) * row_bytes <= kPatchBytes) {
    const ConvLSTMTiling larger{tiling.rows * 2, tiling.columns};
    if (larger.tiles(s) < wanted) break;
    tiling = larger;
  }
  return tiling;
}

// Images in NHWC, of so many channels; null where there are none.
struct Images {
  const float* data;
  int64_t channels;
};

// The least of some pixels' magnitudes above zero, and the largest; infinite where one is not finite.
struct Magnitudes {
  float least, most;
};

// Writes the largest absolute value of each pixel over the channels of all images.
inline Magnitudes find_magnitudes(const Images* images, int count, int64_t pixels, float* largest) {
  std::atomic<float> least{std::numeric_limits<float>::infinity()}, most{0};
  int64_t channels = 1;
  for (int i = 0; i < count; ++i) channels += images[i].data ? images[i].channels : 0;
  parallel_for(0, pixels, std::max<int64_t>(1, kCopyGrain / channels), [&](int64_t begin, int64_t end) {
    bool join = false;
    for (int i = 0; i < count; ++i) {
      if (!images[i].data) continue;
      RLV2V_BEST(winograd_magnitudes(images[i].data, images[i].channels, begin, end, join, largest));
      join = true;
    }
    float low = std::numeric_limits<float>::infinity(), high = 0;
    for (int64_t p = begin; p < end; ++p) {
      const float size = largest[p];
      if (size > 0 && size < low) low = size;
      if (size > high) high = size;
      if (std::isnan(size)) high = std::numeric_limits<float>::infinity();
    }
    for (float seen = least.load(); low < seen && !least.compare_exchange_weak(seen, low);) {
    }
    for (float seen = most.load(); high > seen && !most.compare_exchange_weak(seen, high);) {
    }
  });
  return {least.load(), most.load()};
}

// Which tiles of a step need a direct convolution; empty where none does. At least one of the images is there.
inline std::vector<char> unsafe_tiles(const ConvLSTMShape& s, const Images* images, int count) {
  const Scratch<float> largest(s.pixels());
  const Magnitudes found = find_magnitudes(images, count, s.pixels(), largest.get());
  if (found.most <= kWinogradLargest && found.most <= kWinogradRange * found.least) return {};
  const int64_t tiles = winograd_tiles(s);
  std::vector<char> unsafe(tiles);
  std::atomic<bool> any{false};
  parallel_for(0, tiles, kElementGrain / 64, [&](int64_t begin, int64_t end) {
    if (RLV2V_BEST(winograd_unsafe(s, largest.get(), begin, end, unsafe.data()))) any.store(true);
  });
  if (!any.load()) unsafe.clear();
  return unsafe;
}

// Cuts the tiles [begin, end) into runs that need a direct convolution and runs that do not: body(first, last, direct).
template <class Body>
void for_runs(const std::vector<char>& unsafe, int64_t begin, int64_t end, const Body& body) {
  while (begin < end) {
    const bool direct = !unsafe.empty() && unsafe[begin];
    int64_t last = begin + 1;
    while (last < end && (!unsafe.empty() && unsafe[last]) == direct) ++last;
    if (unsafe.empty()) last = end;
    body(begin, last, direct);
    begin = last;
  }
}

// Runs the kernels of one sequence step by step, and packs the weights when they are first needed. Where Winograd's
// convolution would show in some tiles, the direct kernels compute these: before the states are updated, which may be
// in place.
template <class T>
class StepKernels {
 public:
  explicit StepKernels(const ConvLSTMInputs<T>& in)
      : in_(in),
        winograd_(use_winograd<T>(in.shape, in.exact)),
        bias_(RLV2V_BEST(packed_bias_size(in.shape, in.bias))) {
    RLV2V_BEST(pack_bias(in.shape, in.bias, bias_.get()));
  }

  bool winograd() const { return winograd_; }

  void fwd(ConvLSTMStep<T> step) {
    step.shape = in_.shape;
    step.bias = bias_.get();
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) return fwd_winograd(step);
    step.weight = packed(false);
    const ConvLSTMTiling tiling = direct_tiling(in_.shape, in_.shape.inputs(), sizeof(T));
    const int64_t size = RLV2V_BEST(direct_fwd_scratch(step, tiling));
    parallel_for(0, tiling.tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_fwd(step, tiling, begin, end, scratch.get()));
    });
  }

  void bwd(ConvLSTMGradStep<T> step, bool with_x) {
    step.shape = in_.shape;
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) return bwd_winograd(step, with_x);
    step.weight = packed_transposed(false, with_x);
    const ConvLSTMTiling tiling = direct_tiling(in_.shape, 4 * in_.shape.hidden, sizeof(T));
    const int64_t size = RLV2V_BEST(direct_bwd_scratch(step, tiling));
    parallel_for(0, tiling.tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_bwd(step, tiling, begin, end, scratch.get()));
    });
  }

 private:
  // Winograd's tiles as tiles of the direct kernels, which number them alike.
  ConvLSTMTiling winograd_tiling() const { return {7 - in_.shape.kernel_h, 7 - in_.shape.kernel_h}; }

  void fwd_winograd(ConvLSTMStep<float> step) {
    const Images images[] = {{step.x, in_.shape.channels}, {step.h, in_.shape.hidden}};
    const std::vector<char> unsafe = unsafe_tiles(in_.shape, images, 2);
    step.weight = packed(true);
    ConvLSTMStep<float> exact = step;
    if (!unsafe.empty()) exact.weight = packed(false);
    const int64_t size = RLV2V_BEST(winograd_fwd_scratch(step));
    const int64_t exact_size = RLV2V_BEST(direct_fwd_scratch(exact, winograd_tiling()));
    parallel_for(0, winograd_tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> scratch(size), exact_scratch(unsafe.empty() ? 0 : exact_size);
      for_runs(unsafe, begin, end, [&](int64_t first, int64_t last, bool direct) {
        if (direct)
          RLV2V_BEST(direct_fwd(exact, winograd_tiling(), first, last, exact_scratch.get()));
        else
          RLV2V_BEST(winograd_fwd(step, first, last, scratch.get()));
      });
    });
  }

  void bwd_winograd(ConvLSTMGradStep<float> step, bool with_x) {
    const Images images[] = {{step.grad_gates_next, 4 * in_.shape.hidden}};
    const std::vector<char> unsafe = step.grad_gates_next ? unsafe_tiles(in_.shape, images, 1) : std::vector<char>();
    step.weight = packed_transposed(true, with_x);
    ConvLSTMGradStep<float> exact = step;
    if (!unsafe.empty()) exact.weight = packed_transposed(false, with_x);
    const int64_t size = RLV2V_BEST(winograd_bwd_scratch(step));
    const int64_t exact_size = RLV2V_BEST(direct_bwd_scratch(exact, winograd_tiling()));
    parallel_for(0, winograd_tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<float> scratch(size), exact_scratch(unsafe.empty() ? 0 : exact_size);
      for_runs(unsafe, begin, end, [&](int64_t first, int64_t last, bool direct) {
        if (direct)
          RLV2V_BEST(direct_bwd(exact, winograd_tiling(), first, last, exact_scratch.get()));
        else
          RLV2V_BEST(winograd_bwd(step, first, last, scratch.get()));
      });
    });
  }

  const T* packed(bool winograd) {
    std::optional<Scratch<T>>& weight = weights_[winograd];
    if (!weight) {
      weight.emplace(RLV2V_BEST(packed_weight_size(in_.shape, winograd, in_.weight)));
      parallel_for(0, in_.shape.inputs(), 4, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(pack_weight(in_.shape, winograd, in_.weight, begin, end, weight->get()));
      });
    }
    return weight->get();
  }

  // For the gradient of h, and of x where with_x. All calls of bwd must agree about x.
  const T* packed_transposed(bool winograd, bool with_x) {
    std::optional<Scratch<T>>& weight = transposed_[winograd];
    if (!weight) {
      weight.emplace(RLV2V_BEST(packed_transposed_size(in_.shape, winograd, with_x, in_.weight)));
      parallel_for(0, 4 * in_.shape.hidden, 16, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(pack_weight_transposed(in_.shape, winograd, with_x, in_.weight, begin, end, weight->get()));
      });
    }
    return weight->get();
  }

  const ConvLSTMInputs<T>& in_;
  const bool winograd_;
  Scratch<T> bias_;
  // By whether they are Winograd's.
  std::optional<Scratch<T>> weights_[2], transposed_[2];
};

}  // namespace rlv2v
