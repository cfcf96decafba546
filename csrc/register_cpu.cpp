// Registers every CPU operator; rlv2v_fast/ops/schemas.py declares them.
#include <torch/csrc/stable/library.h>

#include "conv3d/cpu/operators.h"
#include "convlstm/cpu/operators.h"
#include "norm/cpu/device.h"
#include "pixelwise/cpu/operators.h"

STABLE_TORCH_LIBRARY_IMPL(rlv2v_fast, CPU, library) {
  using namespace rlv2v;
  library.impl("convlstm_fwd", TORCH_BOX(&convlstm_fwd));
  library.impl("convlstm_bwd", TORCH_BOX(&convlstm_bwd));
  library.impl("convlstm_gates_fwd", TORCH_BOX(&ConvLSTMGates<GatesOnCpu>::fwd));
  library.impl("convlstm_gates_bwd", TORCH_BOX(&ConvLSTMGates<GatesOnCpu>::bwd));
  library.impl("causal_conv3d_fwd", TORCH_BOX(&causal_conv3d_fwd));
  library.impl("causal_conv3d_bwd", TORCH_BOX(&causal_conv3d_bwd));
  library.impl("pixel_map_fwd", TORCH_BOX(&pixel_map_fwd));
  library.impl("pixel_map_bwd", TORCH_BOX(&pixel_map_bwd));
  register_norms<CpuDevice>(library);
}
