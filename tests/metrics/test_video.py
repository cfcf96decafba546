import numpy as np
import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import temporal_difference, temporal_error, warping_error


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_both_scores_follow_their_definitions():
    p, r = noise(4, 3, 5, 6), noise(4, 3, 5, 6, seed=1)
    a, b = p.double().numpy(), r.double().numpy()
    error = np.mean([np.abs((a[t + 1] - a[t]) - (b[t + 1] - b[t])) for t in range(3)])
    change = np.mean([np.abs(a[t + 1] - a[t]) for t in range(3)])
    assert float(temporal_error(p, r)) == pytest.approx(error, abs=1e-12)
    assert float(temporal_difference(p)) == pytest.approx(change, abs=1e-12)


def test_a_batch_is_scored_one_by_one():
    p, r = noise(2, 4, 3, 5, 6), noise(2, 4, 3, 5, 6, seed=1)
    errors, changes = temporal_error(p, r), temporal_difference(p)
    assert errors.shape == changes.shape == (2,)
    for index in range(2):
        assert float(errors[index]) == pytest.approx(float(temporal_error(p[index], r[index])))
        assert float(changes[index]) == pytest.approx(float(temporal_difference(p[index])))


def test_a_constant_shift_costs_nothing_but_flicker_does():
    video = noise(6, 3, 4, 4).double()
    flicker = 0.1 * torch.tensor([1.0, -1.0] * 3, dtype=torch.float64).view(6, 1, 1, 1)
    assert float(temporal_error(video + 0.3, video)) == pytest.approx(0, abs=1e-12)
    assert float(temporal_error(video + flicker, video)) == pytest.approx(0.2)
    assert float(temporal_difference(video[:1].expand(4, -1, -1, -1))) == 0


def test_bad_videos_are_refused():
    video = noise(4, 3, 5, 6)
    with pytest.raises(InputError, match=r"one shape, got \(4, 3, 5, 6\) and \(3, 3, 5, 6\)"):
        temporal_error(video, video[1:])
    with pytest.raises(InputError, match="prediction must have at least 2 frames, got 1"):
        temporal_error(video[:1], video[:1])
    with pytest.raises(InputError, match="video must have at least 2 frames, got 1"):
        temporal_difference(video[:1])
    with pytest.raises(InputError, match=r"video must be floating point \(T, C, H, W\) or"):
        temporal_difference(video[0])
    with pytest.raises(InputError, match=r"torch.uint8"):
        temporal_difference(video.to(torch.uint8))


def shifted(frames=3, height=6, width=8):
    """A clip whose picture moves one pixel to the right and two down from frame to frame, and its flow."""
    picture = noise(3, height + 2 * frames, width + frames)
    cuts = [picture[:, 2 * (frames - t) :, frames - t :][:, :height, :width] for t in range(frames)]
    flow = torch.tensor([-1.0, -2.0])[:, None, None].expand(frames - 1, -1, height, width)
    visible = torch.zeros(frames - 1, height, width, dtype=torch.bool)
    visible[:, 2:, 1:] = True
    return torch.stack(cuts), flow, visible


def test_a_picture_that_follows_its_flow_has_no_warping_error():
    clip, flow, visible = shifted()
    assert float(warping_error(clip, flow, visible)) == pytest.approx(0, abs=1e-12)
    assert warping_error(clip, torch.zeros_like(flow), visible) > 0.01


def test_warping_error_is_the_mean_square_over_visible_points():
    clip, flow = torch.full((2, 3, 4, 4), -1.0), torch.zeros(1, 2, 4, 4)
    clip[1, :, 1, 2] = 1.0
    visible = torch.zeros(1, 4, 4, dtype=torch.bool)
    visible[0, 1] = True
    # One of the four visible points turned from black to white.
    assert float(warping_error(clip, flow, visible)) == pytest.approx(0.25)
    assert torch.isnan(warping_error(clip, flow, ~torch.ones_like(visible)))


def test_flow_between_pixels_interpolates():
    ramp = torch.arange(8.0).expand(2, 3, 5, 8) / 10
    half = torch.tensor([0.5, 0.0])[:, None, None].expand(1, -1, 5, 8)
    inside = torch.ones(1, 5, 8, dtype=torch.bool)
    inside[..., -1] = False
    assert float(warping_error(ramp, half, inside)) == pytest.approx((0.05 / 2) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (0, torch.zeros(1, 3, 4, 4), r"video must be floating point \(T >= 2"),
        (1, torch.zeros(2, 2, 4, 4), r"flow must be floating point \(1, 2, 4, 4\), got torch.float32 \(2, 2, 4, 4\)"),
        (2, torch.ones(1, 4, 4), r"visible must be bool \(1, 4, 4\), got torch.float32"),
    ],
)
def test_warping_error_names_what_does_not_fit(index, wrong, message):
    given = [torch.zeros(2, 3, 4, 4), torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)]
    given[index] = wrong
    with pytest.raises(InputError, match=message):
        warping_error(*given)
