"""Training one variant for a given time and keeping the weights that an unpaired score prefers."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.quality.variants import changed
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.metrics import patch_distance
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import TrainConfig, resolve
from rlv2v_fast.train.trainer import Trainer, started

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
# Shares of the run after which the unpaired score is asked; before the first of them nothing is worth keeping.
SNAPSHOTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Share of the time that finds out how many steps fit into it.
_PROBE = 0.04
# Largest share of the steps that go into starts.
_STARTING = 0.7
# Source clips and frames of each, for the unpaired score.
_JUDGED, _FRAME_STEP = 16, 4


@dataclass(frozen=True)
class Budget:
    """minutes of training by a clock, "wall" or "cpu" (processor time of all threads, for a machine others use)."""

    minutes: float
    clock: str = "wall"

    def now(self) -> float:
        return CLOCKS[self.clock]()


@dataclass(frozen=True)
class Result:
    """A trained model, the trainer at the end of its run, its starts, its steps, those the model was kept at, the
    seconds used, the unpaired score, and the median norms of the gradients."""

    model: RLV2VGAN
    trainer: Trainer
    starts: int
    steps: int
    kept: int
    seconds: float
    criterion: float
    gradients: dict[str, float]


def train(
    config: TrainConfig, domains: Mapping[str, Domain], judged: tuple[Tensor, Tensor] | None, budget: Budget
) -> Result:
    """Train for the budget and return the model whose unpaired score is best.

    The schedules of a run count steps, so the first trainer only measures how many the budget holds. Time spent on the
    unpaired score does not count.

    Args:
        config: of the variant; steps is replaced.
        domains: "x" and "y".
        judged: source clips (N, T, 3, H, W) and target frames (M, 3, H, W), both from training; None keeps the last
            model.
        budget: of training.
    """
    config = resolve(config)
    starts, steps = _affordable(config, domains, budget)
    begin = budget.now()
    trainer, _ = started(changed(config, starts=starts, steps=steps), domains)
    used = budget.now() - begin
    marks = sorted({max(1, round(share * steps)) for share in SNAPSHOTS})
    best, kept, model = float("inf"), 0, copy.deepcopy(trainer.model)
    gradients: dict[str, list[float]] = {"gradient_policy": [], "gradient_actor": []}
    while trainer.step < steps and used < 60 * budget.minutes:
        begin = budget.now()
        losses = trainer.iterate()
        used += budget.now() - begin
        for name, norms in gradients.items():
            norms += [losses[name]] if name in losses else []
        # A machine that grew slower ends the run before its last step.
        if trainer.step in marks or used >= 60 * budget.minutes:
            criterion = _criterion(trainer, judged)
            if judged is None or criterion < best:
                best, kept, model = criterion, trainer.step, copy.deepcopy(trainer.model)
    typical = {name: statistics.median(norms) for name, norms in gradients.items() if norms}
    return Result(model, trainer, starts, trainer.step, kept, used, best, typical)


def judged_frames(domains: Mapping[str, Domain]) -> tuple[Tensor, Tensor]:
    """What the unpaired score compares: clips of the source, and frames of the few target clips."""
    random = torch.Generator().manual_seed(0)
    source = domains["x"].batch(random, _JUDGED)[:, ::_FRAME_STEP]
    target = domains["y"].batch(random, _JUDGED)[:, ::_FRAME_STEP]
    return source, target.flatten(0, 1)


def _criterion(trainer: Trainer, judged: tuple[Tensor, Tensor] | None) -> float:
    if judged is None:
        return math.nan
    translated = trainer.model.translate(judged[0].to(trainer.device))
    return patch_distance(translated.flatten(0, 1), judged[1]).item()


def _affordable(config: TrainConfig, domains: Mapping[str, Domain], budget: Budget) -> tuple[int, int]:
    """Starts and steps that fit into the budget, by a short run whose every step does all that a later one may.

    There are as many starts as config asks for while they leave the rest of the run its share of the steps.
    """
    every = config.rl.rollout_every if config.rl.weight else 1
    probed = changed(config, loss__cycle_from=0.0, rl__critic_warmup=0)
    trainer = Trainer(probed, domains)
    trainer.iterate()
    begin, count = budget.now(), 0
    while count % every or count == 0 or budget.now() - begin < 60 * budget.minutes * _PROBE:
        trainer.iterate()
        count += 1
    total = int(60 * budget.minutes * count / (budget.now() - begin))
    starts = max(1, min(config.starts, int(_STARTING * total / config.start_steps)))
    return starts, max(1, total - (starts * config.start_steps if starts > 1 else 0))
