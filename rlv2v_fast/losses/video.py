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


def frame_discriminator_loss(
    real: Logits, fake: Logits, other: Logits | None, kind: str = "bce", style: float = 1.0
) -> Tensor:
    """L_g for a discriminator: authenticity real 1, fake 0; style real 1, videos of the other domain 0. Scalar.

    other may be None where the style term's weight is 0.
    """
    authenticity = real_loss(real.authenticity, kind).mean() + fake_loss(fake.authenticity, kind).mean()
    if not style or other is None:
        return authenticity
    return authenticity + style * (real_loss(real.style, kind).mean() + fake_loss(other.style, kind).mean())


def video_discriminator_loss(real: Logits, fake: Logits, kind: str = "bce") -> Tensor:
    """L_v for a discriminator: whole real clips 1, translated clips 0. Scalar."""
    return real_loss(real.video, kind).mean() + fake_loss(fake.video, kind).mean()


def frame_fooling_loss(fake: Logits, kind: str = "bce", style: float = 1.0) -> Tensor:
    """L_g for a generator: its frames should look authentic and, as much as style weighs, of the style. Scalar."""
    authenticity = fooling_loss(fake.authenticity, kind).mean()
    return authenticity + style * fooling_loss(fake.style, kind).mean() if style else authenticity


def video_fooling_loss(fake: Logits, kind: str = "bce") -> Tensor:
    """L_v for a generator: its whole clips should look real. Scalar."""
    return fooling_loss(fake.video, kind).mean()
