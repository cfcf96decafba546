// The state update of one vector of channels of one pixel, forward and backward. It follows the convolution while the
// result of that is still in registers or in L1.
#pragma once

#include "common/vector_activations.h"
#include "convlstm/cpu/steps.h"

namespace rlv2v::RLV2V_ISA {

// i, f, o, g are pre-activations, bias included.
template <class T>
RLV2V_INLINE void update_state(const ConvLSTMStep<T>& step, int64_t pixel, int64_t channel, int64_t lanes, Vec<T> i,
                               Vec<T> f, Vec<T> o, Vec<T> g) {
  i = sigmoid(i);
  f = sigmoid(f);
  o = sigmoid(o);
  g = tanh_vector(g);
  const int64_t k = step.shape.hidden, at = pixel * k + channel;
  const Vec<T> c = step.c ? load_part(step.c + at, lanes) : Vec<T>{};
  const Vec<T> c_next = f * c + i * g;
  if (step.c_next) store_part<T>(step.c_next + at, c_next, lanes);
  if (step.h_next) store_part<T>(step.h_next + at, o * tanh_vector(c_next), lanes);
  if (step.gates) {
    T* gates = step.gates + pixel * 4 * k + channel;
    store_part<T>(gates, i, lanes);
    store_part<T>(gates + k, f, lanes);
    store_part<T>(gates + 2 * k, o, lanes);
    store_part<T>(gates + 3 * k, g, lanes);
  }
}

// grad_h is the gradient that reaches h through the next step's convolution.
template <class T>
RLV2V_INLINE void update_state_grad(const ConvLSTMGradStep<T>& step, int64_t pixel, int64_t channel, int64_t lanes,
                                    Vec<T> grad_h) {
  const int64_t k = step.shape.hidden, at = pixel * k + channel;
  if (step.grad_h) grad_h += load_part(step.grad_h + at, lanes);
  if (!step.gates) return store_part<T>(step.grad_h0 + at, grad_h, lanes);
  const T* gates = step.gates + pixel * 4 * k + channel;
  const Vec<T> i = load_part(gates, lanes), f = load_part(gates + k, lanes), o = load_part(gates + 2 * k, lanes),
               g = load_part(gates + 3 * k, lanes);
  const Vec<T> c = step.c ? load_part(step.c + at, lanes) : Vec<T>{};
  const Vec<T> t = tanh_vector(load_part(step.c_next + at, lanes));
  const Vec<T> grad_c = load_part(step.grad_c + at, lanes) + grad_h * o * (T(1) - t * t);
  store_part<T>(step.grad_c + at, grad_c * f, lanes);
  T* grad = step.grad_gates + pixel * 4 * k + channel;
  store_part<T>(grad, grad_c * g * i * (T(1) - i), lanes);
  store_part<T>(grad + k, grad_c * c * f * (T(1) - f), lanes);
  store_part<T>(grad + 2 * k, grad_h * t * o * (T(1) - o), lanes);
  store_part<T>(grad + 3 * k, grad_c * i * (T(1) - g * g), lanes);
}

// The transposed convolution yields the gradient of h, K channels, then that of the next step's x, C channels. Each of
// the two begins with a vector of its own.
template <class T>
RLV2V_INLINE int64_t grad_vectors(const ConvLSTMGradStep<T>& step) {
  return vectors_for<T>(step.shape.hidden) + (step.grad_x_next ? vectors_for<T>(step.shape.channels) : 0);
}

template <class T>
RLV2V_INLINE void put_grad(const ConvLSTMGradStep<T>& step, int64_t pixel, int64_t vector, Vec<T> grad) {
  const int64_t hidden = vectors_for<T>(step.shape.hidden);
  if (vector < hidden)
    return update_state_grad(step, pixel, vector * kLanes<T>, lanes_of<T>(vector, step.shape.hidden), grad);
  vector -= hidden;
  store_part<T>(step.grad_x_next + pixel * step.shape.channels + vector * kLanes<T>, grad,
                lanes_of<T>(vector, step.shape.channels));
}

}  // namespace rlv2v::RLV2V_ISA
