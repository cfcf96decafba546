// What a CUDA implementation of a normalization operator gets beside its call. This header includes neither torch nor
// CUDA, because both sides include it.
#pragma once

#include "common/half.h"
#include "norm/arguments.h"

namespace rlv2v {

// A stream (cudaStream_t), the multiprocessors of its device, and workspace_bytes of its memory.
struct Launch {
  void *stream, *workspace;
  int64_t processors;
};

// Of the current device.
int64_t multiprocessors();

// At least what an operator on a tensor of that layout writes between its passes (pass_queue.h).
int64_t workspace_bytes(const NormLayout& layout, int64_t processors);

}  // namespace rlv2v
