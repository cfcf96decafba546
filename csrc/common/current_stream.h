// The CUDA stream that work on a tensor is queued on.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

namespace rlv2v {

// Makes the tensor's device the current one as long as it lives.
class CurrentStream {
 public:
  explicit CurrentStream(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
  // A cudaStream_t.
  void* get() const { return stream_; }

 private:
  const torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace rlv2v
