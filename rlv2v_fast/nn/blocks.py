"""The causal 3D convolution and the residual blocks R, RPB and URB of RL-V2V-GAN, on (B, C, T, H, W).

Every module has `forward(x)` and `stream(x, state) -> (y, state)`. The state is what the frames after x need of those
before; None starts a clip. In eval mode, streaming a clip in pieces gives what one call on all of it gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from rlv2v_fast.nn.norm import FusibleNorm, fold, make_norm, why_not_foldable
from rlv2v_fast.nn.plain import register_plain, why_not_plain
from rlv2v_fast.ops.backends import check_backend
from rlv2v_fast.ops.blocks import (
    norm_add_relu,
    norm_add_relu_norm,
    norm_add_relu_pool_norm,
    norm_relu,
)
from rlv2v_fast.ops.causal_conv3d import call_causal_conv3d, causal_conv3d
from rlv2v_fast.ops.upsample_conv import call_upsample_conv, upsample_conv

if TYPE_CHECKING:
    from typing_extensions import Self

# No operator of the blocks has a Triton kernel.
BACKENDS = ("auto", "cpp", "reference")
ConvState = Tensor | None
BlockState = tuple[ConvState, ConvState]
# The attribute in which advance lends a block a state for the next call.
_CARRIED = "_carried"


@register_plain
class CausalConv3d(nn.Conv3d):
    """Conv3d whose output at time t sees no later input; "same" zero padding in space.

    Its stride and dilation are 1, it has one group, and zeros are outside.

    Args:
        in_channels, out_channels: channels.
        kernel_size: odd k for (k, k, k).
        bias: whether to add a bias.
        backend: "auto", "cpp" or "reference", as of ops.causal_conv3d.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = False, *, backend: str = "auto"
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias)
        self.backend = check_backend(backend, BACKENDS)

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x, None)[0]

    def stream(self, x: Tensor, history: ConvState) -> tuple[Tensor, ConvState]:
        """y, and the last kernel_size-1 input frames.

        Raises:
            ValueError: an attribute was changed to what it does not support.
        """
        changed = self.stride, self.dilation, self.groups, self.padding_mode
        if changed != ((1, 1, 1), (1, 1, 1), 1, "zeros"):
            raise ValueError(
                "stride, dilation, groups and padding_mode must be 1, 1, 1 and 'zeros' in a CausalConv3d; got "
                f"{', '.join(map(repr, changed))}"
            )
        return causal_conv3d(x, self.weight, self.bias, history, backend=self.backend)


def conv_backend(backend: str) -> str:
    """The backend of the convolutions in a module of this backend.

    An explicit one is asked for what lies between them: not every convolution has a fused operator.
    """
    return backend if backend == "reference" else "auto"


def convolve(conv: nn.Module, x: Tensor, history: ConvState) -> tuple[Tensor, ConvState]:
    """conv(x) after the frames of history, and the history of the frames after x.

    What a user did to conv is honoured: where it is not plain, it is called.
    """
    if isinstance(conv, CausalConv3d) and why_not_plain(conv, CausalConv3d) is None:
        return conv.stream(x, history)
    return call_causal_conv3d(conv, _frames_before(conv), x, history)


def _frames_before(conv: nn.Module) -> int:
    """Frames before x that conv sees: kt-1 by its kernel_size, or 2 where it has none, as before a 3x3x3 kernel."""
    kernel_size = getattr(conv, "kernel_size", None)
    return kernel_size[0] - 1 if isinstance(kernel_size, tuple) else 2


@register_plain
class R(nn.Module):
    """Residual block relu(F(x) + s(x)), F = conv-bn-relu-conv-bn, s the identity or a 1x1x1 convolution.

    Args:
        in_channels, out_channels: channels; s is a convolution (named `skip`) exactly where they differ.
        norm: "batch" or "instance" (per frame).
        backend: "auto", "cpp" or "reference", of what lies between the convolutions. These are PyTorch's with
            "reference", else what was measured to be faster.

    Source: Figure 4, block R.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__()
        self.backend = check_backend(backend, BACKENDS)
        of_conv = conv_backend(backend)
        self.conv1 = CausalConv3d(in_channels, out_channels, backend=of_conv)
        self.bn1 = make_norm(norm, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, backend=of_conv)
        self.bn2 = make_norm(norm, out_channels)
        self.skip = CausalConv3d(in_channels, out_channels, 1, backend=of_conv) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, T, H, W) from (B, in_channels, T, H, W)."""
        carried = self.__dict__.pop(_CARRIED, None)
        if carried is None:
            return self.stream(x, None)[0]
        y, carried["state"] = self.stream(x, carried["state"])
        return y

    def stream(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        """forward with the two convolutions' histories carried."""
        v, state = self._residual(x, state)
        return norm_add_relu(v, FusibleNorm(self.bn2), self._shortcut(x), backend=self.backend), state

    def fuse(self) -> Self:
        """Fold bn1 and bn2 into conv1 and conv2 for inference, in place; returns self.

        Only batch normalization folds. bn3 of RPB and URB cannot: a ReLU precedes it and padding follows. Nor can
        statistics of each frame. Outputs change by rounding, the state dict by its entries: fuse a copy of what is to
        be trained or saved.

        Raises:
            RuntimeError: a batch normalization is in training mode or has no running statistics, or somebody changed
                what calling it or its convolution does; the message names it. Nothing has been folded then.
        """
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2) if isinstance(getattr(self, f"bn{i}"), nn.BatchNorm3d)]
        for conv_name, name in pairs:
            conv, norm = getattr(self, conv_name), getattr(self, name)
            if reason := why_not_foldable(conv, CausalConv3d, norm):
                raise RuntimeError(f"{name} cannot be folded into {conv_name}: {reason}")
        for conv_name, name in pairs:
            fold(getattr(self, conv_name), getattr(self, name))
            setattr(self, name, nn.Identity())
        return self

    def _residual(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        """F(x) before its last normalization."""
        first, second = state or (None, None)
        u, first = self._enter(x, first)
        v, second = convolve(self.conv2, norm_relu(u, FusibleNorm(self.bn1), backend=self.backend), second)
        return v, (first, second)

    def _enter(self, x: Tensor, history: ConvState) -> tuple[Tensor, ConvState]:
        """The first convolution."""
        return convolve(self.conv1, x, history)

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.skip is None else self.skip(x)


@register_plain
class RPB(R):
    """R, then spatial 1x2x2 max pooling, then normalization: (B, C, T, H, W) to (B, O, T, H // 2, W // 2).

    Arguments as of R. Source: Figure 4, block RPB.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__(in_channels, out_channels, norm=norm, backend=backend)
        self.bn3 = make_norm(norm, out_channels)

    def stream(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        v, state = self._residual(x, state)
        norms = FusibleNorm(self.bn2), FusibleNorm(self.bn3)
        return norm_add_relu_pool_norm(v, norms[0], self._shortcut(x), norms[1], backend=self.backend), state


@register_plain
class URB(R):
    """Spatial nearest 2x upsampling, then R, then normalization: (B, C, T, H, W) to (B, O, T, 2H, 2W).

    The upsampled x is never made: conv1 reads x itself, and so does the shortcut, a 1x1x1 convolution commuting with
    nearest upsampling. The state, too, holds frames of the size of x.

    Arguments as of R. Source: Figure 4, block URB.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__(in_channels, out_channels, norm=norm, backend=backend)
        self.bn3 = make_norm(norm, out_channels)

    def stream(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        v, state = self._residual(x, state)
        norms = FusibleNorm(self.bn2), FusibleNorm(self.bn3)
        return norm_add_relu_norm(v, norms[0], self._shortcut(x), norms[1], backend=self.backend), state

    def _enter(self, x: Tensor, history: ConvState) -> tuple[Tensor, ConvState]:
        if why_not_plain(self.conv1, CausalConv3d):
            return call_upsample_conv(self.conv1, _frames_before(self.conv1), x, history)
        return upsample_conv(x, self.conv1.weight, self.conv1.bias, history, backend=self.conv1.backend)


def advance(block: nn.Module, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState | None]:
    """block(x) after the frames of state, and the state of the frames after x.

    What a user did to the block is honoured: where it is not plain, it is called, with the state beside the call, so
    that hooks see one tensor come and one go. A module of another kind has no state.
    """
    if why_not_plain(block, R, RPB, URB) is None:
        return block.stream(x, state)  # type: ignore[operator]
    carried = {"state": state}
    if isinstance(block, R):
        block.__dict__[_CARRIED] = carried
    try:
        return block(x), carried["state"]
    finally:
        block.__dict__.pop(_CARRIED, None)
