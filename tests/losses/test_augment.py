import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.losses.augment import POLICIES, diff_augment


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def still(batch=1, frames=3, height=16, width=16):
    """Clips whose frames are all alike: (B, T, 2, H, W)."""
    return (torch.rand(batch, 1, 2, height, width) * 1.5 - 0.75).expand(-1, frames, -1, -1, -1)


def displacement(height, width, generator):
    """(dy, dx) that a translation drawn from generator moves a marked pixel in the middle by."""
    clip = torch.full((1, 2, 1, height, width), -1.0)
    clip[..., height // 2, width // 2] = 1.0
    moved = diff_augment(clip, ("translation",), generator)
    rows, columns = torch.nonzero(moved[0, 0, 0] == 1.0, as_tuple=True)
    return rows.item() - height // 2, columns.item() - width // 2


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 4),
    policies=st.lists(st.sampled_from(POLICIES), max_size=3).map(tuple),
    height=st.integers(8, 20),
    width=st.integers(8, 20),
)
@settings(max_examples=25, deadline=None)
def test_shape_and_stillness_are_kept(batch, frames, policies, height, width):
    video = still(batch, frames, height, width)
    augmented = diff_augment(video, policies, stream())
    assert augmented.shape == video.shape
    # One draw for all frames of a clip: alike before, alike after.
    assert torch.equal(augmented, augmented[:, :1].expand_as(augmented))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_changes_a_clip_and_each_clip_its_own_way(policy):
    video = still(batch=1).expand(8, -1, -1, -1, -1)
    augmented = diff_augment(video, (policy,), stream())
    assert not torch.equal(augmented, video)
    assert any(not torch.equal(augmented[0], clip) for clip in augmented[1:])


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_come_from_the_generator_alone(policy):
    video, generator = still(batch=4), stream(1)
    before = torch.get_rng_state()
    first = diff_augment(video, (policy,), generator)
    assert torch.equal(first, diff_augment(video, (policy,), stream(1)))
    assert not torch.equal(first, diff_augment(video, (policy,), generator))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_policy_leaves_the_video_as_it_is():
    video = still()
    assert torch.equal(diff_augment(video, (), stream()), video)


def test_the_input_is_not_written_to():
    video = still().contiguous()
    copy = video.clone()
    diff_augment(video, POLICIES, stream())
    assert torch.equal(video, copy)


def test_policies_are_applied_in_order():
    video = still(batch=2)
    one_by_one = stream()
    expected = diff_augment(diff_augment(video, ("cutout",), one_by_one), ("brightness",), one_by_one)
    assert torch.equal(diff_augment(video, ("cutout", "brightness"), stream()), expected)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(16, 24, {-2, -1, 0, 1, 2}, {-3, -2, -1, 0, 1, 2, 3}), (12, 20, {-1, 0, 1}, {-2, -1, 0, 1, 2})],
)
def test_translation_reaches_at_most_an_eighth_of_each_side(height, width, rows, columns):
    generator = stream()
    # Of at most 35 outcomes, 300 draws miss a given row or column with probability below (6/7)^300 = 1e-20.
    seen = [displacement(height, width, generator) for _ in range(300)]
    assert {dy for dy, _ in seen} == rows
    assert {dx for _, dx in seen} == columns


def test_translation_moves_the_picture_and_fills_with_black():
    clip = torch.arange(2 * 16 * 16.0).reshape(1, 2, 1, 16, 16)
    for seed in range(10):
        dy, dx = displacement(16, 16, stream(seed))
        expected = torch.full_like(clip, -1.0)
        for row in range(16):
            for column in range(16):
                if 0 <= row - dy < 16 and 0 <= column - dx < 16:
                    expected[..., row, column] = clip[..., row - dy, column - dx]
        assert torch.equal(diff_augment(clip, ("translation",), stream(seed)), expected)


def test_cutout_blackens_one_square_of_at_most_half_the_side():
    video, generator = still(), stream()
    sizes, corners = set(), set()
    for _ in range(200):
        augmented = diff_augment(video, ("cutout",), generator)
        hole = (augmented == -1.0).all(dim=(0, 1, 2))
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        box = torch.zeros(16, 16, dtype=torch.bool)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert torch.equal(hole, box)
        assert torch.equal(augmented.masked_select(~hole), video.masked_select(~hole))
        sizes.add((len(rows), len(columns)))
        corners.add((rows.min().item(), columns.min().item()))
    # Half the side where it lies inside, down to a quarter where it leaves the frame.
    assert max(sizes) == (8, 8)
    assert min(rows for rows, _ in sizes) == min(columns for _, columns in sizes) == 4
    assert min(corners)[0] == 0
    assert max(corners)[0] == max(column for _, column in corners) == 12


def test_brightness_adds_one_offset_below_a_half_to_a_whole_clip():
    video, generator = torch.randn(1, 3, 2, 4, 4, dtype=torch.float64), stream()
    offsets = []
    for _ in range(200):
        change = diff_augment(video, ("brightness",), generator) - video
        offsets.append(change.mean().item())
        torch.testing.assert_close(change, torch.full_like(change, offsets[-1]))
    assert -0.5 <= min(offsets) < -0.4
    assert 0.4 < max(offsets) < 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_gradient_passes_where_the_picture_is_seen(policy):
    video = still(batch=2).clone().requires_grad_()
    augmented = diff_augment(video, (policy,), stream(3))
    augmented.sum().backward()
    # Every kept pixel counts once, every lost one not at all.
    assert set(video.grad.unique().tolist()) <= {0.0, 1.0}
    kept = augmented.numel() if policy == "brightness" else (augmented != -1.0).sum().item()
    assert video.grad.sum().item() == kept


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="policies must be of translation, cutout, brightness; got 'hue'"):
        diff_augment(still(), ("brightness", "hue"), stream())
