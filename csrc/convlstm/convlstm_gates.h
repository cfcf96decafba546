// The ConvLSTM cell after its convolution (Shi et al. 2015, eq. 3, without peepholes; gate order i, f, o, g):
//   c' = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c')
// gates is [outer][4][inner] and the states [outer][inner]: (B, K*H*W) when contiguous, (B*H*W, K) when channels_last.
// One functor call handles one state element; the CPU loop and the CUDA kernel share it.
#pragma once

#include <cstdint>
#include <tuple>

#include "common/activations.h"
#include "common/isa.h"
#include "common/portability.h"

namespace rlv2v {

template <class T>
struct ConvLSTMGatesFwd {
  const T* gates;
  const T* c;
  T* h;
  T* c_next;
  int64_t inner;

  RLV2V_HD void operator()(int64_t row, int64_t column) const {
    const T* p = gates + row * 4 * inner + column;
    const int64_t at = row * inner + column;
    const T next = sigmoid_of(p[inner]) * c[at] + sigmoid_of(p[0]) * tanh_of(p[3 * inner]);
    c_next[at] = next;
    h[at] = sigmoid_of(p[2 * inner]) * tanh_of(next);
  }
};

template <class T>
struct ConvLSTMGatesBwd {
  const T* grad_h;
  const T* grad_c_next;
  const T* gates;
  const T* c;
  const T* c_next;
  T* grad_gates;
  T* grad_c;
  int64_t inner;

  RLV2V_HD void operator()(int64_t row, int64_t column) const {
    const T* p = gates + row * 4 * inner + column;
    T* q = grad_gates + row * 4 * inner + column;
    const int64_t at = row * inner + column;
    const T i = sigmoid_of(p[0]), f = sigmoid_of(p[inner]), o = sigmoid_of(p[2 * inner]), g = tanh_of(p[3 * inner]);
    const T t = tanh_of(c_next[at]);
    const T grad = grad_c_next[at] + grad_h[at] * o * (T(1) - t * t);
    q[0] = grad * g * i * (T(1) - i);
    q[inner] = grad * c[at] * f * (T(1) - f);
    q[2 * inner] = grad_h[at] * t * o * (T(1) - o);
    q[3 * inner] = grad * i * (T(1) - g * g);
    grad_c[at] = grad * f;
  }
};

// The operator for dense tensors, float or double, contiguous or channels_last (rlv2v_fast/ops checks). Only a Device
// (cpu/operators.h, cuda/operators.h) names torch: its Tensor, empty_like(tensor), for_dtype(tensor, body), which calls
// body(T{}) with the element type T, and run(functor, c), which calls the functor for every element of a state like c.
template <class Device>
struct ConvLSTMGates {
  using Tensor = typename Device::Tensor;

  static std::tuple<Tensor, Tensor> fwd(const Tensor& gates, const Tensor& c) {
    const Tensor h = Device::empty_like(c), c_next = Device::empty_like(c);
    Device::for_dtype(c, [&](auto zero) {
      using T = decltype(zero);
      Device::run(ConvLSTMGatesFwd<T>{in<T>(gates), in<T>(c), out<T>(h), out<T>(c_next), inner_size(c)}, c);
    });
    return {h, c_next};
  }

  static std::tuple<Tensor, Tensor> bwd(const Tensor& grad_h, const Tensor& grad_c_next, const Tensor& gates,
                                        const Tensor& c, const Tensor& c_next) {
    const Tensor grad_gates = Device::empty_like(gates), grad_c = Device::empty_like(c);
    Device::for_dtype(c, [&](auto zero) {
      using T = decltype(zero);
      Device::run(ConvLSTMGatesBwd<T>{in<T>(grad_h), in<T>(grad_c_next), in<T>(gates), in<T>(c), in<T>(c_next),
                                      out<T>(grad_gates), out<T>(grad_c), inner_size(c)},
                  c);
    });
    return {grad_gates, grad_c};
  }

 private:
  template <class T>
  static const T* in(const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  }
  template <class T>
  static T* out(const Tensor& tensor) {
    return static_cast<T*>(tensor.mutable_data_ptr());
  }

  // K when channels are innermost (channels_last), K*H*W when contiguous; a tensor that is both is read as contiguous.
  static int64_t inner_size(const Tensor& state) {
    return state.is_contiguous() ? state.size(1) * state.size(2) * state.size(3) : state.size(1);
  }
};

}  // namespace rlv2v

// run() goes over `count` state elements on a CPU; launch() does on a CUDA stream (cudaStream_t) and returns a
// cudaError_t as int, 0 when launched.
#define RLV2V_DECLARE_GATES(Functor)                                  \
  RLV2V_DECLARE_SIMD(void run(const Functor<float>&, int64_t count))  \
  RLV2V_DECLARE_SIMD(void run(const Functor<double>&, int64_t count)) \
  namespace rlv2v {                                                   \
  int launch(const Functor<float>&, int64_t count, void* stream);     \
  int launch(const Functor<double>&, int64_t count, void* stream);    \
  }
RLV2V_DECLARE_GATES(ConvLSTMGatesFwd)
RLV2V_DECLARE_GATES(ConvLSTMGatesBwd)
#undef RLV2V_DECLARE_GATES
