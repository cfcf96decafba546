"""Training one variant, for a given time or at its full length.

The weights kept are those with the best unpaired score, or the last ones in a task without such a score. A whole run
computes the score at the steps at which `rlv2v train` does, if at any.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bench.quality.variants import changed
from rlv2v_fast.data.clips import Domain
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import TrainConfig, resolve
from rlv2v_fast.train.selection import is_judged, judged_clips, translation_distance
from rlv2v_fast.train.starts import STARTED, make_trainer, start_configs
from rlv2v_fast.train.trainer import Trainer

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
# Shares of the run after which the unpaired score is computed. Earlier models are not worth keeping.
SNAPSHOTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Share of the time that is spent on measuring how long a step takes.
_PROBE = 0.015
# Largest share of the time that goes into starts.
_STARTING = 0.8


@dataclass(frozen=True)
class Budget:
    """Minutes of training by a clock: "wall" or "cpu" (processor time of all threads, for a machine that others use).

    With None a run has the starts and steps of its config, and the clock only measures how long they take.
    """

    minutes: float | None
    clock: str = "wall"

    def now(self) -> float:
        return CLOCKS[self.clock]()


@dataclass(frozen=True)
class Result:
    """A trained model and its run.

    trainer: at the end of the run. starts, steps: those done. kept: the step of the model. seconds: of training.
    criterion: the model's unpaired score, NaN without one. gradients: median norms by name.
    """

    model: RLV2VGAN
    trainer: Trainer
    starts: int
    steps: int
    kept: int
    seconds: float
    criterion: float
    gradients: dict[str, float]


@dataclass
class SharedStarts:
    """The networks that the last starts led to, for the next run if it has the same starts; their time counts again."""

    seconds: float = 0.0
    _configs: list[TrainConfig] = field(default_factory=list)
    _state: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def hold(self, config: TrainConfig) -> bool:
        """Whether the last starts are those of config."""
        return config.starts > 1 and start_configs(config) == self._configs

    def begin(self, config: TrainConfig, domains: Mapping[str, Domain], budget: Budget) -> tuple[Trainer, float]:
        """A trainer before its first step, and the seconds of its starts. The clips must be those of the last run."""
        if self.hold(config):
            trainer = Trainer(config, domains)
            for group, state in self._state.items():
                getattr(trainer.model, group).load_state_dict(state)
            return trainer, self.seconds
        before = budget.now()
        trainer, _ = make_trainer(config, domains)
        self._configs, self.seconds = start_configs(config), budget.now() - before
        self._state = {group: copy.deepcopy(getattr(trainer.model, group).state_dict()) for group in STARTED}
        return trainer, self.seconds


def train(
    config: TrainConfig,
    domains: Mapping[str, Domain],
    budget: Budget,
    shared: SharedStarts | None = None,
    *,
    selects: bool = False,
) -> Result:
    """The model with the best unpaired score, or the last one, of a run within the budget.

    The schedules of a run count steps, so short runs first measure how many steps the budget holds. Time spent on the
    unpaired score does not count.

    Args:
        config: of the variant. If the budget has minutes, they decide on starts and steps.
        domains: "x" and "y".
        budget: time for training.
        shared: starts of the last run, which had the same clips.
        selects: whether to choose a model by its score. A whole run chooses only if its config does so, too.
    """
    config, shared = resolve(config), shared or SharedStarts()
    if budget.minutes is None:
        starts, steps, limit = config.starts, config.steps, math.inf
        marks = {step for step in range(1, steps + 1) if is_judged(config, step)}
    else:
        starts, steps = _affordable(config, domains, budget, budget.minutes, shared)
        limit, marks = 60 * budget.minutes, {max(1, round(share * steps)) for share in SNAPSHOTS}
    trainer, used = shared.begin(changed(config, starts=starts, steps=steps), domains, budget)
    clips = judged_clips(domains) if selects and marks else None
    best, kept, model = math.inf, 0, trainer.model
    gradients: dict[str, list[float]] = {"gradient_policy": [], "gradient_actor": []}
    while trainer.step < steps and used < limit:
        begin = budget.now()
        losses = trainer.iterate()
        used += budget.now() - begin
        for name, norms in gradients.items():
            norms += [losses[name]] if name in losses else []
        # If the machine has become slower, the run ends before its last step.
        if clips is not None and (trainer.step in marks or used >= limit):
            distance = translation_distance(trainer.model, clips)
            if distance < best:
                best, kept, model = distance, trainer.step, copy.deepcopy(trainer.model)
    if clips is None:
        best, kept = math.nan, trainer.step
    typical = {name: statistics.median(norms) for name, norms in gradients.items() if norms}
    return Result(model, trainer, starts, trainer.step, kept, used, best, typical)


def _affordable(
    config: TrainConfig, domains: Mapping[str, Domain], budget: Budget, minutes: float, shared: SharedStarts
) -> tuple[int, int]:
    """The numbers of starts and steps that fit into the budget, measured by short runs of both.

    There are as many starts as config has, unless they would take more than their share of the time. Starts of the last
    run that are the same ones are used again.
    """
    seconds, starts, starting = 60 * minutes, 1, 0.0
    if shared.hold(config):
        starts, starting = config.starts, shared.seconds
    elif config.starts > 1:
        each = config.start_steps * _step_seconds(start_configs(config)[0], domains, budget, _PROBE * seconds)
        starts = max(1, min(config.starts, int(_STARTING * seconds / each)))
        starting = each * starts if starts > 1 else 0.0
    late = _step_seconds(changed(config, loss__cycle_from=0.0), domains, budget, _PROBE * seconds)
    share = config.loss.cycle_from if config.loss.cycle else 0.0
    early = _step_seconds(changed(config, loss__cycle=0.0), domains, budget, _PROBE * seconds) if share else 0.0
    return starts, max(1, int((seconds - starting) / (share * early + (1 - share) * late)))


def _step_seconds(config: TrainConfig, domains: Mapping[str, Domain], budget: Budget, seconds: float) -> float:
    """The seconds of a step of a run, measured with every part of a step that comes late in the run."""
    every = config.rl.rollout_every if config.rl.weight else 1
    trainer = Trainer(changed(config, rl__critic_warmup=0, rl__first_step=0), domains)
    trainer.iterate()
    begin, count = budget.now(), 0
    while count % every or count == 0 or budget.now() - begin < seconds:
        trainer.iterate()
        count += 1
    return (budget.now() - begin) / count
