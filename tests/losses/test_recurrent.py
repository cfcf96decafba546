import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.losses.recurrent import distance, recurrent_loss


def clip_of(*levels):
    """(1, T, 1, 2, 2) of constant frames."""
    return torch.tensor(levels, dtype=torch.float64).reshape(1, -1, 1, 1, 1).expand(1, -1, 1, 2, 2)


def test_distance_is_the_mean_absolute_or_squared_difference():
    a, b = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.0, 1.0, 0.5])
    assert distance(a, b, "l1").item() == 1.5
    assert distance(a, b, "l2").item() == pytest.approx((1 + 9 + 0.25) / 3)
    assert distance(a, b) == distance(a, b, "l1")


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match="distance must be one of l1, l2; got 'huber'"):
        recurrent_loss(clip_of(0, 1), clip_of(0, 1), "huber")


@given(batch=st.integers(1, 3), frames=st.integers(2, 6), extra=st.booleans(), kind=st.sampled_from(["l1", "l2"]))
@settings(max_examples=20, deadline=None)
def test_forecasts_meet_the_next_frame_and_the_last_is_unused(batch, frames, extra, kind):
    video = torch.randn(batch, frames, 3, 4, 2)
    forecast = video[:, 1:]
    if extra:
        forecast = torch.cat([forecast, torch.full_like(video[:, :1], 1e6)], dim=1)
    assert recurrent_loss(video, forecast, kind).item() == 0
    # The identity, off by one frame, is no forecast.
    assert recurrent_loss(video, video, kind).item() > 0


@pytest.mark.parametrize(("kind", "error"), [("l1", lambda d: abs(d)), ("l2", lambda d: d**2)])
def test_value_is_the_mean_over_the_t_minus_1_forecasts(kind, error):
    video, forecast = clip_of(9, 1, 2, 5), clip_of(1, 0, 8, 7)
    expected = (error(1 - 1) + error(2 - 0) + error(5 - 8)) / 3
    assert recurrent_loss(video, forecast, kind).item() == pytest.approx(expected)
    assert recurrent_loss(video, forecast[:, :3], kind).item() == pytest.approx(expected)


def test_l1_is_the_default():
    video, forecast = clip_of(0, 3), clip_of(0, 0)
    assert recurrent_loss(video, forecast).item() == 3


def test_used_forecasts_get_equal_gradients_and_the_last_none():
    video = clip_of(0, 1, 2, 3).clone()
    forecast = torch.zeros_like(video).requires_grad_()
    recurrent_loss(video, forecast).backward()
    # mean over 3 frames of 4 pixels, each forecast too low.
    assert torch.equal(forecast.grad[0, :3], torch.full((3, 1, 2, 2), -1 / 12, dtype=torch.float64))
    assert torch.equal(forecast.grad[0, 3], torch.zeros(1, 2, 2, dtype=torch.float64))
