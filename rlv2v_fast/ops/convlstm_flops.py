"""Floating-point operations of a ConvLSTM layer's convolutions, from the shapes of its operators' arguments."""

from __future__ import annotations

from rlv2v_fast.ops.register import Values


def forward_flops(v: Values) -> int:
    """Of one convolution a step over the channels of x and h."""
    return _convolutions(v, v.weight[1])


def backward_flops(v: Values) -> int:
    """Of the gradient of h, and, where they are asked for, of x and of the weight; and of gates computed again."""
    channels, hidden = v.x[2], v.weight[0] // 4
    inputs = hidden + (channels if v.need_x else 0) + (channels + hidden if v.need_weight else 0)
    kept_gates = len(v.gates) > 0 and v.gates[0] != 0
    return _convolutions(v, inputs + (0 if kept_gates else channels + hidden))


def _convolutions(v: Values, inputs: int) -> int:
    """A multiplication and an addition for each tap, input channel and gate, at each pixel of each step."""
    batch, steps, _, height, width = v.x
    return 2 * batch * steps * height * width * v.weight[0] * inputs * v.weight[2] * v.weight[3]
