"""Steps 4 and 5 of an iteration: rollouts, the critics, and the policy gradient (Figure 3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlv2v_fast.models.rlv2vgan import DOMAINS, RLV2VGAN
from rlv2v_fast.nn.average import soft_update
from rlv2v_fast.nn.norm import evaluating
from rlv2v_fast.rl.ddpg import actor_loss, by_domain, critic_loss, td_target
from rlv2v_fast.rl.replay import ReplayBuffer, Transitions
from rlv2v_fast.rl.rollout import Policy, RewardWeights, rollout
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.distributed import seed_offset
from rlv2v_fast.train.steps import Losses, Networks, frozen


class Reinforcement:
    """Target networks, replay buffer and random stream of the reinforcement learning part of a run.

    Args:
        model: with critics.
        networks: what to call for the model's networks.
        config: of the run, resolved.
    """

    def __init__(self, model: RLV2VGAN, networks: Networks, config: TrainConfig) -> None:
        self.model, self.networks, self.config = model, networks, config.rl
        groups = {"generators": model.generators, "predictors": model.predictors, "critics": model.critics}
        self.targets = nn.ModuleDict(copy.deepcopy(groups)).requires_grad_(False).eval()
        self.buffer = ReplayBuffer(
            config.rl.capacity, config.rl.state_frames, (3, config.size, config.size), config.rl.buffer_gib
        )
        self.random = torch.Generator().manual_seed(config.seed + 3 + seed_offset())
        self.weights = RewardWeights(
            config.loss.recurrent, config.loss.recycle, config.loss.video, config.loss.adversarial, config.loss.style
        )

    def collect(self, real: Mapping[str, Tensor]) -> Transitions:
        """Roll the policy out over clips, store the transitions, and draw the minibatch of this iteration."""
        model, rl = self.model, self.config
        with evaluating(*self._policy_modules(), model.discriminators, model.critics):
            fresh = rollout(
                real,
                self._policy(),
                self.networks.discriminators,
                state_frames=rl.state_frames,
                weights=self.weights,
                sigma2=rl.sigma2,
                generator=self.random,
                critics=self.networks.critics,
                epsilon=rl.epsilon,
            )
        replayed = bool(torch.rand((), generator=self.random) < rl.sigma1) and len(self.buffer) > 0
        source: ReplayBuffer | Transitions = self.buffer if replayed else fresh
        batch = self._draw(source)
        self.buffer.add(fresh)
        return batch.to(fresh.reward.device)

    def critic_losses(self, batch: Transitions) -> Losses:
        """Step 4: mean squared temporal-difference error of each domain's critic."""
        target_policy = Policy(_mapping(self.targets["generators"]), _mapping(self.targets["predictors"]))
        losses: Losses = {}
        for domain, part in by_domain(batch).items():
            goal = td_target(
                part,
                domain,
                _mapping(self.targets["critics"])[domain],
                target_policy,
                gamma=self.config.gamma,
                sigma2=self.config.sigma2,
            )
            losses[f"critic_{domain}"] = critic_loss(self.networks.critics[domain], part, goal)
        return losses

    def actor_losses(self, batch: Transitions) -> Losses:
        """Step 5: the policy-gradient loss of generators and predictors; critics frozen, statistics frozen."""
        with evaluating(*self._policy_modules(), self.model.critics), frozen(self.model.critics):
            loss = actor_loss(by_domain(batch), self.networks.critics, self._policy(), sigma2=self.config.sigma2)
        return {"actor": self.config.weight * loss}

    def update_targets(self) -> None:
        """Step 6: move the target networks by tau."""
        for name in ("generators", "predictors", "critics"):
            soft_update(self.targets[name], getattr(self.model, name), self.config.tau)

    def state_dict(self) -> dict[str, Any]:
        """Targets, replay buffer and random stream."""
        return {
            "targets": self.targets.state_dict(),
            "buffer": self.buffer.state_dict(),
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.targets.load_state_dict(state["targets"])
        self.buffer.load_state_dict(state["buffer"])
        self.random.set_state(state["random"])

    def _policy(self) -> Policy:
        return Policy(self.networks.generators, self.networks.predictors)

    def _policy_modules(self) -> tuple[nn.Module, nn.Module]:
        return self.model.generators, self.model.predictors

    def _draw(self, source: ReplayBuffer | Transitions) -> Transitions:
        if isinstance(source, ReplayBuffer):
            return source.sample(self.config.batch_size, self.random)
        index = torch.randint(len(source), (self.config.batch_size,), generator=self.random)
        return source[index.to(source.reward.device)]


def _mapping(modules: nn.Module) -> dict[str, nn.Module]:
    assert isinstance(modules, nn.ModuleDict)
    return {domain: modules[domain] for domain in DOMAINS}
