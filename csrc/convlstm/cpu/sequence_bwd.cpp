// The time loop backward.
#include <memory>

#include "convlstm/cpu/kernels.h"

namespace rlv2v {
namespace {

// Weight gradients go over the frames or tiles of a span in chunks. The scratch of a chunk is small, to stay in the
// cache, but holds enough tiles that the sums are seldom read and written, and that chunks are few: threads wait for
// each other twice in each.
constexpr int64_t kWeightBytes = 8 << 20;
constexpr int64_t kWeightTiles = 96;
// Of the pixels that are not zero, one in so many at least has a value near the largest, or it is taken for an outlier.
constexpr int64_t kEvenShare = 16;

// The gradients of weight and bias, summed over spans of steps. The sums are large, so a span must hold enough tiles to
// repay reading and writing them.
template <class T>
class WeightGradient {
 public:
  WeightGradient(const ConvLSTMShape& shape, bool winograd)
      : shape_(shape),
        winograd_(winograd),
        size_(sums_size(shape, winograd)),
        sums_(size_),
        span_sums_(winograd ? 0 : size_) {
    fill_zero(sums_.get(), size_);
  }

  static int64_t span_steps(const ConvLSTMInputs<T>& in, bool winograd) {
    const int64_t tiles = winograd ? winograd_tiles(in.shape) : kWeightTiles;
    return std::min(in.steps, (kWeightTiles + tiles - 1) / tiles);
  }

  void add(const ConvLSTMGradWeight<T>& span) {
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) {
        if (is_safe(span)) return add_winograd(span);
        if (!exact_) exact_ = std::make_unique<WeightGradient<T>>(shape_, false);
        return exact_->add(span);
      }
    const int64_t total = span.steps * shape_.batch;
    const int64_t bytes = RLV2V_BEST(direct_weight_scratch(span, 1)) * sizeof(T);
    const int64_t most = std::max<int64_t>(1, kWeightBytes / bytes);
    const Scratch<T> scratch(RLV2V_BEST(direct_weight_scratch(span, std::min(most, total))));
    fill_zero(span_sums_.get(), size_);
    for (int64_t frame = 0; frame < total; frame += most) {
      const int64_t frames = std::min(most, total - frame);
      parallel_for(0, frames, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(direct_weight_prepare(span, frame, frames, begin, end, scratch.get()));
      });
      const int64_t units = RLV2V_BEST(direct_weight_units(shape_, span.x));
      parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(direct_weight_accumulate(span, frames, begin, end, scratch.get(), span_sums_.get()));
      });
    }
    add_span_sums();
  }

  void finish(T* grad_weight, T* grad_bias) {
    if constexpr (sizeof(T) == sizeof(float))
      if (winograd_) {
        parallel_for(0, shape_.inputs(), 4, [&](int64_t begin, int64_t end) {
          RLV2V_BEST(winograd_weight_finish(shape_, sums_.get(), begin, end, grad_weight, grad_bias));
        });
        if (exact_) add_exact(grad_weight, grad_bias);
        return;
      }
    parallel_for(0, 4 * shape_.hidden, 4, [&](int64_t begin, int64_t end) {
      RLV2V_BEST(direct_weight_finish(shape_, sums_.get(), begin, end, grad_weight, grad_bias));
    });
  }

 private:
  // Whether Winograd's sums over a span are those of a plain convolution but for rounding: all values are finite, and
  // the largest are not so few and so far from the others that their rounding exceeds what the others add.
  bool is_safe(const ConvLSTMGradWeight<float>& span) {
    const Images inputs[] = {{span.x, shape_.channels}, {span.h, shape_.hidden}};
    const Images grads[] = {{span.grad_gates, 4 * shape_.hidden}};
    return is_even(inputs, 2, span.steps) && is_even(grads, 1, span.steps);
  }

  bool is_even(const Images* images, int count, int64_t steps) {
    const int64_t pixels = steps * shape_.pixels();
    const Scratch<float> largest(pixels);
    const float most = find_magnitudes(images, count, pixels, largest.get()).most;
    if (!(most <= kWinogradLargest)) return false;
    int64_t near = 0, any = 0;
    for (int64_t i = 0; i < pixels; ++i) {
      any += largest.get()[i] > 0;
      near += largest.get()[i] * kWinogradRange > most;
    }
    return near * kEvenShare >= any;
  }

  // Adds the gradients of the spans that were summed as a plain convolution.
  void add_exact(T* grad_weight, T* grad_bias) {
    const int64_t rows = 4 * shape_.hidden, row = shape_.inputs() * shape_.taps();
    const Scratch<T> weight(rows * row), bias(rows);
    exact_->finish(weight.get(), bias.get());
    for (int64_t i = 0; i < rows * row; ++i) grad_weight[i] += weight.get()[i];
    for (int64_t i = 0; i < rows; ++i) grad_bias[i] += bias.get()[i];
  }

  static int64_t sums_size(const ConvLSTMShape& shape, bool winograd) {
    if (winograd) return RLV2V_BEST(winograd_weight_sums(shape));
    return RLV2V_BEST(direct_weight_sums(shape, static_cast<const T*>(nullptr)));
  }

  // The sums of a span by themselves first: two short sums round less than one long one.
  void add_span_sums() {
    parallel_for(0, size_, kCopyGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums_.get()[i] += span_sums_.get()[i];
    });
  }

  void add_winograd(const ConvLSTMGradWeight<float>& span) {
    const int64_t total = span.steps * winograd_tiles(shape_);
    const int64_t bytes = RLV2V_BEST(winograd_weight_scratch(shape_, 1)) * sizeof(float);
    const int64_t most = std::max(kWeightTiles, kWeightBytes / bytes);
    const int64_t chunks = (total + most - 1) / most, tiles = (total + chunks - 1) / chunks;
    const Scratch<float> scratch(RLV2V_BEST(winograd_weight_scratch(shape_, tiles)));
    for (int64_t first = 0; first < total; first += tiles) {
      const int64_t count = std::min(tiles, total - first);
      parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(winograd_weight_prepare(span, first, count, begin, end, scratch.get()));
      });
      parallel_for(0, RLV2V_BEST(winograd_weight_units(shape_)), 1, [&](int64_t begin, int64_t end) {
        RLV2V_BEST(winograd_weight_accumulate(shape_, count, begin, end, scratch.get(), sums_.get()));
      });
    }
  }

  const ConvLSTMShape shape_;
  const bool winograd_;
  const int64_t size_;
  Scratch<T> sums_, span_sums_;
  // Of the spans that Winograd's sums would spoil.
  std::unique_ptr<WeightGradient<T>> exact_;
};

// The steps backwards, from the last. The gradients of the gates go to a ring of two spans of steps: while the weight
// gradient reads one span, the first step of the other still feeds the recurrence. Nothing that was saved is written
// to.
template <class T>
class Backward {
 public:
  Backward(const ConvLSTMInputs<T>& in, const ConvLSTMSaved<T>& saved, const ConvLSTMGrads<T>& grads)
      : in_(in),
        saved_(saved),
        grads_(grads),
        kernels_(in),
        span_(WeightGradient<T>::span_steps(in, kernels_.winograd())),
        state_(in.shape.pixels() * in.shape.hidden),
        h0_(pack_state(in.shape, in.h0)),
        c0_(pack_state(in.shape, in.c0)),
        grad_gates_(std::min(2 * span_, in.steps) * 4 * state_),
        grad_h_(state_),
        grad_c_(state_),
        grad_x_(grads.x.data ? in.shape.pixels() * in.shape.channels : 0),
        x_(span_ * in.shape.pixels() * in.shape.channels),
        h_(span_ * state_) {
    if (grads.weight) weight_.emplace(in.shape, kernels_.winograd());
  }

  void run() {
    if (grads_.c.data)
      pack_frames(in_.shape, in_.shape.hidden, grads_.c, 0, grad_c_.get());
    else
      fill_zero(grad_c_.get(), state_);
    for (int64_t t = in_.steps - 1; t >= 0; --t) {
      step(t);
      if (weight_ && t % span_ == 0) add_weight(t, std::min(span_, in_.steps - t));
    }
    if (grads_.x.data || grads_.h0.data) before_first_step();
    if (grads_.c0.data) unpack_frames(in_.shape, in_.shape.hidden, grad_c_.get(), grads_.c0, 0);
    if (weight_) weight_->finish(grads_.weight, grads_.bias);
  }

 private:
  T* grad_gates(int64_t t) const { return grad_gates_.get() + t % (2 * span_) * 4 * state_; }

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
  StepKernels<T> kernels_;
  const int64_t span_, state_;
  Scratch<T> h0_, c0_, grad_gates_, grad_h_, grad_c_, grad_x_, x_, h_;
  std::optional<WeightGradient<T>> weight_;
};

}  // namespace

template <class T>
void convlstm_sequence_bwd(const ConvLSTMInputs<T>& in, const ConvLSTMSaved<T>& saved, const ConvLSTMGrads<T>& grads) {
  Backward<T>(in, saved, grads).run();
}

template void convlstm_sequence_bwd(const ConvLSTMInputs<float>&, const ConvLSTMSaved<float>&,
                                    const ConvLSTMGrads<float>&);
template void convlstm_sequence_bwd(const ConvLSTMInputs<double>&, const ConvLSTMSaved<double>&,
                                    const ConvLSTMGrads<double>&);

}  // namespace rlv2v
