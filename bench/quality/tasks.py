"""The tasks: their training clips, and the scores of a translation on pairs that training never sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.quality.flow import Motion
from bench.quality.score import (
    Features,
    Pair,
    Translate,
    daynight_baselines,
    figure1_baselines,
    read_clips,
    score_clips,
    score_figure1,
    score_lights,
    translations,
)
from bench.quality.variants import DAYNIGHT, FIGURE1_VARIANTS, Configs
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips, figure1_pair
from rlv2v_fast.data.video import to_tensor
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.demo import SOURCE_CLIPS, TEST_SCENES

Scores = dict[str, Any]


@dataclass(frozen=True)
class Task(ABC):
    """A task; features and motion are those of score_clips."""

    features: Features | None
    motion: Motion | None
    name: ClassVar[str]
    variants: ClassVar[Configs]
    # Whether the weights of a run are chosen by the unpaired score.
    selects: ClassVar[bool]

    @abstractmethod
    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """The unpaired training clips, with k of the target."""

    @property
    @abstractmethod
    def pairs(self) -> list[Pair]:
        """The pairs that translations are scored on. No training clip shows their scenes."""

    @abstractmethod
    def baselines(self, k: int) -> dict[str, Translate]:
        """Translations by name that need no training, fitted to the k target clips."""

    @abstractmethod
    def scores(self, translate: Translate) -> Scores:
        """The scores of a translation from source to target."""

    def back_scores(self, translate: Translate) -> Scores:
        """The scores of a translation from target to source."""
        turned = [Pair(pair.truth, pair.source) for pair in self.pairs]
        return score_clips(translations(translate, turned), turned, self.features, self.motion)

    def heldout(self, config: TrainConfig) -> dict[str, Tensor]:
        """Clips of both domains that no network was trained on, as long as those of training."""
        frames = config.window or config.frames
        return {
            "x": torch.stack([pair.source[:frames] for pair in self.pairs]),
            "y": torch.stack([pair.truth[:frames] for pair in self.pairs]),
        }


@dataclass(frozen=True)
class DayNight(Task):
    """Rendered city clips by day, and by night in other scenes: train/day, train/night, val/day, val/night of data."""

    data: Path
    name: ClassVar[str] = "daynight"
    variants: ClassVar[Configs] = DAYNIGHT
    selects: ClassVar[bool] = True

    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """The unpaired training clips: all by day and the first k by night."""
        opened = {"frames": config.frames, "size": config.size, "flip": config.flip}
        return {
            "x": Domain.open(self.data / "train/day", **opened),  # type: ignore[arg-type]
            "y": Domain.open(self.data / "train/night", few_shot=k, argument="target", **opened),  # type: ignore[arg-type]
        }

    @cached_property
    def pairs(self) -> list[Pair]:
        """Day and night of the scoring scenes."""
        day, night = (read_clips(self.data / "val" / part) for part in ("day", "night"))
        return [Pair(clip, night[name]) for name, clip in day.items()]

    def baselines(self, k: int) -> dict[str, Translate]:
        return daynight_baselines(list(read_clips(self.data / "train/night", k).values()))

    def scores(self, translate: Translate) -> Scores:
        videos = translations(translate, self.pairs)
        return {**score_clips(videos, self.pairs, self.features, self.motion), **score_lights(videos, self.pairs)}


@dataclass(frozen=True)
class Figure1(Task):
    """Digits whose background must be blue in a clip's first half and red in its second. All clips are generated."""

    frames: int = 8
    size: int = 32
    name: ClassVar[str] = "figure1"
    variants: ClassVar[Configs] = FIGURE1_VARIANTS
    # The score compares patches without their time, so a background of one colour scores as well as the true one.
    selects: ClassVar[bool] = False

    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """200 source clips, as in the demo, and k target clips of other scenes, from the seed of the run."""
        x = figure1_clips("source", SOURCE_CLIPS, self.frames, self.size, config.seed)
        y = figure1_clips("target", k, self.frames, self.size, config.seed)
        parts = {"x": x, "y": y}
        return {d: Domain.from_arrays(clips, frames=self.frames, size=self.size) for d, clips in parts.items()}

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of scenes that are in no seed's training clips."""
        rendered = [figure1_pair(scene, self.frames, self.size) for scene in TEST_SCENES]
        return [Pair(to_tensor(a), to_tensor(b), torch.from_numpy(mask)) for a, b, mask in rendered]

    def baselines(self, k: int) -> dict[str, Translate]:
        return figure1_baselines([to_tensor(clip) for clip in figure1_clips("target", k, self.frames, self.size, 0)])

    def scores(self, translate: Translate) -> Scores:
        videos = translations(translate, self.pairs)
        return {**score_clips(videos, self.pairs, self.features, self.motion), **score_figure1(videos, self.pairs)}
