"""Which model of a run to use: the one whose translations look best, told without pairs.

Adversarial training has no loss that falls until it is done, and its last weights are seldom its best.
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

# Clips of each domain that judge a model: many, for which scenes they show moves the distance more than a better model.
_CLIPS = 32
# Clips translated at once, for a judgement should need no more memory than training.
_AT_ONCE = 4
# Share of a run before which no model is kept: a cycle loss that sets in halfway has not had its say.
_FROM = 0.6


def judged_clips(domains: Mapping[str, ClipSource]) -> dict[str, Tensor]:
    """Clips of each domain, (32, T // 2 + 1, 3, size, size): the first half of what training sees as one."""
    clips = {domain: domains[domain].spread(_CLIPS) for domain in DOMAINS}
    return {domain: frames[:, : frames.shape[1] // 2 + 1].clone() for domain, frames in clips.items()}


def translation_distance(model: RLV2VGAN, clips: Mapping[str, Tensor], direction: str = "x2y") -> float:
    """The patch distance of the first and last frames of the translated clips and of the domain's they should be.

    Whole clips are translated, for a generator with a memory may do well at first and fail later.
    """
    domain = DIRECTIONS[direction]
    device = next(model.parameters()).device
    parts = clips[OTHER[domain]].split(_AT_ONCE)
    translated = torch.cat([_ends(model.translate(part.to(device), direction)) for part in parts])
    return patch_distance(translated.flatten(0, 1), _ends(clips[domain]).flatten(0, 1)).item()


def _ends(clips: Tensor) -> Tensor:
    """(N, T, ...) to (N, 2, ...): the first frame and the last."""
    return clips[:, [0, -1]]


def is_judged(config: TrainConfig, step: int) -> bool:
    """Whether a run compares the model that it has after `step` iterations with the best one before."""
    every = config.select_every
    return every is not None and step >= _FROM * config.steps and (step % every == 0 or step == config.steps)


def keep_if_best(trainer: Trainer, clips: Mapping[str, Tensor], run: Path) -> float:
    """The distance of the source clips translated now; where none before was as low, the model is kept in run/best."""
    distance = translation_distance(trainer.model, clips)
    if distance < best_distance(run):
        save_best(run, trainer.step, trainer.model, distance)
    return distance
