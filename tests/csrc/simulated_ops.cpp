// The CUDA implementations of the normalization operators, run on a CPU by cuda_on_cpu/cuda_runtime.h, as operators of
// the namespace rlv2v_simulated.
#include "norm/bn_add_relu.h"
#include "norm/bn_add_relu_pool.h"
#include "norm/bn_relu.h"
#include "norm/bn_stats.h"
#include "norm/cuda/device.h"

namespace {

struct NoStream {
  explicit NoStream(const rlv2v::Tensor&) {}
  void* get() const { return nullptr; }
};

using Simulated = rlv2v::BnOnCuda<NoStream>;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rlv2v_simulated, CPU, m) {
  m.impl("bn_stats", TORCH_BOX(&rlv2v::bn_stats<Simulated>));
  m.impl("bn_relu_fwd", TORCH_BOX(&rlv2v::BnReluOp<Simulated>::fwd));
  m.impl("bn_relu_bwd", TORCH_BOX(&rlv2v::BnReluOp<Simulated>::bwd));
  m.impl("bn_add_relu_fwd", TORCH_BOX(&rlv2v::BnAddReluOp<Simulated>::fwd));
  m.impl("bn_add_relu_bwd", TORCH_BOX(&rlv2v::BnAddReluOp<Simulated>::bwd));
  m.impl("bn_add_relu_pool_fwd", TORCH_BOX(&rlv2v::BnAddReluPoolOp<Simulated>::fwd));
  m.impl("bn_add_relu_pool_bwd", TORCH_BOX(&rlv2v::BnAddReluPoolOp<Simulated>::bwd));
}
