// The CUDA implementations of the normalization operators, run on a CPU by cuda_on_cpu/cuda_runtime.h, as operators of
// the namespace rlv2v_simulated.
#include "bn_add_relu_op.h"
#include "bn_add_relu_pool_op.h"
#include "bn_on_cuda.h"
#include "bn_relu_op.h"
#include "bn_stats_op.h"

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
