// As much of the CUDA runtime as the project's kernels use, on a CPU: a compiler that finds this header first compiles
// csrc/norm/cuda/*.cu as plain C++, and a launch runs the kernel there and then, block after block. The threads of a
// block are fibers that run from one barrier to the next, in an order that changes at every barrier.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time.
#define __shared__ static

using std::max;
using std::min;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace simulated {

struct Fiber {
  ucontext_t context;
  bool done;
};

// The threads of the block that is running.
class Block {
 public:
  static constexpr std::size_t kStack = 64 * 1024;

  void run(unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    fibers_.resize(threads);
    stacks_.resize(threads * kStack);
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = fibers_[i];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks_.data() + i * kStack;
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &scheduler_;
      fiber.done = false;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    for (bool forward = true; step(forward); forward = !forward) {
    }
  }

  // The barrier: back to the scheduler.
  void wait() { swapcontext(&fibers_[current_].context, &scheduler_); }

 private:
  static void enter();

  // Every thread to its next barrier; false when all have returned.
  bool step(bool forward) {
    unsigned waiting = 0, returned = 0;
    for (unsigned i = 0; i < fibers_.size(); ++i) {
      current_ = forward ? i : static_cast<unsigned>(fibers_.size()) - 1 - i;
      if (fibers_[current_].done) continue;
      threadIdx = dim3(current_);
      swapcontext(&scheduler_, &fibers_[current_].context);
      ++(fibers_[current_].done ? returned : waiting);
    }
    // Undefined on a GPU.
    if (waiting != 0 && returned != 0) throw std::logic_error("a barrier that some threads of the block never reach");
    return waiting != 0;
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<char> stacks_;
  ucontext_t scheduler_;
  unsigned current_ = 0;
};

inline Block block;

inline void Block::enter() {
  (*block.body_)();
  block.fibers_[block.current_].done = true;
}

}  // namespace simulated

inline void __syncthreads() { simulated::block.wait(); }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const unsigned threads = config->blockDim.x;
  if (config->gridDim.x == 0 || threads == 0 || threads > 1024) return cudaErrorInvalidConfiguration;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    blockIdx = dim3(i);
    simulated::block.run(threads, [&] { kernel(arguments...); });
  }
  return cudaSuccess;
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// So few that small tensors are shared out to several blocks, or not, as large ones are on a GPU.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 3;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
