"""Which model of a run to keep: the one whose translations are nearest to the target clips, judged without pairs.

No loss of adversarial training falls steadily, and the last weights are seldom the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlv2v_fast.domains import DIRECTIONS, DOMAINS, OTHER
from rlv2v_fast.metrics.patches import patch_distance
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train.checkpoint import best_distance, save_best
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.trainer import Trainer

# Clips of each domain that judge a model. With few, the choice of scenes moves the distance more than the model does.
_CLIPS = 32
# Clips translated at once, so that judging needs no more memory than training.
_AT_ONCE = 4
# Share of a run before which no model is kept: a cycle loss that starts halfway must have had time to act.
_FROM = 0.6


def judged_clips(domains: Mapping[str, ClipSource]) -> dict[str, Tensor]:
    """The clips that judge models, for each domain (32, T // 2 + 1, 3, size, size): first halves of training clips."""
    clips = {domain: domains[domain].spread(_CLIPS) for domain in DOMAINS}
    return {domain: frames[:, : frames.shape[1] // 2 + 1].clone() for domain, frames in clips.items()}


def translation_distance(model: RLV2VGAN, clips: Mapping[str, Tensor], direction: str = "x2y") -> float:
    """The patch distance of translated clips to real clips of the domain that they are translated into.

    The first and last frames are compared. Whole clips are translated, because a generator with a memory may translate
    the first frames well and later ones badly.
    """
    domain = DIRECTIONS[direction]
    device = next(model.parameters()).device
    parts = clips[OTHER[domain]].split(_AT_ONCE)
    translated = torch.cat([ends(model.translate(part.to(device), direction)) for part in parts])
    return patch_distance(translated.flatten(0, 1), ends(clips[domain]).flatten(0, 1)).item()


def ends(clips: Tensor) -> Tensor:
    """(N, T, ...) to (N, 2, ...): the first frame and the last."""
    return clips[:, [0, -1]]


def is_judged(config: TrainConfig, step: int) -> bool:
    """Whether the model after `step` iterations is compared with the best one so far."""
    every = config.select_every
    return every is not None and step >= _FROM * config.steps and (step % every == 0 or step == config.steps)


def keep_if_best(trainer: Trainer, clips: Mapping[str, Tensor], run: Path) -> float:
    """The distance of the trainer's model, which is kept in run/best if no earlier distance was as low."""
    distance = translation_distance(trainer.model, clips)
    if distance < best_distance(run):
        save_best(run, trainer.step, trainer.model, distance)
    return distance
