"""Several starts of a run: short runs from different seeds, the best of which goes on.

Which colour becomes which is decided early and by chance, so one start may be wrong. Starts are compared by a score
that needs no pairs: how near the patches of their translations are to those of the other domain's clips. Each start
has discriminators of its own, because discriminators that all starts shared learned too fast for any generator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

from rlv2v_fast.domains import DIRECTIONS
from rlv2v_fast.errors import TrainingDivergedError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.config import RLConfig, TrainConfig
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.selection import judged_clips, translation_distance
from rlv2v_fast.train.trainer import Trainer

# The parts of the model that a start hands on to the run.
STARTED = ("generators", "generators_ema", "discriminators")
# Distance between the seeds of two starts, large because the seeds of a run itself are close to one another.
_SEED_STEP = 7919


def start_configs(config: TrainConfig) -> list[TrainConfig]:
    """The config of each start: a seed of its own, and only the adversarial losses on single frames.

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
        start_window=None,
        select_every=None,
    )
    return [dataclasses.replace(start, seed=config.seed + index * _SEED_STEP) for index in range(config.starts)]


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
    trainer = Trainer(config, domains)
    if config.starts == 1:
        return trainer, {}
    rivals = (Trainer(start, domains) for start in start_configs(config))
    return trainer, adopt_best_start(trainer, rivals, is_over)


def adopt_best_start(
    trainer: Trainer, rivals: Iterable[Trainer], is_over: Callable[[], bool] = lambda: False
) -> dict[str, list[float]]:
    """Train the rivals for start_steps, one after the other, and copy the best of their networks into the trainer.

    The two directions are chosen apart, each as a generator with the discriminator that it played against. The same
    config and clips choose the same start. A rival that diverges is left out.

    Args:
        is_over: asked after each iteration of a rival; once true, the running rival is judged as it is, and it is the
            last.

    Returns:
        For each direction, the patch distance of every rival; infinite for one that diverged.

    Raises:
        TrainingDivergedError: every rival diverged.
    """
    clips = judged_clips(trainer.domains)
    distances: dict[str, list[float]] = {direction: [] for direction in DIRECTIONS}
    best = dict.fromkeys(DIRECTIONS, math.inf)
    reason = "no patch distance is finite"
    for rival in rivals:
        stopped = False
        try:
            while rival.step < trainer.config.start_steps and not stopped:
                rival.iterate()
                stopped = is_over()
        except TrainingDivergedError as error:
            reason = str(error)
            rival_distances = dict.fromkeys(DIRECTIONS, math.inf)
        else:
            rival_distances = {name: translation_distance(rival.model, clips, name) for name in DIRECTIONS}
        for direction, domain in DIRECTIONS.items():
            distances[direction].append(rival_distances[direction])
            if rival_distances[direction] < best[direction]:
                best[direction] = rival_distances[direction]
                _adopt(trainer.model, rival.model, domain)
        if stopped:
            break
    if math.inf in best.values():
        raise TrainingDivergedError(f"every start diverged: {reason}")
    return distances


def _adopt(model: RLV2VGAN, start: RLV2VGAN, domain: str) -> None:
    for group in STARTED:
        getattr(model, group)[domain].load_state_dict(getattr(start, group)[domain].state_dict())
