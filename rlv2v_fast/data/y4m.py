"""Raw video in a pipe (YUV4MPEG2), so that ffmpeg, a camera or a player can stand on either side.

`ffmpeg -i in.mkv -f yuv4mpegpipe - | rlv2v translate --model RUN - - | ffplay -`
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from rlv2v_fast.data.colour import guessed_matrix
from rlv2v_fast.data.names import check_pixels
from rlv2v_fast.errors import InputError, PipeClosedError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream

_FORMAT = "yuv4mpegpipe"
# AVCOL_RANGE_MPEG and AVCOL_RANGE_JPEG.
_LIMITED, _FULL = 1, 2
_ALL_AT_ONCE = 2**16


class Y4mReader:
    """The frames of a raw video, as they come.

    Args:
        stream: of bytes.

    Attributes:
        width, height: of a frame in pixels. fps: frames per second, 25 where the stream does not say.

    Raises:
        InputError: the stream is no YUV4MPEG2 video.
    """

    def __init__(self, stream: BinaryIO) -> None:
        import av

        self._bytes = _Counted(stream)
        try:
            self._container = av.open(self._bytes, "r", format=_FORMAT)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(
                "input '-' must be raw video as `ffmpeg -f yuv4mpegpipe` writes it; its header cannot be read"
            ) from error
        self._stream = self._container.streams.video[0]
        self.width, self.height = self._stream.width, self._stream.height
        check_pixels("input '-'", self.width, self.height)
        self.fps = Fraction(self._stream.average_rate or 25)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame as (H, W, 3) uint8 RGB.

        Raises:
            InputError: the stream is damaged, or ends within a frame.
        """
        import av
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        size = 0
        try:
            for packet in self._container.demux(self._stream):
                size = size or packet.size
                for frame in packet.decode():
                    rgb = reformatter.reformat(
                        frame,
                        format="rgb24",
                        src_colorspace=guessed_matrix(frame.width, frame.height),  # the format does not say it
                        src_color_range=_FULL if frame.color_range == _FULL else _LIMITED,
                    )
                    yield rgb.to_ndarray()
        except av.FFmpegError as error:
            raise InputError(f"input '-' is damaged: {error.strerror}") from error
        if self._bytes.has_rest(size):
            raise InputError("input '-' ends within a frame")

    def close(self) -> None:
        """Close the container. The stream stays open."""
        self._container.close()


class _Counted:
    """A stream that gives at once what is there, so that no frame waits for the next; it counts bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self._header: int | None = None
        self._start = b""
        self._count = 0

    def read(self, size: int) -> bytes:
        data = self._read(min(size, _ALL_AT_ONCE))
        if self._header is None:
            self._start += data
            end = self._start.find(b"\n")
            self._header = end + 1 if end >= 0 else None
        self._count += len(data)
        return data

    def has_rest(self, size: int) -> bool:
        """Whether some bytes make no whole frame, of `size` bytes after a line FRAME without parameters."""
        return bool(size and (self._count - (self._header or 0)) % (size + len("FRAME\n")))


class Y4mWriter:
    """Write frames as raw video, each as soon as it is given: 4:2:0 where both sides are even, otherwise 4:4:4.

    Args:
        stream: of bytes.
        width, height: of a frame in pixels.
        fps: frames per second.
    """

    def __init__(self, stream: BinaryIO, width: int, height: int, fps: Fraction) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.frames = 0
        self._reformatter = VideoReformatter()
        self._bytes = _Flushed(stream)
        self._container = av.open(self._bytes, "w", format=_FORMAT)
        self._stream = cast("VideoStream", self._container.add_stream("wrapped_avframe", rate=fps))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"

    def __enter__(self) -> Y4mWriter:
        return self

    def write(self, pixels: np.ndarray) -> None:
        """Write one (height, width, 3) uint8 RGB frame.

        Raises:
            PipeClosedError: nobody reads any more.
        """
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._reformatter.reformat(
            frame,
            format=self._stream.pix_fmt,
            dst_colorspace=guessed_matrix(frame.width, frame.height),  # the format does not say it
            dst_color_range=_LIMITED,
        )
        frame.pts = self.frames
        self._mux(frame)
        self.frames += 1

    def _mux(self, frame: VideoFrame) -> None:
        from av.error import FFmpegError

        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, FFmpegError) as error:  # not every error of libav is an OSError
            if self._bytes.is_closed:
                raise PipeClosedError from error
            raise InputError(f"output '-' cannot be written: {getattr(error, 'strerror', error)}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from av.error import FFmpegError

        try:
            self._container.close()
        except (OSError, FFmpegError):
            if kind is None and not self._bytes.is_closed:
                raise


class _Flushed:
    """A stream whose reader gets each frame at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.is_closed = False

    def write(self, data: bytes) -> int:
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            self.is_closed = True
            raise
        return len(data)
