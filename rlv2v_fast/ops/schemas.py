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

# A whole sequence. x, output and their gradients are (B, T, C or K, H, W); states (B, K, H, W). cells (T, B, H, W, K)
# and gates (T, B, H, W, 4K), i, f, o, g after their nonlinearities, are kept for the backward or have shape (0,). A
# gradient that is not needed has shape (0,), one that did not arrive is None.
LIBRARY.define(
    "convlstm_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? h0, Tensor? c0, bool exact, bool save_cells,"
    " bool save_gates) -> (Tensor output, Tensor h, Tensor c, Tensor cells, Tensor gates)"
)
LIBRARY.define(
    "convlstm_bwd(Tensor? grad_output, Tensor? grad_h, Tensor? grad_c, Tensor x, Tensor weight, Tensor? bias,"
    " Tensor? h0, Tensor? c0, Tensor output, Tensor cells, Tensor gates, bool exact, bool need_x, bool need_weight,"
    " bool need_h0, bool need_c0)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_h0, Tensor grad_c0)"
)

# A ConvLSTM layer over a sequence by Triton kernels. memory is "fast", "low" or "none"; slots, gates and cells are what
# the backward reads, empty where that mode keeps none (kernels/convlstm_sequence.py).
LIBRARY.define(
    "convlstm_triton_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor h0, Tensor c0, Tensor? peephole,"
    " Tensor? lengths, str memory) -> (Tensor output, Tensor h, Tensor c, Tensor slots, Tensor[] gates, Tensor cells)"
)
# A gradient that is not needed, or has no input, is empty.
LIBRARY.define(
    "convlstm_triton_bwd(Tensor grad_output, Tensor grad_h, Tensor grad_c, Tensor x, Tensor weight, Tensor? bias,"
    " Tensor h0, Tensor c0, Tensor? peephole, Tensor? lengths, Tensor output, Tensor slots, Tensor[] gates,"
    " Tensor cells, bool need_x, bool need_weight, bool need_h0) -> (Tensor grad_x, Tensor grad_weight,"
    " Tensor grad_bias, Tensor grad_h0, Tensor grad_c0, Tensor grad_peephole)"
)
# Triton's convlstm_gates_fwd and convlstm_gates_bwd: gates float32, float16 or bfloat16, c float32.
LIBRARY.define("convlstm_gates_triton_fwd(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)")
LIBRARY.define(
    "convlstm_gates_triton_bwd(Tensor grad_h, Tensor grad_c_next, Tensor gates, Tensor c, Tensor c_next)"
    " -> (Tensor grad_gates, Tensor grad_c)"
)

# Normalization of x (B, C, T, H, W) over (B, T, H, W), or per_frame over (H, W). Statistics are (C,), or (B, C, T) per
# frame; given ones are frozen, others are measured and returned, which frozen ones are not: they come back as (0,).
LIBRARY.define("bn_stats(Tensor x, bool per_frame) -> (Tensor mean, Tensor var)")
LIBRARY.define(
    "bn_relu_fwd(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps, bool per_frame)"
    " -> (Tensor y, Tensor mean, Tensor var)"
)
LIBRARY.define(
    "bn_relu_bwd(Tensor grad_y, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor var, float eps,"
    " bool per_frame, bool frozen) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)"
)
# z = again(relu(norm(x) + skip)); without weight_again there is no second normalization. skip is as large as x, or has
# half its height and width and is repeated 2x2.
LIBRARY.define(
    "bn_add_relu_fwd(Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps,"
    " Tensor? weight_again, Tensor? bias_again, Tensor? mean_again, Tensor? var_again, float eps_again, bool per_frame)"
    " -> (Tensor z, Tensor mean, Tensor var, Tensor mean_again, Tensor var_again)"
)
LIBRARY.define(
    "bn_add_relu_bwd(Tensor grad_z, Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor mean, Tensor var,"
    " float eps, bool frozen, Tensor? weight_again, Tensor? bias_again, Tensor? mean_again, Tensor? var_again,"
    " float eps_again, bool frozen_again, bool per_frame) -> (Tensor grad_x, Tensor grad_skip, Tensor grad_weight,"
    " Tensor grad_bias, Tensor grad_weight_again, Tensor grad_bias_again)"
)
# The same with a 1x2x2 max pooling before the second normalization. largest is what the pooling gave, index (uint8) the
# place of each in its window.
LIBRARY.define(
    "bn_add_relu_pool_fwd(Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps,"
    " Tensor weight_again, Tensor bias_again, Tensor? mean_again, Tensor? var_again, float eps_again, bool per_frame)"
    " -> (Tensor z, Tensor largest, Tensor index, Tensor mean, Tensor var, Tensor mean_again, Tensor var_again)"
)
LIBRARY.define(
    "bn_add_relu_pool_bwd(Tensor grad_z, Tensor x, Tensor largest, Tensor index, Tensor weight, Tensor bias,"
    " Tensor mean, Tensor var, float eps, bool frozen, Tensor weight_again, Tensor bias_again, Tensor mean_again,"
    " Tensor var_again, float eps_again, bool frozen_again, bool per_frame) -> (Tensor grad_x, Tensor grad_skip,"
    " Tensor grad_weight, Tensor grad_bias, Tensor grad_weight_again, Tensor grad_bias_again)"
)
