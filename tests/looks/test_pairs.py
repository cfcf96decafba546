"""A look fitted to true pairs."""

import pytest
import torch

from rlv2v_fast.looks.look import Look, identity_table
from rlv2v_fast.looks.pairs import fit_pairs


def frames(count=2, size=48):
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.rand(count, 3, side, side, generator=generator) for side in (6, size))
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (0.7 * smooth + 0.3 * fine) * 2 - 1


def truth():
    table = (identity_table() ** 0.7 * torch.tensor([0.9, 0.8, 1.0])[:, None, None, None]).clamp(0, 1)
    return Look(table, torch.tensor([-0.3, 0, 0, 0, 0, 0, 0, 0]), torch.zeros(8))


def test_pairs_give_the_look_back():
    x = frames()
    found = fit_pairs(Look.identity(), x, truth().apply(x))
    before = (x - truth().apply(x)).square().mean()
    assert (found.apply(x) - truth().apply(x)).square().mean() < before / 100


def test_where_pairs_say_nothing_the_estimate_stays():
    dark = frames() * 0.2 - 0.8
    found = fit_pairs(truth(), dark, truth().apply(dark))
    bright = frames() * 0.2 + 0.7
    torch.testing.assert_close(found.apply(bright), truth().apply(bright), rtol=0, atol=0.02)


def test_pairs_may_differ_in_size():
    x = [frames()[0], frames()[1, :, :20, :30]]
    found = fit_pairs(Look.identity(), x, [truth().apply(each) for each in x])
    assert (found.apply(x[0]) - truth().apply(x[0])).abs().mean() < 0.05


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="source and target must hold frames of the same shapes"):
        fit_pairs(Look.identity(), frames(), frames(3))
    with pytest.raises(ValueError, match="at least one"):
        fit_pairs(Look.identity(), [], [])
    with pytest.raises(ValueError, match=r"source must hold floating point frames of shape \(3, H, W\)"):
        fit_pairs(Look.identity(), frames()[0], frames()[0])
