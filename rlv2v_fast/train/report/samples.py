"""Short videos for a report: clips of the source, their translations and reconstructions, and clips of the target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.scale import lowered, scaled
from rlv2v_fast.data.video import probe, read_frames, to_uint8
from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.domains import DIRECTIONS, OTHER
from rlv2v_fast.errors import InputError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.protocols import ClipSource

SAMPLES, INDEX = "samples", "samples.json"
KINDS = ("original", "translation", "reconstruction", "other")
FPS = 10
# Scenes of each direction, frames of a clip at most, and their height in pixels.
_SCENES = {"x2y": 3, "y2x": 2}
_FRAMES, _HEIGHT = 24, 144
# Frames of a long video that are decoded to come to its clip, at most: a report takes seconds.
_SKIPPED = 60


@dataclass(frozen=True)
class Clip:
    """A few frames of a video (T, H, W, 3) uint8, and the video's name."""

    name: str
    frames: np.ndarray


def clips_of(config: TrainConfig, domains: Mapping[str, ClipSource] | None) -> dict[str, list[Clip]]:
    """Clips of both domains, as high as a report shows them, in their videos' shape.

    Args:
        domains: the clips of the run, for videos that cannot be read. They are as large as in training.

    Raises:
        InputError: there are neither videos nor domains.
    """
    frames = min(config.frames, _FRAMES)
    try:
        return {
            "x": _read(config.source, None, frames, "source"),
            "y": _read(config.target, config.few_shot, frames, "target"),
        }
    except (InputError, OSError):
        if domains is None:
            raise
    spread = {domain: to_uint8(source.spread(_most()).flatten(0, 1)) for domain, source in domains.items()}
    return {
        domain: [Clip(f"clip {index + 1}", clip[:frames]) for index, clip in enumerate(np.split(every, _most()))]
        for domain, every in spread.items()
    }


def _most() -> int:
    return max(_SCENES.values())


def _read(path: Path | None, few_shot: int | None, frames: int, argument: str) -> list[Clip]:
    """Clips from videos that are spread evenly over those of path. A video that cannot be read is left out."""
    if path is None:
        raise InputError(f"{argument} is not known")
    videos = find_videos(path, argument)[:few_shot]
    clips: list[Clip] = []
    reason = InputError(f"{argument} {str(path)!r} holds no video that can be read")
    for index in range(_most()):
        video = videos[index * len(videos) // _most()]
        try:
            clips.append(Clip(video.name, _middle(video, (index + 1) / (_most() + 1), frames)))
        except (InputError, OSError) as error:
            reason = InputError(str(error))
    if not clips:
        raise reason
    return clips


def _middle(video: Path, place: float, frames: int) -> np.ndarray:
    """Frames from a place in [0, 1] of a video, or from as near to it as can be reached soon."""
    info = probe(video)
    first = min(int(place * max(0, (info.frames or 0) - frames)), _SKIPPED)
    size = lowered(info.width, info.height, _HEIGHT)
    stream = read_frames(video)
    found = [scaled(frame, size) for frame in islice(stream, first, first + frames)]
    if not found:
        raise InputError(f"video '{video}' has no frame {first}")
    return np.stack(found)


def make(run: Path, model_folder: Path, clips: Mapping[str, list[Clip]], device: torch.device) -> Path:
    """The folder with the videos of a model's samples, which replaces that of an earlier model.

    It holds DIRECTION_SCENE_KIND.mp4 for each scene and kind of KINDS, and their names in samples.json. The videos of a
    scene have equally many frames.
    """
    model = RLV2VGAN.from_pretrained(model_folder).to(device)
    folder = run / SAMPLES / model_folder.name
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    index: dict[str, list[list[str]]] = {}
    for direction, domain in DIRECTIONS.items():
        pairs = list(zip(clips[OTHER[domain]], clips[domain], strict=False))[: _SCENES[direction]]
        for number, (original, other) in enumerate(pairs):
            length = min(len(original.frames), len(other.frames))
            index.setdefault(direction, []).append([original.name, other.name])
            source = original.frames[:length]
            translation = _translated(model, source, direction, device)
            back = _translated(model, translation, f"{direction[2]}2{direction[0]}", device)
            for kind, frames in zip(KINDS, (source, translation, back, other.frames[:length]), strict=True):
                _write(unfinished / f"{direction}_{number}_{kind}.mp4", frames)
    (unfinished / INDEX).write_text(json.dumps(index) + "\n")
    for old in (run / SAMPLES).iterdir():
        if old != unfinished:
            shutil.rmtree(old, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def _translated(model: RLV2VGAN, frames: np.ndarray, direction: str, device: torch.device) -> np.ndarray:
    video = torch.from_numpy(frames.copy()).movedim(-1, 1).to(device)
    return model.translate(video, direction).cpu().movedim(1, -1).numpy()


def _write(path: Path, frames: np.ndarray) -> None:
    """Write frames as H.264 that every browser shows: with even sides, and small ones enlarged by a whole number."""
    factor = max(1, -(-_HEIGHT * 3 // 4 // frames.shape[1]))
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    even = large[:, : max(2, large.shape[1] // 2 * 2), : max(2, large.shape[2] // 2 * 2)]
    with VideoWriter(path, even.shape[2], even.shape[1], FPS) as writer:
        for frame in even:
            writer.write(np.ascontiguousarray(frame))


@dataclass(frozen=True)
class Scene:
    """The videos of a scene by their kind, as bytes of mp4, and the names of the two videos that they are from."""

    names: tuple[str, str]
    videos: Mapping[str, bytes]


def saved(run: Path) -> tuple[str | None, dict[str, list[Scene]]]:
    """The name of the model whose samples a run's folder holds, and their scenes by direction; (None, {}) for none."""
    for path in sorted((run / SAMPLES).glob(f"step_*/{INDEX}"), reverse=True):
        try:
            index = json.loads(path.read_text())
            return path.parent.name, {
                direction: [
                    Scene(
                        (str(names[0]), str(names[1])),
                        {kind: (path.parent / f"{direction}_{number}_{kind}.mp4").read_bytes() for kind in KINDS},
                    )
                    for number, names in enumerate(index[direction])
                ]
                for direction in DIRECTIONS
                if direction in index
            }
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None, {}
