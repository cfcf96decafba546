// The CUDA implementations of the normalization operators, run on a CPU by cuda_on_cpu/cuda_runtime.h, as operators of
// the namespace rlv2v_simulated.
#include "norm/cuda/device.h"

namespace {

struct NoStream {
  explicit NoStream(const rlv2v::Tensor&) {}
  void* get() const { return nullptr; }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rlv2v_simulated, CPU, library) {
  rlv2v::register_norms<rlv2v::CudaDevice<NoStream>>(library);
}
