import pytest
import torch

from rlv2v_fast.losses.contrast import contrast_loss


@pytest.fixture
def board():
    """(1, 2, 3, 16, 16): tiles of 4 pixels, dark and bright by turns."""
    row = torch.arange(16) // 4 % 2
    tiles = (row[:, None] + row) % 2 * 1.0 - 0.5
    return tiles.expand(1, 2, 3, 16, 16)


def test_a_darker_fainter_picture_costs_nothing(board):
    assert contrast_loss(board, 0.4 * board - 0.5).item() == 0


def test_contrast_may_vanish_but_not_turn_round(board):
    assert contrast_loss(board, torch.zeros_like(board)).item() == 0
    assert contrast_loss(board, -0.2 * board - 0.8).item() == pytest.approx(1, abs=0.1)


def test_a_light_lit_at_night_costs_nothing_and_shields_nearby():
    # A dark pane in a bright wall; at night the pane is the brighter of the two.
    day = torch.full((1, 1, 3, 16, 16), 0.5)
    day[..., 2:5, 2:5] = -0.5
    night = torch.full_like(day, -0.8)
    dim, lit = night.clone(), night.clone()
    dim[..., 2:5, 2:5], lit[..., 2:5, 2:5] = -0.6, 0.5
    assert contrast_loss(day, lit).item() == pytest.approx(0, abs=1e-3)
    assert contrast_loss(day, dim).item() > 0.2
    day[..., 12:, 12:], lit[..., 12:, 12:] = -0.5, -0.5
    assert contrast_loss(day, lit).item() > 0.1


def test_a_window_that_goes_dark_as_day_breaks_costs_nothing():
    night, day = torch.full((1, 1, 3, 8, 8), -0.8), torch.full((1, 1, 3, 8, 8), 0.5)
    night[..., 2:5, 2:5], day[..., 2:5, 2:5] = 0.5, -0.5
    assert contrast_loss(night, day).item() == 0


def test_its_gradient_takes_a_negative_away(board):
    picture = (-0.2 * board - 0.7).clone().requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        contrast_loss(board, picture).backward()
        optimizer.step()
    assert contrast_loss(board, picture.detach()).item() < 0.1


def test_flat_pictures_have_finite_gradients():
    flat = torch.zeros(1, 1, 3, 8, 8, requires_grad=True)
    contrast_loss(torch.zeros(1, 1, 3, 8, 8), flat).backward()
    assert flat.grad.isfinite().all()


def test_its_gradient_is_that_of_its_value():
    generator = torch.Generator().manual_seed(0)
    video, picture = (torch.rand(1, 1, 3, 9, 9, generator=generator) * 2 - 1 for _ in range(2))
    picture.requires_grad_()
    (gradient,) = torch.autograd.grad(contrast_loss(video, picture), picture)
    way = torch.randn(picture.shape, generator=generator)
    step = 1e-2
    with torch.no_grad():
        slope = (contrast_loss(video, picture + step * way) - contrast_loss(video, picture - step * way)) / (2 * step)
    assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=2e-2)


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 6), (2, 3, 16, 16), (1, 2, 3, 6, 16)])
def test_other_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"one shape \(B, T, C, H >= 7, W >= 7\); got"):
        contrast_loss(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="one shape"):
        contrast_loss(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 3, 16, 8))
