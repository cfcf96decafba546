"""The policy's two candidate frames, and rolling a policy out over clips to collect transitions.

A rollout of a clip x_0 .. x_{T-1} starts from the state (black, .., black, x_0) and takes T-1 actions; action t stands
for frame t, is compared with x_t, and becomes the newest frame of the next state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlv2v_fast.domains import DOMAINS, OTHER
from rlv2v_fast.losses.adversarial import fooling_loss
from rlv2v_fast.rl.replay import Transitions

Network = Callable[[Tensor], Tensor]
BLACK = -1.0


@dataclass(frozen=True)
class Policy:
    """mu = (G_x, G_y, P_x, P_y), each mapping (B, T, C, H, W) to (B, T, C, H, W), keyed by the domain produced."""

    generators: Mapping[str, Network]
    predictors: Mapping[str, Network]

    def candidates(self, domain: str, state: Tensor) -> tuple[Tensor, Tensor]:
        """The two actions for state (B, p, C, H, W) of domain d, each (B, C, H, W).

        a_1 = P_d(s) and a_2 = G_d(P_d'(G_d'(s))), the last frame of each.
        """
        other = OTHER[domain]
        direct = self.predictors[domain](state)
        through_other = self.generators[domain](self.predictors[other](self.generators[other](state)))
        return direct[:, -1], through_other[:, -1]


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the reward: candidate 1's and 2's distance to the true frame, the clip's verdict; loss kind; style."""

    recurrent: float = 0.1
    recycle: float = 0.1
    video: float = 1.0
    kind: str = "bce"
    style: float = 1.0


def first_state(frame: Tensor, state_frames: int) -> Tensor:
    """(B, p, C, H, W): black frames, then frame (B, C, H, W)."""
    black = torch.full_like(frame, BLACK).unsqueeze(1).expand(-1, state_frames - 1, -1, -1, -1)
    return torch.cat([black, frame.unsqueeze(1)], dim=1)


def step_reward(
    discriminator: Callable[[Tensor], object],
    state: Tensor,
    action: Tensor,
    truth: Tensor,
    weight: Tensor,
    kind: str,
    style: float = 1.0,
) -> Tensor:
    """r = -(l_g(D(a)) + lambda mean |x_{t+1} - a|), (B,); D judges the action as the last frame after its state.

    Args:
        state: (B, p, C, H, W). action, truth: (B, C, H, W). weight: (B,), lambda of the candidate taken.
        style: weight of the style term in l_g.
    """
    verdict = discriminator(torch.cat([state, action.unsqueeze(1)], dim=1))
    logits = torch.stack([verdict.authenticity[:, -1], verdict.style[:, -1]], dim=1)  # type: ignore[attr-defined]
    # l_g is the sum of an authenticity and a style term, each a mean over patches.
    terms = fooling_loss(logits, kind).flatten(2).mean(2)
    l_g = terms.sum(1) if style == 1 else terms[:, 0] + style * terms[:, 1]
    return -(l_g + weight * (truth - action).abs().flatten(1).mean(1))


def discounted(rewards: Sequence[Tensor], gamma: float) -> list[Tensor]:
    """For each step of a clip, r_t + gamma r_{t+1} + gamma^2 r_{t+2} + .. to the last."""
    outcomes: list[Tensor] = []
    for reward in reversed(rewards):
        outcomes.append(reward + gamma * outcomes[-1] if outcomes else reward)
    return outcomes[::-1]


@torch.no_grad()
def rollout(
    clips: Mapping[str, Tensor],
    policy: Policy,
    discriminators: Mapping[str, Callable[[Tensor], object]],
    *,
    state_frames: int,
    weights: RewardWeights,
    sigma2: float,
    generator: torch.Generator,
    gamma: float = 1.0,
    critics: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] | None = None,
    epsilon: float = 1.0,
) -> Transitions:
    """Roll the policy out over both domains' clips and return every transition.

    Args:
        clips: (B, T, C, H, W) for "x" and "y", T >= 2. Networks must be in eval mode.
        policy: whose candidates are taken.
        discriminators: per domain; a call gives an object with authenticity, style (B, T, h, w) and video (B,).
        state_frames: p.
        weights: of the reward.
        sigma2: probability of candidate 2 under the behaviour.
        generator: CPU generator of the choices.
        gamma: discount of the outcomes.
        critics: with these, the candidate of higher value is taken with probability 1 - epsilon.
        epsilon: probability of drawing from (1 - sigma2, sigma2) instead.

    Returns:
        B (T-1) transitions of each domain. The last of a clip is done and its reward is -lambda_v L_v of the clip
        rolled out.
    """
    parts = []
    for index, domain in enumerate(DOMAINS):
        clip = clips[domain]
        batch, frames = clip.shape[:2]
        state = first_state(clip[:, 0], state_frames)
        taken = [clip[:, 0]]
        steps: list[dict[str, Tensor]] = []
        for t in range(1, frames):
            position = clip.new_full((batch,), t / frames)
            first, second = policy.candidates(domain, state)
            use_second = torch.rand(batch, generator=generator) < sigma2
            greedy = torch.rand(batch, generator=generator) >= epsilon
            if critics is not None and bool(greedy.any()):
                critic = critics[domain]
                better = critic(state, second, position) > critic(state, first, position)
                use_second = torch.where(greedy, better.cpu(), use_second)
            use_second = use_second.to(clip.device)
            action = torch.where(use_second[:, None, None, None], second, first)
            taken.append(action)
            done = t == frames - 1
            if done:
                verdict = discriminators[domain](torch.stack(taken, dim=1))
                reward = -weights.video * fooling_loss(verdict.video, weights.kind)  # type: ignore[attr-defined]
            else:
                scale = torch.where(use_second, weights.recycle, weights.recurrent)
                judge, kind, style = discriminators[domain], weights.kind, weights.style
                reward = step_reward(judge, state, action, clip[:, t], scale, kind, style)
            steps.append(
                {
                    "state": state,
                    "action": action,
                    "true_action": clip[:, t],
                    "reward": reward.float(),
                    "position": position,
                    "next_position": clip.new_full((batch,), min(t + 1, frames - 1) / frames),
                    "domain": torch.full((batch,), index, device=clip.device),
                    "done": torch.full((batch,), done, device=clip.device),
                }
            )
            state = torch.cat([state[:, 1:], action.unsqueeze(1)], dim=1)
        outcomes = discounted([step["reward"] for step in steps], gamma)
        parts += [Transitions(**step, outcome=outcome) for step, outcome in zip(steps, outcomes, strict=True)]
    return Transitions.concatenate(parts)
