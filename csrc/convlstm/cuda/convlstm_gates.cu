#include "convlstm/convlstm_gates.h"

#include <cuda_runtime.h>

namespace rlv2v {
namespace {

constexpr int kThreads = 256;

template <class Functor>
__global__ void __launch_bounds__(kThreads) convlstm_gates_kernel(Functor functor, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; at < count; at += step)
    functor(at / functor.inner, at % functor.inner);
}

template <class Functor>
int launch_elements(const Functor& functor, int64_t count, void* stream) {
  if (count == 0) return 0;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  const unsigned grid = static_cast<unsigned>(blocks < (1 << 20) ? blocks : (1 << 20));
  convlstm_gates_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(functor, count);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch(const ConvLSTMGatesFwd<float>& functor, int64_t count, void* stream) {
  return launch_elements(functor, count, stream);
}
int launch(const ConvLSTMGatesBwd<float>& functor, int64_t count, void* stream) {
  return launch_elements(functor, count, stream);
}
int launch(const ConvLSTMGatesFwd<double>& functor, int64_t count, void* stream) {
  return launch_elements(functor, count, stream);
}
int launch(const ConvLSTMGatesBwd<double>& functor, int64_t count, void* stream) {
  return launch_elements(functor, count, stream);
}

}  // namespace rlv2v
