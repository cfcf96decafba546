"""Networks that see one frame and a few pixels around each point: small enough to learn from few videos.

They replace the generator and the discriminator of Figure 5 where `network.generator` is "local" and
`network.discriminator` is "patch". The paper does not have them; docs/paper.md says when they help.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlv2v_fast.models.budget import Cost
from rlv2v_fast.models.discriminator import Verdict
from rlv2v_fast.models.generator import START, GeneratorState
from rlv2v_fast.nn.pixel_map import PixelMap, located

_SLOPE = 0.2  # of the leaky ReLUs


class LocalGenerator(PixelMap):
    """Translates each pixel of each frame alone, by nn.PixelMap, which says how.

    Args:
        width: channels of the hidden layers.
        channels: channels C of a frame.
        backend: of the fused operator.
        norm, output: accepted as by Generator, and not used: there is no normalization, and the output is always a gain
            and an emission.
    """

    def __init__(
        self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto", output: str = "gain"
    ) -> None:
        super().__init__(width, channels, backend=backend)

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
        return self.translate(video.flatten(0, 1)).unflatten(0, video.shape[:2]), state

    def fuse(self) -> LocalGenerator:
        """self, unchanged: there is no normalization to fold."""
        return self

    def cost(self) -> Cost:
        """Its working memory, for budgets: frames in and out, or in plain PyTorch features, sines and layers."""
        numbers = 8 * self.channels
        if self.backend == "reference":
            numbers = self.features.out_channels + 4 * max(self._FEATURES, self.head.in_channels)
        return Cost(0, numbers * self.head.weight.element_size(), alone=True)


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

    def forward(self, video: Tensor, *, clip: bool = True) -> Verdict:
        """Verdict on video (B, T, C, H, W) in [-1, 1], H and W at least 8; patch logits are (B, T, H // 4, W // 4).

        clip: whether to judge whole clips, too.
        """
        if video.dim() != 5 or video.shape[2] != self.channels or min(video.shape[3:]) < 8:
            raise ValueError(f"video must have shape (B, T, {self.channels}, H >= 8, W >= 8); got {tuple(video.shape)}")
        frames = video.flatten(0, 1)
        features = self.trunk(located(frames))
        authenticity, style = self.patch_head(features).unflatten(0, video.shape[:2]).unbind(2)
        batch, steps = video.shape[:2]
        return Verdict(
            authenticity, style, self._clip_logit(features, batch, steps) if clip else authenticity.new_zeros(batch)
        )

    def _clip_logit(self, features: Tensor, batch: int, frames: int) -> Tensor:
        """The clip's logit, (B,), from the mean of relu(A [f, t]) over pixels and frames, as in Discriminator."""
        position = torch.linspace(0, 1, frames, device=features.device, dtype=features.dtype).repeat(batch)
        plane = position[:, None, None, None].expand_as(features[:, :1])
        hidden = torch.relu(self.clip_hidden(torch.cat([features, plane], dim=1)))
        return self.clip_head(hidden.unflatten(0, (batch, frames)).mean(dim=(1, 3, 4))).squeeze(1)
