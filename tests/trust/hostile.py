"""Damaged and hostile files for every reader: each is read right, or refused in one sentence that names the file."""

from __future__ import annotations

import faulthandler
import functools
import io
import itertools
import os
import pickle
import random
import resource
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from rlv2v_fast.data import probe, read_frames
from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.y4m import Y4mReader
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.cube import read_cube
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.checkpoint import best_distance, load_state, save_best, save_checkpoint
from rlv2v_fast.train.config import load_config
from rlv2v_fast.train.pairs import read_pairs

# Seconds that a reader may take of a file of a few kilobytes, and bytes of address space beyond what the process has.
PATIENCE, ROOM = 60, 4 * 2**30
_EXTREME = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\1\0\0\0"]


def _frames(path: Path) -> object:
    probe(path)
    frames = list(itertools.islice(read_frames(path), 500))
    assert all(frame.dtype == np.uint8 and frame.shape == frames[0].shape for frame in frames)
    return len(frames), frames[0].shape


def _pipe(path: Path) -> object:
    reader = Y4mReader(io.BytesIO(path.read_bytes()))
    try:
        return len(list(itertools.islice(reader, 500)))
    finally:
        reader.close()


# Where the file is inside the folder that is made, and who reads what.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"video.{suffix}": (f"video.{suffix}", lambda folder, suffix=suffix: _frames(folder / f"video.{suffix}"))
        for suffix in ("mp4", "mkv", "webm", "avi", "ts", "nut", "y4m", "gif", "webp", "apng")
    },
    **{
        f"picture.{suffix}": (f"frames/1.{suffix}", lambda folder: _frames(folder / "frames"))
        for suffix in ("png", "jpg", "bmp", "tif")
    },
    "pipe": ("video.y4m", lambda folder: _pipe(folder / "video.y4m")),
    "config": ("config.yaml", lambda folder: load_config(folder / "config.yaml")),
    "cube": ("look.cube", lambda folder: read_cube(folder / "look.cube")),
    "weights": ("model/model.safetensors", lambda folder: RLV2VGAN.from_pretrained(folder / "model")),
    "model config": ("model/config.json", lambda folder: RLV2VGAN.from_pretrained(folder / "model")),
    "state": ("model/state.pt", lambda folder: load_state(folder / "model")),
    "best": ("best/step_00000001/best.json", lambda folder: best_distance(folder)),
    "pairs": ("pairs/target/1.png", lambda folder: read_pairs(folder / "pairs")),
}


def make_originals(folder: Path) -> None:
    """Write a good file for every reader into folder."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (24, 32, 3)).astype(np.uint8) for _ in range(4)]
    codecs = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4", "ts": "libx264", "nut": "ffv1"}
    codecs |= {"y4m": "wrapped_avframe", "apng": "apng"}
    for suffix, codec in codecs.items():
        kind = {"y4m": "yuv4mpegpipe"}.get(suffix)
        with av.open(str(folder / f"video.{suffix}"), "w", format=kind) as container:
            stream = container.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height = 32, 24
            stream.pix_fmt = "rgb24" if suffix == "apng" else "yuv420p"
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    images = [Image.fromarray(frame) for frame in frames]
    for suffix in ("gif", "webp"):
        images[0].save(folder / f"video.{suffix}", save_all=True, append_images=images[1:], duration=40)
    (folder / "frames").mkdir()
    for suffix in ("png", "jpg", "bmp", "tif"):
        images[0].save(folder / f"1.{suffix}")
    for side in ("source", "target"):
        (folder / "pairs" / side).mkdir(parents=True)
        images[0].save(folder / "pairs" / side / "1.png")
    (folder / "config.yaml").write_text("size: 32\nsteps: 10\nrl: {gamma: 0.9}\nloss: {augment: [translation]}\n")
    colours = itertools.product((0, 1), repeat=3)
    (folder / "look.cube").write_text("LUT_3D_SIZE 2\n" + "".join(f"{b} {g} {r}\n" for r, g, b in colours))
    model = RLV2VGAN(ModelConfig(width=1, critics=0, generator="local", discriminator="patch"))
    saved = save_checkpoint(folder / "run", 1, model, {"x": torch.zeros(4), "list": [1, "a"]}, keep=1)
    (saved / "SHA256SUMS").unlink()  # with it nothing else of a damaged file would be read
    saved.rename(folder / "model")
    (save_best(folder, 1, model, 0.5) / "SHA256SUMS").unlink()


class Originals:
    """Good files, and folders in which one of them is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_originals(folder)

    def data(self, reader: str) -> bytes:
        inside = READERS[reader][0]
        # Of the pictures of a folder only one may be there at a time.
        return (self._folder / (Path(inside).name if inside.startswith("frames/") else inside)).read_bytes()

    def read(self, reader: str, data: bytes) -> object:
        """What a reader makes of data in place of the good file; None where it refuses them as it should."""
        inside, read = READERS[reader]
        top = inside.split("/")[0]
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            if "/" in inside:
                shutil.copytree(self._folder / top, folder / top)
            (folder / inside).write_bytes(data)
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            try:
                return read(folder)
            except InputError as error:
                check_sentence(str(error), name if reader != "pipe" else "'-'")
                return None
            finally:
                faulthandler.cancel_dump_traceback_later()


def check_sentence(text: str, name: str) -> None:
    """Check what an InputError says: one line that holds a name."""
    assert name in text, f"{text!r} does not name the file"
    assert "\n" not in text.strip(), f"{text!r} has several lines"
    assert "Traceback" not in text


@st.composite
def changed(draw: st.DrawFn, whole: bytes, others: list[bytes]) -> bytes:
    """Bytes that are damaged, or of another file."""
    size = len(whole)
    kind = draw(
        st.sampled_from(["truncated", "flipped", "overwritten", "cut", "repeated", "extended", "other", "random"])
    )
    at = draw(st.integers(0, size - 1))
    if kind == "truncated":
        return whole[: size * draw(st.integers(0, 63)) // 64]
    if kind == "flipped":
        data = bytearray(whole)
        for place in draw(st.lists(st.integers(0, min(size, 2**14) - 1), min_size=1, max_size=4)):
            data[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    if kind == "overwritten":
        # Sizes and counts are at the beginning of most files.
        at = draw(st.one_of(st.just(at), st.integers(0, min(size, 256) - 1)))
        return whole[:at] + draw(st.sampled_from(_EXTREME)) + whole[at + 4 :]
    if kind == "cut":
        return whole[:at] + whole[at + draw(st.integers(1, 64)) :]
    if kind == "repeated":
        return whole[:at] + whole[at : at + draw(st.integers(1, 512))] * draw(st.integers(2, 4)) + whole[at:]
    if kind == "extended":
        return whole + draw(st.binary(min_size=1, max_size=64))
    if kind == "other":
        return draw(st.sampled_from(others))
    return draw(st.binary(max_size=64))


class _Evil:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


def pickles(path: Path) -> list[bytes]:
    """Files that make the folder path where they are unpickled."""
    buffer = io.BytesIO()
    torch.save({"format": 1, "x": _Evil(path)}, buffer)
    return [buffer.getvalue(), *(pickle.dumps({"format": 1, "x": _Evil(path)}, protocol) for protocol in range(5))]


def try_all(originals: Originals, times: int, evil: Path, number: int) -> Counter[str]:
    """Try so many files on all readers together; counts what was read and what was refused."""
    counts: Counter[str] = Counter()
    others = [originals.data(reader) for reader in READERS] + pickles(evil)

    share = -(-times // len(READERS))
    for reader in READERS:
        whole = originals.data(reader)
        assert originals.read(reader, whole) is not None, f"the good file for {reader} is refused"
        read = functools.partial(originals.read, reader)
        _try_reader(read, changed(whole, others), share, number, counts)
    assert not evil.exists(), "a pickle was executed"
    return counts


def _try_reader(
    read: Callable[[bytes], object], files: st.SearchStrategy[bytes], times: int, number: int, counts: Counter[str]
) -> None:
    @seed(number)
    @settings(
        max_examples=times,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=files)
    def attempt(data: bytes) -> None:
        counts["read" if read(data) is not None else "refused"] += 1

    attempt()


def attempt(times: int, rng: random.Random, folder: Path) -> str:
    """At least so many damaged files, for all readers together."""
    av.logging.set_level(None)
    warnings.simplefilter("ignore")  # of Pillow and torch, of what is damaged
    with open("/proc/self/statm") as file:
        here = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + ROOM, here + ROOM))
    counts = try_all(Originals(folder), times, folder / "evil", rng.randrange(2**32))
    return (
        f"{sum(counts.values())} files for {len(READERS)} readers: {counts['refused']} were refused in one line that "
        f"names the file, {counts['read']} were read; none took {PATIENCE} s or {ROOM >> 30} GiB, and "
        f"no pickle was executed"
    )


NAMES = [
    "-",
    "a\nb.mp4",
    "http:a.mp4",
    "%d.mp4",
    "a b'\".mp4",
    b"\xff\xfe.mp4".decode(errors="surrogateescape"),
    "é" * 120,
]


def places(times: int, rng: random.Random, folder: Path) -> str:
    """Names and kinds of files that are not as usual."""
    (folder / "originals").mkdir()
    make_originals(folder / "originals")
    whole = (folder / "originals" / "video.mp4").read_bytes()
    for name in NAMES:
        path = folder / (name if name.endswith(".mp4") else f"{name}.mp4")
        path.write_bytes(whole)
        assert _frames(path) == (4, (24, 32, 3))
        path.unlink()
    loop = folder / "loop"
    loop.mkdir()
    (loop / "again").symlink_to(loop)
    (loop / "a.mp4").symlink_to("b.mp4")
    (loop / "b.mp4").symlink_to("a.mp4")
    os.mkfifo(loop / "pipe.mp4")
    os.mkfifo(loop / "pipe.cube")
    (loop / "folder.mp4").mkdir()
    (loop / "empty.mp4").touch()
    (loop / "zero.mp4").symlink_to("/dev/zero")
    (loop / "zero.cube").symlink_to("/dev/zero")
    refused = 0
    readers = [(probe, f"{name}.mp4") for name in ("a", "pipe", "folder", "empty", "zero", "missing")]
    readers += [(read_cube, name) for name in ("pipe.cube", "zero.cube", "folder.mp4", "missing.cube")]
    readers += [(load_config, name) for name in ("pipe.mp4", "a.mp4", "zero.mp4", "folder.mp4")]
    readers += [(RLV2VGAN.from_pretrained, name) for name in ("pipe.mp4", "a.mp4", "folder.mp4", "missing")]
    for read, name in readers:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            read(loop / name)
        except InputError as error:
            check_sentence(str(error), name)
            refused += 1
        else:
            raise AssertionError(f"{name} was read")
        finally:
            faulthandler.cancel_dump_traceback_later()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that links lead nowhere
        found = find_videos(loop, "source")
    assert len(found) <= len(list(loop.iterdir()))
    return f"{len(NAMES)} odd names were read, and {refused} pipes, devices, link loops and folders refused in one line"
