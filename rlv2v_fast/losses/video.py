"""Adversarial losses on frames and on whole clips, from a discriminator's verdicts."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rlv2v_fast.losses.adversarial import fake_loss, fooling_loss, real_loss


class Logits(Protocol):
    """A discriminator's logits: authenticity and style (B, T, h, w), video (B,)."""

    @property
    def authenticity(self) -> Tensor: ...
    @property
    def style(self) -> Tensor: ...
    @property
    def video(self) -> Tensor: ...


def frame_discriminator_loss(
    real: Logits, fake: Logits, other: Logits | None, kind: str = "bce", style: float = 1.0
) -> Tensor:
    """L_g of a discriminator, a scalar: authenticity is 1 for real, 0 for fake; style 1 for real, 0 for other clips.

    Args:
        other: verdict on real clips of the other domain; may be None if style is 0.
        style: weight of the style term.
    """
    authenticity = real_loss(real.authenticity, kind).mean() + fake_loss(fake.authenticity, kind).mean()
    if not style or other is None:
        return authenticity
    return authenticity + style * (real_loss(real.style, kind).mean() + fake_loss(other.style, kind).mean())


def video_discriminator_loss(real: Logits, fake: Logits, kind: str = "bce") -> Tensor:
    """L_v of a discriminator, a scalar: whole real clips are 1, translated clips 0."""
    return real_loss(real.video, kind).mean() + fake_loss(fake.video, kind).mean()


def frame_fooling_loss(fake: Logits, kind: str = "bce", style: float = 1.0) -> Tensor:
    """L_g of a generator, a scalar: its frames should look authentic and, weighted by style, of the domain's style."""
    authenticity = fooling_loss(fake.authenticity, kind).mean()
    return authenticity + style * fooling_loss(fake.style, kind).mean() if style else authenticity


def video_fooling_loss(fake: Logits, kind: str = "bce") -> Tensor:
    """L_v of a generator, a scalar: its whole clips should look real."""
    return fooling_loss(fake.video, kind).mean()
