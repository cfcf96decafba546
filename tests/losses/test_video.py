import math
from typing import NamedTuple

import pytest
import torch

from rlv2v_fast.losses.video import (
    frame_discriminator_loss,
    frame_fooling_loss,
    video_discriminator_loss,
    video_fooling_loss,
)

NAN = math.nan


class Verdict(NamedTuple):
    authenticity: torch.Tensor
    style: torch.Tensor
    video: torch.Tensor


def verdict(authenticity=NAN, style=NAN, video=NAN):
    """A verdict on 2 clips of 3 frames; what is left out is NaN, which shows in any loss that reads it."""
    return Verdict(torch.full((2, 3, 2, 2), authenticity), torch.full((2, 3, 2, 2), style), torch.full((2,), video))


def test_frame_verdicts_asked_of_a_discriminator():
    loss = frame_discriminator_loss(
        verdict(authenticity=3.0, style=0.5), verdict(authenticity=-2.0), verdict(style=4.0), "least_squares"
    )
    # Authenticity: real 1, fake 0. Style: real 1, other domain 0. Fakes' style and others' authenticity: not asked.
    assert loss.item() == (3 - 1) ** 2 + (-2) ** 2 + (0.5 - 1) ** 2 + 4**2


def test_clip_verdicts_asked_of_a_discriminator():
    loss = video_discriminator_loss(verdict(video=3.0), verdict(video=-2.0), "least_squares")
    assert loss.item() == (3 - 1) ** 2 + (-2) ** 2


def test_a_generators_loss_has_both_frame_verdicts_and_the_clips():
    assert frame_fooling_loss(verdict(authenticity=3.0, style=-1.0), "least_squares").item() == 4 + 4
    assert video_fooling_loss(verdict(video=-2.0), "least_squares").item() == 9


def test_style_is_weighed_and_not_read_where_it_weighs_nothing():
    real, fake, other = verdict(authenticity=3.0, style=0.5), verdict(authenticity=-2.0), verdict(style=4.0)
    assert frame_discriminator_loss(real, fake, other, "least_squares", 0.5).item() == 4 + 4 + 0.5 * (0.25 + 16)
    unread = verdict(authenticity=3.0)
    assert frame_discriminator_loss(unread, fake, None, "least_squares", 0.0).item() == 4 + 4
    assert frame_fooling_loss(unread, "least_squares", 0.0).item() == 4
    assert frame_fooling_loss(verdict(authenticity=3.0, style=-1.0), "least_squares", 0.5).item() == 4 + 0.5 * 4


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_a_discriminator_that_is_right_and_sure_pays_nothing(kind):
    sure = 40.0
    real, fake = verdict(sure, sure, sure), verdict(authenticity=-sure, video=-sure)
    assert frame_discriminator_loss(real, fake, verdict(style=-sure), kind).item() == pytest.approx(0, abs=1e-12)
    assert video_discriminator_loss(real, fake, kind).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("wrong", ["real authenticity", "real style", "fake authenticity", "other style"])
def test_each_wrong_frame_verdict_costs_its_margin(wrong):
    sign = {name: -1 if name == wrong else 1 for name in ("real authenticity", "real style")}
    sign |= {name: 1 if name == wrong else -1 for name in ("fake authenticity", "other style")}
    loss = frame_discriminator_loss(
        verdict(40.0 * sign["real authenticity"], 40.0 * sign["real style"]),
        verdict(authenticity=40.0 * sign["fake authenticity"]),
        verdict(style=40.0 * sign["other style"]),
    )
    assert loss.item() == pytest.approx(40)


def test_an_undecided_bce_discriminator_pays_log_2_a_question():
    zero = verdict(0.0, 0.0, 0.0)
    assert frame_discriminator_loss(zero, zero, zero).item() == pytest.approx(4 * math.log(2))
    assert video_discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert frame_fooling_loss(zero).item() == pytest.approx(2 * math.log(2))
    assert video_fooling_loss(zero).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", ["bce", "hinge", "least_squares"])
def test_a_generator_raises_every_verdict_it_fools(kind):
    fake = Verdict(*(logits.requires_grad_() for logits in verdict(-0.5, -0.5, -0.5)))
    (frame_fooling_loss(fake, kind) + video_fooling_loss(fake, kind)).backward()
    assert all((logits.grad < 0).all() for logits in fake)


def test_frame_losses_average_over_items_frames_and_patches():
    logits = torch.arange(24.0).reshape(2, 3, 2, 2)
    fake = Verdict(logits, torch.zeros(2, 3, 2, 2), torch.tensor([1.0, 3.0]))
    assert frame_fooling_loss(fake, "hinge").item() == -11.5
    assert video_fooling_loss(fake, "hinge").item() == -2


def test_domains_of_different_batch_sizes_weigh_the_same():
    real, fake = Verdict(*(v[:1] for v in verdict(3.0, 3.0, 3.0))), verdict(2.0, 2.0, 2.0)
    assert frame_discriminator_loss(real, fake, fake, "least_squares").item() == 4 + 4 + 4 + 4
    assert video_discriminator_loss(real, fake, "least_squares").item() == 4 + 4
