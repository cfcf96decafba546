"""The reinforcement learning part of an iteration: rollouts, critics, and the policy gradient (Figure 3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.models.q_network import q_members
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.nn.average import soft_update
from rlv2v_fast.nn.norm import evaluating
from rlv2v_fast.rl.ddpg import (
    actor_loss,
    by_domain,
    clipped_noise,
    critic_loss,
    explained_variance,
    explained_within,
    td_target,
)
from rlv2v_fast.rl.replay import ReplayBuffer, Transitions
from rlv2v_fast.rl.returns import RunningReturns
from rlv2v_fast.rl.rollout import Policy, RewardWeights, rollout
from rlv2v_fast.train.config import TrainConfig
from rlv2v_fast.train.distributed import average_numbers, seed_offset
from rlv2v_fast.train.steps import Losses, Networks, frozen


class Reinforcement:
    """Target networks, replay buffer and random stream of the reinforcement learning part of a run.

    Args:
        model: a model with critics.
        networks: the model's networks, as they are called.
        config: the run's, resolved.
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
        frames = config.frames if config.window is None else config.window
        self.returns = RunningReturns(frames, baseline=config.rl.baseline, normalize=config.rl.normalize)

    def collect(self, real: Mapping[str, Tensor]) -> list[Transitions]:
        """This iteration's minibatches. Rolls the policy out over the clips, and stores the new transitions."""
        fresh = self.roll(real, self.random)
        batches = [self._draw(fresh) for _ in range(self.config.critic_steps)]
        self.buffer.add(fresh)
        # Averaged, because all processes must subtract and divide by the same numbers.
        self.returns.move(average_numbers(self.returns.measured(fresh)))
        return batches

    def examine(self, clips: Mapping[str, Tensor]) -> dict[str, float]:
        """How well the critics predict the returns of clips that they were not fitted to.

        Args:
            clips: (B, T, C, H, W) of "x" and "y". One rollout of each is drawn, always the same.

        Returns:
            For each domain d: reward_d, the mean reward of steps before a clip's last; final_reward_d, the mean reward
            of last steps; return_std_d, the standard deviation of the discounted returns; value_d, the mean return
            that the critics expect; explained_variance_d (rl.ddpg.explained_variance); and explained_within_d
            (rl.ddpg.explained_within), which leaves out what the position in the clip explains.
        """
        transitions = self.roll(clips, torch.Generator().manual_seed(0))
        report: dict[str, float] = {}
        for domain, part in by_domain(transitions).items():
            with torch.no_grad(), evaluating(self.model.critics):
                critic = self.networks.critics[domain]
                value = self.returns.absolute(critic(part.state, part.action, part.position).float(), part)
            report |= {
                f"reward_{domain}": part.reward[~part.done].mean().item(),
                f"final_reward_{domain}": part.reward[part.done].mean().item(),
                f"return_std_{domain}": part.outcome.std().item(),
                f"value_{domain}": value.mean().item(),
                f"explained_variance_{domain}": explained_variance(value, part.outcome),
                f"explained_within_{domain}": explained_within(value, part.outcome, part.position),
            }
        return report

    def critic_losses(self, batch: Transitions) -> Losses:
        """Step 3: the mean squared error of each domain's critic; if a domain has several critics, their sum."""
        losses: Losses = {}
        for domain, part in by_domain(batch).items():
            goal = self._goal(part, domain)
            members = q_members(_mapping(self.model.critics)[domain])
            losses[f"critic_{domain}"] = torch.stack([critic_loss(q, part, goal) for q in members]).sum()
        return losses

    def _goal(self, part: Transitions, domain: str) -> Tensor:
        """The values that the critics should give to transitions of one domain, (N,)."""
        rl = self.config
        part = self.returns.relative(part, rl.gamma)
        if rl.target == "monte_carlo":
            return part.outcome

        def noise(action: Tensor) -> Tensor:
            return clipped_noise(action, rl.smoothing, self.random) if rl.smoothing else action

        policy = Policy(_mapping(self.targets["generators"]), _mapping(self.targets["predictors"]))
        critic = _mapping(self.targets["critics"])[domain]
        return td_target(part, domain, critic, policy, gamma=rl.gamma, sigma2=rl.sigma2, noise=noise)

    def actor_losses(self, batch: Transitions) -> Losses:
        """The policy-gradient loss of generators and predictors, with frozen critics and frozen batch statistics."""
        with evaluating(*self._policy_modules(), self.model.critics), frozen(self.model.critics):
            loss = actor_loss(by_domain(batch), self.networks.critics, self._policy(), sigma2=self.config.sigma2)
        return {"actor": self.config.weight * loss}

    def reset_targets(self) -> None:
        """Copy the trained networks into the target networks."""
        for name, target in self.targets.named_children():
            target.load_state_dict(getattr(self.model, name).state_dict())

    def update_targets(self) -> None:
        """Step 5: move the target networks towards the trained ones by tau."""
        for name, target in self.targets.named_children():
            soft_update(target, getattr(self.model, name), self.config.tau)

    def state_dict(self) -> dict[str, Any]:
        """Targets, replay buffer, random stream, and the returns' mean and deviation."""
        return {
            "targets": self.targets.state_dict(),
            "buffer": self.buffer.state_dict(),
            "random": self.random.get_state(),
            "returns": self.returns.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.targets.load_state_dict(state["targets"])
        self.buffer.load_state_dict(state["buffer"])
        self.random.set_state(state["random"])
        self.returns.load_state_dict(state["returns"])

    def roll(self, clips: Mapping[str, Tensor], generator: torch.Generator) -> Transitions:
        """Every transition of a rollout over clips (B, T, C, H, W) of "x" and "y", with choices from the generator."""
        model, rl = self.model, self.config
        with evaluating(*self._policy_modules(), model.discriminators, model.critics):
            return rollout(
                clips,
                self._policy(),
                self.networks.discriminators,
                state_frames=rl.state_frames,
                weights=self.weights,
                sigma2=rl.sigma2,
                generator=generator,
                gamma=rl.gamma,
                critics=self.networks.critics,
                epsilon=rl.epsilon,
            )

    def _policy(self) -> Policy:
        return Policy(self.networks.generators, self.networks.predictors)

    def _policy_modules(self) -> tuple[nn.Module, nn.Module]:
        return self.model.generators, self.model.predictors

    def _draw(self, fresh: Transitions) -> Transitions:
        """A minibatch of earlier transitions with probability sigma1, or else of the newest ones."""
        count, device = self.config.batch_size, fresh.reward.device
        if bool(torch.rand((), generator=self.random) < self.config.sigma1) and len(self.buffer) > 0:
            return self.buffer.sample(count, self.random).to(device)
        return fresh[torch.randint(len(fresh), (count,), generator=self.random).to(device)]


def _mapping(modules: nn.Module) -> dict[str, nn.Module]:
    assert isinstance(modules, nn.ModuleDict)
    return {domain: modules[domain] for domain in DOMAINS}
