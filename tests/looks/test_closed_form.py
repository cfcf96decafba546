"""The closed forms between two sets of colours."""

import torch

from rlv2v_fast.looks.closed_form import fit
from rlv2v_fast.looks.look import looked_up


def colours(seed, count=4000):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, 3, generator=generator) @ torch.tensor(
        [[0.1, 0.05, 0.02], [0.0, 0.08, 0.03], [0.0, 0.0, 0.06]]
    )
    return (mixed + 0.5).clamp(0.05, 0.95)


def through(table, pixels):
    return looked_up(table[None], pixels[None])[0]


def test_equal_colours_give_the_identity():
    pixels = colours(0)
    closed = fit(pixels, pixels)
    for table in closed.tables()[:2]:
        torch.testing.assert_close(through(table, pixels), pixels, rtol=0, atol=2e-3)
    torch.testing.assert_close(closed.mixture().table, closed.tables()[0], rtol=0, atol=5e-3)


def test_mean_std_matches_means_and_deviations():
    source, target = colours(0), colours(1) * 0.7 + 0.1
    found = through(fit(source, target).tables()[0], source)
    torch.testing.assert_close(found.mean(0), target.mean(0), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.std(0), target.std(0), rtol=0.02, atol=2e-3)


def test_monge_kantorovich_matches_covariances():
    source, target = colours(0), colours(1) @ torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.5, 0.0], [0.1, 0.0, 0.6]])
    found = through(fit(source, target).tables()[1], source)
    torch.testing.assert_close(torch.cov(found.T), torch.cov(target.T), rtol=0.05, atol=2e-4)


def test_the_histogram_matches_each_channel():
    source, target = colours(0), colours(1).square()
    found = through(fit(source, target).tables()[2], source)
    for rank in (0.1, 0.5, 0.9):
        torch.testing.assert_close(found.quantile(rank, 0), target.quantile(rank, 0), rtol=0, atol=0.03)


def test_colours_without_contrast_are_borne():
    closed = fit(torch.full((50, 3), 0.5), colours(1))
    assert all(torch.isfinite(part).all() for part in (closed.tables(), closed.mixture().table))
