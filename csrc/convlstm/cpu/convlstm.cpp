// The operators convlstm_fwd and convlstm_bwd on the CPU, float and double; rlv2v_fast/ops/convlstm.py checks shapes.
#include "convlstm/cpu/operators.h"
#include "convlstm/cpu/sequence.h"

namespace rlv2v {
namespace {

template <class T>
Frames<const T> sequence_of(const Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
}

template <class T>
Frames<T> sequence_to(const Tensor& x) {
  return {x.mutable_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
}

template <class T>
Frames<const T> state_of(const MaybeTensor& x) {
  if (!x) return {};
  return {x->const_data_ptr<T>(), x->stride(0), 0, x->stride(1), x->stride(2), x->stride(3)};
}

template <class T>
Frames<T> state_to(const Tensor& x) {
  return {x.mutable_data_ptr<T>(), x.stride(0), 0, x.stride(1), x.stride(2), x.stride(3)};
}

Tensor empty_of(const Tensor& like, const std::vector<int64_t>& sizes) { return torch::stable::new_empty(like, sizes); }

ConvLSTMShape shape_of(const Tensor& x, const Tensor& weight) {
  return {x.size(0), x.size(2), weight.size(0) / 4, x.size(3), x.size(4), weight.size(2), weight.size(3)};
}

template <class T>
ConvLSTMInputs<T> inputs_of(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const MaybeTensor& h0,
                            const MaybeTensor& c0, bool exact) {
  return {shape_of(x, weight),
          x.size(1),
          exact,
          sequence_of<T>(x),
          weight.const_data_ptr<T>(),
          bias ? bias->const_data_ptr<T>() : nullptr,
          state_of<T>(h0),
          state_of<T>(c0)};
}

}  // namespace

ConvLSTMResult convlstm_fwd(const Tensor& x, const Tensor& weight_any, const MaybeTensor& bias_any,
                            const MaybeTensor& h0, const MaybeTensor& c0, bool exact, bool save_cells,
                            bool save_gates) {
  const Tensor weight = torch::stable::contiguous(weight_any);
  const MaybeTensor bias = bias_any ? MaybeTensor(torch::stable::contiguous(*bias_any)) : MaybeTensor();
  const ConvLSTMShape s = shape_of(x, weight);
  const int64_t steps = x.size(1);
  const Tensor output = pooled(x, {s.batch, steps, s.hidden, s.height, s.width});
  const Tensor h = empty_of(x, {s.batch, s.hidden, s.height, s.width});
  const Tensor c = empty_of(x, {s.batch, s.hidden, s.height, s.width});
  const std::vector<int64_t> none = {0};
  const Tensor cells = pooled(x, save_cells ? std::vector<int64_t>{steps, s.batch, s.height, s.width, s.hidden} : none);
  const Tensor gates =
      pooled(x, save_gates ? std::vector<int64_t>{steps, s.batch, s.height, s.width, 4 * s.hidden} : none);
  if (output.numel() == 0) return {output, h, c, cells, gates};
  for_float_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    convlstm_sequence_fwd<T>(
        inputs_of<T>(x, weight, bias, h0, c0, exact),
        {sequence_to<T>(output), state_to<T>(h), state_to<T>(c), save_cells ? cells.mutable_data_ptr<T>() : nullptr,
         save_gates ? gates.mutable_data_ptr<T>() : nullptr});
  });
  return {output, h, c, cells, gates};
}

ConvLSTMResult convlstm_bwd(const MaybeTensor& grad_output, const MaybeTensor& grad_h, const MaybeTensor& grad_c,
                            const Tensor& x, const Tensor& weight_any, const MaybeTensor& bias_any,
                            const MaybeTensor& h0, const MaybeTensor& c0, const Tensor& output, const Tensor& cells_any,
                            const Tensor& gates_any, bool exact, bool need_x, bool need_weight, bool need_h0,
                            bool need_c0) {
  const Tensor weight = torch::stable::contiguous(weight_any), cells = torch::stable::contiguous(cells_any),
               gates = torch::stable::contiguous(gates_any);
  const MaybeTensor bias = bias_any ? MaybeTensor(torch::stable::contiguous(*bias_any)) : MaybeTensor();
  const ConvLSTMShape s = shape_of(x, weight);
  const std::vector<int64_t> none = {0}, state = {s.batch, s.hidden, s.height, s.width};
  const auto sizes = [](const Tensor& t) { return std::vector<int64_t>(t.sizes().begin(), t.sizes().end()); };
  Tensor grad_x = pooled(x, need_x ? sizes(x) : none);
  Tensor grad_weight = empty_of(x, need_weight ? sizes(weight) : none);
  Tensor grad_bias = empty_of(x, need_weight ? std::vector<int64_t>{4 * s.hidden} : none);
  Tensor grad_h0 = empty_of(x, need_h0 ? state : none), grad_c0 = empty_of(x, need_c0 ? state : none);
  if (output.numel() == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias, grad_h0, grad_c0};
  }
  for_float_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    ConvLSTMGrads<T> grads{};
    if (grad_output) grads.output = sequence_of<T>(*grad_output);
    grads.h = state_of<T>(grad_h);
    grads.c = state_of<T>(grad_c);
    if (need_x) grads.x = sequence_to<T>(grad_x);
    if (need_h0) grads.h0 = state_to<T>(grad_h0);
    if (need_c0) grads.c0 = state_to<T>(grad_c0);
    if (need_weight) {
      grads.weight = grad_weight.mutable_data_ptr<T>();
      grads.bias = grad_bias.mutable_data_ptr<T>();
    }
    const auto inputs = inputs_of<T>(x, weight, bias, h0, c0, exact);
    const ConvLSTMSaved<T> saved{sequence_of<T>(output), cells.const_data_ptr<T>(),
                                 gates.numel() ? gates.const_data_ptr<T>() : nullptr};
    convlstm_sequence_bwd<T>(inputs, saved, grads);
  });
  return {grad_x, grad_weight, grad_bias, grad_h0, grad_c0};
}

}  // namespace rlv2v
