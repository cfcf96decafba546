"""Whether a look explains what target clips show, or whether they show what no look of the source clips can."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlv2v_fast.looks.look import Look, blur, luma
from rlv2v_fast.looks.statistics import frames_of

# A light in the dark: a pixel brighter than its surroundings by the first number, where these are darker than the
# second, of values in [0, 1]; and the width of the surroundings, in pixels of a frame of 64.
_BRIGHTER, _DARK, _AROUND = 0.4, 0.4, 3.0
# Share of pixels that counts as none.
_NONE = 0.002
# Evidence from which a look does not explain a target. docs/notebook/looks.md has what was measured.
ENOUGH = 0.4


def lights_in_the_dark(look: Look, source: Tensor, target: Tensor) -> float:
    """How much more light in the dark the target's clips show than any source clip does under a look.

    The natural logarithm of a ratio: the share of lights in the median target clip, over the share in the source clip
    that has most under the look. What a few target clips show does not count, and a smooth map of colours makes no
    light.

    Args:
        source, target: clips (N, T, 3, H, W) in [-1, 1].
    """
    most = _lights(look.apply(frames_of(source) * 2 - 1)).max().item()
    usual = _lights(frames_of(target) * 2 - 1).median().item()
    return math.log((usual + _NONE) / (most + _NONE))


def _lights(clips: Tensor) -> Tensor:
    """The share of lights in the dark in each of N clips (N, t, 3, H, W) in [-1, 1]."""
    light = luma((clips.flatten(0, 1) + 1) / 2)
    around = blur(light, _AROUND)
    lit = ((light - around > _BRIGHTER) & (around < _DARK)).float()
    return torch.as_tensor(lit.mean((1, 2, 3)).unflatten(0, clips.shape[:2]).mean(1))
