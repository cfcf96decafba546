"""Several starts: where a run ends up is decided early and by chance, so begin more than once and go on with the best.

Starts are told apart by a score that needs no pairs: how near the patches of their translations are to those of the
other domain's clips. Each has discriminators of its own: common ones learned too fast for any of the generators.
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

# Parts of the model that a start is chosen for.
STARTED = ("generators", "generators_ema", "discriminators")
# Between the seeds of two starts; a run's seeds themselves are close to one another.
_SEED_STEP = 7919


def start_configs(config: TrainConfig) -> list[TrainConfig]:
    """What each start is trained by: its own seed and the verdicts on single frames, with their gradient penalty.

    No cycle or ReCycle loss, so that each direction can be judged alone; no contrast loss, for dark must be free to
    become bright before anything holds it back; no augmentation, for a start is too short to memorize the clips. What
    looks at whole clips, and reinforcement learning, come later: which colour becomes which is decided without them.
    Its steps do not shrink: it is a run's beginning, however long.
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


def started(
    config: TrainConfig, domains: Mapping[str, ClipSource], is_over: Callable[[], bool] = lambda: False
) -> tuple[Trainer, dict[str, list[float]]]:
    """A trainer before its first step; where config.starts asks for several, one that goes on from the best of them.

    Args:
        is_over: asked after each iteration of a start; once true, no more of them are trained.

    Returns:
        The trainer, and for each direction the patch distance of every start, less being better; none without starts.
    """
    trainer = Trainer(config, domains)
    if config.starts == 1:
        return trainer, {}
    rivals = (Trainer(start, domains) for start in start_configs(config))
    return trainer, adopt_best_start(trainer, rivals, is_over)


def adopt_best_start(
    trainer: Trainer, rivals: Iterable[Trainer], is_over: Callable[[], bool] = lambda: False
) -> dict[str, list[float]]:
    """Train the rivals for start_steps, one after the other, and give the trainer the best of their networks.

    Each direction's generator, with the discriminator it has played against, is chosen by itself. The same config and
    clips choose the same start. One that diverges is out of the race.

    Args:
        is_over: asked after each iteration of a rival; once true, those trained so far are all there are, the last of
            them judged as it is.

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
            found = dict.fromkeys(DIRECTIONS, math.inf)
        else:
            found = {direction: translation_distance(rival.model, clips, direction) for direction in DIRECTIONS}
        for direction, domain in DIRECTIONS.items():
            distances[direction].append(found[direction])
            if found[direction] < best[direction]:
                best[direction] = found[direction]
                _adopt(trainer.model, rival.model, domain)
        if stopped:
            break
    if math.inf in best.values():
        raise TrainingDivergedError(f"every start diverged: {reason}")
    return distances


def _adopt(model: RLV2VGAN, start: RLV2VGAN, domain: str) -> None:
    for group in STARTED:
        getattr(model, group)[domain].load_state_dict(getattr(start, group)[domain].state_dict())
