"""The losses of one training iteration (docs/paper.md, Algorithm 1), as functions of networks and clips.

Each function takes the networks to call, compiled or not, and returns named scalar losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlv2v_fast.domains import DOMAINS, OTHER
from rlv2v_fast.losses.adversarial import r1_penalty
from rlv2v_fast.losses.augment import diff_augment
from rlv2v_fast.losses.contrast import contrast_loss
from rlv2v_fast.losses.recurrent import distance, recurrent_loss
from rlv2v_fast.losses.recycle import recycle_loss
from rlv2v_fast.losses.video import (
    frame_discriminator_loss,
    frame_fooling_loss,
    video_discriminator_loss,
    video_fooling_loss,
)
from rlv2v_fast.models.discriminator import Verdict
from rlv2v_fast.train.config import LossConfig

Losses = dict[str, Tensor]
Network = Callable[..., Any]


@dataclass(frozen=True)
class Networks:
    """The networks to call for each domain: the modules of an RLV2VGAN, compiled or not."""

    generators: Mapping[str, Network]
    predictors: Mapping[str, Network]
    discriminators: Mapping[str, Network]
    critics: Mapping[str, Network]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the context, gradients pass through the modules but do not reach their parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _judge(discriminator: Network, video: Tensor, config: LossConfig) -> Verdict:
    """The verdict on video, without that on whole clips where no loss has it."""
    return discriminator(video) if config.video else discriminator(video, clip=False)


def translate_both(networks: Networks, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The clips of each domain, translated from the other: {"y": G_y(x), "x": G_x(y)}."""
    return {domain: networks.generators[domain](real[OTHER[domain]]) for domain in DOMAINS}


def discriminator_losses(
    networks: Networks,
    real: Mapping[str, Tensor],
    fake: Mapping[str, Tensor],
    config: LossConfig,
    augment: torch.Generator,
) -> Losses:
    """Step 2: the discriminators' losses on real clips, translated clips (detached) and clips of the other domain.

    A discriminator judges them in one batch. In separate batches, batch normalization would subtract the mean colours
    of real and of translated clips, which is what tells them apart.
    """
    losses: Losses = {}
    for domain in DOMAINS:
        parts = [real[domain], fake[domain].detach()]
        if config.style:
            parts.append(real[OTHER[domain]])
        verdicts = _judge(
            networks.discriminators[domain], diff_augment(torch.cat(parts), config.augment, augment), config
        )
        chunks = zip(*(logits.chunk(len(parts)) for logits in verdicts), strict=True)
        judged_real, judged_fake, *judged_other = (Verdict(*chunk) for chunk in chunks)
        losses[f"discriminator_{domain}"] = frame_discriminator_loss(
            judged_real, judged_fake, judged_other[0] if judged_other else None, config.adversarial, config.style
        )
        if config.video:
            losses[f"video_discriminator_{domain}"] = config.video * video_discriminator_loss(
                judged_real, judged_fake, config.adversarial
            )
    return losses


def r1_losses(discriminators: Mapping[str, nn.Module], real: Mapping[str, Tensor], config: LossConfig) -> Losses:
    """The R1 penalty on real clips, of those verdicts that the losses train.

    It calls the modules themselves, because a compiled graph has no second derivative.
    """
    losses: Losses = {}
    for domain in DOMAINS:
        clips = real[domain].detach().requires_grad_()
        verdict = discriminators[domain](clips)
        per_clip = verdict.authenticity.flatten(1).mean(1)
        if config.style:
            per_clip = per_clip + verdict.style.flatten(1).mean(1)
        if config.video:
            per_clip = per_clip + verdict.video
        losses[f"r1_{domain}"] = config.r1 * r1_penalty(per_clip, clips)
    return losses


def pair_losses(networks: Networks, pairs: Mapping[str, Tensor], config: LossConfig) -> Losses:
    """The weighted distance of translated frames to their truth, for frames of x and of y that show the same.

    Args:
        pairs: "x" and "y", (B, 3, H, W) in [-1, 1]. Each frame is a clip of its own.
    """
    clips = {domain: frames[:, None] for domain, frames in pairs.items()}
    return {
        f"pairs_{domain}": config.pairs * distance(fake, clips[domain], config.distance)
        for domain, fake in translate_both(networks, clips).items()
    }


def policy_losses(
    networks: Networks,
    real: Mapping[str, Tensor],
    fake: Mapping[str, Tensor],
    config: LossConfig,
    augment: torch.Generator,
    cycle: float,
) -> Losses:
    """Step 4: the weighted losses of generators and predictors. The caller freezes the discriminators, in eval mode.

    L_g + lambda_rr L_rr + lambda_rc L_rc + lambda_v L_v + cycle L_c + contrast L_k, each for both domains.
    """
    losses: Losses = {}
    for domain in DOMAINS:
        other = OTHER[domain]
        verdict = _judge(networks.discriminators[domain], diff_augment(fake[domain], config.augment, augment), config)
        losses[f"adversarial_{domain}"] = frame_fooling_loss(verdict, config.adversarial, config.style)
        if config.video:
            losses[f"video_{domain}"] = config.video * video_fooling_loss(verdict, config.adversarial)
        clip = real[domain]
        if config.recurrent:
            forecast = networks.predictors[domain](clip[:, :-1])
            losses[f"recurrent_{domain}"] = config.recurrent * recurrent_loss(clip, forecast, config.distance)
        if config.recycle:
            past = fake[other][:, :-1]
            # Each forecast stands at the time of the frame that it predicts: generators know the time in a clip, and
            # would otherwise learn it one frame early.
            forecast = torch.cat([past[:, :1], networks.predictors[other](past)], dim=1)
            returned = networks.generators[domain](forecast)[:, 1:]
            losses[f"recycle_{domain}"] = config.recycle * recycle_loss(clip, returned, config.distance)
        if cycle:
            losses[f"cycle_{domain}"] = cycle * distance(
                networks.generators[domain](fake[other]), clip, config.distance
            )
        if config.contrast:
            losses[f"contrast_{domain}"] = config.contrast * contrast_loss(real[other], fake[domain])
    return losses
