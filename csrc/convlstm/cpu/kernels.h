// What both time loops use: frames to and from the kernels' layout, and the kernels of one time step, with the choice
// between Winograd's convolution and the direct one.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/parallel.h"
#include "common/scratch.h"
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

// Runs the kernels of one sequence step by step, and packs the weights when they are first needed.
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
    if (!weight_) pack_weight();
    step.shape = in_.shape;
    step.weight = weight_->get();
    step.bias = bias_.get();
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) {
        const int64_t size = RLV2V_BEST(winograd_fwd_scratch(step));
        parallel_for(0, winograd_tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
          const Scratch<T> scratch(size);
          RLV2V_BEST(winograd_fwd(step, begin, end, scratch.get()));
        });
        return;
      }
    const ConvLSTMTiling tiling = direct_tiling(in_.shape, in_.shape.inputs(), sizeof(T));
    const int64_t size = RLV2V_BEST(direct_fwd_scratch(step, tiling));
    parallel_for(0, tiling.tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_fwd(step, tiling, begin, end, scratch.get()));
    });
  }

  void bwd(ConvLSTMGradStep<T> step, bool with_x) {
    if (!transposed_) pack_transposed(with_x);
    step.shape = in_.shape;
    step.weight = transposed_->get();
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) {
        const int64_t size = RLV2V_BEST(winograd_bwd_scratch(step));
        parallel_for(0, winograd_tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
          const Scratch<T> scratch(size);
          RLV2V_BEST(winograd_bwd(step, begin, end, scratch.get()));
        });
        return;
      }
    const ConvLSTMTiling tiling = direct_tiling(in_.shape, 4 * in_.shape.hidden, sizeof(T));
    const int64_t size = RLV2V_BEST(direct_bwd_scratch(step, tiling));
    parallel_for(0, tiling.tiles(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_bwd(step, tiling, begin, end, scratch.get()));
    });
  }

 private:
  void pack_weight() {
    weight_.emplace(RLV2V_BEST(packed_weight_size(in_.shape, winograd_, in_.weight)));
    parallel_for(0, in_.shape.inputs(), 4, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(pack_weight(in_.shape, winograd_, in_.weight, begin, end, weight_->get()));
    });
  }

  // For the gradient of h, and of x where with_x. All calls of bwd must agree about x.
  void pack_transposed(bool with_x) {
    transposed_.emplace(RLV2V_BEST(packed_transposed_size(in_.shape, winograd_, with_x, in_.weight)));
    parallel_for(0, 4 * in_.shape.hidden, 16, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(pack_weight_transposed(in_.shape, winograd_, with_x, in_.weight, begin, end, transposed_->get()));
    });
  }

  const ConvLSTMInputs<T>& in_;
  const bool winograd_;
  Scratch<T> bias_;
  std::optional<Scratch<T>> weight_, transposed_;
};

}  // namespace rlv2v
