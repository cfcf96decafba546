"""The losses of one iteration, with networks that are plain functions."""

from types import SimpleNamespace

import pytest
import torch

from rlv2v_fast.train.config import LossConfig
from rlv2v_fast.train.steps import Networks, policy_losses

CLIP = torch.arange(4.0).reshape(1, 4, 1, 1, 1).expand(2, 4, 3, 2, 2)


def verdict(video):
    return SimpleNamespace(authenticity=video[:, :, 0], style=video[:, :, 0], video=video.mean((1, 2, 3, 4)))


def painted_by_time(video):
    """A clip whose frame t is painted t, whatever the video shows: a style of time alone."""
    steps = torch.arange(video.shape[1], dtype=video.dtype).reshape(1, -1, 1, 1, 1)
    return (0 * video + steps).expand_as(video)


def test_recycling_asks_for_each_frame_at_its_own_time():
    """A generator that knows the colour of every position in a clip is right; one frame early, it would be wrong."""
    networks = Networks(
        generators={"x": torch.zeros_like, "y": painted_by_time},
        predictors={"x": torch.zeros_like, "y": lambda video: video + 1},
        discriminators={"x": verdict, "y": verdict},
        critics={},
    )
    real = {"x": torch.zeros_like(CLIP), "y": CLIP}
    fake = {"x": torch.zeros_like(CLIP), "y": painted_by_time(CLIP)}
    losses = policy_losses(networks, real, fake, LossConfig(recycle=1.0), torch.Generator(), cycle=0.0)
    assert losses["recycle_y"] == pytest.approx(0)
    assert losses["recycle_x"] == pytest.approx(0)


def test_recycling_goes_through_the_forecast():
    networks = Networks(
        generators={"x": lambda video: video, "y": lambda video: video},
        predictors={"x": lambda video: video + 1, "y": lambda video: video + 3},
        discriminators={"x": verdict, "y": verdict},
        critics={},
    )
    real = {"x": CLIP, "y": CLIP}
    losses = policy_losses(networks, real, real, LossConfig(recycle=1.0), torch.Generator(), cycle=0.0)
    assert losses["recycle_y"] == pytest.approx(0)  # a forecast of x is right
    assert losses["recycle_x"] == pytest.approx(2)  # of y, it is two too high
