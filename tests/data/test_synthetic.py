import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlv2v_fast.data import Domain, figure1_clips, figure1_pair, read_frames, write_figure1
from rlv2v_fast.errors import InputError

BLUE, RED = (0, 0, 255), (255, 0, 0)


@given(seed=st.integers(0, 2**31), frames=st.integers(1, 9), size=st.integers(40, 64))
def test_a_pair_has_the_stated_shapes_and_one_scene(seed, frames, size):
    source, target, mask = figure1_pair(seed, frames, size)
    assert source.shape == target.shape == (frames, size, size, 3)
    assert source.dtype == target.dtype == np.uint8
    assert mask.shape == (frames, size, size)
    assert mask.dtype == bool
    assert mask.any(axis=(1, 2)).all()
    whole = (source == target).all(axis=-1) & (source.min(axis=-1) >= 200)
    assert whole.any(axis=(1, 2)).all()
    assert not (whole & ~mask).any()


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_the_background_is_blue_in_the_first_half_then_red(frames):
    source, target, _ = figure1_pair(0, frames, 32)
    empty = (source == 0).all(axis=-1)
    for t in range(frames):
        assert empty[t].sum() > 500
        assert (target[t][empty[t]] == (BLUE if 2 * t < frames else RED)).all()


def test_digits_are_whitish_on_black_and_cover_a_fair_part():
    source, _, mask = figure1_pair(4, 16, 64)
    assert (source[..., 0] == source[..., 1]).all()
    assert (source[..., 0] == source[..., 2]).all()
    assert source[mask].mean() > 180
    assert source[~mask].mean() < 10
    assert 0.03 < mask.mean() < 0.3


def test_edges_are_smooth_and_the_mask_follows_the_light():
    source, _, mask = figure1_pair(4, 16, 64)
    gray = source[..., 0].astype(int)
    assert ((gray > 20) & (gray < 180)).any(axis=(1, 2)).all()
    assert gray[mask].min() > 90
    assert gray[~mask].max() < 135


def test_digits_move_by_fractions_of_a_pixel_inside_the_frame():
    for seed in range(20):
        source, _, _ = figure1_pair(seed, 40, 32)
        gray = source[..., 0].astype(float)
        assert gray[:, [0, -1]].max() == 0
        assert gray[:, :, [0, -1]].max() == 0
        x = (gray * np.arange(32)).sum(axis=(1, 2)) / gray.sum(axis=(1, 2))
        steps = np.abs(np.diff(x))
        assert steps.max() < 3
        assert steps.max() > 0.05


def test_one_seed_gives_one_scene_and_others_other_scenes():
    assert np.array_equal(figure1_pair(7)[0], figure1_pair(7)[0])
    assert not np.array_equal(figure1_pair(7)[0], figure1_pair(8)[0])
    rng = np.random.default_rng(7)
    assert np.array_equal(figure1_pair(rng)[0], figure1_pair(7)[0])
    assert not np.array_equal(figure1_pair(rng)[0], figure1_pair(7)[0])


def test_the_domains_are_unpaired():
    sources = figure1_clips("source", 3, 4, 32)
    targets = figure1_clips("target", 3, 4, 32)
    digits = [set(map(bytes, (clip.min(axis=-1) > 190).reshape(len(clip), -1))) for clip in sources + targets]
    assert all(not (a & b) for i, a in enumerate(digits) for b in digits[:i])


def test_clips_do_not_depend_on_how_many_are_made():
    assert np.array_equal(figure1_clips("target", 3, 4, 32)[:2], figure1_clips("target", 2, 4, 32))


def test_written_clips_hold_the_rendered_pixels_exactly(tmp_path):
    write_figure1(tmp_path / "new", 2, 1, 4, 32, seed=5)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    assert files == ["new/source/0000.mp4", "new/source/0001.mp4", "new/target/0000.mp4"]
    for file, clip in zip(
        files, figure1_clips("source", 2, 4, 32, 5) + figure1_clips("target", 1, 4, 32, 5), strict=True
    ):
        assert np.array_equal(list(read_frames(tmp_path / file)), clip)


def test_clips_make_a_domain_without_files():
    domain = Domain.from_arrays(figure1_clips("source", 2, 4, 32), frames=4, size=32)
    assert len(domain.clips) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figure1_pair(0, frames=0), "frames must be at least 1, got 0"),
        (lambda: figure1_pair(0, size=15), "size must be at least 16, got 15"),
        (lambda: figure1_pair(-1), "scene must be at least 0, got -1"),
        (lambda: figure1_clips("source", 0), "count must be at least 1, got 0"),
        (lambda: figure1_clips("source", 1, seed=-1), "seed must be at least 0, got -1"),
        (lambda: figure1_clips("both", 1), "domain must be 'source' or 'target', got 'both'"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"folder '.*file' must be one that can be made"):
        write_figure1(tmp_path / "file", 1, 1, 2, 16)
