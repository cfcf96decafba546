// Runs the kernels of the causal convolution on all threads, and packs weights for them. exact takes the direct kernel,
// as float64 does.
#pragma once

#include "common/scratch.h"
#include "conv3d/cpu/conv3d.h"

namespace rlv2v {

// weight is (outputs, channels, 3, 3, 3), contiguous; transposed: for the gradient of what the forward reads.
template <class T>
Scratch<T> packed_conv3d(int64_t outputs, int64_t channels, bool transposed, bool exact, const T* weight);
template <class T>
void run_conv3d(const Conv3d<T>& call, bool exact);
template <class T>
void run_conv3d_grad_weight(const Conv3dGradWeight<T>& call, bool exact);

}  // namespace rlv2v
