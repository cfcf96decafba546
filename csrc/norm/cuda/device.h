// The normalization operators on a CUDA device.
#pragma once

#include "norm/cuda/launch.h"
#include "norm/tensors.h"

namespace rlv2v {

// Stream(x).get() is the stream to queue on.
template <class Stream>
struct BnOnCuda {
  template <class Body>
  static void for_dtype(const Tensor& x, const Body& body) {
    switch (x.scalar_type()) {
      case torch::headeronly::ScalarType::Double: return body(double{});
      case torch::headeronly::ScalarType::Half: return body(Half{});
      case torch::headeronly::ScalarType::BFloat16: return body(BFloat16{});
      default: return body(float{});
    }
  }

  static Tensor like(const Tensor& x, const BnLayout& layout) { return empty_clip(x, layout, x.scalar_type()); }
  static Tensor bytes_like(const Tensor& x, const BnLayout& layout) {
    return empty_clip(x, layout, torch::headeronly::ScalarType::Byte);
  }

  template <class Call>
  static void run(const Call& call, const Tensor& x) {
    STD_TORCH_CHECK(call.layout.count() < int64_t{1} << 31,
                    "x must have less than 2^31 values behind a statistic; got ", call.layout.count());
    const Stream stream(x);
    const int64_t processors = multiprocessors();
    // The memory goes back to PyTorch's allocator at once, which hands it out again only to work queued after this.
    const std::vector<int64_t> bytes = {bn_workspace_bytes(call.layout, processors)};
    const Tensor workspace = torch::stable::new_empty(x, bytes, torch::headeronly::ScalarType::Byte);
    const int error = launch(call, {stream.get(), workspace.mutable_data_ptr(), processors});
    STD_TORCH_CHECK(error == 0, "the CUDA launch of a normalization failed with cudaError_t ", error);
  }
};

}  // namespace rlv2v
