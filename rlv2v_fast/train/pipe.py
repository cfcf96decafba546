"""Translating raw video from standard input, to standard output, or both."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.video import probe, read_frames, to_uint8
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.data.y4m import Y4mReader, Y4mWriter
from rlv2v_fast.errors import InputError
from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.frames import pieces

PIPE = Path("-")


def translate_pipe(
    model: RLV2VGAN | Look,
    source: Path,
    output: Path,
    *,
    direction: str = "x2y",
    device: torch.device,
    chunk: int = 8,
    max_height: int | None = None,
) -> int:
    """The number of frames that were translated, from or to a pipe of raw video (data/y4m.py), or both.

    There is no audio. From standard input frames are translated one by one, whatever chunk says, so that none waits
    for the next.

    Args:
        source, output: a video as translate_file takes it, or "-" for standard input and output.
        direction, device, chunk, max_height: as translate_file takes them.

    Raises:
        InputError: source cannot be read, or output cannot be written.
        PipeClosedError: nobody reads standard output any more.
    """
    for end, stream, name in ((source, sys.stdin, "input"), (output, sys.stdout, "output")):
        if end == PIPE and stream.isatty():
            raise InputError(f"{name} '-' must be a pipe or a file of raw video; it is a terminal")
    with ExitStack() as stack:
        frames: Iterable[np.ndarray]
        if source == PIPE:
            reader = Y4mReader(sys.stdin.buffer)
            stack.callback(reader.close)
            frames, width, height, fps, chunk = reader, reader.width, reader.height, reader.fps, 1
        else:
            info = probe(source)
            frames, width, height, fps = read_frames(source), info.width, info.height, info.fps
        size = lowered(width, height, max_height)
        writer: Y4mWriter | VideoWriter
        if output == PIPE:
            writer = stack.enter_context(Y4mWriter(sys.stdout.buffer, *size, fps))
        else:
            writer = stack.enter_context(VideoWriter(output, *size, fps))
        smaller = (scaled(frame, size) for frame in frames)
        count = 0
        for piece in model.translate_stream(pieces(smaller, chunk, device), direction):
            for frame in to_uint8(piece[0].cpu()):
                writer.write(frame)
                count += 1
        return count
