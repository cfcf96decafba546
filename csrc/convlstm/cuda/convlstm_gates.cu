#include <cuda_runtime.h>

#include "convlstm/cuda/convlstm_gates.h"

namespace rlv2v {
namespace {

constexpr int kThreads = 256;

template <class Op>
__global__ void __launch_bounds__(kThreads) convlstm_gates_kernel(Op op, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; at < count; at += step)
    op(at / op.inner, at % op.inner);
}

template <class Op>
int launch_elements(const Op& op, int64_t count, void* stream) {
  if (count == 0) return 0;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  const unsigned grid = static_cast<unsigned>(blocks < (1 << 20) ? blocks : (1 << 20));
  convlstm_gates_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(op, count);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch(const ConvLSTMGatesFwd<float>& op, int64_t count, void* stream) {
  return launch_elements(op, count, stream);
}
int launch(const ConvLSTMGatesBwd<float>& op, int64_t count, void* stream) {
  return launch_elements(op, count, stream);
}
int launch(const ConvLSTMGatesFwd<double>& op, int64_t count, void* stream) {
  return launch_elements(op, count, stream);
}
int launch(const ConvLSTMGatesBwd<double>& op, int64_t count, void* stream) {
  return launch_elements(op, count, stream);
}

}  // namespace rlv2v
