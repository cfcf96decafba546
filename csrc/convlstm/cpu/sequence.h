// The time loops of the CPU ConvLSTM on raw pointers: which kernel runs when, over which scratch.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/scratch.h"
#include "convlstm/cpu/direct_simd.h"
#include "convlstm/cpu/pack_simd.h"
#include "convlstm/cpu/steps.h"
#include "convlstm/cpu/winograd_simd.h"

namespace rlv2v {

// A (B, T, C, H, W) tensor of any strides, in elements; a state (B, K, H, W) has T = 1. No data: None.
template <class T>
struct Frames {
  T* data = nullptr;
  int64_t batch = 0, time = 0, channel = 0, row = 0, column = 0;
};

template <class T>
struct ConvLSTMInputs {
  ConvLSTMShape shape;
  int64_t steps;
  bool exact;
  Frames<const T> x;
  const T* weight;  // (4K, C+K, kh, kw), contiguous
  const T* bias;    // (4K,), nullable
  Frames<const T> h0, c0;
};

template <class T>
struct ConvLSTMOutputs {
  Frames<T> output, h, c;
  T* cells;  // (T, B, H, W, K), nullable
  T* gates;  // (T, B, H, W, 4K), nullable
};

template <class T>
struct ConvLSTMSaved {
  Frames<const T> output;
  const T* cells;
  const T* gates;  // null: recomputed
};

template <class T>
struct ConvLSTMGrads {
  Frames<const T> output, h, c;  // given, each may be None
  Frames<T> x, h0, c0;           // wanted, each may be None
  T* weight;                     // wanted with bias, or null
  T* bias;
};

namespace convlstm_detail {

using torch::stable::parallel_for;

// Elements whose copying repays waking a second thread.
constexpr int64_t kCopyGrain = 16384;
// Patches of the direct kernels stay in L2.
constexpr int64_t kPatchBytes = 192 * 1024;
constexpr int64_t kMaxColumns = 64;
// Shared scratch of the weight gradients, per chunk of frames or tiles: small, to stay in cache, but of enough tiles
// for the sums to be read and written seldom, and for few chunks, since threads wait for each other twice in each.
constexpr int64_t kWeightBytes = 8 << 20;
constexpr int64_t kWeightTiles = 96;

// Where it at least halves the multiplications, what tiles waste beyond the edges of the image included.
template <class T>
bool use_winograd(const ConvLSTMShape& s, bool exact) {
  const bool has_kernel = s.kernel_h == s.kernel_w && (s.kernel_h == 3 || s.kernel_h == 5);
  return sizeof(T) == sizeof(float) && !exact && has_kernel && 2 * 36 * winograd_tiles(s) <= s.taps() * s.pixels();
}

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

// Frame `step` of every sample to NHWC, replacing what is there or added to it.
template <class T>
void pack_frames(const ConvLSTMShape& s, int64_t channels, const Frames<const T>& from, int64_t step, T* to,
                 bool add = false) {
  const int64_t row = s.width * channels;
  copy_frames<T>(
      s, channels,
      {from.data + step * from.time, from.channel, from.row, from.column, to, 1, row, channels, channels, s.width, add},
      from.batch, s.height * row);
}

template <class T>
void unpack_frames(const ConvLSTMShape& s, int64_t channels, const T* from, const Frames<T>& to, int64_t step) {
  const int64_t row = s.width * channels;
  copy_frames<T>(
      s, channels,
      {from, 1, row, channels, to.data + step * to.time, to.channel, to.row, to.column, channels, s.width, false},
      s.height * row, to.batch);
}

// Packed in parallel from a state tensor, or empty where there is none.
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

inline ConvLSTMBlocks direct_blocks(const ConvLSTMShape& s, int64_t channels, int64_t element) {
  ConvLSTMBlocks blocks{1, std::min(s.width, kMaxColumns)};
  const int64_t row_bytes = (blocks.columns + s.kernel_w - 1) * channels * element;
  const int64_t tasks = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  while (blocks.rows < s.height && (2 * blocks.rows + s.kernel_h - 1) * row_bytes <= kPatchBytes) {
    const ConvLSTMBlocks larger{blocks.rows * 2, blocks.columns};
    if (larger.tasks(s) < tasks) break;
    blocks = larger;
  }
  return blocks;
}

// The kernels of one sequence, with the weights they need packed.
template <class T>
class Kernels {
 public:
  explicit Kernels(const ConvLSTMInputs<T>& in)
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
    const ConvLSTMBlocks blocks = direct_blocks(in_.shape, in_.shape.inputs(), sizeof(T));
    const int64_t size = RLV2V_BEST(direct_fwd_scratch(step, blocks));
    parallel_for(0, blocks.tasks(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_fwd(step, blocks, begin, end, scratch.get()));
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
    const ConvLSTMBlocks blocks = direct_blocks(in_.shape, 4 * in_.shape.hidden, sizeof(T));
    const int64_t size = RLV2V_BEST(direct_bwd_scratch(step, blocks));
    parallel_for(0, blocks.tasks(in_.shape), 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(direct_bwd(step, blocks, begin, end, scratch.get()));
    });
  }

 private:
  void pack_weight() {
    weight_.emplace(RLV2V_BEST(packed_weight_size(in_.shape, winograd_, in_.weight)));
    parallel_for(0, in_.shape.inputs(), 4, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(pack_weight(in_.shape, winograd_, in_.weight, begin, end, weight_->get()));
    });
  }

  // For the gradient of h, and of x if wanted; every call of bwd must ask for the same.
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

// Weight and bias gradients, summed over groups of steps: the sums are large, so a group must hold enough tiles to
// repay reading and writing them.
template <class T>
class WeightGradient {
 public:
  WeightGradient(const ConvLSTMInputs<T>& in, bool winograd)
      : shape_(in.shape),
        winograd_(winograd),
        size_(sums_size(in.shape, winograd)),
        sums_(size_),
        group_sums_(winograd ? 0 : size_) {
    fill_zero(sums_.get(), size_);
  }

  static int64_t group_steps(const ConvLSTMInputs<T>& in, bool winograd) {
    const int64_t tiles = winograd ? winograd_tiles(in.shape) : kWeightTiles;
    return std::min(in.steps, (kWeightTiles + tiles - 1) / tiles);
  }

  void add(const ConvLSTMGradWeight<T>& group) {
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) return add_winograd(group);
    const int64_t total = group.steps * shape_.batch;
    const int64_t bytes = RLV2V_BEST(direct_weight_scratch(group, 1)) * sizeof(T);
    const int64_t most = std::max<int64_t>(1, kWeightBytes / bytes);
    const Scratch<T> scratch(RLV2V_BEST(direct_weight_scratch(group, std::min(most, total))));
    fill_zero(group_sums_.get(), size_);
    for (int64_t frame = 0; frame < total; frame += most) {
      const int64_t frames = std::min(most, total - frame);
      parallel_for(0, frames, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(direct_weight_prepare(group, frame, frames, begin, end, scratch.get()));
      });
      const int64_t units = RLV2V_BEST(direct_weight_units(shape_, group.x));
      parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(direct_weight_accumulate(group, frames, begin, end, scratch.get(), group_sums_.get()));
      });
    }
    add_group_sums();
  }

  void finish(T* grad_weight, T* grad_bias) {
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) {
        parallel_for(0, shape_.inputs(), 4, [&](int64_t begin, int64_t end) {
          RLV2V_BEST(winograd_weight_finish(shape_, sums_.get(), begin, end, grad_weight, grad_bias));
        });
        return;
      }
    parallel_for(0, 4 * shape_.hidden, 4, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(direct_weight_finish(shape_, sums_.get(), begin, end, grad_weight, grad_bias));
    });
  }

 private:
  static int64_t sums_size(const ConvLSTMShape& shape, bool winograd) {
    if (winograd) return RLV2V_BEST(winograd_weight_sums(shape));
    return RLV2V_BEST(direct_weight_sums(shape, static_cast<const T*>(nullptr)));
  }

  // A group summed on its own first: two short sums round less than one long one.
  void add_group_sums() {
    parallel_for(0, size_, kCopyGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums_.get()[i] += group_sums_.get()[i];
    });
  }

  void add_winograd(const ConvLSTMGradWeight<float>& group) {
    const int64_t total = group.steps * winograd_tiles(shape_);
    const int64_t bytes = RLV2V_BEST(winograd_weight_scratch(shape_, 1)) * sizeof(float);
    const int64_t most = std::max(kWeightTiles, kWeightBytes / bytes);
    const int64_t chunks = (total + most - 1) / most, tiles = (total + chunks - 1) / chunks;
    const Scratch<float> scratch(RLV2V_BEST(winograd_weight_scratch(shape_, tiles)));
    for (int64_t first = 0; first < total; first += tiles) {
      const int64_t count = std::min(tiles, total - first);
      parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(winograd_weight_prepare(group, first, count, begin, end, scratch.get()));
      });
      parallel_for(0, RLV2V_BEST(winograd_weight_units(shape_)), 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(winograd_weight_accumulate(shape_, count, begin, end, scratch.get(), sums_.get()));
      });
    }
  }

  const ConvLSTMShape shape_;
  const bool winograd_;
  const int64_t size_;
  Scratch<T> sums_, group_sums_;
};

// The steps backwards, from the last. Gate gradients go to a ring of two groups of steps: one group is complete for the
// weight gradient while the first step of the other still feeds the recurrence. Nothing that was saved is written to.
template <class T>
class Backward {
 public:
  Backward(const ConvLSTMInputs<T>& in, const ConvLSTMSaved<T>& saved, const ConvLSTMGrads<T>& grads)
      : in_(in),
        saved_(saved),
        grads_(grads),
        kernels_(in),
        group_(WeightGradient<T>::group_steps(in, kernels_.winograd())),
        state_(in.shape.pixels() * in.shape.hidden),
        h0_(pack_state(in.shape, in.h0)),
        c0_(pack_state(in.shape, in.c0)),
        grad_gates_(std::min(2 * group_, in.steps) * 4 * state_),
        grad_h_(state_),
        grad_c_(state_),
        grad_x_(grads.x.data ? in.shape.pixels() * in.shape.channels : 0),
        x_(group_ * in.shape.pixels() * in.shape.channels),
        h_(group_ * state_) {
    if (grads.weight) weight_.emplace(in, kernels_.winograd());
  }

  void run() {
    if (grads_.c.data)
      pack_frames(in_.shape, in_.shape.hidden, grads_.c, 0, grad_c_.get());
    else
      fill_zero(grad_c_.get(), state_);
    for (int64_t t = in_.steps - 1; t >= 0; --t) {
      step(t);
      if (weight_ && t % group_ == 0) add_weight(t, std::min(group_, in_.steps - t));
    }
    if (grads_.x.data || grads_.h0.data) before_first_step();
    if (grads_.c0.data) unpack_frames(in_.shape, in_.shape.hidden, grad_c_.get(), grads_.c0, 0);
    if (weight_) weight_->finish(grads_.weight, grads_.bias);
  }

 private:
  T* grad_gates(int64_t t) const { return grad_gates_.get() + t % (2 * group_) * 4 * state_; }

  const T* cells_before(int64_t t) const { return t > 0 ? saved_.cells + (t - 1) * state_ : c0_.get(); }

  // The gradient that reaches h of step t from outside, or null.
  const T* outside_grad_h(int64_t t) {
    const bool last = t + 1 == in_.steps && grads_.h.data;
    if (grads_.output.data) pack_frames(in_.shape, in_.shape.hidden, grads_.output, t, grad_h_.get());
    if (last) pack_frames(in_.shape, in_.shape.hidden, grads_.h, 0, grad_h_.get(), grads_.output.data != nullptr);
    return last || grads_.output.data ? grad_h_.get() : nullptr;
  }

  void pack_x(int64_t t, T* to) { pack_frames(in_.shape, in_.shape.channels, in_.x, t, to); }

  // h before step t in NHWC: `to`, or where it already is; null for zeros.
  const T* h_before(int64_t t, T* to) {
    if (t == 0) return h0_.get();
    pack_frames(in_.shape, in_.shape.hidden, saved_.output, t - 1, to);
    return to;
  }

  const T* gates(int64_t t) {
    if (saved_.gates) return saved_.gates + t * 4 * state_;
    ConvLSTMStep<T> step{};
    pack_x(t, x_.get());
    step.x = x_.get();
    step.h = h_before(t, h_.get());
    step.c = cells_before(t);
    step.gates = grad_gates(t);
    kernels_.fwd(step);
    return step.gates;
  }

  void step(int64_t t) {
    const bool recurrent = t + 1 < in_.steps;
    ConvLSTMGradStep<T> step{};
    step.grad_gates_next = recurrent ? grad_gates(t + 1) : nullptr;
    step.grad_x_next = recurrent ? grad_x_.get() : nullptr;
    step.grad_h = outside_grad_h(t);
    step.gates = gates(t);
    step.c = cells_before(t);
    step.c_next = saved_.cells + t * state_;
    step.grad_c = grad_c_.get();
    step.grad_gates = grad_gates(t);
    kernels_.bwd(step, grads_.x.data != nullptr);
    if (recurrent && grads_.x.data) unpack_frames(in_.shape, in_.shape.channels, grad_x_.get(), grads_.x, t + 1);
  }

  void before_first_step() {
    ConvLSTMGradStep<T> step{};
    step.grad_gates_next = grad_gates(0);
    step.grad_x_next = grad_x_.get();
    step.grad_h0 = grad_h_.get();
    kernels_.bwd(step, grads_.x.data != nullptr);
    if (grads_.x.data) unpack_frames(in_.shape, in_.shape.channels, grad_x_.get(), grads_.x, 0);
    if (grads_.h0.data) unpack_frames(in_.shape, in_.shape.hidden, grad_h_.get(), grads_.h0, 0);
  }

  void add_weight(int64_t first, int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) {
      T* h = h_.get() + i * state_;
      pack_x(first + i, x_.get() + i * in_.shape.pixels() * in_.shape.channels);
      const T* before = h_before(first + i, h);
      if (!before) fill_zero(h, state_);
      if (before && before != h) std::memcpy(h, before, state_ * sizeof(T));
    }
    weight_->add({in_.shape, steps, x_.get(), h_.get(), grad_gates(first)});
  }

  const ConvLSTMInputs<T>& in_;
  const ConvLSTMSaved<T>& saved_;
  const ConvLSTMGrads<T>& grads_;
  Kernels<T> kernels_;
  const int64_t group_, state_;
  Scratch<T> h0_, c0_, grad_gates_, grad_h_, grad_c_, grad_x_, x_, h_;
  std::optional<WeightGradient<T>> weight_;
};

}  // namespace convlstm_detail

template <class T>
void convlstm_sequence_fwd(const ConvLSTMInputs<T>& in, const ConvLSTMOutputs<T>& out) {
  using namespace convlstm_detail;
  const ConvLSTMShape& s = in.shape;
  const int64_t state = s.pixels() * s.hidden;
  Kernels<T> kernels(in);
  const Scratch<T> x(s.pixels() * s.channels), h_even(state), h_odd(state), cell(out.cells ? 0 : state);
  const Scratch<T> h0 = pack_state(s, in.h0), c0 = pack_state(s, in.c0);
  ConvLSTMStep<T> step{};
  step.x = x.get();
  step.h = h0.get();
  step.c = c0.get();
  for (int64_t t = 0; t < in.steps; ++t) {
    pack_frames(s, s.channels, in.x, t, x.get());
    step.h_next = t % 2 ? h_odd.get() : h_even.get();
    step.c_next = out.cells ? out.cells + t * state : cell.get();
    step.gates = out.gates ? out.gates + t * 4 * state : nullptr;
    kernels.fwd(step);
    unpack_frames(s, s.hidden, step.h_next, out.output, t);
    step.h = step.h_next;
    step.c = step.c_next;
  }
  unpack_frames(s, s.hidden, step.h, out.h, 0);
  unpack_frames(s, s.hidden, step.c, out.c, 0);
}

template <class T>
void convlstm_sequence_bwd(const ConvLSTMInputs<T>& in, const ConvLSTMSaved<T>& saved, const ConvLSTMGrads<T>& grads) {
  convlstm_detail::Backward<T>(in, saved, grads).run();
}

}  // namespace rlv2v
