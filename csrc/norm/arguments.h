// The arguments of each normalization operator, as its CPU and its CUDA implementation take them: plain pointers, no
// tensor. rlv2v_fast/ops/bn_*.py says what the operators compute.
#pragma once

#include <cstdint>

#include "common/wide.h"
#include "norm/layout.h"

namespace rlv2v {

// weight and bias (C,); mean and var as many as the layout has statistics. Forward: frozen ones are read, others are
// measured and written. Backward: always read, and frozen ones pass no gradient.
template <class T>
struct BnNorm {
  const Wide<T>*weight, *bias;
  Wide<T>*mean, *var;
  double eps;
  bool frozen;

  // The same with its statistics only to be read.
  BnNorm given() const { return {weight, bias, mean, var, eps, true}; }
};

// (C,), written.
template <class T>
struct BnNormGrads {
  Wide<T>*weight, *bias;
};

template <class T>
struct BnStats {
  BnLayout layout;
  const T* x;
  Wide<T>*mean, *var;
};

// y = relu(norm(x))
template <class T>
struct BnReluFwd {
  BnLayout layout;
  const T* x;
  BnNorm<T> norm;
  T* y;
};

template <class T>
struct BnReluBwd {
  BnLayout layout;
  const T *grad_y, *x;
  BnNorm<T> norm;
  T* grad_x;
  BnNormGrads<T> grad_norm;
};

// y = relu(norm(x) + skip), z = again(y); z = y where `renormalize` is false. A low skip has half the height and width
// and is repeated 2x2.
template <class T>
struct BnAddReluFwd {
  BnLayout layout;
  const T *x, *skip;
  bool low_skip, renormalize;
  BnNorm<T> norm, again;
  T* z;
};

template <class T>
struct BnAddReluBwd {
  BnLayout layout;
  const T *grad_z, *x, *skip;
  bool low_skip, renormalize;
  BnNorm<T> norm, again;
  T *grad_x, *grad_skip;
  BnNormGrads<T> grad_norm, grad_again;
};

// largest = the 2x2 maxima of relu(norm(x) + skip), index their places, z = again(largest). layout is that of x.
template <class T>
struct BnAddReluPoolFwd {
  BnLayout layout;
  const T *x, *skip;
  BnNorm<T> norm, again;
  T *z, *largest;
  uint8_t* index;
};

template <class T>
struct BnAddReluPoolBwd {
  BnLayout layout;
  const T *grad_z, *x, *largest;
  const uint8_t* index;
  BnNorm<T> norm, again;
  T *grad_x, *grad_skip;
  BnNormGrads<T> grad_norm, grad_again;
};

}  // namespace rlv2v
