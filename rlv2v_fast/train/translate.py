"""Translating video files of any length, height and width in constant memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.timing import TimedFrame, at_rate
from rlv2v_fast.data.tracks import say
from rlv2v_fast.data.video import probe, read_timed, to_tensor, to_uint8
from rlv2v_fast.data.writer import VideoWriter, check_target, pace
from rlv2v_fast.looks.cube import read_cube
from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.budget import MIB
from rlv2v_fast.models.rlv2vgan import CHUNK, RLV2VGAN
from rlv2v_fast.train.checkpoint import model_folder


def load_model(path: Path, device: torch.device, *, backend: str = "auto") -> RLV2VGAN | Look:
    """The model in the folder of a run (its best model or newest checkpoint), a checkpoint or a saved model, or a look.

    A look is what a .cube file holds.
    """
    if path.suffix.lower() == ".cube" and not path.is_dir():
        return read_cube(path).to(device)
    return RLV2VGAN.from_pretrained(model_folder(path), backend=backend).to(device)


def translate_file(
    model: RLV2VGAN | Look,
    source: Path,
    output: Path,
    *,
    direction: str = "x2y",
    device: torch.device | None = None,
    chunk: int = CHUNK,
    memory: float | None = None,
    max_height: int | None = None,
    fps: Fraction | None = None,
    quiet: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """The number of frames of a video file that were translated and written to output.

    The output has the size of the source (unless max_height lowers it), each frame at its own time, and its audio,
    subtitles, chapters and texts where the format of output can hold them (docs/video.md). What it cannot hold is told
    by a MediaWarning.
    Memory does not grow with the video's length. If the source proves to be damaged, there is no output.

    Args:
        source: video file, gif, webp or folder of frames.
        output: mp4, mov, mkv, webm, avi, gif or webp by suffix; no suffix writes a folder of png.
        direction: "x2y" or "y2x".
        chunk, memory: frames at once, at most, and MiB for the network to work with, as of RLV2VGAN.portion. A look
            takes one frame at a time and a few MiB beside it.
        max_height: frames that are higher, in pixels, are made smaller first, in their shape.
        fps: frames per second of the output, which are then equally far apart; those of a folder of frames, which
            has no times. Each frame keeps its time by default.
        tell: called with a sentence where a single frame takes more than that memory.

    Raises:
        InputError: source cannot be read, or output cannot be written.
    """
    check_target(output, source)
    info = probe(source)
    for note in info.notes:
        say(source, note)
    if fps is not None and info.tick is None:
        info = dataclasses.replace(info, fps=fps)
    speed, size = pace(output, info, fps), lowered(info.width, info.height, max_height)
    read = 0
    times: deque[tuple[Fraction, Fraction]] = deque()

    def counted() -> Iterator[TimedFrame]:
        nonlocal read
        for frame in read_timed(source, info.fps):
            read += 1
            yield frame

    def pixels() -> Iterator[np.ndarray]:
        # Frames that a constant rate leaves out are not translated.
        for frame in at_rate(counted(), speed.fps) if speed.constant else counted():
            times.append((frame.start, frame.duration))
            yield scaled(frame.pixels, size)

    device = device or model.device
    count = 0
    with (
        VideoWriter(output, *size, speed.fps, source, like=info, constant=speed.constant) as writer,
        tqdm(total=info.frames, unit="frame", disable=quiet) as bar,
    ):
        for piece in translated(model, pixels(), size, direction, device, chunk, memory, tell):
            for frame in piece:
                writer.write(frame, *times.popleft())
                count += 1
            bar.update(len(piece))
    repeated = writer.resampled[0]
    if fps is None and (repeated or count < read):
        at = f"it shows {float(speed.fps):g} frames a second at a constant rate"
        say(output, f"{at}: {repeated} frames are repeats, and {read - count} of the source are left out")
    return count


def translated(
    model: RLV2VGAN | Look,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    direction: str,
    device: torch.device,
    chunk: int,
    memory: float | None,
    tell: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """The translations of a video's frames of size (width, height), as many at once as memory allows: (t, H, W, 3)."""
    if not isinstance(model, RLV2VGAN):
        floats = (to_tensor(frame[None]).unsqueeze(0).to(device) for frame in frames)
        yield from (to_uint8(output[0]) for output in model.translate_stream(floats, direction))
        return
    width, height = size
    at_once = model.portion(height, width, direction, chunk=chunk, memory=memory)
    if at_once.bytes > at_once.budget:
        tell(
            f"a frame of {width}x{height} pixels cannot be divided in this network and takes about "
            f"{at_once.bytes / MIB:.3g} MiB; memory allows {at_once.budget / MIB:.3g} MiB"
        )
    pieces = _pieces(frames, at_once.frames, device)
    for output in model.translate_stream(pieces, direction, chunk=chunk, memory=memory):
        yield output[0].movedim(1, -1).cpu().numpy()


def _pieces(frames: Iterable[np.ndarray], count: int, device: torch.device) -> Iterator[Tensor]:
    """Tensors (1, t, 3, H, W) of at most `count` consecutive frames each, uint8."""
    stream = iter(frames)
    while group := list(itertools.islice(stream, count)):
        yield torch.from_numpy(np.stack(group)).movedim(-1, 1).unsqueeze(0).to(device)
