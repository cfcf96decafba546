// Runs the kernels of the causal convolution on all threads.
#pragma once

#include "conv3d/cpu/conv3d.h"

namespace rlv2v {

// What a call reads and writes, without what is made here: packed weights and energies. weight is that of the forward,
// (O, C, 3, 3, 3), contiguous; transposed: the gradient of what the forward reads is computed. exact takes the direct
// kernel, as float64 does.
template <class T>
void run_conv3d(Conv3d<T> call, const T* weight, bool transposed, bool exact);
template <class T>
void run_conv3d_grad_weight(Conv3dGradWeight<T> call, bool exact);

}  // namespace rlv2v
