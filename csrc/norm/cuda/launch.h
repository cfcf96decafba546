// What torch-facing code gives a CUDA implementation of a normalization operator beside its call: no torch header, no
// CUDA header.
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
