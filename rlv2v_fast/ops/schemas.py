"""Every operator of the package, in one place: what it takes, and what it returns.

Schemas are defined here rather than in C++ so that the Triton kernels, the fake kernels and the derivatives work on an
installation where no C++ could be built. The libraries in csrc/ only register implementations. ops/register.py pairs
a forward with its backward by the names used here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

NAMESPACE = "rlv2v_fast"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")


@dataclass(frozen=True)
class Schema:
    """The arguments and results of an operator: each one's type, by its name, in order."""

    text: str
    name: str
    arguments: dict[str, str]
    results: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Schema:
        """From the text PyTorch defines an operator by: "name(Tensor x, float eps) -> (Tensor y)"."""
        match = re.fullmatch(r"(\w+)\((.*)\) -> \((.*)\)", text)
        if match is None:
            raise ValueError(f"text must read 'name(Type argument, ...) -> (Type result, ...)'; got {text!r}")
        name, arguments, results = match.groups()
        return cls(text, name, _types_by_name(arguments), _types_by_name(results))


def _types_by_name(text: str) -> dict[str, str]:
    pairs = (item.split() for item in text.split(","))
    return {name: kind for kind, name in pairs}


# Every operator by its name without the namespace.
SCHEMAS: dict[str, Schema] = {}


def define(text: str) -> None:
    """Define the operator that text describes."""
    schema = Schema.parse(text)
    LIBRARY.define(text)
    SCHEMAS[schema.name] = schema


# gates (B, 4K, H, W) before their nonlinearities in order i, f, o, g; c, h, c_next (B, K, H, W).
define("convlstm_gates_fwd(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)")
define(
    "convlstm_gates_bwd(Tensor grad_h, Tensor grad_c_next, Tensor gates, Tensor c, Tensor c_next)"
    " -> (Tensor grad_gates, Tensor grad_c)"
)

# A whole sequence. x, output and their gradients are (B, T, C or K, H, W); states (B, K, H, W). cells (T, B, H, W, K)
# and gates (T, B, H, W, 4K), i, f, o, g after their nonlinearities, are kept for the backward or have shape (0,). A
# gradient that is not needed has shape (0,), one that did not arrive is None.
define(
    "convlstm_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? h0, Tensor? c0, bool exact, bool save_cells,"
    " bool save_gates) -> (Tensor output, Tensor h, Tensor c, Tensor cells, Tensor gates)"
)
define(
    "convlstm_bwd(Tensor? grad_output, Tensor? grad_h, Tensor? grad_c, Tensor x, Tensor weight, Tensor? bias,"
    " Tensor? h0, Tensor? c0, Tensor output, Tensor cells, Tensor gates, bool exact, bool need_x, bool need_weight,"
    " bool need_h0, bool need_c0)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_h0, Tensor grad_c0)"
)

# A ConvLSTM layer over a sequence by Triton kernels. memory is "fast", "low" or "none"; conv_inputs, gates and cells
# are what the backward reads, empty where that mode keeps none (kernels/convlstm_sequence.py).
define(
    "convlstm_triton_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor h0, Tensor c0, Tensor? peephole,"
    " Tensor? lengths, str memory)"
    " -> (Tensor output, Tensor h, Tensor c, Tensor conv_inputs, Tensor[] gates, Tensor cells)"
)
# A gradient that is not needed, or has no input, is empty.
define(
    "convlstm_triton_bwd(Tensor grad_output, Tensor grad_h, Tensor grad_c, Tensor x, Tensor weight, Tensor? bias,"
    " Tensor h0, Tensor c0, Tensor? peephole, Tensor? lengths, Tensor output, Tensor conv_inputs, Tensor[] gates,"
    " Tensor cells, bool need_x, bool need_weight, bool need_h0) -> (Tensor grad_x, Tensor grad_weight,"
    " Tensor grad_bias, Tensor grad_h0, Tensor grad_c0, Tensor grad_peephole)"
)
# Triton's convlstm_gates_fwd and convlstm_gates_bwd: gates float32, float16 or bfloat16, c float32.
define("convlstm_gates_triton_fwd(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)")
define(
    "convlstm_gates_triton_bwd(Tensor grad_h, Tensor grad_c_next, Tensor gates, Tensor c, Tensor c_next)"
    " -> (Tensor grad_gates, Tensor grad_c)"
)

# A causal convolution of x (B, C, T, H, W) with weight (O, C, 3, 3, 3), after the frames of history (B, C, 2, H, W) or
# zeros; upsample repeats the pixels of both 2x2 before, exact sums as the formula is written. A gradient that is not
# needed, or whose argument is None, has shape (0,).
define(
    "causal_conv3d_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? history, bool upsample, bool exact) -> (Tensor y)"
)
define(
    "causal_conv3d_bwd(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor? history, bool upsample,"
    " bool exact, bool need_x, bool need_weight, bool need_bias, bool need_history)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_history)"
)

# Normalization of x (B, C, T, H, W) over (B, T, H, W), or per_frame over (H, W). Statistics are (C,), or (B, C, T) per
# frame. Given statistics are frozen and come back as (0,). Others are measured and returned.
define("bn_stats(Tensor x, bool per_frame) -> (Tensor mean, Tensor var)")
define(
    "bn_relu_fwd(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps, bool per_frame)"
    " -> (Tensor y, Tensor mean, Tensor var)"
)
define(
    "bn_relu_bwd(Tensor grad_y, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor var, float eps,"
    " bool per_frame, bool frozen) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)"
)
# z = post_norm(relu(norm(x) + skip)); post_weight to post_eps are those of post_norm, and without post_weight there is
# none. skip is as large as x, or has half its height and width and is repeated 2x2.
define(
    "bn_add_relu_fwd(Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps,"
    " Tensor? post_weight, Tensor? post_bias, Tensor? post_mean, Tensor? post_var, float post_eps, bool per_frame)"
    " -> (Tensor z, Tensor mean, Tensor var, Tensor post_mean, Tensor post_var)"
)
define(
    "bn_add_relu_bwd(Tensor grad_z, Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor mean, Tensor var,"
    " float eps, bool frozen, Tensor? post_weight, Tensor? post_bias, Tensor? post_mean, Tensor? post_var,"
    " float post_eps, bool post_frozen, bool per_frame) -> (Tensor grad_x, Tensor grad_skip, Tensor grad_weight,"
    " Tensor grad_bias, Tensor grad_post_weight, Tensor grad_post_bias)"
)
# The same with a 1x2x2 max pooling before post_norm. largest is the largest value of each window, index (uint8) its
# place in the window.
define(
    "bn_add_relu_pool_fwd(Tensor x, Tensor skip, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, float eps,"
    " Tensor post_weight, Tensor post_bias, Tensor? post_mean, Tensor? post_var, float post_eps, bool per_frame)"
    " -> (Tensor z, Tensor largest, Tensor index, Tensor mean, Tensor var, Tensor post_mean, Tensor post_var)"
)
define(
    "bn_add_relu_pool_bwd(Tensor grad_z, Tensor x, Tensor largest, Tensor index, Tensor weight, Tensor bias,"
    " Tensor mean, Tensor var, float eps, bool frozen, Tensor post_weight, Tensor post_bias, Tensor post_mean,"
    " Tensor post_var, float post_eps, bool post_frozen, bool per_frame) -> (Tensor grad_x, Tensor grad_skip,"
    " Tensor grad_weight, Tensor grad_bias, Tensor grad_post_weight, Tensor grad_post_bias)"
)

# frames (N, C, H, W) translated pixel by pixel; the parameters are those of reference/pixel_map.py, as matrices or 1x1
# kernels. rounded: products of the layers after the sines may round their factors to bfloat16. A gradient that is not
# needed has shape (0,); need_project asks for all but the table's. By C++, and by Triton in float32.
for _name in ("pixel_map", "pixel_map_triton"):
    define(
        f"{_name}_fwd(Tensor frames, Tensor project, Tensor project_bias, Tensor weight1, Tensor bias1, Tensor weight2,"
        " Tensor bias2, Tensor weight3, Tensor bias3, Tensor head, Tensor head_bias, Tensor? table, float gain,"
        " float speed, float slope, bool clamp, bool rounded) -> (Tensor y)"
    )
    define(
        f"{_name}_bwd(Tensor grad_y, Tensor frames, Tensor project, Tensor project_bias, Tensor weight1, Tensor bias1,"
        " Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3, Tensor head, Tensor head_bias, Tensor? table,"
        " float gain, float speed, float slope, bool clamp, bool rounded, bool need_frames, bool need_project,"
        " bool need_table) -> (Tensor grad_frames, Tensor grad_project, Tensor grad_project_bias, Tensor grad_weight1,"
        " Tensor grad_bias1, Tensor grad_weight2, Tensor grad_bias2, Tensor grad_weight3, Tensor grad_bias3,"
        " Tensor grad_head, Tensor grad_head_bias, Tensor grad_table)"
    )
