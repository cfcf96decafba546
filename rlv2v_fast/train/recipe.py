"""The recipe of the plain `rlv2v train`: which preset works here, and how long it will take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlv2v_fast.data.clips import find_videos
from rlv2v_fast.errors import InputError
from rlv2v_fast.train.config import TrainConfig, resolve_device
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.starts import start_configs
from rlv2v_fast.train.trainer import Trainer

# Target videos up to which the presets for few videos were measured (docs/results.md).
MEASURED = 40
# An estimate watches each kind of iteration for so many seconds, and at least twice.
_WATCHED = 1.0


@dataclass(frozen=True)
class Recipe:
    """A preset, and the reason for it in words that follow "because"."""

    preset: str
    reason: str


def choose(device: str, target: Path | None, few_shot: int | None = None) -> Recipe:
    """The preset that was measured to work, or is meant to, on a device with as many target videos as there are.

    Args:
        device: as configured; one that does not exist counts as a CPU.
        target, few_shot: as of TrainConfig. A target that cannot be read has an unknown number of videos.
    """
    try:
        on_gpu = resolve_device(device).type == "cuda"
    except InputError:
        on_gpu = False
    place = "this runs on a GPU" if on_gpu else "this runs on a CPU"
    try:
        count = len(find_videos(target, "target")) if target is not None else None
    except InputError:
        count = None
    if count is not None and few_shot is not None:
        count = min(count, few_shot)
    return Recipe("few-shot-gpu" if on_gpu else "few-shot-cpu", f"{place} and {_videos(count)}")


def _videos(count: int | None) -> str:
    if count is None:
        return "the target has videos"
    if count > MEASURED:
        return f"no other was measured to work, with {count} target videos either"
    return f"the target has {count} video{'s' * (count != 1)}"


def estimated_minutes(config: TrainConfig, domains: Mapping[str, ClipSource]) -> float:
    """Minutes that a run will take, from a few iterations of trainers that are then thrown away.

    All processes of a run must call it. Comparisons of models, previews, checkpoints and starts that are drawn again
    are left out, and nothing is compiled for it.
    """
    config = dataclasses.replace(config, compile=False)
    seconds = 0.0
    if config.starts > 1:
        each = _seconds(Trainer(start_configs(config)[0], domains))
        seconds += config.starts * config.start_steps * each
    with_cycle = 1 - config.loss.cycle_from if config.loss.cycle else 0.0
    for share, step in ((1 - with_cycle, 0), (with_cycle, config.steps - 1)):
        if share:
            # Without a schedule, which ends before the iterations that are watched at the end of the run.
            steady = dataclasses.replace(config, optim=dataclasses.replace(config.optim, decay=False))
            trainer = Trainer(steady, domains)
            trainer.step = step
            seconds += share * config.steps * _seconds(trainer)
    return min(seconds / 60, config.max_minutes or float("inf"))


def _seconds(trainer: Trainer) -> float:
    """Of an iteration, without the first, in which memory is taken and kernels are chosen."""
    from rlv2v_fast.train import distributed

    every = trainer.config.rl.rollout_every if trainer.config.rl.weight else 1
    trainer.iterate()
    begin, done = time.perf_counter(), 0
    while True:
        for _ in range(every):
            trainer.iterate()
        done += every
        passed = time.perf_counter() - begin
        # Together, because the processes of a run exchange gradients in every iteration.
        if not distributed.any_true(passed < _WATCHED or done < 2):
            return passed / done


def duration(minutes: float) -> str:
    """A time in words, no more exact than an estimate is."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"about {minutes:.0f} minute{'s' * (round(minutes) != 1)}"
    return f"about {minutes / 60:.1f} hours" if minutes < 60 * 36 else f"about {minutes / 60 / 24:.1f} days"
