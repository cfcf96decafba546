import numpy as np
import pytest
import torch

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import temporal_difference, temporal_error


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
