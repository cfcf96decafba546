"""Several starts of a run: short runs from different seeds, the best of which goes on.

Which colour becomes which is decided early and by chance, so one start may be wrong. Starts are compared by a score
that needs no pairs: how near the patches of their translations are to those of the other domain's clips. Each start
has discriminators of its own, because discriminators that all starts shared learned too fast for any generator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlv2v_fast.domains import DIRECTIONS
from rlv2v_fast.errors import TrainingDivergedError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train import distributed
from rlv2v_fast.train.checkpoint import fitting, load_state, save_checkpoint
from rlv2v_fast.train.config import RLConfig, TrainConfig
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.selection import judged_clips, translation_distance
from rlv2v_fast.train.trainer import Trainer

# The parts of the model that a start hands on to the run.
STARTED = ("generators", "generators_ema", "discriminators")
# The folder in a run's that holds the state of unfinished starts, until the run has its first checkpoint.
STARTS = "starts"
# Distance between the seeds of two starts, large because the seeds of a run itself are close to one another.
_SEED_STEP = 7919


def start_configs(config: TrainConfig) -> list[TrainConfig]:
    """The config of each start that there may be: a seed of its own, and only the adversarial losses on single frames.

    A start has no cycle or ReCycle loss, so that each direction can be judged alone. It has no contrast loss, because
    dark must be free to become bright at first. It has no augmentation, because it is too short to memorize the clips.
    Losses on whole clips and reinforcement learning come later: which colour becomes which is decided without them.
    Adam's steps do not shrink, because a start is the beginning of a run.
    """
    loss = dataclasses.replace(
        config.loss, recurrent=0.0, recycle=0.0, video=0.0, cycle=0.0, cycle_from=0.0, contrast=0.0, augment=()
    )
    start = dataclasses.replace(
        config,
        steps=config.start_steps,
        window=config.start_window or config.window,
        loss=loss,
        rl=RLConfig(),
        optim=dataclasses.replace(config.optim, decay=False),
        starts=1,
        start_failed=None,
        start_window=None,
        select_every=None,
    )
    count = config.starts if config.start_failed is None else 2 * config.starts
    return [dataclasses.replace(start, seed=config.seed + index * _SEED_STEP) for index in range(count)]


def make_trainer(
    config: TrainConfig, domains: Mapping[str, ClipSource], is_over: Callable[[], bool] = lambda: False
) -> tuple[Trainer, dict[str, list[float]]]:
    """A trainer before its first step, with the networks of the best start if config asks for several.

    Args:
        is_over: asked after each iteration of a start; once true, training of starts ends.

    Returns:
        The trainer, and for each direction the patch distance of every start (less is better). With one start there
        are no distances.
    """
    if config.starts == 1:
        return Trainer(config, domains), {}
    race = Race(config, domains)
    race.run(is_over)
    return race.trainer, race.distances


class Race:
    """The starts of a run, trained one after the other, and the best of their networks so far.

    The two directions are chosen apart, each as a generator with the discriminator that it played against. The same
    config and clips choose the same start. A start that diverges is left out.

    Attributes:
        trainer: the run's, before its first step, with the networks of the best start so far.
        distances: for each direction, the patch distance of every start so far; infinite for one that diverged.
        steps: iterations of starts so far.
    """

    def __init__(self, config: TrainConfig, domains: Mapping[str, ClipSource]) -> None:
        self.trainer = Trainer(config, domains)
        self.distances: dict[str, list[float]] = {direction: [] for direction in DIRECTIONS}
        self.steps = 0
        self._domains, self._configs = domains, start_configs(config)
        self._rival: Trainer | None = None
        self._over = False
        self._reason = "no patch distance is finite"

    def run(self, is_over: Callable[[], bool], judged: Callable[[], None] = lambda: None) -> None:
        """Train and judge those starts that are left.

        Args:
            is_over: asked after each iteration; once true, the running start is judged as it is, and it is the last.
                The race may be saved in it.
            judged: called after each start that was judged. The race may be saved in it.

        Raises:
            TrainingDivergedError: every start diverged.
        """
        clips = judged_clips(self._domains)
        while not self._over:
            if self._rival is None:
                self._rival = Trainer(self._configs[self._index()], self._domains)
            found = self._train(self._rival, is_over, clips)
            for direction, domain in DIRECTIONS.items():
                if found[direction] < min(self.distances[direction], default=math.inf):
                    _adopt(self.trainer.model, self._rival.model, domain)
                self.distances[direction].append(found[direction])
            self._rival = None
            self._over = self._over or self._is_enough()
            judged()
        if any(min(each) == math.inf for each in self.distances.values()):
            raise TrainingDivergedError(f"every start diverged: {self._reason}")

    def _train(self, rival: Trainer, is_over: Callable[[], bool], clips: Mapping[str, Tensor]) -> dict[str, float]:
        """The distances of a start, after the iterations that it still lacks."""
        try:
            while rival.step < rival.config.steps and not self._over:
                rival.iterate()
                self.steps += 1
                self._over = is_over()
        except TrainingDivergedError as error:
            self._reason = str(error)
            return dict.fromkeys(DIRECTIONS, math.inf)
        return {name: translation_distance(rival.model, clips, name) for name in DIRECTIONS}

    def _is_enough(self) -> bool:
        """Whether all starts are done that are due, and one of them has not failed if more may be drawn."""
        failed = self.trainer.config.start_failed
        if failed is not None and min(self.distances["x2y"]) > failed:
            return self._index() == len(self._configs)
        return self._index() >= self.trainer.config.starts

    def _index(self) -> int:
        """Of the start that is next."""
        return min(map(len, self.distances.values()))

    def save(self, run: Path) -> None:
        """Write what is needed to go on into run/starts. All processes call it."""
        rival = self._rival
        state: dict[str, Any]
        if distributed.rank() == 0:
            whole = (
                None if rival is None else {"model": rival.model.state_dict(), "step": rival.step, **rival.state_dict()}
            )
            state = {
                **self.trainer.description(),
                "distances": self.distances,
                "steps": self.steps,
                "over": self._over,
                "rival": whole,
            }
        else:
            state = {"rival": None if rival is None else rival.own_state()}
        save_checkpoint(run / STARTS, self.steps, self.trainer.model, state, keep=1)

    def load(self, folder: Path) -> None:
        """Go on from what save wrote. InputError names a setting, or clips, that would change the run."""
        state = load_state(folder)
        with fitting(folder):
            self._restore(state, folder)

    def _restore(self, state: dict[str, Any], folder: Path) -> None:
        self.trainer.check(state, folder)
        self.trainer.model.load_weights(folder)
        self.distances, self.steps, self._over = state["distances"], state["steps"], state["over"]
        if state["rival"] is None:
            return
        self._rival = Trainer(self._configs[self._index()], self._domains)
        self._rival.model.load_state_dict(state["rival"]["model"])
        own = load_state(folder, distributed.rank())["rival"] if distributed.rank() else {}
        self._rival.restore({**state["rival"], **own})


def _adopt(model: RLV2VGAN, start: RLV2VGAN, domain: str) -> None:
    for group in STARTED:
        getattr(model, group)[domain].load_state_dict(getattr(start, group)[domain].state_dict())
