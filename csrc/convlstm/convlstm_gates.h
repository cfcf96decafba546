// The ConvLSTM cell after its convolution (Shi et al. 2015, eq. 3, without peepholes; gate order i, f, o, g):
//   c' = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c')
// gates is [outer][4][inner] and the states [outer][inner]: (B, K*H*W) when contiguous, (B*H*W, K) when channels_last.
// One functor call handles one state element; the CPU loop and the CUDA kernel share it.
#pragma once

#include <cstdint>

#include "common/activations.h"
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

}  // namespace rlv2v
