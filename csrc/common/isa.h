// Instruction sets: setup.py compiles every *_simd.cpp once for each, in a namespace of its own, and at run time the
// copy for this processor is called.
#pragma once

#include <cstdlib>
#include <cstring>

namespace rlv2v {

enum class Isa { baseline, avx2, avx512 };

// The best that this processor runs. RLV2V_FAST_ISA=baseline|avx2 lowers it, so that one machine can test every copy.
inline Isa host_isa() {
  static const Isa isa = [] {
    Isa best = Isa::baseline;
#ifdef RLV2V_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      best = Isa::avx512;
    const char* limit = std::getenv("RLV2V_FAST_ISA");
    if (limit && !std::strcmp(limit, "baseline")) best = Isa::baseline;
    if (limit && !std::strcmp(limit, "avx2") && best == Isa::avx512) best = Isa::avx2;
#endif
    return best;
  }();
  return isa;
}

}  // namespace rlv2v

// RLV2V_DECLARE_SIMD(declaration) declares a function in the namespace of every instruction set, and RLV2V_BEST(call)
// calls the copy for this processor.
#ifdef RLV2V_X86
#define RLV2V_DECLARE_SIMD(declaration) \
  namespace rlv2v::baseline {           \
  declaration;                          \
  }                                     \
  namespace rlv2v::avx2 {               \
  declaration;                          \
  }                                     \
  namespace rlv2v::avx512 {             \
  declaration;                          \
  }
#define RLV2V_BEST(call)                                               \
  (::rlv2v::host_isa() == ::rlv2v::Isa::avx512 ? ::rlv2v::avx512::call \
   : ::rlv2v::host_isa() == ::rlv2v::Isa::avx2 ? ::rlv2v::avx2::call   \
                                               : ::rlv2v::baseline::call)
#else
#define RLV2V_DECLARE_SIMD(declaration) \
  namespace rlv2v::baseline {           \
  declaration;                          \
  }
#define RLV2V_BEST(call) ::rlv2v::baseline::call
#endif
