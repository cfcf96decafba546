// RLV2V_HD marks a function that runs on a CPU and in a CUDA kernel alike. It is always inlined: a header is compiled
// once per instruction set, and the linker could give all of them one copy of a function, with instructions that the
// processor lacks.
#pragma once

#ifdef __CUDACC__
#define RLV2V_HD __host__ __device__ __forceinline__
#else
#define RLV2V_HD __attribute__((always_inline)) inline
#endif
