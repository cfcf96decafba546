"""The tasks: what is trained on, and how a translation is scored on pairs that training never sees."""

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
    """What the tasks have in common; features and motion are those of score_clips."""

    features: Features | None
    motion: Motion | None
    name: ClassVar[str]
    variants: ClassVar[Configs]
    # Whether the unpaired score chooses among the weights of a run.
    selects: ClassVar[bool]

    @abstractmethod
    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """The unpaired training clips, k of them of the target."""

    @property
    @abstractmethod
    def pairs(self) -> list[Pair]:
        """What translations are scored on; no training clip is of their scenes."""

    @abstractmethod
    def baselines(self, k: int) -> dict[str, Translate]:
        """Translations without training, fitted to the k target clips."""

    @abstractmethod
    def scores(self, translate: Translate) -> Scores:
        """Of source to target."""

    def back_scores(self, translate: Translate) -> Scores:
        """Of target to source."""
        turned = [Pair(pair.truth, pair.source) for pair in self.pairs]
        return score_clips(translations(translate, turned), turned, self.features, self.motion)

    def heldout(self, config: TrainConfig) -> dict[str, Tensor]:
        """Clips of both domains that no network was trained on, cut as training cuts them."""
        frames = config.window or config.frames
        return {
            "x": torch.stack([pair.source[:frames] for pair in self.pairs]),
            "y": torch.stack([pair.truth[:frames] for pair in self.pairs]),
        }


@dataclass(frozen=True)
class DayNight(Task):
    """Rendered city clips by day and, of other scenes, by night: train/day, train/night, val/day, val/night of data."""

    data: Path
    name: ClassVar[str] = "daynight"
    variants: ClassVar[Configs] = DAYNIGHT
    selects: ClassVar[bool] = True

    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """The unpaired training clips: all of the day and the first k of the night."""
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
    """Digits whose background must be blue in a clip's first half and red in its second; all clips are drawn."""

    frames: int = 8
    size: int = 32
    name: ClassVar[str] = "figure1"
    variants: ClassVar[Configs] = FIGURE1_VARIANTS
    # Patches do not know the time, and every background of one colour looks right to them.
    selects: ClassVar[bool] = False

    def domains(self, config: TrainConfig, k: int) -> dict[str, Domain]:
        """As the demo: 200 source clips and, of other scenes, k target clips, by the seed of the run."""
        x = figure1_clips("source", SOURCE_CLIPS, self.frames, self.size, config.seed)
        y = figure1_clips("target", k, self.frames, self.size, config.seed)
        parts = {"x": x, "y": y}
        return {d: Domain.from_arrays(clips, frames=self.frames, size=self.size) for d, clips in parts.items()}

    @cached_property
    def pairs(self) -> list[Pair]:
        """Scenes that no seed's training clips hold."""
        rendered = [figure1_pair(scene, self.frames, self.size) for scene in TEST_SCENES]
        return [Pair(to_tensor(a), to_tensor(b), torch.from_numpy(mask)) for a, b, mask in rendered]

    def baselines(self, k: int) -> dict[str, Translate]:
        return figure1_baselines([to_tensor(clip) for clip in figure1_clips("target", k, self.frames, self.size, 0)])

    def scores(self, translate: Translate) -> Scores:
        videos = translations(translate, self.pairs)
        return {**score_clips(videos, self.pairs, self.features, self.motion), **score_figure1(videos, self.pairs)}
