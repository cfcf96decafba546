"""The sequence generator G: a causal video-to-video encoder-decoder with a ConvLSTM bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlv2v_fast.models.budget import Cost
from rlv2v_fast.nn.blocks import (
    RPB,
    URB,
    BlockState,
    CausalConv3d,
    ConvState,
    advance,
    conv_backend,
    convolve,
)
from rlv2v_fast.nn.convlstm import ConvLSTM
from rlv2v_fast.nn.norm import make_norm

# Three poolings: H and W must divide by 2^3.
STRIDE = 8


@dataclass(frozen=True)
class GeneratorState:
    """What a generator remembers of earlier frames, so that it can continue a stream."""

    stem: ConvState
    encoder: tuple[BlockState | None, ...]
    bottleneck: list[list[Tensor]] | None
    decoder: tuple[BlockState | None, ...]
    head: ConvState


START = GeneratorState(None, (None, None, None), None, (None, None, None), None)


OUTPUTS = ("tanh", "gain")
# Working memory in numbers a pixel and channel of the first level: the history of the blocks, twice, and what they
# compute of a frame. Measured, streaming 1 to 8 frames of 512x512 at widths 8 to 32 on a CPU: 45 to 50 numbers for one
# frame, and 6 to 10 for each more by the fused operators, 19 by plain PyTorch.
_HISTORY, _FRAME = 36, 20
# Scale of the last convolution's initial weights for "gain": the output is then nearly the input.
_GAIN_SCALE = 0.1


class Generator(nn.Module):
    """Translates a clip: stem, three RPB (w, 2w, 4w), ConvLSTM(4w), three URB (2w, w, w), additive skips, head.

    Args:
        width: channels w of the first level.
        channels: channels C of a frame.
        norm: "batch" or "instance" (per frame).
        backend: of the fused operators, "auto", "cpp" or "reference".
        output: "tanh" (the paper's), or "gain": each pixel of the input times a gain plus an emission, clamped. "gain"
            starts near the input, so it need not learn to draw it.

    Source: Figure 5 (three RPB, three URB); the bottleneck and the skips as in the authors' code.
    """

    def __init__(
        self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto", output: str = "tanh"
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        self.channels, self.output = channels, output
        self.stem = CausalConv3d(channels, width, bias=True, backend=conv_backend(backend))
        pairs = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
        self.encoder = nn.ModuleList(RPB(a, b, norm=norm, backend=backend) for a, b in pairs)
        self.convlstm = ConvLSTM(4 * width, 4 * width, 3, 1, batch_first=True, backend=backend)
        self.bn = make_norm(norm, 4 * width)
        pairs = [(4 * width, 2 * width), (2 * width, width), (width, width)]
        self.decoder = nn.ModuleList(URB(a, b, norm=norm, backend=backend) for a, b in pairs)
        outputs = channels if output == "tanh" else 2 * channels
        self.head = CausalConv3d(width, outputs, bias=True, backend=conv_backend(backend))
        if output == "gain":
            with torch.no_grad():
                self.head.weight.mul_(_GAIN_SCALE)
                self.head.bias.zero_()  # type: ignore[union-attr]

    def forward(self, video: Tensor) -> Tensor:
        """The translation of a clip.

        Args:
            video: (B, T, C, H, W) in [-1, 1], H and W multiples of 8.

        Returns:
            (B, T, C, H, W) in [-1, 1]; frame t depends on no later frame in eval mode.

        Raises:
            ValueError: video has another rank, channel count or size.
        """
        return self.stream(video, START)[0]

    def stream(self, video: Tensor, state: GeneratorState = START) -> tuple[Tensor, GeneratorState]:
        """The translation of a stream's next frames, and the state for the call after it.

        Args:
            video: (B, t, C, H, W).
            state: the state that the previous call returned.
        """
        self._check(video)
        x, stem = convolve(self.stem, video.transpose(1, 2), state.stem)
        levels = [x]
        encoder = []
        for block, block_state in zip(self.encoder, state.encoder, strict=True):
            x, block_state = advance(block, x, block_state)
            levels.append(x)
            encoder.append(block_state)
        hidden, bottleneck = self.convlstm(x.transpose(1, 2), state.bottleneck)
        x = self.bn(hidden[-1].transpose(1, 2))
        decoder = []
        for block, block_state, skip in zip(self.decoder, state.decoder, levels[-2::-1], strict=True):
            x, block_state = advance(block, x, block_state)
            x = x + skip
            decoder.append(block_state)
        y, head = convolve(self.head, x, state.head)
        drawn = self._drawn(y.transpose(1, 2), video)
        return drawn, GeneratorState(stem, tuple(encoder), bottleneck, tuple(decoder), head)

    def _drawn(self, y: Tensor, video: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) from the head's output y, (B, T, C or 2C, H, W), and the input."""
        if self.output == "tanh":
            return torch.tanh(y)
        gain, emission = y.chunk(2, dim=2)
        # Black, no light, is -1.
        return ((video + 1) * (1 + gain) + emission - 1).clamp(-1, 1)

    def fuse(self) -> Generator:
        """Fold normalizations into the blocks' convolutions where R.fuse can, in place; returns self."""
        for block in (*self.encoder, *self.decoder):
            block.fuse()
        return self

    def cost(self) -> Cost:
        """Its working memory, for budgets."""
        numbers = self.stem.weight.shape[0] * self.stem.weight.element_size()
        return Cost(_HISTORY * numbers, _FRAME * numbers)

    def _check(self, video: Tensor) -> None:
        if video.dim() != 5 or video.shape[2] != self.channels:
            raise ValueError(f"video must have shape (B, T, {self.channels}, H, W); got {tuple(video.shape)}")
        if video.shape[1] < 1:
            raise ValueError("video must hold at least one frame; got T=0")
        if video.shape[3] % STRIDE or video.shape[4] % STRIDE:
            raise ValueError(f"video must have H and W divisible by {STRIDE}; got {tuple(video.shape[3:])}")
