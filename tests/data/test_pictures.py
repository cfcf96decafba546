import struct
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from rlv2v_fast.data import VideoWriter, probe, read_frames, read_timed


def animation(path, delays):
    """A GIF or WebP of pictures that differ, each with its time in ms."""
    pictures = [Image.new("RGB", (8, 6), (10 * i, 255 - 10 * i, 0)) for i in range(len(delays))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays, lossless=True)
    return path


@pytest.mark.parametrize(("name", "step"), [("a.gif", 10), ("a.webp", 1)])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_pictures_appear_at_the_sums_of_the_times_before(tmp_path_factory, name, step, data):
    steps = data.draw(st.lists(st.integers(2, 300), min_size=2, max_size=8))
    delays = [step * n for n in steps]
    path = animation(tmp_path_factory.mktemp("times") / name, delays)
    read = list(read_timed(path))
    starts = [Fraction(t, 1000) for t in [0, *accumulate(delays)]]
    assert len(read) == len(delays)
    for frame, start, delay in zip(read, starts, delays, strict=False):
        assert abs(frame.start - start) <= Fraction(step, 2000)
        assert abs(frame.duration - Fraction(delay, 1000)) <= Fraction(step, 1000)
    assert probe(path).frames == len(delays)


def test_a_rounded_constant_rate_is_exact(tmp_path):
    path = animation(tmp_path / "a.gif", [30, 40, 30, 30, 40, 30])
    assert [frame.start for frame in read_timed(path)] == [Fraction(i, 30) for i in range(6)]


@pytest.mark.parametrize(("delay", "shown"), [(0, 100), (10, 100), (20, 20)])
def test_a_gif_that_is_too_fast_is_shown_as_browsers_do(tmp_path, delay, shown):
    frames = list(read_timed(animation(tmp_path / "a.gif", [delay] * 3)))
    assert [1000 * frame.duration for frame in frames] == [shown] * 3


@pytest.mark.parametrize("output", ["o.gif", "o.webp"])
@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (2, 3)])
def test_an_animation_is_shown_as_often_as_it_was(tmp_path, output, loop, plays):
    pictures = [Image.new("RGB", (8, 6), (100 * i, 0, 0)) for i in range(2)]
    times = {"duration": 100, "save_all": True, "append_images": pictures[1:]}
    pictures[0].save(tmp_path / "s.gif", **times, **({} if loop is None else {"loop": loop}))
    info = probe(tmp_path / "s.gif")
    assert info.plays == plays
    with VideoWriter(tmp_path / output, 8, 6, 10, tmp_path / "s.gif", like=info) as writer:
        for frame in read_frames(tmp_path / "s.gif"):
            writer.write(frame)
    assert probe(tmp_path / output).plays == plays


@pytest.mark.parametrize("kind", ["rgba.png", "palette.png", "gray.png", "key.png", "a.gif", "a.webp", "rgba.tif"])
def test_transparent_red_is_black(tmp_path, kind):
    folder = tmp_path / "frames"
    folder.mkdir()
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red.paste((0, 200, 0, 255), (0, 0, 4, 8))
    path = tmp_path / kind if kind[-4:] in (".gif", "webp") else folder / kind
    if kind == "palette.png":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 200, 0, 255, 0, 0])
        image.paste(0, (0, 0, 4, 8))
        image.save(path, transparency=1)
    elif kind == "gray.png":
        red.convert("LA").save(path)
    elif kind == "key.png":
        image = Image.new("RGB", (8, 8), (255, 0, 0))
        image.paste((0, 200, 0), (0, 0, 4, 8))
        image.save(path, transparency=(255, 0, 0))
    else:
        red.save(path, **({"lossless": True, "exact": True} if kind == "a.webp" else {}))
    source = folder if path.parent == folder else path
    pixels = next(read_frames(source))
    assert (pixels[:, 4:] == 0).all()
    assert (pixels[:, :4, 1] > 80).all()
    assert probe(source).notes == ("it is transparent in part: it is put on black",)


def test_an_opaque_picture_has_nothing_to_tell(tmp_path):
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "0.png")
    assert probe(tmp_path).notes == ()


def wide_profile():
    """Display P3's red, green and blue, and a gamma of 2.2, as a profile."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"wtpt": xyz(0.9642, 1, 0.82491),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(79),
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642) + fixed(1) + fixed(0.82491) + bytes(48)
    return head + table + body


def test_a_colour_profile_is_applied(tmp_path):
    Image.new("RGB", (4, 4), (200, 60, 60)).save(tmp_path / "0.png", icc_profile=wide_profile())
    pixel = next(read_frames(tmp_path))[0, 0].astype(int)
    assert pixel[0] > 210  # the same red is nearer to the edge of sRGB
    assert pixel[1] < 60


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"nonsense"])
def test_a_usual_or_broken_profile_changes_nothing(tmp_path, profile):
    Image.new("RGB", (4, 4), (200, 60, 60)).save(tmp_path / "0.png", icc_profile=profile)
    assert (next(read_frames(tmp_path)) == (200, 60, 60)).all()


def test_pictures_of_a_camera_are_turned_upright(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    image.save(tmp_path / "0.png", exif=exif)
    pixels = next(read_frames(tmp_path))
    assert pixels.shape == (6, 4, 3)
    assert pixels[0, 3, 0] == 255
    assert (probe(tmp_path).width, probe(tmp_path).height) == (4, 6)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".tiff"])
def test_every_kind_of_picture_is_a_frame(tmp_path, suffix):
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / f"0{suffix}")
    assert (next(read_frames(tmp_path)) == 90).all()


def test_cmyk_is_read_as_colours(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "0.jpg", quality=100)
    pixel = next(read_frames(tmp_path))[4, 4].astype(int)
    assert np.abs(pixel - (255, 0, 0)).max() < 6


def test_a_folder_is_shown_at_the_rate_that_is_asked_for(tmp_path):
    for index in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{index}.png")
    assert [frame.start for frame in read_timed(tmp_path, Fraction(10))] == [0, Fraction(1, 10), Fraction(1, 5)]
