// Registers every CUDA operator; rlv2v_fast/ops/schemas.py declares them.
#include <torch/csrc/stable/library.h>

#include "common/current_stream.h"
#include "convlstm/cuda/operators.h"
#include "norm/cuda/device.h"

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CUDA, library) {
  using namespace rlv2v;
  library.impl("convlstm_gates_fwd", TORCH_BOX(&ConvLSTMGates<GatesOnCuda>::fwd));
  library.impl("convlstm_gates_bwd", TORCH_BOX(&ConvLSTMGates<GatesOnCuda>::bwd));
  register_norms<CudaDevice<CurrentStream>>(library);
}
