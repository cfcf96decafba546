"""The cache of decoded videos, and the locks and files that it is made of."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rlv2v_fast.data import cache as cache_module
from rlv2v_fast.data import entries
from rlv2v_fast.data.cache import CacheError, FrameCache, default_folder
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.decoders import Decoder
from rlv2v_fast.data.entries import read_entry
from rlv2v_fast.data.locks import Temporary, locked, remove_left_behind
from rlv2v_fast.data.video import read_frames
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 20, 32, 3), dtype=np.uint8)
        with VideoWriter(folder / f"{seed}.mp4", 32, 20, 10, lossless=True) as writer:
            for frame in pixels:
                writer.write(frame)
    return folder


@pytest.fixture
def cache(tmp_path):
    return FrameCache(tmp_path / "cache", 1.0)


def opened(folder, cache, **changes):
    return Domain.open(folder, **{"frames": 3, "size": 16, "cache": cache, **changes})


def fresh(cache):
    """The same cache as another process would see it."""
    return FrameCache(cache.folder, cache.limit / 2**30)


def without_decoding(monkeypatch):
    monkeypatch.setattr(entries, "read_frames", lambda path: pytest.fail(f"{path} is decoded"))


def test_a_cached_domain_is_the_one_decoded_without(videos, cache, monkeypatch):
    plain = opened(videos, None)
    first = opened(videos, cache)
    without_decoding(monkeypatch)
    second = opened(videos, fresh(cache))
    for domain in (first, second):
        assert domain.fingerprint() == plain.fingerprint()
        assert [clip.path for clip in domain.clips] == [clip.path for clip in plain.clips]
        for a, b in zip(domain.clips, plain.clips, strict=True):
            assert np.array_equal(a.frames, b.frames)
            assert not a.frames.flags.writeable
        random = [torch.Generator().manual_seed(1) for _ in range(2)]
        assert torch.equal(domain.batch(random[0], 3), plain.batch(random[1], 3))


def test_the_fingerprint_reads_pixels_once_at_most(videos, cache, monkeypatch):
    plain, cached = opened(videos, None), opened(videos, cache)
    expected = plain.fingerprint()
    monkeypatch.setattr("rlv2v_fast.data.clips.digest_of", lambda frames: pytest.fail("pixels are read"))
    assert plain.fingerprint() == cached.fingerprint() == expected


@pytest.mark.parametrize("change", ["pixels", "size", "time"])
def test_another_file_or_size_is_decoded_anew(videos, cache, tmp_path, change):
    video = tmp_path / "a.mp4"
    shutil.copy(videos / "0.mp4", video)
    before = cache.get(video, 16)
    if change == "pixels":
        shutil.copy(videos / "1.mp4", video)
    elif change == "time":
        os.utime(video, (1, 1))
    cache.get(video, 8 if change == "size" else 16)
    assert len(list(cache.folder.glob("*.rgb"))) == 2
    assert np.array_equal(before.frames, opened(videos / "0.mp4", None).clips[0].frames)


def test_a_folder_of_frames_is_known_by_its_files(cache, videos, tmp_path):
    from PIL import Image

    for index, frame in enumerate(read_frames(videos / "0.mp4")):
        (tmp_path / "f").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "f" / f"{index}.png")
    assert len(cache.get(tmp_path / "f", 20).frames) == 6
    (tmp_path / "f" / "5.png").unlink()
    assert len(cache.get(tmp_path / "f", 20).frames) == 5


def truncated(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def tail(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [truncated, one_bit, tail, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"text" * 99)],
    ids=["truncated", "one bit", "tail", "empty", "text"],
)
def test_a_damaged_entry_is_made_again(videos, cache, damage):
    expected = cache.get(videos / "0.mp4", 16).frames.copy()
    (path,) = cache.folder.glob("*.rgb")
    damage(path)
    assert np.array_equal(fresh(cache).get(videos / "0.mp4", 16).frames, expected)
    assert np.array_equal(read_entry(path).frames, expected)


def test_an_entry_copied_with_another_time_is_whole(videos, cache, monkeypatch):
    expected = cache.get(videos / "0.mp4", 16).frames.copy()
    (path,) = cache.folder.glob("*.rgb")
    path.touch()
    without_decoding(monkeypatch)
    assert np.array_equal(cache.get(videos / "0.mp4", 16).frames, expected)


def test_those_not_used_for_longest_go_first(videos, cache):
    paths = sorted(videos.iterdir())
    cache.fill(paths, 16)
    each = next(cache.folder.glob("*.rgb")).stat().st_size
    small = FrameCache(cache.folder, 2.5 * each / 2**30)
    small.get(paths[0], 16)
    small.get(paths[2], 16)
    small.trim()
    assert {path.stem for path in small.folder.glob("*.rgb")} == small._used
    FrameCache(cache.folder, each / 2**30).trim()
    assert [path.stem for path in small.folder.glob("*.rgb")] == [small._key(paths[2], 16)]


def test_a_run_keeps_frames_that_another_deletes(videos, cache):
    domain = opened(videos, cache)
    expected = opened(videos, None).sample(torch.Generator().manual_seed(0))
    FrameCache(cache.folder, 0).trim()
    assert not list(cache.folder.glob("*.rgb"))
    assert torch.equal(domain.sample(torch.Generator().manual_seed(0)), expected)


def test_what_a_run_uses_is_kept_beyond_the_limit(videos, tmp_path):
    cache = FrameCache(tmp_path, 0)
    opened(videos, cache)
    (tmp_path / "left.lock").touch()
    written = Temporary(tmp_path / "a.rgb")
    cache.trim()
    assert [path.suffix for path in tmp_path.iterdir()] == [".rgb"] * 5
    cache.trim(keep_used=False)
    assert list(tmp_path.iterdir()) == [written.path]
    written.close()


def test_a_small_set_decodes_no_video_that_it_does_not_need(videos, cache, tmp_path):
    for name in ("0", "1", "2"):
        shutil.copy(videos / f"{name}.mp4", tmp_path / f"v{name}.mp4")
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    domain = opened(tmp_path, cache, few_shot=1)
    assert [clip.path.name for clip in domain.clips] == ["v0.mp4"]
    assert [path.name for path, _ in domain.skipped] == ["a.mp4"]
    assert len(list(cache.folder.glob("*.rgb"))) == 1


def test_videos_that_cannot_be_read_are_skipped_as_without(videos, cache, tmp_path):
    shutil.copytree(videos, tmp_path / "v")
    (tmp_path / "v" / "bad.mp4").write_bytes(b"not a video at all")
    (tmp_path / "v" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert opened(tmp_path / "v", cache).skipped == opened(tmp_path / "v", None).skipped != ()


def test_processes_share_the_decoding_and_decode_each_once(videos, tmp_path, monkeypatch):
    """Two caches with two processes each, on one folder."""
    monkeypatch.setattr(cache_module, "_FEW_BYTES", 0)
    monkeypatch.setattr(cache_module, "_processors", lambda: 2)
    folder = tmp_path / "v"
    folder.mkdir()
    for copy in range(3):
        for video in videos.iterdir():
            shutil.copy(video, folder / f"{copy}-{video.name}")
    caches = [FrameCache(tmp_path / "cache", 1.0) for _ in range(2)]
    threads = [threading.Thread(target=each.fill, args=(sorted(folder.iterdir()), 16)) for each in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(path.name for path in caches[0].folder.iterdir())
    assert len(names) == 12
    assert all(name.endswith(".rgb") for name in names)
    assert opened(folder, caches[1]).fingerprint() == opened(folder, None).fingerprint()


def test_errors_of_a_decoding_process_are_those_of_this_one(videos, tmp_path):
    decoder = Decoder()
    try:
        assert decoder.make_entry(videos / "0.mp4", 16, tmp_path / "0.rgb", wait=True)
        for video, folder in ((tmp_path / "no.mp4", tmp_path), (videos / "0.mp4", tmp_path / "none")):
            told = []
            for make in (decoder.make_entry, entries.make_entry):
                with pytest.raises(InputError) as caught:
                    make(video, 16, folder / "1.rgb", wait=True)
                told.append((type(caught.value), str(caught.value)))
            assert told[0] == told[1]
        decoder._process.kill()
        assert decoder.make_entry(videos / "1.mp4", 16, tmp_path / "2.rgb", wait=True)
    finally:
        decoder.close()
    assert np.array_equal(read_entry(tmp_path / "0.rgb").frames, opened(videos / "0.mp4", None).clips[0].frames)


def test_a_decoding_process_starts_without_pytorch():
    code = "import sys, rlv2v_fast.data.decoders; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_a_video_that_another_process_decodes_is_waited_for(videos, cache):
    path = videos / "0.mp4"
    entry = cache._file(cache._key(path, 16))
    with locked(entry.with_suffix(".lock"), wait=True):
        assert not entries.make_entry(path, 16, entry, wait=False)
        waiting = threading.Thread(target=cache.fill, args=([path], 16))
        waiting.start()
        time.sleep(0.1)
        assert not entry.exists()
    waiting.join()
    assert entry.exists()


def test_a_folder_that_cannot_be_used_is_named(videos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cache '.*/file/c' cannot be written: Not a directory; --cache takes"):
        FrameCache(tmp_path / "file" / "c", 1)
    cache = FrameCache(tmp_path / "c", 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="cannot be written: No space left on device"):
        opened(videos, cache)
    assert list(cache.folder.iterdir()) == []


def test_the_users_cache_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "rlv2v_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().is_relative_to(Path.home())


def test_more_videos_than_open_files_fit(cache, videos):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache.get(videos / "0.mp4", 16)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        kept = [cache.get(videos / "0.mp4", 16) for _ in range(100)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len({id(entry.frames) for entry in kept}) == 100


@pytest.mark.parametrize("folder", [False, True])
def test_temporaries_of_killed_processes_are_removed(tmp_path, folder):
    script = f"""if True:
        import os, sys
        from pathlib import Path
        from rlv2v_fast.data.locks import Temporary
        made = Temporary(Path({str(tmp_path)!r}, "walk.mp4"), folder={folder})
        if {folder}:
            (made.path / "0.png").touch()
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".walk.")
    assert left.suffix == ".mp4"
    mine = Temporary(tmp_path / "walk.mp4", folder=folder)
    (tmp_path / ".walk.tmp.mp4").touch()
    remove_left_behind(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.path.name, ".walk.tmp.mp4"}
    mine.close()
    assert [path.name for path in tmp_path.iterdir()] == [".walk.tmp.mp4"]


def test_temporaries_of_other_machines_must_be_a_day_old(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    there = Temporary(tmp_path / "walk.mp4")
    monkeypatch.undo()
    remove_left_behind(tmp_path)
    assert there.path.exists()
    os.utime(there.path, (time.time() - 90000,) * 2)
    remove_left_behind(tmp_path)
    assert not there.path.exists()
    there.close()


@pytest.mark.parametrize("name", ["a" * 251 + ".mp4", "é" * 125 + ".mp4", os.fsdecode(b"\xff" * 250 + b".gif")])
def test_a_temporary_of_a_long_name_can_be_made(tmp_path, name):
    temporary = Temporary(tmp_path / name)
    temporary.path.replace(tmp_path / name)
    temporary.close()
    assert os.listdir(tmp_path) == [name]


def test_a_lock_excludes_others_and_leaves_no_file(tmp_path):
    with locked(tmp_path / "l", wait=True) as held, locked(tmp_path / "l", wait=False) as again:
        assert (held, again) == (True, False)
    assert not list(tmp_path.iterdir())


def test_clips_compute_a_digest_that_they_came_without():
    domain = Domain.from_arrays([np.zeros((3, 8, 8, 3), np.uint8)], frames=2, size=8)
    (clip,) = domain.clips
    assert clip.digest == dataclasses.replace(clip).digest == entries.digest_of(clip.frames)
