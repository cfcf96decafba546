"""Networks that look at one frame and only a few pixels around each point: small enough to learn from few videos.

They stand in for the generator and the discriminator of Figure 5 where `network.generator` is "local" and
`network.discriminator` is "patch". Ours, not the paper's; docs/paper.md says when they help.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlv2v_fast.models.discriminator import Verdict
from rlv2v_fast.models.generator import START, GeneratorState

_SLOPE = 0.2  # of the leaky ReLUs


class FourierFeatures(nn.Module):
    """A frame's channels and position, and sines of random projections of them, which training may turn.

    A small network on plain colours is slow to tell near colours apart: it learns the slow functions of its input
    first. Sines of a fast projection are near-orthogonal already for near colours.

    Args:
        channels: channels C of a frame.
        features: number F of sines.
        frequency: standard deviation of the projections of colours in [-1, 1], in radians.

    Source: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains".
    """

    # Of a coordinate in [-1, 1]: light may change over half a frame, not from pixel to pixel.
    _POSITION = 1.0

    def __init__(self, channels: int, features: int, frequency: float) -> None:
        super().__init__()
        projection = torch.randn(features, channels + 2) * frequency
        projection[:, channels:] *= self._POSITION / frequency
        self.project = nn.Conv2d(channels + 2, features, 1)
        with torch.no_grad():
            self.project.weight.copy_(projection[:, :, None, None])
            self.project.bias.copy_(torch.rand(features) * 2 * math.pi)  # type: ignore[union-attr]
        self.out_channels = channels + 2 + features

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + 2 + F, H, W)."""
        located = _located(frames)
        # In bfloat16 a phase of some tens of radians would be wrong by a tenth of one.
        with torch.autocast(frames.device.type, enabled=False):
            waves = torch.sin(self.project(located))
        return torch.cat([located, waves], dim=1)


class LocalGenerator(nn.Module):
    """Each pixel's new colour is its own, times a gain, plus an emission; both are functions of its colour and place.

    y = clamp(gain (x + 1) + emission + table(x) - 1). Gain and emission are a pixelwise network of Fourier features.
    The table holds an emission for each of 17x17x17 colours and is interpolated between them. Its entries learn alone,
    and Adam moves that of a rare colour as fast as that of a frequent one, so that small dark things can light up. The
    output is linear: a tanh is flat where it is dark, and what has once turned dark would hardly get its lights back.
    Training sees the output before the clamp.

    Args:
        width: channels of the hidden layers.
        channels: channels C of a frame.
        norm, backend, output: taken for the interface of Generator; there is no normalization and no fused operator
            here, and the output is always that of a gain.

    Source of the table: Zeng et al. 2020, "Learning Image-Adaptive 3D Lookup Tables".
    """

    _FEATURES, _FREQUENCY = 64, 8.0
    # Colours along each axis of the table, and its learning speed relative to the other weights'.
    _LEVELS, _SPEED = 17, 3.0
    # The gain at the start; what is learned is added.
    _GAIN = 0.3

    def __init__(
        self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto", output: str = "gain"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.features = FourierFeatures(channels, self._FEATURES, self._FREQUENCY)
        self.hidden = nn.Sequential(
            *(nn.Conv2d(self.features.out_channels, width, 1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, width, 1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, width, 1), nn.LeakyReLU(_SLOPE)),
        )
        self.head = nn.Conv2d(width, 2 * channels, 1)
        # Without three colours there is no cube to look up in.
        self.table = nn.Parameter(torch.zeros(1, channels, *[self._LEVELS] * 3)) if channels == 3 else None

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) in [-1, 1] to the same shape, of the weights' dtype; in [-1, 1] too in eval mode.

        Raises:
            ValueError: video has another rank or channel count, or no frame.
        """
        return self.stream(video, START)[0]

    def stream(self, video: Tensor, state: GeneratorState = START) -> tuple[Tensor, GeneratorState]:
        """Translate the next frames of a stream; frames are translated alone, so there is no state to carry."""
        if video.dim() != 5 or video.shape[2] != self.channels or video.shape[1] < 1:
            raise ValueError(f"video must have shape (B, T >= 1, {self.channels}, H, W); got {tuple(video.shape)}")
        # A forecast made under autocast is bfloat16; colours are told apart as finely as the weights are.
        frames = video.flatten(0, 1).to(self.head.weight.dtype)
        gain, emission = self.head(self.hidden(self.features(frames))).to(frames.dtype).chunk(2, dim=1)
        y = (frames + 1) * (gain + self._GAIN) + emission - 1 + self._looked_up(frames)
        return (y if self.training else y.clamp(-1, 1)).unflatten(0, video.shape[:2]), state

    def _looked_up(self, frames: Tensor) -> Tensor | float:
        """(N, C, H, W): the table's emission for each pixel's colour."""
        if self.table is None:
            return 0.0
        colours = frames.clamp(-1, 1).permute(0, 2, 3, 1).unsqueeze(1)
        table = self.table.expand(len(frames), -1, -1, -1, -1)
        found = F.grid_sample(table, colours, padding_mode="border", align_corners=True)
        return self._SPEED * found.squeeze(2)

    def fuse(self) -> LocalGenerator:
        """Nothing here can be folded; returns self."""
        return self


class PatchDiscriminator(nn.Module):
    """Per-frame authenticity and style of patches 26 pixels wide, and a verdict on the clip from the same features.

    A small patch shows what things look like and not how a scene is laid out, which few videos would make it memorize.
    It knows where in the frame it looks. It sees plain colours: with FourierFeatures its verdict rises and falls along
    the way from one colour to another, and the generator it teaches stays where it is.

    Args:
        width: channels w of the first level; the others have 2w and 4w.
        channels: channels C of a frame.
        norm, backend: taken for the interface of Discriminator; there is no normalization and no fused operator here.

    Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks" (PatchGAN).
    """

    def __init__(self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__()
        self.channels = channels
        self.trunk = nn.Sequential(
            *(nn.Conv2d(channels + 2, width, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)),
            *(nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.LeakyReLU(_SLOPE)),
        )
        self.patch_head = nn.Conv2d(4 * width, 2, 3, padding=1)
        self.clip_hidden = nn.Conv2d(4 * width + 1, 4 * width, 1)
        self.clip_head = nn.Linear(4 * width, 1)

    def forward(self, video: Tensor) -> Verdict:
        """Verdict on video (B, T, C, H, W) in [-1, 1], H and W at least 8; patch logits are (B, T, H // 4, W // 4)."""
        if video.dim() != 5 or video.shape[2] != self.channels or min(video.shape[3:]) < 8:
            raise ValueError(f"video must have shape (B, T, {self.channels}, H >= 8, W >= 8); got {tuple(video.shape)}")
        frames = video.flatten(0, 1)
        features = self.trunk(_located(frames))
        authenticity, style = self.patch_head(features).unflatten(0, video.shape[:2]).unbind(2)
        return Verdict(authenticity, style, self._clip_logit(features, video.shape[0], video.shape[1]))

    def _clip_logit(self, features: Tensor, batch: int, frames: int) -> Tensor:
        """As Discriminator's: the mean of relu(A [f, t]) over pixels and frames, t the position in the clip."""
        position = torch.linspace(0, 1, frames, device=features.device, dtype=features.dtype).repeat(batch)
        plane = position[:, None, None, None].expand_as(features[:, :1])
        hidden = torch.relu(self.clip_hidden(torch.cat([features, plane], dim=1)))
        return self.clip_head(hidden.unflatten(0, (batch, frames)).mean(dim=(1, 3, 4))).squeeze(1)


def _located(frames: Tensor) -> Tensor:
    """(N, C + 2, H, W): frames and their coordinates, channels last, which spares convolutions the reordering."""
    return torch.cat([frames, _coordinates(frames)], dim=1).contiguous(memory_format=torch.channels_last)


def _coordinates(frames: Tensor) -> Tensor:
    """(N, 2, H, W): each pixel's height and width in its frame, in [-1, 1]."""
    height, width = frames.shape[-2:]
    y, x = (torch.linspace(-1, 1, size, device=frames.device, dtype=frames.dtype) for size in (height, width))
    plane = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return plane.expand(frames.shape[0], -1, -1, -1)
