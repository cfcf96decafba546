// Loops shared out to PyTorch's threads, for files that may not include a torch header: those compiled once per
// instruction set, whose copies of torch's inline functions the linker could mix up.
#pragma once

#include <cstdint>

#include "common/portability.h"

namespace rlv2v {

// The grain of cheap loops: about the elements whose work repays waking a second thread.
constexpr int64_t kElementGrain = 8192;

// Calls body(context, first, last) for ranges that together are [begin, end). A thread gets at least `grain` indices,
// so that a short loop wakes no second one.
void run_in_parallel(int64_t begin, int64_t end, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                     const void* context);

// The same with a function object: body(first, last).
template <class Body>
RLV2V_HD void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  const auto call = [](const void* context, int64_t first, int64_t last) {
    (*static_cast<const Body*>(context))(first, last);
  };
  run_in_parallel(begin, end, grain, call, &body);
}

// The most threads that a parallel loop uses.
int64_t thread_count();

}  // namespace rlv2v
