"""convlstm: a ConvLSTM layer over a whole sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import choose, cpp_refusal
from rlv2v_fast.ops.convlstm_gates import convlstm_gates
from rlv2v_fast.reference.convlstm import convlstm_reference, state_dtype


def convlstm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    peephole: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One ConvLSTM layer: gates_t = weight * cat[x_t, h_{t-1}] + bias, c_t = f c_{t-1} + i g, h_t = o tanh(c_t).

    Args:
        x: (B, T, C, H, W), T >= 1.
        weight: (4K, C+K, kh, kw) with kh and kw odd, gates in order i, f, o, g; "same" zero padding.
        bias: (4K,) or None.
        h0, c0: (B, K, H, W) initial state; None is zeros.
        peephole: (3, K), weights of c on i, f and o; None for none.
        lengths: (B,) integers in [0, T]; from step lengths[b] on, sample b holds its state and outputs zeros.
        backend: "auto", "cpp" or "reference".

    Returns:
        output (B, T, K, H, W) and the last h, each in the dtype of the convolution, and the last c (B, K, H, W),
        float32 beside half types.

    Raises:
        ValueError: an argument does not fit; the message names it, the rule and the value.
        RuntimeError: an explicit backend cannot run here.

    Source: Shi et al. 2015, eq. 3; gate order and the single convolution as in the widely used PyTorch layer.
    """
    _check(x, weight, bias, peephole, lengths)
    h0, c0 = _initial_state(x, weight, h0, c0)
    chosen = choose("convlstm", backend, {"cpp": lambda: _cpp_refusal(x, peephole, lengths)})
    if chosen == "reference":
        return convlstm_reference(x, weight, bias, h0, c0, peephole, lengths)
    return _stepwise(x, weight, bias, h0, c0, chosen)


def _stepwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, h: Tensor, c: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    outputs = []
    for frame in x.unbind(1):
        gates = F.conv2d(torch.cat([frame, h], dim=1), weight, bias, padding=padding)
        h, c = convlstm_gates(gates, c, backend=backend if gates.dtype == c.dtype else "reference")
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, peephole: Tensor | None, lengths: Tensor | None) -> None:
    if x.dim() != 5:
        raise ValueError(f"x must have shape (B, T, C, H, W); got {tuple(x.shape)}")
    batch, steps, channels = x.shape[:3]
    if steps < 1:
        raise ValueError(f"x must hold at least one time step, T >= 1; got T={steps}")
    if weight.dim() != 4 or weight.shape[0] % 4 or weight.shape[1] != channels + weight.shape[0] // 4:
        raise ValueError(
            f"weight must have shape (4K, C+K, kh, kw) with C={channels}, the channels of x; got {tuple(weight.shape)}"
        )
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight must have an odd kernel for 'same' padding; got {tuple(weight.shape[2:])}")
    hidden = weight.shape[0] // 4
    if bias is not None and bias.shape != (4 * hidden,):
        raise ValueError(f"bias must have shape ({4 * hidden},); got {tuple(bias.shape)}")
    if peephole is not None and peephole.shape != (3, hidden):
        raise ValueError(f"peephole must have shape (3, {hidden}); got {tuple(peephole.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("peephole", peephole), ("lengths", lengths)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {tensor.device}")
        if tensor is not None and name != "lengths" and tensor.dtype != x.dtype and not _autocasting(x):
            raise ValueError(f"{name} must have the dtype of x, {x.dtype}; got {tensor.dtype}")
    if lengths is not None:
        _check_lengths(lengths, batch, steps)


def _check_lengths(lengths: Tensor, batch: int, steps: int) -> None:
    if lengths.shape != (batch,) or lengths.dtype.is_floating_point or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be ({batch},) integers; got {tuple(lengths.shape)} of {lengths.dtype}")
    if torch.compiler.is_compiling() or lengths.numel() == 0:
        return
    if int(lengths.min()) < 0 or int(lengths.max()) > steps:
        raise ValueError(f"lengths must lie in [0, T={steps}]; got {lengths.tolist()}")


def _autocasting(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _initial_state(x: Tensor, weight: Tensor, h0: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, _, _, height, width = x.shape
    shape = (batch, weight.shape[0] // 4, height, width)
    dtype = torch.get_autocast_dtype(x.device.type) if _autocasting(x) and x.dtype != torch.float64 else x.dtype
    for name, state in (("h0", h0), ("c0", c0)):
        if state is not None and state.shape != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(state.shape)}")
        if state is not None and state.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}; got {state.device}")
    h = x.new_zeros(shape, dtype=dtype) if h0 is None else h0.to(dtype)
    c = x.new_zeros(shape, dtype=state_dtype(dtype)) if c0 is None else c0.to(state_dtype(dtype))
    return h, c


def _cpp_refusal(x: Tensor, peephole: Tensor | None, lengths: Tensor | None) -> str | None:
    if peephole is not None:
        return "the C++ kernel has no peephole weights"
    if lengths is not None:
        return "the C++ kernel takes no lengths"
    if x.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernel takes float32 and float64, not {x.dtype}"
    return cpp_refusal(x)
