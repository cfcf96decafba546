// Normalization of a channel by its mean and variance, the ReLU after it, and their gradients:
//   y = (x - mean) scale + shift,   scale = weight / sqrt(var + eps),   shift = bias
// The element-wise parts take a number or a vector of numbers, so that the CPU loops and the CUDA kernels share them.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/portability.h"

namespace rlv2v {

// NaN is not <= 0 and passes, as in PyTorch.
template <class V>
RLV2V_HD V relu_of(V y) {
  return y <= V{} ? V{} : y;
}

// The gradient through a ReLU that gave y.
template <class V>
RLV2V_HD V relu_grad_of(V grad, V y) {
  return y <= V{} ? V{} : grad;
}

template <class V>
struct Affine {
  V mean, scale, shift;
  RLV2V_HD V operator()(V x) const { return (x - mean) * scale + shift; }
};

// The gradient that reaches x, given that of y: linear in both, with coefficients fixed by two sums over the channel.
template <class V>
struct GradAffine {
  V mean, grad_scale, x_scale, constant;
  RLV2V_HD V operator()(V grad, V x) const { return grad_scale * grad + x_scale * (x - mean) + constant; }
};

// Mean and sum of squared deviations of `count` values. Merging is by Chan, Golub and LeVeque (1979): no difference of
// large squares, so a large mean costs no accuracy.
template <class T>
struct Moments {
  T count, mean, m2;

  RLV2V_HD void merge(const Moments& other) {
    if (other.count == T(0)) return;
    const T total = count + other.count, delta = other.mean - mean, share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

// The two sums over a channel that its gradients are made of: of the gradient, and of gradient times (x - mean).
template <class T>
struct GradSums {
  T grad, grad_x;

  RLV2V_HD void merge(const GradSums& other) {
    grad += other.grad;
    grad_x += other.grad_x;
  }
};

template <class T>
RLV2V_HD double inverse_deviation(T var, double eps) {
  return 1.0 / sqrt(static_cast<double>(var) + eps);
}

template <class T>
RLV2V_HD Affine<T> affine_of(T weight, T bias, double mean, double var, double eps) {
  return {static_cast<T>(mean), static_cast<T>(weight * inverse_deviation(var, eps)), bias};
}

// `count` values of x gave the sums. `frozen`: mean and var are not those of x, and no gradient passes through them.
template <class T>
RLV2V_HD GradAffine<T> grad_affine_of(T weight, double mean, double var, double eps, GradSums<double> sums,
                                      int64_t count, bool frozen) {
  const double inverse = inverse_deviation(var, eps), scale = weight * inverse;
  if (frozen) return {static_cast<T>(mean), static_cast<T>(scale), T(0), T(0)};
  return {static_cast<T>(mean), static_cast<T>(scale),
          static_cast<T>(-scale * inverse * inverse * sums.grad_x / static_cast<double>(count)),
          static_cast<T>(-scale * sums.grad / static_cast<double>(count))};
}

}  // namespace rlv2v
