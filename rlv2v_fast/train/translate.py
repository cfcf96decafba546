"""Translating video files of any length, height and width in constant memory."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.video import probe, read_frames, to_uint8
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.looks.cube import read_cube
from rlv2v_fast.looks.look import Look
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.checkpoint import model_folder
from rlv2v_fast.train.frames import pieces


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
    chunk: int = 8,
    max_height: int | None = None,
    quiet: bool = True,
) -> int:
    """The number of frames of a video file that were translated and written to output.

    The output has the frame count, rate and size of the source (unless max_height lowers it), and its audio if the
    format of output can hold it.
    Memory does not grow with the video's length. If the source proves to be damaged, there is no output.

    Args:
        source: video file, gif, webp or folder of frames.
        output: mp4, mov, webm, avi, gif or webp by suffix; no suffix writes a folder of png.
        direction: "x2y" or "y2x".
        chunk: frames translated at once.
        max_height: frames that are higher, in pixels, are made smaller first, in their shape.

    Raises:
        InputError: source cannot be read, or output cannot be written.
    """
    info = probe(source)
    size = lowered(info.width, info.height, max_height)
    device = device or model.device
    count = 0
    with (
        VideoWriter(output, *size, info.fps, audio_from=source if info.has_audio else None) as writer,
        tqdm(total=info.frames, unit="frame", disable=quiet) as bar,
    ):
        frames = (scaled(frame, size) for frame in read_frames(source))
        for piece in model.translate_stream(pieces(frames, chunk, device), direction):
            for frame in to_uint8(piece[0].cpu()):
                writer.write(frame)
                count += 1
            bar.update(piece.shape[1])
    return count
