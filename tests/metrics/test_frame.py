import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics import psnr, ssim


def noise(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 2 - 1


def ssim_by_definition(x, y):
    """SSIM of two (H, W) images in [0, 255], one window at a time, as Wang et al. (2004) write it."""
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g) / g.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize("shape", [(3, 16, 13), (2, 3, 11, 11), (2, 2, 1, 12, 14)])
def test_ssim_follows_its_definition(shape):
    x = noise(*shape)
    y = (0.6 * x + 0.3 * noise(*shape, seed=1) + 0.1).clamp(-1, 1)
    scores = ssim(x, y)
    assert scores.shape == shape[:-3]
    levels = [((v.double().numpy() + 1) * 127.5).reshape(-1, *shape[-3:]) for v in (x, y)]
    for score, a, b in zip(scores.reshape(-1), *levels, strict=True):
        expected = np.mean([ssim_by_definition(p, q) for p, q in zip(a, b, strict=True)])
        assert float(score) == pytest.approx(expected, abs=1e-9)


def test_psnr_follows_its_definition():
    x, y = noise(2, 4, 3, 6, 5), noise(2, 4, 3, 6, 5, seed=1)
    scores = psnr(x, y)
    assert scores.shape == (2, 4)
    for index in np.ndindex(2, 4):
        levels = (x[index].double() - y[index].double()).numpy() * 127.5
        assert float(scores[index]) == pytest.approx(10 * math.log10(255**2 / np.mean(levels**2)), abs=1e-9)


@given(step=st.floats(0.01, 2))
def test_psnr_of_a_constant_error_is_known(step):
    frame = torch.full((3, 4, 4), -1.0, dtype=torch.float64)
    assert float(psnr(frame + step, frame)) == pytest.approx(20 * math.log10(2 / step))


def test_equal_frames_score_best():
    x = noise(2, 3, 16, 16)
    assert (psnr(x, x) == math.inf).all()
    assert (ssim(x, x) == 1).all()


def test_more_noise_scores_worse_and_order_does_not_matter():
    x, error = noise(3, 24, 24), noise(3, 24, 24, seed=1)
    for score in (psnr, ssim):
        values = [float(score(x, x + scale * error)) for scale in (0.05, 0.2, 0.8)]
        assert values == sorted(values, reverse=True)
        assert float(score(x, error)) == float(score(error, x))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_bad_frames_are_refused(score):
    def message_of(a, b):
        with pytest.raises(InputError) as caught:
            score(a, b)
        return str(caught.value)

    frame = noise(3, 16, 16)
    assert "one shape, got (3, 16, 16) and (1, 16, 16)" in message_of(frame, frame[:1])
    assert "prediction must be floating point of shape (..., C, H, W), got torch.uint8" in message_of(
        frame.to(torch.uint8), frame
    )
    assert "prediction must be floating point" in message_of(frame[0], frame[0])


def test_frames_smaller_than_the_window_are_refused():
    with pytest.raises(InputError, match="at least 11x11 for ssim, got 10x12"):
        ssim(noise(3, 12, 10), noise(3, 12, 10))
