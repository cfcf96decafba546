// What the arguments of all normalization operators have in common: plain pointers, no tensor, so that *_simd.cpp and
// *.cu can read them. Each operator's header (bn_relu.h ...) adds its own struct, a "call".
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/wide.h"
#include "norm/affine.h"
#include "norm/layout.h"

namespace rlv2v {

// One normalization. weight and bias are (C,); mean and var have a number for each statistic of the layout. In a
// forward call frozen ones are read, and others measured and written; in a backward call they are read, and frozen ones
// pass no gradient.
template <class T>
struct Norm {
  const Wide<T>*weight, *bias;
  Wide<T>*mean, *var;
  double eps;
  bool frozen;

  // The same with statistics that are only read.
  Norm as_frozen() const { return {weight, bias, mean, var, eps, true}; }
};

// Where the gradients of weight and bias go, (C,) each.
template <class T>
struct NormGrads {
  Wide<T>*weight, *bias;
};

// An operator has at most two normalizations.
enum Which { kNorm, kPostNorm };

struct Launch;  // norm/cuda/launch.h

}  // namespace rlv2v

// Declares what a device implements for a call: run() on a CPU, once per instruction set (norm/cpu/), and launch() on a
// CUDA device, which returns a cudaError_t as int, 0 where all its kernels were queued (norm/cuda/).
#define RLV2V_DECLARE_NORM_CALL(Call)                 \
  RLV2V_DECLARE_SIMD(void run(const Call<float>&))    \
  RLV2V_DECLARE_SIMD(void run(const Call<double>&))   \
  RLV2V_DECLARE_SIMD(void run(const Call<Half>&))     \
  RLV2V_DECLARE_SIMD(void run(const Call<BFloat16>&)) \
  namespace rlv2v {                                   \
  int launch(const Call<float>&, const Launch&);      \
  int launch(const Call<double>&, const Launch&);     \
  int launch(const Call<Half>&, const Launch&);       \
  int launch(const Call<BFloat16>&, const Launch&);   \
  }
