import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from rlv2v_fast.data.colour import colours_of, guessed_matrix, on_black, rgb
from rlv2v_fast.errors import InputError


def encoded(colour, pixels="yuv420p", size=(32, 32), matrix=1, full=False, given="rgb24"):
    """A frame of one colour, converted by libav and tagged as nothing."""
    array = np.full((size[1], size[0], len(colour)), colour, np.uint8)
    frame = av.VideoFrame.from_ndarray(array, format=given)
    frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1)
    frame.colorspace, frame.color_range = 2, 2 if full else 1
    return frame


def read(frame):
    return rgb(frame, VideoReformatter())[1, 1].astype(int)


def near(a, b, tolerance=2):
    return np.abs(np.asarray(a) - b).max() <= tolerance


@pytest.mark.parametrize(
    ("size", "matrix"),
    [
        ((1280, 720), 1),
        ((960, 720), 1),
        ((1280, 544), 1),
        ((720, 1280), 1),
        ((720, 576), 5),
        ((640, 480), 5),
        ((8, 8), 5),
    ],
)
def test_an_untagged_matrix_is_guessed_from_the_size(size, matrix):
    assert guessed_matrix(*size) == matrix
    assert near(read(encoded((198, 28, 28), size=size, matrix=matrix)), (198, 28, 28))


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_a_tagged_matrix_is_obeyed(matrix):
    libav = {1: 1, 5: 5, 6: 5, 7: 7, 9: 9}[matrix]
    frame = encoded((198, 28, 28), size=(64, 64), matrix=libav)
    frame.colorspace = matrix
    assert near(read(frame), (198, 28, 28))


@pytest.mark.parametrize(("matrix", "name"), [(8, "YCgCo"), (14, "ICtCp"), (13, "number 13")])
def test_a_matrix_that_is_not_known_is_refused_by_name(matrix, name):
    frame = encoded((198, 28, 28))
    frame.colorspace = matrix
    with pytest.raises(InputError, match=f"colour matrix .* but it is {name}"):
        colours_of(frame)


@pytest.mark.parametrize("level", [0, 16, 128, 235, 255])
def test_full_range_is_not_stretched(level):
    assert near(read(encoded((level,) * 3, matrix=5, full=True)), level, 1)


@pytest.mark.parametrize("pixels", ["yuv444p10le", "yuv420p12le", "gbrp10le", "rgb48le", "gray16le"])
def test_more_than_8_bits_are_rounded_and_told(pixels):
    frame = encoded((120, 120, 120), pixels, matrix=5)
    assert near(read(frame), 120, 1)
    bits = 16 if pixels.endswith(("16le", "48le")) else int(pixels[-4:-2])
    assert colours_of(frame).notes == (f"its {bits} bits a channel are rounded to 8",)


@pytest.mark.parametrize("pixels", ["rgba", "argb", "gbrap", "yuva420p", "yuva444p10le", "rgba64le"])
@pytest.mark.parametrize(("alpha", "expected"), [(0, (0, 0, 0)), (128, (128, 0, 0)), (255, (255, 0, 0))])
def test_transparency_is_put_on_black(pixels, alpha, expected):
    frame = encoded((255, 0, 0, alpha), pixels, matrix=5, given="rgba")
    assert near(read(frame), expected, 3)
    assert any("put on black" in note for note in colours_of(frame).notes)


def test_gray_with_transparency_is_put_on_black():
    frame = encoded((255, 0, 0, 0), "ya8", matrix=5, given="rgba")
    assert near(read(frame), 0, 0)


def test_opaque_pixels_stay_bit_for_bit():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    assert np.array_equal(on_black(rgba), rgba[..., :3])


def hdr(level, transfer, primaries=9):
    """A gray frame of 10 bits."""
    frame = av.VideoFrame(8, 8, "yuv420p10le")
    for plane, value in zip(frame.planes, (level, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, transfer, primaries
    return frame


def code_of(transfer, nits):
    """The 10-bit code of gray light in cd/m2 on a screen of 1000 cd/m2, by the standards' formulas."""
    if transfer == 16:
        y = (nits / 10000) ** (2610 / 16384)
        e = ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    else:
        scene = (nits / 1000) ** (1 / 1.2)
        e = (3 * scene) ** 0.5 if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073
    return round(64 + 876 * e)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_shown_as_a_screen_of_203_nits_would(transfer):
    # Up to 70% of white, light is kept: 101.5 nits are half of white, which BT.1886 codes as 0.5 ** (1 / 2.4).
    assert near(read(hdr(code_of(transfer, 101.5), transfer)), 255 * 0.5 ** (1 / 2.4), 2)
    levels = [int(read(hdr(code_of(transfer, nits), transfer))[0]) for nits in (1, 20, 100, 203, 400, 700, 1000)]
    assert levels == sorted(set(levels))  # highlights are bent, not cut
    assert levels[-1] >= 253
    assert "HDR" in colours_of(hdr(500, transfer)).notes[0]
    assert (colours_of(hdr(500, transfer)).primaries, colours_of(hdr(500, transfer)).transfer) == (1, 1)


@pytest.mark.parametrize(("primaries", "matrix"), [(9, 9), (11, 1), (12, 1)])
def test_wide_primaries_are_converted_and_gray_is_not(primaries, matrix):
    frame = encoded((200, 60, 60), "yuv444p", matrix=matrix)
    frame.colorspace, frame.color_primaries, frame.color_trc = matrix, primaries, 1
    red = read(frame)
    assert red[0] > 210  # the same light is nearer to the edge of the smaller gamut
    gray = encoded((120, 120, 120), "yuv444p", matrix=matrix)
    gray.colorspace, gray.color_primaries, gray.color_trc = matrix, primaries, 1
    assert near(read(gray), 120, 1)
    assert "converted to BT.709" in colours_of(frame).notes[0]


def test_linear_light_is_encoded_as_screens_want_it():
    frame = encoded((128, 128, 128), "gbrp")
    frame.color_trc = 8
    assert near(read(frame), 255 * (128 / 255) ** (1 / 2.4), 1)
    assert colours_of(frame).transfer == 1


def test_near_primaries_and_transfers_are_kept_as_tags():
    frame = encoded((200, 60, 60), matrix=5)
    frame.colorspace, frame.color_primaries, frame.color_trc = 6, 6, 6
    assert near(read(frame), (200, 60, 60))
    assert (colours_of(frame).primaries, colours_of(frame).transfer, colours_of(frame).notes) == (6, 6, ())
