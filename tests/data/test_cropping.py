import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlv2v_fast.data import probe, read_frames
from rlv2v_fast.data.cropping import Cropping, cropping_of
from tests.data.helpers import make


def quarters(size=(48, 32)):
    """A picture of four gray levels."""
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    frame[:16, :24], frame[:16, 24:], frame[16:, :24] = 240, 160, 80
    return frame


def with_box(data, path, box):
    """The bytes of nested MP4 boxes with one more box at the end of the last of path, whose head it follows."""
    at, heads = 0, []
    for kind, head in path:
        at = data.index(kind, at) - 4
        heads.append(at)
        at += head
    end = heads[-1] + struct.unpack_from(">I", data, heads[-1])[0]
    data = bytearray(data[:end] + box + data[end:])
    for head in heads:
        struct.pack_into(">I", data, head, struct.unpack_from(">I", data, head)[0] + len(box))
    return bytes(data)


def aperture(width, height, x=0, y=0):
    return struct.pack(">I4siIiIiIiI", 40, b"clap", width, 1, height, 1, x, 2, y, 2)


NESTED = [(b"moov", 8), (b"trak", 8), (b"mdia", 8), (b"minf", 8), (b"stbl", 8), (b"stsd", 16), (b"avc1", 8)]


@pytest.mark.parametrize(
    ("box", "expected"),
    [  # others are refused by libav
        (aperture(48, 32), Cropping()),
        (aperture(40, 32), Cropping(0, 0, 4, 4)),
        (aperture(40, 24, 8, -8), Cropping(0, 8, 8, 0)),
    ],
    ids=["all", "centred", "moved"],
)
def test_the_clean_aperture_of_an_mp4_is_shown(tmp_path, box, expected):
    path = make(tmp_path / "a.mp4", [quarters()] * 2)
    path.write_bytes(with_box(path.read_bytes(), NESTED, box))
    assert cropping_of(path, "mov,mp4", 0) == expected
    read = next(read_frames(path))
    shown = quarters()[expected.top : 32 - expected.bottom, expected.left : 48 - expected.right]
    assert read.shape == shown.shape == (probe(path).height, probe(path).width, 3)
    assert np.abs(read.astype(int) - shown).mean() < 4


def element(identity, *content):
    """An element of EBML with the content given, as bytes or as elements."""
    data = b"".join(content)
    return bytes.fromhex(identity) + (1 << 56 | len(data)).to_bytes(8, "big") + data


@pytest.mark.parametrize("size_is_known", [True, False])
def test_the_edges_of_a_matroska_track_are_found(tmp_path, size_is_known):
    plain = element("ae", element("d7", b"\1"), element("e0", element("b0", b"\x30")))
    edges = [element(name, bytes([n])) for name, n in (("54bb", 1), ("54aa", 2), ("54cc", 3), ("54dd", 4))]
    cropped = element("ae", element("d7", b"\2"), element("e0", element("b0", b"\x30"), *edges))
    segment = element("18538067", element("ec", bytes(5)), element("1654ae6b", plain, cropped), element("1f43b675"))
    if not size_is_known:
        segment = segment[:4] + b"\x01" + b"\xff" * 7 + segment[12:]
    path = tmp_path / "a.mkv"
    path.write_bytes(element("1a45dfa3", bytes(9)) + segment)
    assert [cropping_of(path, "matroska,webm", index) for index in range(3)] == [
        Cropping(),
        Cropping(top=1, bottom=2, left=3, right=4),
        Cropping(),
    ]


def test_a_matroska_file_that_crops_is_shown_cropped(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mkv", [quarters()] * 2)
    monkeypatch.setattr("rlv2v_fast.data.container.cropping_of", lambda *_: Cropping(top=16, left=24))
    assert np.abs(next(read_frames(path)).astype(int)).max() < 4
    assert (probe(path).width, probe(path).height) == (24, 16)


@given(data=st.binary(max_size=200), container=st.sampled_from(["matroska,webm", "mov,mp4", "avi"]))
def test_arbitrary_bytes_crop_nothing(tmp_path_factory, data, container):
    path = tmp_path_factory.mktemp("bytes") / "a"
    path.write_bytes(data)
    assert cropping_of(path, container, 0) == Cropping()
    assert cropping_of(path, container, 3) == Cropping()
