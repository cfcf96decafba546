// The operators causal_conv3d_fwd and causal_conv3d_bwd on the CPU, float and double; rlv2v_fast/ops/causal_conv3d.py
// checks shapes.
#include <type_traits>

#include "conv3d/cpu/kernels.h"
#include "conv3d/cpu/operators.h"

namespace rlv2v {
namespace {

// Whether channels are innermost in clips (B, C, T, H, W), as PyTorch's channels_last_3d has them.
bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  int64_t stride = 1;
  for (const int dim : {1, 4, 3, 2, 0}) {
    if (x.size(dim) == 1) continue;
    if (x.stride(dim) != stride) return false;
    stride *= x.size(dim);
  }
  return true;
}

// The tables of frames that a call reads or writes: those of one clip after the other. T is const where they are read.
template <class T>
class FrameTable {
 public:
  void add_zeros(int64_t count) { frames_.insert(frames_.end(), count, Frame<T>{}); }

  // All frames of one clip of x.
  void add(const Tensor& x, int64_t clip) {
    for (int64_t t = 0; t < x.size(2); ++t)
      frames_.push_back({data_of(x) + clip * x.stride(0) + t * x.stride(2), x.stride(1), x.stride(3), x.stride(4)});
  }

  const Frame<T>* get() const { return frames_.data(); }

 private:
  static T* data_of(const Tensor& x) {
    if constexpr (std::is_const_v<T>)
      return x.const_data_ptr<std::remove_const_t<T>>();
    else
      return x.mutable_data_ptr<T>();
  }

  std::vector<Frame<T>> frames_;
};

// What the forward reads.
template <class T>
FrameTable<const T> inputs_of(const Tensor& x, const MaybeTensor& history) {
  FrameTable<const T> table;
  for (int64_t b = 0; b < x.size(0); ++b) {
    if (history)
      table.add(*history, b);
    else
      table.add_zeros(2);
    table.add(x, b);
  }
  return table;
}

Conv3dShape shape_of(const Tensor& x, const Tensor& weight, bool upsample) {
  const int64_t scale = upsample ? 2 : 1;
  return {x.size(0), x.size(2), scale * x.size(3), scale * x.size(4), x.size(1), weight.size(0), upsample, false};
}

std::vector<int64_t> sizes_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

// Gradients of x and of the history, each where it has elements.
template <class T>
void grad_inputs(const Tensor& grad_y, const Tensor& weight, const Conv3dShape& forward, bool exact,
                 const Tensor& grad_x, const Tensor& grad_history) {
  const bool to_x = grad_x.numel() != 0, to_history = grad_history.numel() != 0;
  FrameTable<const T> in;
  FrameTable<T> out;
  for (int64_t b = 0; b < forward.clips; ++b) {
    // Frame t is seen by the results t, t + 1 and t + 2, the first of the history by result 0 alone.
    if (to_history) in.add_zeros(2);
    if (to_x || forward.frames <= 2)
      in.add(grad_y, b);
    else
      in.add(torch::stable::narrow(const_cast<Tensor&>(grad_y), 2, 0, 2), b);
    if (to_x) in.add_zeros(2);
    if (!to_x && forward.frames < 2) in.add_zeros(2 - forward.frames);
    if (to_history) out.add(grad_history, b);
    if (to_x) out.add(grad_x, b);
  }
  Conv3dShape s = forward;
  s.frames = (to_x ? forward.frames : 0) + (to_history ? 2 : 0);
  s.channels = forward.outputs;
  s.outputs = forward.channels;
  s.half_in = false;
  s.half_out = forward.half_in;
  run_conv3d<T>({s, in.get(), out.get()}, weight.const_data_ptr<T>(), true, exact);
}

}  // namespace

Tensor causal_conv3d_fwd(const Tensor& x, const Tensor& weight_any, const MaybeTensor& bias_any,
                         const MaybeTensor& history, bool upsample, bool exact) {
  const Tensor weight = torch::stable::contiguous(weight_any);
  const MaybeTensor bias = bias_any ? MaybeTensor(torch::stable::contiguous(*bias_any)) : MaybeTensor();
  const Conv3dShape s = shape_of(x, weight, upsample);
  const Tensor y = pooled_clips(x, {s.clips, s.outputs, s.frames, s.height, s.width}, is_channels_last(x));
  if (y.numel() == 0) return y;
  for_float_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const FrameTable<const T> in = inputs_of<T>(x, history);
    FrameTable<T> out;
    for (int64_t b = 0; b < s.clips; ++b) out.add(y, b);
    Conv3d<T> call{s, in.get(), out.get()};
    if (bias) call.bias = bias->const_data_ptr<T>();
    run_conv3d<T>(call, weight.const_data_ptr<T>(), false, exact);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv3d_bwd(const Tensor& grad_y, const Tensor& x,
                                                             const Tensor& weight_any, const MaybeTensor& bias,
                                                             const MaybeTensor& history, bool upsample, bool exact,
                                                             bool need_x, bool need_weight, bool need_bias,
                                                             bool need_history) {
  const Tensor weight = torch::stable::contiguous(weight_any);
  const Conv3dShape s = shape_of(x, weight, upsample);
  const std::vector<int64_t> none = {0};
  const bool last = is_channels_last(x);
  const Tensor grad_x = need_x ? pooled_clips(x, sizes_of(x), last) : torch::stable::new_empty(x, none);
  const Tensor grad_history =
      need_history && history ? pooled_clips(x, sizes_of(*history), last) : torch::stable::new_empty(x, none);
  const Tensor empty = torch::stable::new_empty(x, none);
  const bool to_weight = need_weight || (need_bias && bias);
  const Tensor grad_weight = to_weight ? torch::stable::new_empty(x, sizes_of(weight)) : empty;
  const Tensor grad_bias = to_weight ? torch::stable::new_empty(x, {s.outputs}) : empty;
  const auto results = [&] {
    return std::make_tuple(grad_x, need_weight ? grad_weight : torch::stable::new_empty(x, none),
                           need_bias && bias ? grad_bias : torch::stable::new_empty(x, none), grad_history);
  };
  if (grad_y.numel() == 0) {
    for (Tensor grad : {grad_x, grad_history, grad_weight, grad_bias}) torch::stable::zero_(grad);
    return results();
  }
  for_float_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    if (grad_x.numel() || grad_history.numel()) grad_inputs<T>(grad_y, weight, s, exact, grad_x, grad_history);
    if (!to_weight) return;
    const FrameTable<const T> in = inputs_of<T>(x, history);
    FrameTable<const T> grads;
    for (int64_t b = 0; b < s.clips; ++b) grads.add(grad_y, b);
    run_conv3d_grad_weight<T>(
        {s, in.get(), grads.get(), grad_weight.mutable_data_ptr<T>(), grad_bias.mutable_data_ptr<T>()}, exact);
  });
  return results();
}

}  // namespace rlv2v
