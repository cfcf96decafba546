"""Translating raw video from standard input, to standard output, or both."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.timing import TimedFrame, at_rate
from rlv2v_fast.data.tracks import say, say_left_out
from rlv2v_fast.data.video import probe, read_timed
from rlv2v_fast.data.writer import Pace, VideoWriter, pace
from rlv2v_fast.data.y4m import Y4mReader, Y4mWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.rlv2vgan import CHUNK, RLV2VGAN
from rlv2v_fast.train.translate import translated

PIPE = Path("-")


def translate_pipe(
    model: RLV2VGAN | Look,
    source: Path,
    output: Path,
    *,
    direction: str = "x2y",
    device: torch.device,
    chunk: int = CHUNK,
    memory: float | None = None,
    max_height: int | None = None,
    fps: Fraction | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """The number of frames that were translated, from or to a pipe of raw video (data/y4m.py), or both.

    There is no audio. From standard input frames are translated one by one, whatever chunk says, so that none waits
    for the next.

    Args:
        source, output: a video as translate_file takes it, or "-" for standard input and output.
        direction, device, chunk, memory, max_height, fps, tell: as translate_file takes them. Raw video has one rate:
            a source whose rate varies is resampled.

    Raises:
        InputError: source cannot be read, or output cannot be written.
        PipeClosedError: nobody reads standard output any more.
    """
    for end, stream, name in ((source, sys.stdin, "input"), (output, sys.stdout, "output")):
        if end == PIPE and stream.isatty():
            raise InputError(f"{name} '-' must be a pipe or a file of raw video; it is a terminal")
    with ExitStack() as stack:
        frames: Iterable[TimedFrame]
        if source == PIPE:
            reader = Y4mReader(sys.stdin.buffer)
            stack.callback(reader.close)
            width, height, rate, chunk = reader.width, reader.height, reader.fps, 1
            frames = (TimedFrame(pixels, index / rate, 1 / rate) for index, pixels in enumerate(reader))
            speed = Pace(fps or rate, constant=fps is not None)
        else:
            info = probe(source)
            for note in info.notes:
                say(source, note)
            if fps is not None and info.tick is None:
                info = dataclasses.replace(info, fps=fps)
            say_left_out(source, "raw video")
            width, height, frames, speed = (
                info.width,
                info.height,
                read_timed(source, info.fps),
                pace(output, info, fps),
            )
        if speed.constant:
            frames = at_rate(frames, speed.fps)
        size = lowered(width, height, max_height)
        writer: Y4mWriter | VideoWriter
        if output == PIPE:
            writer = stack.enter_context(Y4mWriter(sys.stdout.buffer, *size, speed.fps))
        else:
            writer = stack.enter_context(VideoWriter(output, *size, speed.fps, constant=speed.constant))
        times: deque[tuple[Fraction, Fraction]] = deque()

        def pixels() -> Iterator[np.ndarray]:
            for frame in frames:
                times.append((frame.start, frame.duration))
                yield scaled(frame.pixels, size)

        count = 0
        for piece in translated(model, pixels(), size, direction, device, chunk, memory, tell):
            for frame in piece:
                start, duration = times.popleft()
                if isinstance(writer, VideoWriter):
                    writer.write(frame, start, duration)
                else:
                    for _ in range(round(duration * speed.fps)):
                        writer.write(frame)
                count += 1
        return count
