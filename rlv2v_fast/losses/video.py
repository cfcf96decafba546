"""Frame and whole-clip terms of the adversarial game, from a discriminator's verdicts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rlv2v_fast.losses.adversarial import fake_loss, fooling_loss, real_loss


class Logits(Protocol):
    """authenticity and style (B, T, h, w), video (B,)."""

    @property
    def authenticity(self) -> Tensor: ...
    @property
    def style(self) -> Tensor: ...
    @property
    def video(self) -> Tensor: ...


def frame_discriminator_loss(real: Logits, fake: Logits, other: Logits, kind: str = "bce") -> Tensor:
    """L_g for a discriminator: authenticity real 1, fake 0; style real 1, videos of the other domain 0. Scalar."""
    authenticity = real_loss(real.authenticity, kind).mean() + fake_loss(fake.authenticity, kind).mean()
    style = real_loss(real.style, kind).mean() + fake_loss(other.style, kind).mean()
    return authenticity + style


def video_discriminator_loss(real: Logits, fake: Logits, kind: str = "bce") -> Tensor:
    """L_v for a discriminator: whole real clips 1, translated clips 0. Scalar."""
    return real_loss(real.video, kind).mean() + fake_loss(fake.video, kind).mean()


def frame_fooling_loss(fake: Logits, kind: str = "bce") -> Tensor:
    """L_g for a generator: its frames should look authentic and of the domain's style. Scalar."""
    return fooling_loss(fake.authenticity, kind).mean() + fooling_loss(fake.style, kind).mean()


def video_fooling_loss(fake: Logits, kind: str = "bce") -> Tensor:
    """L_v for a generator: its whole clips should look real. Scalar."""
    return fooling_loss(fake.video, kind).mean()
