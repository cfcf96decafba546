"""Looks from files, and runs that a look settles without training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.data.video import read_frames, to_tensor
from rlv2v_fast.domains import DIRECTIONS, OTHER
from rlv2v_fast.files import write_text
from rlv2v_fast.looks.evidence import ENOUGH, lights_in_the_dark
from rlv2v_fast.looks.pairs import fit_pairs
from rlv2v_fast.looks.prior import Estimate, estimate
from rlv2v_fast.looks.statistics import frames_of
from rlv2v_fast.models.look import LookGenerator
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.pairs import read_pairs
from rlv2v_fast.train.protocols import ClipSource

_T = TypeVar("_T")
# Moments of a side that are looked at, spread evenly over its videos: what an estimate can use.
MOMENTS = 40
# Frames of a video between two that are kept while it is read, at first; the step doubles where a video is long.
_STEP = 4
LOOK_FILE = "look.json"


def look_of(source: Path, target: Path) -> Estimate:
    """The look of the target's videos, for the source's.

    Raises:
        InputError: source or target is missing, cannot be read or holds no video.
    """
    return estimate(_moments(source, "source"), _moments(target, "target"))


@dataclass(frozen=True)
class Settled:
    """What the clips of a run say of looks.

    estimates: by direction. evidence: of what the source cannot show under the look (looks.evidence), from source to
    target. alone: whether the look explains the target, so that nothing is left to train.
    """

    estimates: Mapping[str, Estimate]
    evidence: float

    @property
    def alone(self) -> bool:
        return self.evidence < ENOUGH

    def __str__(self) -> str:
        matched = self.estimates["x2y"].matched
        found = (
            f"a look, fitted to {matched} frames of the target that show what the source shows,"
            if matched
            else "a look"
        )
        shown = f"lights in the dark that the look does not explain: evidence {self.evidence:.3g}, {ENOUGH} is enough"
        if not self.alone:
            return f"{found} and a game: the target shows {shown}"
        return f"{found} alone: the target shows no {shown}"


def settle(domains: Mapping[str, ClipSource], pairs: Path | None = None) -> Settled:
    """Estimate the look of each domain from the clips of both, and fit it to true pairs where there are any.

    Raises:
        InputError: pairs is not what read_pairs takes.
    """
    # Large clips are let go at once: a look is estimated from small frames. Of few clips, some come several times.
    clips = {domain: torch.unique(frames_of(domains[domain].spread(MOMENTS)), dim=0) * 2 - 1 for domain in OTHER}
    estimates = {name: estimate(clips[OTHER[domain]], clips[domain]) for name, domain in DIRECTIONS.items()}
    if pairs is not None:
        source, target = read_pairs(pairs)
        for name, (there, back) in {"x2y": (source, target), "y2x": (target, source)}.items():
            fitted = fit_pairs(estimates[name].look, there, back)
            estimates[name] = dataclasses.replace(estimates[name], look=fitted)
    return Settled(estimates, lights_in_the_dark(estimates["x2y"].look, clips["x"], clips["y"]))


def model_of(settled: Settled) -> RLV2VGAN:
    """A model whose generators are the estimated looks. Its other networks are small and not trained."""
    model = RLV2VGAN(ModelConfig(width=4, critics=0, generator="look", discriminator="patch", output="gain"))
    for name, domain in DIRECTIONS.items():
        for group in (model.generators, model.generators_ema):
            generator = group[domain]
            assert isinstance(generator, LookGenerator)
            generator.set(settled.estimates[name].look)
    return model.eval()


def write_report(settled: Settled, run: Path) -> None:
    """Write look.json: what was estimated, how sure it is, and what it decided."""
    record = {
        "alone": settled.alone,
        "words": str(settled),
        "evidence": settled.evidence,
        "enough": ENOUGH,
        **{name: {"spread": found.spread, "matched": found.matched} for name, found in settled.estimates.items()},
    }
    write_text(run / LOOK_FILE, json.dumps(record, indent=1) + "\n", f"report {str(run / LOOK_FILE)!r}")


def _moments(path: Path, argument: str) -> Tensor:
    """Frames from the videos of path, each a clip of its own: (N, 1, 3, SIDE, SIDE) in [-1, 1]."""
    videos = find_videos(path, argument)
    each = math.ceil(MOMENTS / len(videos))
    chosen = [_spread(video, each) for video in _even(videos, MOMENTS)]
    return torch.cat(chosen)[:, None]


def _spread(video: Path, count: int) -> Tensor:
    """At most count frames spread evenly over a video, as (n, 3, SIDE, SIDE) in [-1, 1], in constant memory."""
    kept: list[Tensor] = []
    step = _STEP
    for index, frame in enumerate(read_frames(video)):
        if index % step == 0:
            kept.append(frames_of(to_tensor(frame[None])[None], 1)[0, 0] * 2 - 1)
            if len(kept) == 4 * count:
                kept, step = kept[::2], step * 2
    return torch.stack(_even(kept, count))


def _even(items: list[_T], count: int) -> list[_T]:
    """At most count items, spread evenly."""
    if len(items) <= count:
        return items
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, count)]
