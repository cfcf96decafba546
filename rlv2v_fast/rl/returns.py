"""Running statistics of returns, so that critics need learn neither their mean at each position nor their size."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.rl.replay import Transitions

# The running mean and deviation go back about twenty rollouts.
_DECAY, _LEAST_DEVIATION = 0.95, 1e-3


class RunningReturns:
    """Running mean of the returns at each position of each domain's clips, and running deviation from it.

    A return is the sum of all rewards to come. It therefore differs by position far more than by frame, and critics
    fitted to it learn the time that is left. No action changes that time. A baseline b(t) that depends on the position
    alone does not change the policy gradient, and r - b(t) + gamma b(t+1) instead of r does not change which policy is
    optimal.

    Args:
        frames: T of the clips rolled out.
        baseline: track the means; otherwise they are 0.
        normalize: track the deviation; otherwise the scale is 1.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations" (the shaping).
    """

    def __init__(self, frames: int, *, baseline: bool, normalize: bool) -> None:
        self.baseline, self.normalize = baseline, normalize
        self.mean = torch.zeros(len(DOMAINS), frames)
        self.rollouts = 0
        self.deviation: float | None = None

    @property
    def scale(self) -> float:
        """The number that returns minus their means are divided by; 1 before the first measurement."""
        return 1.0 if self.deviation is None else self.deviation

    def mean_at(self, domain: Tensor, position: Tensor) -> Tensor:
        """The baseline b, (N,), for domain (N,) int64 and position (N,) in [0, 1)."""
        return self.mean.to(position.device)[domain, self._frame(position)]

    def relative(self, batch: Transitions, gamma: float) -> Transitions:
        """batch with rewards (r - b(t) + gamma b(t+1)) / scale, and outcomes to match; b is 0 after a clip's end."""
        mean = self.mean_at(batch.domain, batch.position)
        next_mean = self.mean_at(batch.domain, batch.next_position) * ~batch.done
        reward, outcome = batch.reward - mean + gamma * next_mean, batch.outcome - mean
        return dataclasses.replace(batch, reward=reward / self.scale, outcome=outcome / self.scale)

    def absolute(self, value: Tensor, batch: Transitions) -> Tensor:
        """The returns (N,) that critics expect, from their values (N,), which were fitted to relative returns."""
        return value * self.scale + self.mean_at(batch.domain, batch.position)

    def measured(self, fresh: Transitions) -> dict[str, float]:
        """Measurements of mean and deviation on a rollout of whole clips, for move; processes average them first."""
        numbers: dict[str, float] = {}
        if self.normalize and not self.baseline:
            numbers["deviation"] = fresh.outcome.std(correction=0).item()
        elif self.normalize and self.rollouts:
            # From the means so far: a single clip does not deviate from its own mean.
            surprise = fresh.outcome - self.mean_at(fresh.domain, fresh.position)
            numbers["deviation"] = surprise.square().mean().sqrt().item()
        if self.baseline:
            place = fresh.domain * self.mean.shape[1] + self._frame(fresh.position)
            totals = torch.zeros(self.mean.numel()).index_add(0, place.cpu(), fresh.outcome.cpu())
            means = totals / place.cpu().bincount(minlength=self.mean.numel()).clamp_min(1)
            numbers |= {f"mean {index}": mean for index, mean in enumerate(means.tolist())}
        return numbers

    def move(self, numbers: dict[str, float]) -> None:
        """Move mean and deviation towards those measured: rewards change as the discriminators learn."""
        self.rollouts += 1
        if "deviation" in numbers:
            earlier = numbers["deviation"] if self.deviation is None else self.deviation
            self.deviation = max(_DECAY * earlier + (1 - _DECAY) * numbers["deviation"], _LEAST_DEVIATION)
        if self.baseline:
            # A plain average of the first rollouts, because the returns of a single clip are far from the mean.
            rate = max(1 / self.rollouts, 1 - _DECAY)
            means = torch.tensor([numbers[f"mean {index}"] for index in range(self.mean.numel())])
            self.mean = self.mean.lerp(means.view_as(self.mean), rate)

    def state_dict(self) -> dict[str, Any]:
        """The means, the deviation, and the number of rollouts behind them."""
        return {"mean": self.mean, "deviation": self.deviation, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.mean, self.deviation, self.rollouts = state["mean"], state["deviation"], state["rollouts"]

    def _frame(self, position: Tensor) -> Tensor:
        """The index of the frame at a position. A clip longer than those rolled out counts as one of their length."""
        frames = self.mean.shape[1]
        return (position * frames).round().long().clamp(max=frames - 1)
