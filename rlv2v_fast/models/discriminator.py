"""The discriminator D: logits of authenticity and style for each frame, and one logit for the whole clip."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlv2v_fast.nn.blocks import RPB, CausalConv3d, conv_backend


class Verdict(NamedTuple):
    """Logits of a discriminator on a clip (B, T, C, H, W).

    authenticity, style: (B, T, H // 8, W // 8), one per frame and patch. video: (B,), one per clip, or zeros where the
    clip was not to be judged.
    """

    authenticity: Tensor
    style: Tensor
    video: Tensor


class Trunk(nn.Module):
    """Features by three RPB (w, 2w, 4w): (B, C, T, H, W) to (B, 4w, T, H // 8, W // 8)."""

    def __init__(self, width: int, channels: int, *, norm: str, backend: str) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.blocks = nn.Sequential(*(RPB(a, b, norm=norm, backend=backend) for a, b in itertools.pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Discriminator(nn.Module):
    """Judges a clip: three RPB, then a causal convolution for the frames' logits and a pooling for the clip's logit.

    The clip head averages relu(A [f, t]) over the features f of every pixel and their position t in [0, 1] in the
    clip. With t it can expect one style in the first half of a clip and another in the second (Figure 1). The ReLU
    precedes the mean because per-frame normalization fixes the mean of f itself.

    Args:
        width: channels w of the first level.
        channels: channels C of a frame.
        norm: "batch" or "instance" (per frame).
        backend: of the fused operators.

    Source: Figure 5 (three RPB, Conv3D, sigmoid). Returns logits: the sigmoid lives in the losses.
    """

    def __init__(self, width: int, channels: int = 3, *, norm: str = "batch", backend: str = "auto") -> None:
        super().__init__()
        self.channels = channels
        self.trunk = Trunk(width, channels, norm=norm, backend=backend)
        self.patch_head = CausalConv3d(4 * width, 2, bias=True, backend=conv_backend(backend))
        self.clip_hidden = CausalConv3d(4 * width + 1, 4 * width, 1, bias=True)
        self.clip_head = nn.Linear(4 * width, 1)

    def forward(self, video: Tensor, *, clip: bool = True) -> Verdict:
        """Verdict on video (B, T, C, H, W) in [-1, 1], H and W at least 8. clip: whether to judge whole clips, too."""
        if video.dim() != 5 or video.shape[2] != self.channels or min(video.shape[3:]) < 8:
            raise ValueError(f"video must have shape (B, T, {self.channels}, H >= 8, W >= 8); got {tuple(video.shape)}")
        features = self.trunk(video.transpose(1, 2))
        authenticity, style = self.patch_head(features).unbind(1)
        of_clip = self._clip_logit(features) if clip else authenticity.new_zeros(video.shape[0])
        return Verdict(authenticity, style, of_clip)

    def _clip_logit(self, features: Tensor) -> Tensor:
        position = torch.linspace(0, 1, features.shape[2], device=features.device, dtype=features.dtype)
        plane = position[:, None, None].expand_as(features[:, :1])
        hidden = torch.relu(self.clip_hidden(torch.cat([features, plane], dim=1)))
        return self.clip_head(hidden.mean(dim=(2, 3, 4))).squeeze(1)
