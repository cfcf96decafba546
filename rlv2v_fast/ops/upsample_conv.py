"""upsample_conv: nearest 2x upsampling and a causal 3x3x3 convolution without the upsampled tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rlv2v_fast.ops.backends import check_backend
from rlv2v_fast.ops.causal_conv3d import (
    call_causal_conv3d,
    causal_conv3d,
    check_causal_conv3d,
    fused_conv3d,
    is_fused,
    last_frames,
)
from rlv2v_fast.ops.sizes import UPSAMPLE_PIXELS, UPSAMPLE_PRODUCTS
from rlv2v_fast.reference.blocks import upsample_reference, with_history

# Without AVX-512 PyTorch adds the taps of a transposed convolution in bfloat16: measured 8 times the mean square error
# of upsampling and convolving.
_BFLOAT16_IS_EXACT = torch.backends.cpu.get_cpu_capability().startswith("AVX512")

# Row k of the transposed kernel sums these of the three rows of the kernel. An output row 2i sees the upsampled rows
# 2i-1, 2i, 2i+1, which are the low rows i-1, i, i; an output row 2i+1 sees i, i, i+1.
_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def upsample_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    history: Tensor | None = None,
    *,
    exact: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """causal_conv3d(upsample(x), weight, bias).

    In float32 on a CPU the fused operator of causal_conv3d reads x where it would read the upsampled tensor, and sums
    gradients over the pixels that it read x for. The bound of causal_conv3d holds.

    In bfloat16, where PyTorch convolves: two of three upsampled rows and columns that a kernel meets are equal, so each
    of the four output phases is a 2x2 convolution of x with summed weights, 2.25 times fewer multiplications. Together
    they are one transposed convolution of kernel 4 and stride 2. Summing the weights first rounds differently: by about
    one unit in the last place of a weight.

    Args:
        x: (B, C, T, H, W). weight: (O, C, 3, 3, 3). bias: (O,) or None.
        history: (B, C, 2, H, W), the frames before x; None is zeros.
        exact: True sums as a plain convolution does.
        backend: "reference" upsamples and convolves, "cpp" takes the fused operator wherever it can, "auto" what was
            measured to be faster. The transposed convolution is for a CPU with AVX-512.

    Returns:
        (B, O, T, 2H, 2W), and the history that the frames after x need. Both are twice differentiable.

    Raises:
        ValueError: the kernel is not 3x3x3, or another argument does not fit it.
        RuntimeError: backend="cpp" cannot run the call; the message says why.
    """
    check_backend(backend)
    if weight.shape[2:] != (3, 3, 3):
        raise ValueError(f"weight must have shape (O, C, 3, 3, 3); got {tuple(weight.shape)}")
    check_causal_conv3d(x, weight, bias, history)
    if is_fused("upsample_conv", backend, x, weight, exact=exact, upsample=True):
        y = fused_conv3d(x, weight, bias, history, upsample=True, exact=exact)
    elif not exact and backend != "reference" and is_worthwhile(x, weight):
        y = _transposed(with_history(x, 2, history), weight, bias)
    else:
        before = None if history is None else upsample_reference(history)
        y, _ = causal_conv3d(upsample_reference(x), weight, bias, before, backend="reference")
    return y, last_frames(x, weight, history)


def call_upsample_conv(
    convolve: Callable[[Tensor], Tensor], before: int, x: Tensor, history: Tensor | None
) -> tuple[Tensor, Tensor]:
    """upsample_conv by a module that must be called; arguments as of call_causal_conv3d."""
    return call_causal_conv3d(lambda x: convolve(upsample_reference(x)), before, x, history)


def is_worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether the transposed convolution is as exact, and was measured to be faster, for such an input and kernel."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or not _BFLOAT16_IS_EXACT:
        return False
    # A traced graph serves all sizes, so that no rule by size may be in it.
    if torch.compiler.is_compiling():
        return True
    return x.numel() * weight.shape[0] >= UPSAMPLE_PRODUCTS and x.numel() >= UPSAMPLE_PIXELS * x.shape[1]


def _transposed(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The transposed convolution of x with its two frames of history in front."""
    # Summed in bfloat16, weights would be rounded twice.
    precise = torch.promote_types(weight.dtype, torch.float32)
    taps = weight.new_tensor(_TAPS, dtype=precise)
    with torch.autocast(weight.device.type, enabled=False):
        kernel = torch.einsum("ph,qw,octhw->cotpq", taps, taps, weight.to(precise)).flip(2).to(weight.dtype)
    # The padding crops what depends on frames outside, and the outermost row and column of each side.
    return F.conv_transpose3d(padded, kernel, bias, stride=(1, 2, 2), padding=(2, 1, 1))
