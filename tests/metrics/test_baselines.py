import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import (
    fit_histogram,
    fit_mean_std,
    histogram_matching,
    mean_clip,
    mean_frame,
    mean_std_transfer,
)


def clip(*shape, seed=0, scale=0.5, shift=0.0):
    """A clip whose values are exact 8-bit levels."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return ((values * scale + shift + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def test_fitted_moments_are_those_of_all_pixels_of_all_clips():
    clips = [clip(2, 3, 4, 5), clip(3, 3, 6, 2, seed=1)]
    mean, std = fit_mean_std(iter(clips))
    for channel in range(3):
        pixels = np.concatenate([c[:, channel].numpy().ravel() for c in clips]).astype(np.float64)
        assert float(mean[channel]) == pytest.approx(pixels.mean(), abs=1e-6)
        assert float(std[channel]) == pytest.approx(pixels.std(), abs=1e-6)


@given(seed=st.integers(0, 1000), shift=st.floats(-0.3, 0.3), scale=st.floats(0.1, 0.5))
def test_transferred_clips_have_the_moments_of_the_target(seed, shift, scale):
    source = clip(3, 3, 8, 8, seed=seed, scale=0.3)
    target = clip(2, 3, 9, 7, seed=seed + 1, scale=scale, shift=shift)
    wanted = fit_mean_std([target])
    moved = mean_std_transfer(source, *wanted)
    assert moved.dtype == torch.float32
    assert moved.shape == source.shape
    # A value outside [-1, 1] is clamped, which these targets leave room for only when they are narrow.
    if moved.abs().max() < 1:
        for got, expected in zip(fit_mean_std([moved]), wanted, strict=True):
            assert torch.allclose(got, expected, atol=1e-5)


def test_transfer_to_its_own_moments_changes_nothing():
    source = clip(3, 3, 8, 8)
    assert torch.allclose(mean_std_transfer(source, *fit_mean_std([source])), source, atol=1e-6)


def test_a_channel_without_contrast_becomes_the_mean():
    moved = mean_std_transfer(torch.zeros(2, 3, 4, 4), torch.tensor([0.1, 0.2, 0.3]), torch.ones(3))
    assert torch.allclose(moved, torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(2, 3, 4, 4))


def test_transfer_stays_in_range():
    assert mean_std_transfer(clip(2, 3, 8, 8), torch.full((3,), 0.9), torch.ones(3)).abs().max() <= 1


def test_a_histogram_counts_levels_of_each_channel():
    clips = [clip(2, 3, 4, 5), clip(3, 3, 6, 2, seed=1)]
    shares = fit_histogram(clips)
    assert shares.shape == (3, 256)
    for channel in range(3):
        levels = np.concatenate([((c[:, channel] + 1) * 127.5).round().int().numpy().ravel() for c in clips])
        assert np.allclose(shares[channel], np.bincount(levels, minlength=256) / len(levels))


def test_matching_its_own_histogram_changes_nothing():
    source = clip(3, 3, 8, 8)
    assert torch.allclose(histogram_matching(source, fit_histogram([source])), source, atol=1e-6)


@given(seed=st.integers(0, 1000))
def test_matching_keeps_the_order_of_pixels(seed):
    source, target = clip(2, 1, 8, 8, seed=seed), clip(2, 1, 8, 8, seed=seed + 1, shift=0.3)
    matched = histogram_matching(source, fit_histogram([target]))
    order = source.flatten().argsort()
    assert (matched.flatten()[order].diff() >= 0).all()
    assert set(matched.flatten().tolist()) <= set(target.flatten().tolist())


def test_matched_clips_have_nearly_the_histogram_of_the_target():
    source, target = clip(8, 3, 32, 32, scale=0.9), clip(8, 3, 32, 32, seed=1, scale=0.3, shift=0.4)
    matched = histogram_matching(source, fit_histogram([target]))
    assert matched.dtype == torch.float32
    assert matched.is_contiguous()
    distance = (fit_histogram([matched]).cumsum(1) - fit_histogram([target]).cumsum(1)).abs().max()
    assert distance < 0.03


def test_mean_frames_average_frames_and_mean_clips_average_clips():
    clips = [clip(2, 3, 4, 5), clip(2, 3, 4, 5, seed=1)]
    assert torch.allclose(mean_frame(clips), torch.cat(clips).mean(dim=0), atol=1e-6)
    assert torch.allclose(mean_clip(clips), (clips[0] + clips[1]) / 2, atol=1e-6)
    longer = [clips[0], clip(6, 3, 4, 5, seed=2)]
    assert torch.allclose(mean_frame(longer), torch.cat(longer).mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("fit", [fit_mean_std, fit_histogram, mean_frame, mean_clip])
def test_bad_clips_are_refused(fit):
    with pytest.raises(InputError, match="at least one clip, got none"):
        fit([])
    with pytest.raises(InputError, match=r"clips must be floating point of shape \(T, C, H, W\)"):
        fit([torch.zeros(3, 4, 4)])
    with pytest.raises(InputError, match=r"got torch.uint8"):
        fit([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
    with pytest.raises(InputError, match=r"not empty"):
        fit([torch.zeros(0, 3, 4, 4)])
    with pytest.raises(InputError, match=r"one number of channels, got \[1, 3\]"):
        fit([torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)])


def test_clips_that_cannot_be_averaged_are_refused():
    clips = [torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 5)]
    with pytest.raises(InputError, match=r"frames of one shape, got \[\(3, 4, 4\), \(3, 4, 5\)\]"):
        mean_frame(clips)
    with pytest.raises(InputError, match=r"clips must have one shape"):
        mean_clip(clips)


def test_statistics_of_another_shape_are_refused():
    source = torch.zeros(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"target_std must have shape \(3,\), one number per channel, got \(2,\)"):
        mean_std_transfer(source, torch.zeros(3), torch.zeros(2))
    with pytest.raises(InputError, match=r"target_histogram must have shape \(3, 256\), got \(3, 255\)"):
        histogram_matching(source, torch.zeros(3, 255))
    with pytest.raises(InputError, match=r"source must be floating point"):
        histogram_matching(source[0], torch.zeros(3, 256))
