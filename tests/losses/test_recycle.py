import pytest
import torch

from rlv2v_fast.losses.recycle import recycle_loss


@pytest.fixture
def ramp():
    """(2, 5, 1, 2, 3): every frame is the one before plus 0.1."""
    steps = torch.arange(5, dtype=torch.float64)[None, :, None, None, None]
    return torch.randn(2, 1, 1, 2, 3, dtype=torch.float64) + 0.1 * steps


def negate(video):
    return -video


def one_step_down(video):
    return video - 0.1


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("frames", [4, 5])
def test_a_perfect_recycle_costs_nothing(ramp, frames, kind):
    # G_y and G_x negate; seen negated, the ramp falls by 0.1 a frame, which P_y knows.
    returned = negate(one_step_down(negate(ramp[:, :frames])))
    assert recycle_loss(ramp, returned, kind).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("kind", "expected"), [("l1", 0.1), ("l2", 0.01)])
def test_leaving_the_forecast_out_costs_one_step_of_motion(ramp, kind, expected):
    assert recycle_loss(ramp, negate(negate(ramp)), kind).item() == pytest.approx(expected)


def test_a_last_returned_frame_meets_nothing(ramp):
    returned = torch.cat([ramp[:, 1:], torch.full_like(ramp[:, :1], torch.nan)], dim=1)
    assert recycle_loss(ramp, returned).item() == 0


def test_value_is_the_mean_error_of_the_returned_frames():
    video = torch.tensor([7.0, 1.0, 4.0]).reshape(1, 3, 1, 1, 1)
    returned = torch.tensor([3.0, 3.0]).reshape(1, 2, 1, 1, 1)
    assert recycle_loss(video, returned).item() == (2 + 1) / 2
    assert recycle_loss(video, returned, "l2").item() == (4 + 1) / 2


def test_gradient_reaches_the_returned_frames(ramp):
    returned = ramp.clone().requires_grad_()
    recycle_loss(ramp, returned).backward()
    assert (returned.grad[:, :-1] < 0).all()
    assert (returned.grad[:, -1] == 0).all()


def test_an_unknown_distance_is_named(ramp):
    with pytest.raises(ValueError, match="distance must be one of l1, l2; got 'lpips'"):
        recycle_loss(ramp, ramp, "lpips")
