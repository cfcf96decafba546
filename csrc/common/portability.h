// Marks code that runs on a CPU and inside a CUDA kernel alike, so that tests can execute on a CPU what a GPU will run.
// Always inlined: the same header is compiled once per instruction set, and a shared out-of-line copy could be linked
// from the wrong one.
#pragma once

#ifdef __CUDACC__
#define RLV2V_HD __host__ __device__ __forceinline__
#else
#define RLV2V_HD __attribute__((always_inline)) inline
#endif
