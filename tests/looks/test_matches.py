"""Frames of two sides that show the same."""

import pytest
import torch
import torch.nn.functional as F

from rlv2v_fast.looks import prior
from rlv2v_fast.looks.look import SIDE
from rlv2v_fast.looks.matches import find


def scenes(seed, count=3, size=160):
    """Scenes with details of several sizes, (count, 3, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, 3, size, size)
    for side, weight in ((5, 0.4), (14, 0.35), (40, 0.25)):
        rough = torch.rand(count, 3, side, side, generator=generator)
        found += weight * F.interpolate(rough, size, mode="bilinear")
    return found


def seen(pictures, left, top, side):
    """What a camera sees of pictures, (N, 3, SIDE, SIDE)."""
    return F.interpolate(pictures[..., top : top + side, left : left + side], SIDE, mode="bilinear", antialias=True)


def warm(frames):
    return frames**1.6 * torch.tensor([1.0, 0.85, 0.6])[:, None, None]


@pytest.mark.parametrize(("left", "top", "side"), [(20, 30, 96), (38, 22, 96), (20, 30, 70), (0, 10, 140)])
def test_shifted_and_scaled_views_are_matched(left, top, side):
    source = seen(scenes(0), 20, 30, 96)
    target = torch.cat([seen(scenes(1, 2), 0, 0, 96), warm(seen(scenes(0)[1:2], left, top, side))])
    found = find(source, target)
    assert found is not None
    assert found.frames == 1
    error = (warm(found.features[:, :3].T[:, :, None]) - found.colours.T[:, :, None]).abs().mean()
    assert error < 0.03


def test_other_scenes_are_not_matched():
    assert find(seen(scenes(0, 8), 20, 30, 96), warm(seen(scenes(1, 8), 20, 30, 96))) is None


def test_bars_are_not_what_is_shown():
    source, target = seen(scenes(0, 8), 20, 30, 96), warm(seen(scenes(1, 8), 20, 30, 96))
    for frames in (source, target):
        frames[..., :9, :] = 0
        frames[..., -9:, :] = 0
    assert find(source, target) is None


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_frames_are_not_matched(value):
    assert find(torch.full((2, 3, SIDE, SIDE), value), torch.full((3, 3, SIDE, SIDE), value)) is None


def test_what_both_sides_show_settles_the_look():
    shared, other = scenes(0), scenes(1)
    source = seen(torch.cat([shared, other]), 20, 30, 96)[:, None] * 2 - 1
    target = warm(seen(torch.cat([shared[:1], scenes(2)]), 24, 28, 90))[:, None] * 2 - 1
    new = seen(scenes(3), 0, 0, 96)
    errors = {}
    for match in (False, True):
        found = prior.estimate(source, target, match=match)
        errors[match] = (found.look.apply(new * 2 - 1) - (warm(new) * 2 - 1)).square().mean().item()
        assert found.matched == int(match)
    assert errors[True] < errors[False] / 3
