"""Networks that see one frame and a few pixels around each point: small enough to learn from few videos.

They replace the generator and the discriminator of Figure 5 where `network.generator` is "local" and
`network.discriminator` is "patch". The paper does not have them; docs/paper.md says when they help.
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
    """A frame's channels and coordinates, and sines of random projections of them. The projections are trained too.

    A small network on plain colours learns slowly varying functions first, so it is slow to tell similar colours apart.
    Sines of a fast projection are nearly orthogonal even for similar colours.

    Args:
        channels: channels C of a frame.
        features: number F of sines.
        frequency: standard deviation of the projections of colours in [-1, 1], in radians.

    Source: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains".
    """

    # Standard deviation of the projections of coordinates in [-1, 1]: light may change over half a frame, not from
    # pixel to pixel.
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
        """Features (N, C + 2 + F, H, W) of frames (N, C, H, W)."""
        located = _located(frames)
        # In bfloat16 a phase of some tens of radians would be wrong by a tenth of a radian.
        with torch.autocast(frames.device.type, enabled=False):
            waves = torch.sin(self.project(located))
        return torch.cat([located, waves], dim=1)


class LocalGenerator(nn.Module):
    """Translates each pixel alone: its colour times a gain plus an emission, both functions of its colour and place.

    y = clamp(gain (x + 1) + emission + table(x) - 1). A pixelwise network computes gain and emission from Fourier
    features. The table holds an emission for each of 17x17x17 colours, with interpolation between them. Each entry
    learns alone, and Adam moves the entry of a rare colour as fast as that of a frequent one, so that small dark
    objects can light up. The output is linear: a tanh is flat where it is dark, and a light that once went dark would
    hardly come back. In training the output is not clamped.

    Args:
        width: channels of the hidden layers.
        channels: channels C of a frame.
        norm, backend, output: accepted as by Generator, and not used: there is no normalization and no fused operator,
            and the output is always a gain and an emission.

    Source of the table: Zeng et al. 2020, "Learning Image-Adaptive 3D Lookup Tables".
    """

    _FEATURES, _FREQUENCY = 64, 8.0
    # Colours along each axis of the table, and its learning speed relative to the other weights'.
    _LEVELS, _SPEED = 17, 3.0
    # The gain before training; the network's output is added to it.
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
        """The translation of a stream's next frames, and `state` as it came: frames are translated one by one."""
        if video.dim() != 5 or video.shape[2] != self.channels or video.shape[1] < 1:
            raise ValueError(f"video must have shape (B, T >= 1, {self.channels}, H, W); got {tuple(video.shape)}")
        # A forecast made under autocast is bfloat16. Colours need the precision of the weights.
        frames = video.flatten(0, 1).to(self.head.weight.dtype)
        gain, emission = self.head(self.hidden(self.features(frames))).to(frames.dtype).chunk(2, dim=1)
        y = (frames + 1) * (gain + self._GAIN) + emission - 1 + self._looked_up(frames)
        return (y if self.training else y.clamp(-1, 1)).unflatten(0, video.shape[:2]), state

    def _looked_up(self, frames: Tensor) -> Tensor | float:
        """The table's emission for each pixel's colour, (N, C, H, W); 0 without a table."""
        if self.table is None:
            return 0.0
        colours = frames.clamp(-1, 1).permute(0, 2, 3, 1).unsqueeze(1)
        table = self.table.expand(len(frames), -1, -1, -1, -1)
        emission = F.grid_sample(table, colours, padding_mode="border", align_corners=True)
        return self._SPEED * emission.squeeze(2)

    def fuse(self) -> LocalGenerator:
        """self, unchanged: there is no normalization to fold."""
        return self


class PatchDiscriminator(nn.Module):
    """Judges patches 26 pixels wide in each frame, for authenticity and style, and the clip from the same features.

    A small patch shows the look of objects and not the layout of a scene, which a larger one would memorize from few
    videos. The network knows the patch's place in the frame. It sees plain colours, not FourierFeatures: with those its
    verdict rises and falls on the way from one colour to another, and the generator does not move.

    Args:
        width: channels w of the first level; the others have 2w and 4w.
        channels: channels C of a frame.
        norm, backend: accepted as by Discriminator, and not used: there is no normalization and no fused operator.

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
        """The clip's logit, (B,), from the mean of relu(A [f, t]) over pixels and frames, as in Discriminator."""
        position = torch.linspace(0, 1, frames, device=features.device, dtype=features.dtype).repeat(batch)
        plane = position[:, None, None, None].expand_as(features[:, :1])
        hidden = torch.relu(self.clip_hidden(torch.cat([features, plane], dim=1)))
        return self.clip_head(hidden.unflatten(0, (batch, frames)).mean(dim=(1, 3, 4))).squeeze(1)


def _located(frames: Tensor) -> Tensor:
    """Frames and their coordinates, (N, C + 2, H, W), channels last, so that convolutions need not reorder them."""
    return torch.cat([frames, _coordinates(frames)], dim=1).contiguous(memory_format=torch.channels_last)


def _coordinates(frames: Tensor) -> Tensor:
    """Each pixel's vertical and horizontal position in its frame, in [-1, 1]: (N, 2, H, W)."""
    height, width = frames.shape[-2:]
    y, x = (torch.linspace(-1, 1, size, device=frames.device, dtype=frames.dtype) for size in (height, width))
    plane = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return plane.expand(frames.shape[0], -1, -1, -1)
