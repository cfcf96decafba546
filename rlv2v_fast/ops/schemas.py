"""Every operator of the package, in one place.

Schemas are defined here rather than in C++ so that the Triton kernels, the fake kernels and the autograd formulas work
on an installation where no C++ could be built. The libraries in csrc/ only register implementations.
"""

import torch

LIBRARY = torch.library.Library("rlv2v_fast", "DEF")

# gates (B, 4K, H, W) before their nonlinearities in order i, f, o, g; c, h, c_next (B, K, H, W).
LIBRARY.define("convlstm_gates_fwd(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)")
LIBRARY.define(
    "convlstm_gates_bwd(Tensor grad_h, Tensor grad_c_next, Tensor gates, Tensor c, Tensor c_next)"
    " -> (Tensor grad_gates, Tensor grad_c)"
)
