import math
import random
import struct
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlv2v_fast.data import VideoWriter, probe, read_frames, to_tensor, to_uint8
from rlv2v_fast.errors import InputError

FILES = ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm", "a.gif", "a.webp"]
LOSSLESS = ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webp", "frames"]
SIZES = [(32, 24), (33, 21)]


def smooth_frames(count=12, width=32, height=24):
    """Gray gradients that move, which every codec keeps closely."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [128 + 80 * np.sin((x + 2 * y) / 12 + t / 3) for t in range(count)]
    return [np.repeat(wave.astype(np.uint8)[..., None], 3, axis=2) for wave in waves]


def coloured_frames(count=6, width=33, height=21):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def write(path, frames, fps=Fraction(25), audio_from=None, lossless=False):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, fps, audio_from, lossless=lossless) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def write_with_tone(path, frames, codec, seconds, rate=44100):
    """A 25 fps video with a 440 Hz tone, made by PyAV alone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        wave = np.sin(2 * math.pi * 440 * np.arange(int(seconds * rate)) / rate) * 10000
        samples = np.repeat(wave.astype(np.int16), 2)[None]
        tone = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        tone.sample_rate, tone.pts = rate, 0
        container.mux(audio.encode(tone))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return path


def decoded_audio(path):
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        name, rate = track.codec_context.name, track.codec_context.sample_rate
        return name, rate, np.concatenate([f.to_ndarray()[0] for f in container.decode(track)], axis=-1)


def error_of(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_error(path):
    return error_of(lambda: list(read_frames(path)))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", FILES)
def test_a_written_file_reads_back_the_same(tmp_path, name, width, height):
    frames = smooth_frames(width=width, height=height)
    path = write(tmp_path / name, frames, Fraction(24))
    read = list(read_frames(path))
    info = probe(path)
    assert (info.width, info.height, info.fps, info.has_audio) == (width, height, 24, False)
    assert info.frames == (None if path.suffix in (".webm", ".mkv") else len(frames))
    assert len(read) == len(frames)
    assert all(frame.dtype == np.uint8 and frame.shape == (height, width, 3) for frame in read)
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(read, frames, strict=True)]
    assert max(errors) < 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_output_keeps_every_pixel(tmp_path, name):
    frames = coloured_frames()
    assert np.array_equal(list(read_frames(write(tmp_path / name, frames, lossless=True))), frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
def test_plain_colours_survive_lossy_video(tmp_path, name, colour):
    frames = [np.full((32, 32, 3), colour, np.uint8)] * 3
    read = np.stack(list(read_frames(write(tmp_path / name, frames))))
    assert np.abs(read.astype(int) - colour).max() <= 4


def test_the_colour_matrix_is_tagged(tmp_path):
    path = write(tmp_path / "a.mp4", smooth_frames())
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.pix_fmt) == (1, 1, "yuv420p")


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), 12.5, 30])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "a.webp"])
def test_fractional_rates_are_kept(tmp_path, name, fps):
    assert probe(write(tmp_path / name, smooth_frames(40), fps)).fps == Fraction(fps)


def test_gif_times_are_rounded_but_sum_to_the_duration(tmp_path):
    path = write(tmp_path / "a.gif", smooth_frames(20), Fraction(30))
    with Image.open(path) as image:
        times = []
        for index in range(image.n_frames):
            image.seek(index)
            times.append(image.info["duration"])
    starts = [10 * round(index * 100 / 30) for index in range(21)]
    assert times == list(np.diff(starts))
    assert probe(path).fps == 30


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.mp4", "a.webm"])
def test_equal_consecutive_frames_are_all_kept(tmp_path, name):
    still = smooth_frames(1)[0]
    path = write(tmp_path / name, [still] * 9, Fraction(10))
    assert len(list(read_frames(path))) == 9
    assert probe(path).fps == 10


def test_gif_frames_take_the_nearest_colours_of_their_palette(tmp_path):
    few = [np.where(frame > 127, np.uint8(index * 20), np.uint8(255)) for index, frame in enumerate(coloured_frames())]
    assert np.array_equal(list(read_frames(write(tmp_path / "a.gif", few))), few)
    many = coloured_frames()
    expected = [np.array(Image.fromarray(frame).quantize(256).convert("RGB")) for frame in many]
    assert np.array_equal(list(read_frames(write(tmp_path / "b.gif", many))), expected)


@pytest.mark.parametrize("name", ["a.gif", "a.mp4", "a.webm"])
def test_long_streams_take_flat_memory(tmp_path, name):
    frames = [np.full((16, 16, 3), level, np.uint8) for level in (0, 80, 160, 240)]

    def peak_of(count):
        tracemalloc.start()
        with VideoWriter(tmp_path / name, 16, 16, 25) as writer:
            for index in range(count):
                writer.write(frames[index % 4])
        assert sum(1 for _ in read_frames(tmp_path / name)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_of(10)
    assert peak_of(2000) < peak_of(100) + 200_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident size as Linux reports it")
def test_encoders_of_animations_hold_no_frames_outside_python(tmp_path):
    program = """
import resource, sys
import numpy as np
from rlv2v_fast.data import VideoWriter
frame = np.random.default_rng(0).integers(0, 2, (200, 200, 1), dtype=np.uint8).repeat(3, axis=2) * 255
for name in ("a.gif", "a.webp"):
    with VideoWriter(f"{sys.argv[1]}/{name}", 200, 200, 25) as writer:
        for index in range(200):
            writer.write(np.roll(frame, index, 1))
            if index == 20:
                early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early)
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True)
    # In KiB; the frames take 23 MiB as RGB and 8 MiB as colour indices.
    assert max(map(int, run.stdout.split())) < 4 * 1024


def test_importing_the_package_does_not_import_pyav():
    program = "import sys, rlv2v_fast.data; assert 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path):
    for index in (10, 9, 2):
        Image.new("RGB", (5, 3), (index, 0, 0)).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_text("not a frame either")
    assert [int(frame[0, 0, 0]) for frame in read_frames(tmp_path)] == [2, 9, 10]
    info = probe(tmp_path)
    assert (info.width, info.height, info.fps, info.frames, info.has_audio) == (5, 3, 25, 3, False)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("LA", (200, 0), (0, 0, 0)),
        ("RGBA", (100, 200, 50, 0), (0, 0, 0)),
        ("RGBA", (100, 200, 50, 255), (100, 200, 50)),
        ("I;16", 257 * 90, (90, 90, 90)),
    ],
)
def test_every_kind_of_png_becomes_rgb_on_black(tmp_path, mode, value, expected):
    Image.new(mode, (4, 4), value).save(tmp_path / "0.png")
    (frame,) = read_frames(tmp_path)
    assert frame.shape == (4, 4, 3)
    assert (frame == expected).all()


def test_half_transparent_pixels_are_mixed_with_black(tmp_path):
    Image.new("RGBA", (2, 2), (200, 100, 50, 128)).save(tmp_path / "0.png")
    (frame,) = read_frames(tmp_path)
    assert np.abs(frame[0, 0].astype(int) - (100, 50, 25)).max() <= 1


def test_transparent_parts_of_a_gif_are_black(tmp_path):
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    dots = [clear.copy() for _ in range(3)]
    for index, dot in enumerate(dots):
        dot.putpixel((index, 0), (255, 255, 255, 255))
    dots[0].save(tmp_path / "a.gif", save_all=True, append_images=dots[1:], disposal=2, duration=100)
    for index, frame in enumerate(read_frames(tmp_path / "a.gif")):
        expected = np.zeros((4, 6, 3), np.uint8)
        expected[0, index] = 255
        assert np.array_equal(frame, expected)


def test_a_gray_gif_reads_as_rgb(tmp_path):
    grays = [Image.new("L", (6, 4), level) for level in (10, 200)]
    grays[0].save(tmp_path / "a.gif", save_all=True, append_images=grays[1:], duration=40)
    assert [frame.reshape(-1, 3).max(axis=0).tolist() for frame in read_frames(tmp_path / "a.gif")] == [
        [10] * 3,
        [200] * 3,
    ]


def test_rotation_metadata_is_applied(tmp_path):
    frames = smooth_frames(3, 32, 24)
    path = write(tmp_path / "a.mp4", frames, lossless=True)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    # A quarter turn clockwise, as a phone held upright records.
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 24 * 65536, 0, 1 << 30)
    path.write_bytes(data)
    assert np.array_equal(list(read_frames(path)), [np.rot90(frame, -1) for frame in frames])
    assert (probe(path).width, probe(path).height) == (24, 32)


def test_a_clip_trimmed_by_an_edit_list_is_whole(tmp_path):
    source = write(tmp_path / "a.mp4", smooth_frames(20), Fraction(25))
    with av.open(str(source)) as given_, av.open(str(tmp_path / "b.mp4"), "w") as trimmed:
        stream = given_.streams.video[0]
        copy = trimmed.add_stream_from_template(stream)
        for packet in given_.demux(stream):
            if packet.dts is not None:
                packet.pts -= int(5 / 25 / packet.time_base)
                packet.dts -= int(5 / 25 / packet.time_base)
                packet.stream = copy
                trimmed.mux(packet)
    assert len(list(read_frames(tmp_path / "b.mp4"))) == 15


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm", "a.gif", "a.webp"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.8, 0.95])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = write(tmp_path / name, coloured_frames(16, 32, 32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = read_error(path)
    assert f"video '{path}' " in message
    assert "damaged or not a video" in message or "must hold at least one frame" in message


def test_a_file_cut_between_two_packets_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", coloured_frames(8, 32, 32))
    with av.open(str(path)) as container:
        last = max((p.pos, p.size) for p in container.demux(video=0) if p.size)
    path.write_bytes(path.read_bytes()[: last[0]])
    assert "damaged" in read_error(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi"])
def test_many_flipped_bits_are_refused(tmp_path, name):
    path = write(tmp_path / name, coloured_frames(12, 32, 32))
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(5):
        damaged = bytearray(data)
        for _ in range(200):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert f"'{path}'" in read_error(path)


def test_any_flipped_bit_in_the_pixels_of_a_png_is_refused(tmp_path):
    path = write(tmp_path / "frames", coloured_frames(1)) / "000000.png"
    data = path.read_bytes()
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 16, 97):
        damaged = bytearray(data)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert "000000.png' is damaged" in read_error(tmp_path / "frames")


@pytest.mark.parametrize("name", FILES)
def test_random_bytes_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(random.Random(1).randbytes(5000))
    for message in (read_error(tmp_path / name), error_of(probe, tmp_path / name)):
        assert f"video '{tmp_path / name}' is damaged or not a video: " in message


@given(data=st.binary(max_size=300), name=st.sampled_from(FILES))
def test_arbitrary_bytes_never_read_as_frames(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data)
    read_error(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_a_text_or_picture_file_with_a_video_name_is_refused(tmp_path, name):
    (tmp_path / name).write_text("1\n00:00:00,000 --> 00:00:02,000\nI am a subtitle\n")
    assert "damaged or not a video" in read_error(tmp_path / name)
    Image.new("RGB", (32, 32)).save(tmp_path / name, format="png")
    assert "damaged or not a video" in read_error(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    assert read_error(tmp_path / "no.mp4") == f"video '{tmp_path / 'no.mp4'}' does not exist"
    assert error_of(probe, tmp_path / "no.mp4") == f"video '{tmp_path / 'no.mp4'}' does not exist"


def test_an_unknown_suffix_is_refused_and_the_known_ones_listed(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert "must be a folder of frames or end in one of .avi, .gif, .mkv, .mov, .mp4" in read_error(tmp_path / "a.txt")


def test_a_folder_without_frames_is_refused(tmp_path):
    assert "must be a folder of .jpeg, .jpg, .png frames, but it holds none" in read_error(tmp_path)
    assert "but it holds none" in error_of(probe, tmp_path)


def test_an_audio_file_has_no_video_stream(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        silence.sample_rate = 44100
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    assert "must hold a video stream, but it holds none" in read_error(tmp_path / "a.mp4")


def test_a_change_of_frame_size_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "1.png")
    assert "must keep one frame size, but it changes from 4x4 to 6x4" in read_error(tmp_path)


def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path):
    (tmp_path / "a.mp4").write_text("precious")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 32, 24, 25) as writer:  # noqa: PT012
        writer.write(smooth_frames(1)[0])
        raise KeyError
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["precious"]


def test_an_exception_leaves_the_old_folder_and_no_temporary(tmp_path):
    path = write(tmp_path / "frames", smooth_frames(2))
    with pytest.raises(KeyError), VideoWriter(path, 32, 24, 25) as writer:  # noqa: PT012
        writer.write(smooth_frames(1)[0])
        raise KeyError
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]
    assert len(list(path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_a_new_output_replaces_the_old_one_whole(tmp_path, name):
    write(tmp_path / name, smooth_frames(5))
    write(tmp_path / name, smooth_frames(3))
    assert len(list(read_frames(tmp_path / name))) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_nothing_appears_before_the_end(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 32, 24, 25) as writer:
        writer.write(smooth_frames(1)[0])
        assert not (tmp_path / "a.mp4").exists()
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("name", [*FILES, "frames"])
def test_an_output_without_frames_is_refused(tmp_path, name):
    message = error_of(lambda: VideoWriter(tmp_path / name, 32, 24, 25).__enter__().__exit__(None, None, None))
    assert "must get at least one frame, but none was written" in message
    assert not list(tmp_path.iterdir())


def test_an_unknown_output_suffix_is_refused_before_any_work(tmp_path):
    message = error_of(VideoWriter, tmp_path / "a.flv", 32, 24, 25)
    assert f"output '{tmp_path / 'a.flv'}' must end in one of .avi, .gif, .mkv, .mov, .mp4, .webm, .webp" in message


def test_an_unwritable_place_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    message = error_of(VideoWriter, tmp_path / "file" / "a.mp4", 32, 24, 25)
    assert f"must lie in an existing folder, but '{tmp_path / 'file'}' is not one" in message
    assert "must lie in an existing folder" in error_of(VideoWriter, tmp_path / "no" / "a.mp4", 32, 24, 25)
    assert "but a file of that name exists" in error_of(VideoWriter, tmp_path / "file", 32, 24, 25)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    # The superuser may write anywhere, so the permission is simulated.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "is not writable" in error_of(VideoWriter, tmp_path / "a.mp4", 32, 24, 25)


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "thesis.tex").write_text("precious")
    assert "hold numbered PNG frames alone" in error_of(VideoWriter, tmp_path / "frames", 32, 24, 25)
    (tmp_path / "a.mp4").mkdir()
    assert "a folder of that name exists" in error_of(VideoWriter, tmp_path / "a.mp4", 32, 24, 25)


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, 1e-9])
def test_a_rate_that_is_not_positive_is_refused(tmp_path, fps):
    assert "fps must be positive and finite, got" in error_of(VideoWriter, tmp_path / "a.mp4", 32, 24, fps)


def test_settings_a_format_cannot_hold_are_refused(tmp_path):
    assert "must be at most 50, got 60" in error_of(VideoWriter, tmp_path / "a.gif", 32, 24, 60)
    assert "width and height must be at least 1, got 0x24" in error_of(VideoWriter, tmp_path / "a.gif", 0, 24, 10)
    assert ".webm loses colours" in error_of(VideoWriter, tmp_path / "a.webm", 32, 24, 25, lossless=True)
    no = tmp_path / "no.mp4"
    assert f"audio_from '{no}' does not exist" in error_of(VideoWriter, tmp_path / "a.mp4", 32, 24, 25, no)


@pytest.mark.parametrize(
    "frame", [np.zeros((24, 33, 3), np.uint8), np.zeros((24, 32), np.uint8), np.zeros((24, 32, 3), np.float32)]
)
def test_a_frame_of_another_shape_or_type_is_refused(tmp_path, frame):
    with VideoWriter(tmp_path / "a.mp4", 32, 24, 25) as writer:
        writer.write(smooth_frames(1)[0])
        assert "frame must be uint8 of shape (24, 32, 3), got" in error_of(writer.write, frame)


def test_writing_outside_the_block_is_a_programming_error(tmp_path):
    with pytest.raises(RuntimeError, match="with"):
        VideoWriter(tmp_path / "a.mp4", 32, 24, 25).write(smooth_frames(1)[0])


@pytest.mark.parametrize(
    ("source", "codec", "output", "expected"),
    [
        ("s.mp4", "aac", "o.mp4", "aac"),
        ("s.mp4", "aac", "o.mov", "aac"),
        ("s.mp4", "aac", "o.webm", "opus"),
        ("s.mp4", "aac", "o.avi", "mp3float"),
        ("s.mkv", "libopus", "o.webm", "opus"),
        ("s.mov", "pcm_s16le", "o.mp4", "aac"),
    ],
)
def test_audio_is_carried_over_and_stays_in_time(tmp_path, source, codec, output, expected):
    frames = smooth_frames(50)
    rate = 48000 if codec == "libopus" else 44100
    original = write_with_tone(tmp_path / source, frames, codec, 2.0, rate)
    path = write(tmp_path / output, frames, Fraction(25), audio_from=original)
    name, rate, samples = decoded_audio(path)
    assert name == expected
    assert probe(path).has_audio
    assert len(list(read_frames(path))) == 50
    assert len(samples) / rate == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=3)


def test_copied_audio_is_bit_exact(tmp_path):
    original = write_with_tone(tmp_path / "s.mp4", smooth_frames(50), "aac", 2.0)
    path = write(tmp_path / "o.mp4", smooth_frames(50), audio_from=original)

    def payload(file):
        with av.open(str(file)) as container:
            return b"".join(bytes(packet) for packet in container.demux(audio=0))

    assert payload(original).startswith(payload(path))
    assert len(payload(path)) > 0.9 * len(payload(original))


@pytest.mark.parametrize("output", ["o.mp4", "o.webm"])
def test_audio_is_cut_to_the_length_of_the_frames(tmp_path, output):
    original = write_with_tone(tmp_path / "s.mp4", smooth_frames(50), "aac", 2.0)
    _, rate, samples = decoded_audio(write(tmp_path / output, smooth_frames(10), audio_from=original))
    assert len(samples) / rate == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("output", ["o.gif", "o.webp", "frames"])
def test_outputs_that_hold_no_audio_drop_it(tmp_path, output):
    original = write_with_tone(tmp_path / "s.mp4", smooth_frames(5), "aac", 0.2)
    assert not probe(write(tmp_path / output, smooth_frames(5), audio_from=original)).has_audio


def test_a_silent_source_gives_a_silent_output(tmp_path):
    for name in ("s.mp4", "s.gif", "frames"):
        source = write(tmp_path / name, smooth_frames(3))
        assert not probe(write(tmp_path / "o.mp4", smooth_frames(3), audio_from=source)).has_audio


def test_damaged_audio_leaves_no_output(tmp_path):
    (tmp_path / "s.mp4").write_bytes(b"nothing" * 100)
    assert "s.mp4' is damaged" in error_of(write, tmp_path / "o.mp4", smooth_frames(3), audio_from=tmp_path / "s.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.mp4"]


def test_every_level_survives_the_way_to_a_tensor_and_back():
    frames = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1).repeat(3, axis=-1)
    video = to_tensor(frames)
    assert video.dtype == torch.float32
    assert video.shape == (2, 3, 8, 16)
    assert video.is_contiguous()
    assert (video.min(), video.max()) == (-1, 1)
    assert np.array_equal(to_uint8(video), frames)
    assert np.array_equal(to_uint8(video[0]), frames[0])
    assert torch.equal(to_tensor(list(frames)), video)


@given(value=st.floats(-3, 3, width=32))
def test_to_uint8_rounds_to_the_nearest_level_and_clamps(value):
    level = int(to_uint8(torch.full((3, 1, 1), value))[0, 0, 0])
    nearest = min(max((value + 1) * 127.5, 0), 255)
    assert abs(level - nearest) <= 0.5 + 1e-4


def test_tensor_helpers_refuse_other_shapes_and_types():
    assert "frames must be uint8 of shape (T, H, W, C)" in error_of(to_tensor, np.zeros((4, 4, 3), np.uint8))
    assert "frames must be uint8" in error_of(to_tensor, np.zeros((1, 4, 4, 3), np.float32))
    assert "non-empty list of arrays of one shape" in error_of(to_tensor, [])
    assert "must be floating point of shape" in error_of(to_uint8, torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert "must be floating point of shape" in error_of(to_uint8, torch.zeros(4, 4))
