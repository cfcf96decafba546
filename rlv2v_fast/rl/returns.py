"""What critics need not learn: the mean return at each position of a clip, and the size of what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.rl.replay import Transitions

# Both remember some twenty rollouts.
_DECAY, _LEAST_DEVIATION = 0.95, 1e-3


class RunningReturns:
    """Running mean of the returns at each position of each domain's clips, and running deviation from it.

    A return is the sum of all rewards to come, so it differs by position far more than by frame, and critics that are
    fitted to it learn the time that is left. No action changes that time: a baseline b(t) that depends on the position
    alone takes nothing from the policy gradient, and r - b(t) + gamma b(t+1) in place of r changes no optimal policy.

    Args:
        frames: T of the clips rolled out.
        baseline: keep the means; otherwise they are 0.
        normalize: keep the deviation; otherwise the scale is 1.

    Source: Ng, Harada and Russell 1999, "Policy invariance under reward transformations" (the shaping).
    """

    def __init__(self, frames: int, *, baseline: bool, normalize: bool) -> None:
        self.baseline, self.normalize = baseline, normalize
        self.mean = torch.zeros(len(DOMAINS), frames)
        self.rollouts = 0
        self.deviation: float | None = None

    @property
    def scale(self) -> float:
        """What is left of returns is divided by this; 1 before there is anything to tell it from."""
        return 1.0 if self.deviation is None else self.deviation

    def mean_at(self, domain: Tensor, position: Tensor) -> Tensor:
        """b, (N,), for domain (N,) int64 and position (N,) in [0, 1)."""
        return self.mean.to(position.device)[domain, self._frame(position)]

    def relative(self, batch: Transitions, gamma: float) -> Transitions:
        """batch with rewards (r - b(t) + gamma b(t+1)) / scale, b being 0 after a clip's end, and outcomes to match."""
        here = self.mean_at(batch.domain, batch.position)
        there = self.mean_at(batch.domain, batch.next_position) * ~batch.done
        reward, outcome = batch.reward - here + gamma * there, batch.outcome - here
        return dataclasses.replace(batch, reward=reward / self.scale, outcome=outcome / self.scale)

    def absolute(self, value: Tensor, batch: Transitions) -> Tensor:
        """Values (N,) of critics that were fitted to relative returns, in the size of returns."""
        return value * self.scale + self.mean_at(batch.domain, batch.position)

    def measured(self, fresh: Transitions) -> dict[str, float]:
        """What a rollout of whole clips says of mean and deviation; several processes average it before move."""
        found: dict[str, float] = {}
        if self.normalize and not self.baseline:
            found["deviation"] = fresh.outcome.std(correction=0).item()
        elif self.normalize and self.rollouts:
            # From the means before: a single clip does not differ from its own.
            surprise = fresh.outcome - self.mean_at(fresh.domain, fresh.position)
            found["deviation"] = surprise.square().mean().sqrt().item()
        if self.baseline:
            place = fresh.domain * self.mean.shape[1] + self._frame(fresh.position)
            totals = torch.zeros(self.mean.numel()).index_add(0, place.cpu(), fresh.outcome.cpu())
            means = totals / place.cpu().bincount(minlength=self.mean.numel()).clamp_min(1)
            found |= {f"mean {index}": mean for index, mean in enumerate(means.tolist())}
        return found

    def move(self, found: dict[str, float]) -> None:
        """Move mean and deviation towards those of a rollout, for rewards change as the discriminators learn."""
        self.rollouts += 1
        if "deviation" in found:
            before = found["deviation"] if self.deviation is None else self.deviation
            self.deviation = max(_DECAY * before + (1 - _DECAY) * found["deviation"], _LEAST_DEVIATION)
        if self.baseline:
            # A plain average of the first ones: a single clip's returns say little of the mean.
            rate = max(1 / self.rollouts, 1 - _DECAY)
            means = torch.tensor([found[f"mean {index}"] for index in range(self.mean.numel())])
            self.mean = self.mean.lerp(means.view_as(self.mean), rate)

    def state_dict(self) -> dict[str, Any]:
        """Means, deviation, and how many rollouts they are of."""
        return {"mean": self.mean, "deviation": self.deviation, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.mean, self.deviation, self.rollouts = state["mean"], state["deviation"], state["rollouts"]

    def _frame(self, position: Tensor) -> Tensor:
        """The index of the frame at a position; clips longer than those rolled out are seen as as long."""
        frames = self.mean.shape[1]
        return (position * frames).round().long().clamp(max=frames - 1)
