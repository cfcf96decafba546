"""Videos of every kind, made by PyAV alone, and what is in a video."""

import contextlib
from fractions import Fraction

import av
import numpy as np

from rlv2v_fast.data import probe, read_timed

# Thirty frames a second for two seconds, then five.
UNEVEN = [Fraction(i, 30) for i in range(60)] + [2 + Fraction(i, 5) for i in range(15)]


def gray(level, size=(32, 32)):
    return np.full((size[1], size[0], 3), level, np.uint8)


def plain(colour, size=(32, 32)):
    return np.full((size[1], size[0], len(colour)), colour, np.uint8)


def flashing(starts):
    """A white frame at each whole second, dark ones between."""
    return [gray(255 if start.denominator == 1 else 20) for start in starts]


def clicks(seconds, rate=48000):
    """Samples ``(1, n)`` with 50 ms of 1 kHz from each whole second on."""
    time = np.arange(round(seconds * rate)) / rate
    return (np.where(time % 1 < 0.05, np.sin(2 * np.pi * 1000 * time), 0) * 20000).astype(np.int16)[None]


def make(
    path,
    frames,
    starts=None,
    end=None,
    *,
    codec="libx264",
    options=(("preset", "ultrafast"), ("bf", "0")),
    pixels="yuv420p",
    unit=Fraction(1, 90000),
    rate=30,
    offset=Fraction(0),
    audio=(),
    prepare=lambda container, stream: None,
    given="rgb24",
    matrix=None,
    tag=lambda frame: None,
):
    """Write frames at times, whatever the rate.

    Args:
        starts, end: of the frames, in seconds; evenly at rate by default.
        offset: of the pictures against the audio, in seconds.
        audio: (codec, rate, layout, samples, start) of each audio track.
        prepare: called with the container and the video stream before the first frame.
        given: the pixel format of frames.
        matrix: the colour matrix, 1 for BT.709, which is not told; BT.601 by default.
        tag: called with each frame as it is encoded.
    """
    starts = starts if starts is not None else [Fraction(i, rate) for i in range(len(frames))]
    ends = [*starts[1:], end if end is not None else starts[-1] + Fraction(1, rate)]
    durations = {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options) if codec == "libx264" else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, unit
        tracks = [(container.add_stream(name, rate=hz, layout=layout), *rest) for name, hz, layout, *rest in audio]
        prepare(container, stream)

        def mux(packets):
            for packet in packets:
                packet.duration = durations.get(packet.pts, packet.duration)
                container.mux(packet)

        for frame, start, stop in zip(frames, starts, ends, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format=given).reformat(format=pixels, dst_colorspace=matrix)
            picture.colorspace = 2
            picture.pts, picture.time_base = round((start + offset) / unit), unit
            durations[picture.pts] = round((stop + offset) / unit) - picture.pts
            tag(picture)
            mux(stream.encode(picture))
        mux(stream.encode(None))
        for track, samples, start in tracks:
            layout = track.codec_context.layout
            hz = track.codec_context.sample_rate
            for first in range(0, samples.shape[1], 1024):
                interleaved = np.repeat(samples[:, first : first + 1024], len(layout.channels), axis=1)
                sound = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout.name)
                sound.sample_rate, sound.time_base = hz, Fraction(1, hz)
                sound.pts = round(start * hz) + first
                container.mux(track.encode(sound))
            container.mux(track.encode(None))
    return path


def remux(path, to, change):
    """Copy the video stream of path, each packet changed by change(packet)."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                change(packet)
                packet.stream = copy
                target.mux(packet)
    return to


def flashes(path):
    """When white frames appear, and the end of the last frame, on the container's clock in seconds."""
    first, times, before = probe(path).start, [], 0
    for frame in read_timed(path):
        if frame.pixels.mean() > 128 >= before:
            times.append(float(first + frame.start))
        before, end = frame.pixels.mean(), first + frame.start + frame.duration
    return times, float(end)


def beeps(path, track=0):
    """When tones begin, and the end of the audio, on the container's clock in seconds."""
    times, last = [], -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.audio[track]):
            values = np.abs(frame.to_ndarray().astype(float)).max(axis=0)
            if not frame.format.is_planar:
                values = values.reshape(-1, len(frame.layout.channels)).max(axis=1)
            loud = np.flatnonzero(values > (0.2 if frame.format.name.startswith("flt") else 6000))
            for time in frame.pts * float(frame.time_base) + loud / frame.sample_rate:
                if time - last > 0.3:
                    times.append(float(time))
                last = time
            end = frame.pts * float(frame.time_base) + frame.samples / frame.sample_rate
    return times, end


def first_pixel(path):
    return next(read_timed(path)).pixels[2, 2].tolist()


@contextlib.contextmanager
def no_more_than(size):
    """Files cannot grow beyond size bytes, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
