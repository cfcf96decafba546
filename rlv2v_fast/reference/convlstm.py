"""ConvLSTM in plain PyTorch: the specification of the fused operators, and what runs where none of them can."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def convlstm_gates_reference(gates: Tensor, c: Tensor, peephole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ConvLSTM cell after its convolution.

    i = sigmoid(gates_i + p_i c), f = sigmoid(gates_f + p_f c), c' = f c + i tanh(gates_g),
    o = sigmoid(gates_o + p_o c'), h = o tanh(c').

    Args:
        gates: (B, 4K, H, W), pre-activations in order i, f, o, g.
        c: (B, K, H, W), cell state; float32 when gates is a half type.
        peephole: (3, K), rows i, f, o; None leaves the peephole terms out.

    Returns:
        h (B, K, H, W) in the dtype of gates, and c' in the dtype of c.

    Source: Shi et al. 2015, "Convolutional LSTM Network", eq. 3, with per-channel peephole weights.
    """
    i, f, o, g = gates.to(c.dtype).chunk(4, dim=1)
    if peephole is not None:
        p_i, p_f, p_o = peephole.to(c.dtype)[:, :, None, None].unbind(0)
        i, f = i + p_i * c, f + p_f * c
    c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if peephole is not None:
        o = o + p_o * c_next
    return (torch.sigmoid(o) * torch.tanh(c_next)).to(gates.dtype), c_next


def convlstm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A ConvLSTM layer over a sequence: one convolution of cat[x_t, h] per step, then the gates.

    Args:
        x: (B, T, C, H, W).
        weight: (4K, C+K, kh, kw), odd kernel; "same" zero padding. bias: (4K,) or None.
        h0, c0: (B, K, H, W).
        peephole: (3, K) or None.
        lengths: (B,) int64 in [0, T]. From step lengths[b] on, sample b keeps its state and outputs zeros.

    Returns:
        output (B, T, K, H, W), and the last h and c, each (B, K, H, W).
    """
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)

    def step(frame: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = F.conv2d(torch.cat([frame, h], dim=1), weight, bias, padding=padding)
        return convlstm_gates_reference(gates, c, peephole)

    return run_steps(step, x, h0, c0, lengths)


def run_steps(
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A recurrent layer over a sequence: (h, c) = step(x_t, h, c) from h0 and c0 on.

    Arguments but step, and results, as of convlstm_reference.
    """
    h, c = h0, c0
    outputs = []
    for t, frame in enumerate(x.unbind(1)):
        h_next, c_next = step(frame, h, c)
        if lengths is None:
            h, c = h_next, c_next
            outputs.append(h)
        else:
            active = (t < lengths)[:, None, None, None]
            h, c = torch.where(active, h_next, h), torch.where(active, c_next, c)
            outputs.append(torch.where(active, h_next, torch.zeros_like(h_next)))
    return torch.stack(outputs, dim=1), h, c
