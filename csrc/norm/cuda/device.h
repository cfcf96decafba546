// The Device (norm/operator.h) that runs the normalization operators on CUDA.
#pragma once

#include "norm/cuda/launch.h"
#include "norm/operators.h"
#include "norm/tensors.h"

namespace rlv2v {

// Stream(x).get() is the stream to queue on.
template <class Stream>
struct CudaDevice : TorchTensors {
  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    switch (x.scalar_type()) {
      case ScalarType::Half: return body(Half{});
      case ScalarType::BFloat16: return body(BFloat16{});
      default: return for_float_dtype(x, body);
    }
  }

  // launch(call, ...) is in norm/cuda/*.cu.
  template <class Call>
  static void run(const Call& call, const Tensor& x) {
    const int64_t count = call.layout.count();
    STD_TORCH_CHECK(count < int64_t{1} << 31, "x must have less than 2^31 values behind a statistic; got ", count);
    const Stream stream(x);
    const int64_t processors = multiprocessors();
    // The memory goes back to PyTorch's allocator at once, which hands it out again only to work queued after this.
    const std::vector<int64_t> bytes = {workspace_bytes(call.layout, processors)};
    const Tensor workspace = torch::stable::new_empty(x, bytes, ScalarType::Byte);
    const int error = launch(call, {stream.get(), workspace.mutable_data_ptr(), processors});
    STD_TORCH_CHECK(error == 0, "the CUDA launch of a normalization failed with cudaError_t ", error);
  }
};

}  // namespace rlv2v
