import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlv2v_fast.data import Domain, VideoWriter, find_videos
from rlv2v_fast.data.clips import survey
from rlv2v_fast.data.names import VIDEO_SUFFIXES
from rlv2v_fast.errors import InputError, MediaWarning
from tests.data.helpers import no_more_than


def noise(frames=6, height=16, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def write(path, clip):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, clip.shape[2], clip.shape[1], 10, lossless=True) as writer:
        for frame in clip:
            writer.write(frame)
    return path


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def error_of(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def three_videos(tmp_path):
    """Clips 1, 2 and 10, told apart by their first pixel, in one folder."""
    for seed in (1, 2, 10):
        write(tmp_path / "videos" / f"clip{seed}.mp4", noise(seed=seed))
    return tmp_path / "videos"


def test_visible_videos_are_found_recursively_in_natural_order(tmp_path):
    for name in ("v10.mp4", "v9.MP4", "b/c.webm", "b/.d.gif", ".e/f.avi", "notes.txt", "a.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [video.relative_to(tmp_path).as_posix() for video in find_videos(tmp_path)]
    assert found == ["a.mov", "b/c.webm", "v9.MP4", "v10.mp4"]


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_links_to_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "disk" / "a" / "b.mp4", tmp_path / "disk" / "c.mp4", tmp_path / "disk" / "shots" / "0.png")
    (tmp_path / "set").mkdir()
    for name, to in (("linked", "a"), ("d.mp4", "c.mp4"), ("frames", "shots")):
        (tmp_path / "set" / name).symlink_to(tmp_path / "disk" / to)
    found = [video.relative_to(tmp_path / "set").as_posix() for video in find_videos(tmp_path / "set")]
    assert found == ["d.mp4", "frames", "linked/b.mp4"]


def test_links_in_circles_end_and_no_folder_is_read_twice(tmp_path):
    touch(tmp_path / "z" / "a.mp4", tmp_path / "b" / "c.mp4")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(".")
    with pytest.warns(MediaWarning) as told:
        found = [video.relative_to(tmp_path).as_posix() for video in find_videos(tmp_path)]
    assert found == ["b/c.mp4", "z/a.mp4"]
    again = sorted(str(each.message).split(":")[0].removeprefix(f"skipped {tmp_path}/") for each in told)
    assert again == ["a", "b/self", "z/up"]


def test_links_that_lead_nowhere_and_other_kinds_are_told(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.rmvb", tmp_path / "c.heic", tmp_path / "notes.txt")
    (tmp_path / "d.mp4").symlink_to("gone.mp4")
    (tmp_path / "e").symlink_to("gone")
    videos, left_out = survey(tmp_path)
    assert [video.name for video in videos] == ["a.mp4"]
    reasons = {path.name: reason for path, reason in left_out}
    nowhere = "it is a link that leads nowhere"
    assert reasons == {
        "b.rmvb": ".rmvb files are not read",
        "c.heic": ".heic files are not read",
        "d.mp4": nowhere,
        "e": nowhere,
    }


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_kind_that_is_read_is_found_in_a_folder(tmp_path, suffix):
    touch(tmp_path / f"a{suffix}", tmp_path / f"b{suffix.upper()}")
    assert [video.name for video in find_videos(tmp_path)] == [f"a{suffix}", f"b{suffix.upper()}"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    touch(tmp_path / "a.mp4", tmp_path / "secret" / "b.mp4")
    usual = Path.iterdir

    def iterdir(path):
        if path.name == "secret":
            raise PermissionError(13, "Permission denied")
        return usual(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    videos, left_out = survey(tmp_path)
    assert [video.name for video in videos] == ["a.mp4"]
    assert left_out == [(tmp_path / "secret", "it cannot be read: Permission denied")]


def test_a_domain_tells_what_it_did_not_find(three_videos):
    touch(three_videos / "d.rmvb")
    domain = Domain.open(three_videos, frames=6, size=16)
    assert domain.skipped == ((three_videos / "d.rmvb", ".rmvb files are not read"),)


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be no text")
def test_a_name_that_is_no_text_has_a_fingerprint(tmp_path):
    path = write(tmp_path / os.fsdecode(b"\xe9.mp4"), noise())
    domain = Domain.open(path, frames=3, size=16)
    assert len(domain.fingerprint()) == 16


def test_a_full_temporary_disk_is_told(three_videos, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    full = r"^decoded frames cannot be written to .* \(TMPDIR names another place\): File too large"
    with no_more_than(1000), pytest.raises(InputError, match=full):
        Domain.open(three_videos, frames=6, size=16, memory_gib=0)


def test_a_folder_of_other_kinds_alone_says_which(tmp_path):
    touch(tmp_path / "a.rmvb")
    assert r"(a.rmvb: .rmvb files are not read)" in error_of(Domain.open, tmp_path, frames=6, size=16)


def test_a_folder_of_frames_is_one_video_beside_others(tmp_path):
    for name in ("shots/one/0.png", "shots/one/1.png", "shots/two/0.jpg", "shots/two/clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [video.relative_to(tmp_path).as_posix() for video in find_videos(tmp_path)]
    assert found == ["shots/one", "shots/two", "shots/two/clip.mp4"]
    assert find_videos(tmp_path / "shots" / "one") == [tmp_path / "shots" / "one"]


def test_a_file_is_a_domain_of_one_clip(tmp_path):
    clip = noise()
    domain = Domain.open(write(tmp_path / "a.mp4", clip), frames=3, size=16)
    assert len(domain.clips) == 1
    assert np.array_equal(domain.clips[0].frames, clip)


def test_opened_clips_hold_the_decoded_pixels_in_order(three_videos):
    domain = Domain.open(three_videos, frames=6, size=16)
    assert [clip.path.name for clip in domain.clips] == ["clip1.mp4", "clip2.mp4", "clip10.mp4"]
    for seed, clip in zip((1, 2, 10), domain.clips, strict=True):
        assert np.array_equal(clip.frames, noise(seed=seed))
        assert not clip.frames.flags.writeable
    assert domain.skipped == ()


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(32, 48, (16, 24)), (48, 32, (24, 16)), (40, 40, (16, 16)), (8, 9, (16, 18))]
)
def test_the_shorter_side_is_scaled_to_size(height, width, expected):
    domain = Domain.from_arrays([noise(3, height, width)], frames=3, size=16)
    assert domain.clips[0].frames.shape == (3, *expected, 3)


def test_scaling_down_averages_instead_of_picking_pixels():
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 200
    scaled = Domain.from_arrays([stripes], frames=2, size=16).clips[0].frames
    inner = scaled[:, :, 2:-2]  # the filter is cut off at the border
    assert np.abs(inner.astype(int) - 100).max() <= 1


def test_videos_beyond_the_memory_budget_go_to_a_file_unchanged(three_videos, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    in_memory = Domain.open(three_videos, frames=6, size=16)
    one_and_a_half = 1.5 * in_memory.clips[0].frames.nbytes / 2**30
    spilled = Domain.open(three_videos, frames=6, size=16, memory_gib=one_and_a_half)
    kinds = [isinstance(clip.frames.base, np.memmap) or isinstance(clip.frames, np.memmap) for clip in spilled.clips]
    assert kinds == [False, True, True]
    assert spilled.fingerprint() == in_memory.fingerprint()
    assert torch.equal(spilled.sample(generator()), in_memory.sample(generator()))
    assert len(list(tmp_path.glob("rlv2v-*"))) == 1
    del spilled
    gc.collect()
    assert not list(tmp_path.glob("rlv2v-*"))


def test_damaged_and_short_videos_are_skipped_with_their_reasons(three_videos):
    (three_videos / "clip3.mp4").write_bytes(b"not a video at all")
    write(three_videos / "clip4.mp4", noise(2))
    domain = Domain.open(three_videos, frames=3, size=16)
    assert len(domain.clips) == 3
    (damaged, why_damaged), (short, why_short) = domain.skipped
    assert (damaged.name, short.name) == ("clip3.mp4", "clip4.mp4")
    assert "is damaged or not a video" in why_damaged
    assert why_short == "it has 2 frames and frames=3 are needed"


def test_few_shot_keeps_the_first_usable_videos(three_videos):
    (three_videos / "clip0.mp4").write_bytes(b"not a video at all")
    domain = Domain.open(three_videos, frames=3, size=16, few_shot=2)
    assert [clip.path.name for clip in domain.clips] == ["clip1.mp4", "clip2.mp4"]
    assert [path.name for path, _ in domain.skipped] == ["clip0.mp4"]


def test_few_shot_must_be_between_one_and_the_usable_videos(three_videos):
    (three_videos / "clip0.mp4").write_bytes(b"not a video at all")
    message = error_of(Domain.open, three_videos, frames=3, size=16, few_shot=4, argument="target")
    assert message == "few_shot must be at most 3, the usable videos of target, got 4"
    assert error_of(Domain.open, three_videos, frames=3, size=16, few_shot=0) == "few_shot must be at least 1, got 0"


def test_progress_names_each_video_on_standard_error(three_videos, capsys):
    Domain.open(three_videos, frames=3, size=16, progress=True)
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1] == "source: reading 2/3 clip2.mp4"
    assert captured.out == ""


def test_a_missing_path_is_refused(tmp_path):
    no = tmp_path / "no"
    message = error_of(Domain.open, no, frames=3, size=16, argument="target")
    assert message == f"target must be an existing video file or folder, got '{no}'"


def test_an_empty_folder_is_refused_and_the_suffixes_listed(tmp_path):
    message = error_of(Domain.open, tmp_path, frames=3, size=16)
    assert message.startswith("source must hold video files (.avi, .gif, .mkv, .mov, .mp4, .webm, .webp)")
    assert message.endswith(f"got '{tmp_path}'")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    assert "source must be a folder or a video file (.avi" in error_of(
        Domain.open, tmp_path / "a.txt", frames=3, size=16
    )


def test_a_domain_without_usable_videos_names_five_at_most(tmp_path):
    for index in range(8):
        (tmp_path / f"v{index}.mp4").write_bytes(b"not a video at all")
    message = error_of(Domain.open, tmp_path, frames=3, size=16)
    assert message.startswith(f"source '{tmp_path}' must hold a usable video, but none is: v0.mp4: ")
    assert "v4.mp4: " in message
    assert "v5.mp4" not in message
    assert message.endswith("; and 3 more")


def test_when_all_clips_are_too_short_the_longest_is_named(tmp_path):
    write(tmp_path / "a.mp4", noise(2))
    write(tmp_path / "b.mp4", noise(4))
    message = error_of(Domain.open, tmp_path, frames=5, size=16)
    assert message == f"frames must be at most 4, the length of the longest video of source '{tmp_path}', got 5"
    assert "at most 2, the length of the longest" in error_of(Domain.open, tmp_path / "a.mp4", frames=5, size=16)


@pytest.mark.parametrize("name", ["frames", "size"])
def test_frames_and_size_must_be_positive(tmp_path, name):
    arguments = {"frames": 1, "size": 1, name: 0}
    assert error_of(Domain.open, tmp_path, **arguments) == f"{name} must be at least 1, got 0"
    assert error_of(Domain.from_arrays, [noise()], **arguments) == f"{name} must be at least 1, got 0"


def test_arrays_of_another_kind_are_refused():
    assert "arrays must be one or more" in error_of(Domain.from_arrays, [], frames=1, size=8)
    assert "got 1 for 2 names" in error_of(Domain.from_arrays, [noise()], ["a", "b"], frames=1, size=8)
    assert "array 'clip0' must be uint8 (T, H, W, 3), got float64" in error_of(
        Domain.from_arrays, [noise() / 255], frames=1, size=8
    )
    assert "array 'x' must have at least frames=9 frames, got 6" in error_of(
        Domain.from_arrays, [noise()], ["x"], frames=9, size=8
    )


@given(
    length=st.integers(1, 6),
    extra=st.integers(0, 3),
    height=st.integers(8, 20),
    width=st.integers(8, 20),
    seed=st.integers(0, 2**31),
    flip=st.booleans(),
)
def test_a_sample_is_a_window_of_a_clip(length, extra, height, width, seed, flip):
    clip = noise(length + extra, height, width)
    domain = Domain.from_arrays([clip], frames=length, size=min(height, width), flip=flip)
    sample = domain.sample(generator(seed))
    size = min(height, width)
    assert sample.shape == (length, 3, size, size)
    assert sample.dtype == torch.float32
    assert sample.is_contiguous()
    assert sample.abs().max() <= 1
    levels = ((sample + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    views = [clip, clip[:, :, ::-1]] if flip else [clip]
    windows = np.concatenate(
        [
            np.lib.stride_tricks.sliding_window_view(view, (length, size, size), axis=(0, 1, 2)).reshape(
                -1, 3, length, size, size
            )
            for view in views
        ]
    ).transpose(0, 2, 3, 4, 1)
    assert any(np.array_equal(levels, window) for window in windows)


def test_samples_depend_on_the_generator_alone():
    domain = Domain.from_arrays([noise(seed=seed) for seed in range(4)], frames=3, size=16, flip=True)
    first, second = generator(5), generator(5)
    for _ in range(5):
        assert torch.equal(domain.sample(first), domain.sample(second))
    assert not torch.equal(domain.sample(generator(1)), domain.sample(generator(2)))


def test_videos_starts_crops_and_flips_are_drawn_equally_often():
    # Each pixel tells its video, frame and column.
    clips = [np.zeros((4, 2, 4, 3), np.uint8) for _ in range(3)]
    for index, clip in enumerate(clips):
        clip[..., 0], clip[..., 1], clip[..., 2] = index, np.arange(4)[:, None, None], np.arange(4)
    domain = Domain.from_arrays(clips, frames=2, size=2, flip=True)
    rng = generator()
    drawn = [((domain.sample(rng)[0, :, 0] + 1) * 127.5).round().int() for _ in range(1800)]
    for values, expected in (
        ([int(d[0, 0]) for d in drawn], 3),
        ([int(d[1, 0]) for d in drawn], 3),
        ([int(d[2].min()) for d in drawn], 3),
        ([int(d[2, 0] > d[2, 1]) for d in drawn], 2),
    ):
        counts = np.bincount(values)
        assert len(counts) == expected
        # Five standard deviations of a binomial count.
        assert np.abs(counts - 1800 / expected).max() < 5 * (1800 / expected) ** 0.5


def test_a_batch_stacks_consecutive_samples():
    domain = Domain.from_arrays([noise()], frames=2, size=16)
    rng = generator(3)
    assert torch.equal(domain.batch(generator(3), 3), torch.stack([domain.sample(rng) for _ in range(3)]))


def test_spread_clips_take_videos_equally_often_and_never_change():
    videos = [np.full((9, 12, 10, 3), 10 * number, np.uint8) for number in range(4)]
    for video in videos:
        video[...] += np.arange(9, dtype=np.uint8)[:, None, None, None]
    domain = Domain.from_arrays(videos, frames=2, size=10, flip=True)
    few, each, many = ((domain.spread(count)[:, :, 0, 0, 0] + 1) * 127.5 for count in (2, 4, 12))
    assert few.round().tolist() == [[10, 11], [30, 31]]
    assert each.round().tolist() == [[4, 5], [14, 15], [24, 25], [34, 35]]
    assert many.round().tolist() == [[10 * n + start, 10 * n + start + 1] for n in range(4) for start in (1, 4, 6)]


def test_clips_spread_over_one_video_are_evenly_apart():
    ramp = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 4, 8, 3)).copy()
    ramp[:, :, :2] = ramp[:, :, 6:] = 255
    clips = Domain.from_arrays([ramp], frames=10, size=4).spread(3)
    assert clips.shape == (3, 10, 3, 4, 4)
    pixels = ((clips + 1) * 127.5).round()
    assert torch.equal(pixels[:, 0], torch.tensor([3.0, 10.0, 17.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4))


def test_the_fingerprint_has_names_lengths_pixels_but_no_folders():
    def fingerprint(clip, name="a/x.mp4"):
        return Domain.from_arrays([clip], [name], frames=2, size=16).fingerprint()

    clip = noise()
    changed = clip.copy()
    changed[3, 4, 5, 1] ^= 1
    prints = [fingerprint(clip), fingerprint(clip, "a/y.mp4"), fingerprint(clip[:-1]), fingerprint(changed)]
    assert len(set(prints)) == 4
    assert fingerprint(clip, "b/x.mp4") == prints[0]
    assert all(len(digits) == 16 and int(digits, 16) >= 0 for digits in prints)


def test_arrays_given_to_a_domain_may_change_later():
    clip = noise()
    domain = Domain.from_arrays([clip], frames=2, size=16)
    before = domain.fingerprint()
    clip[:] = 0
    assert domain.fingerprint() == before


def test_a_folder_of_pictures_is_a_clip(tmp_path):
    for index in range(3):
        Image.new("RGB", (20, 16), (index, 0, 0)).save(tmp_path / f"{index}.png")
    domain = Domain.open(tmp_path, frames=3, size=16)
    assert domain.clips[0].path == Path(tmp_path)
    assert domain.clips[0].frames[:, 0, 0, 0].tolist() == [0, 1, 2]
