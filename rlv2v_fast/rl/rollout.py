"""The policy with its two candidate frames, and rollouts over clips, which give transitions.

A rollout of a clip x_0 .. x_{T-1} starts from the state (black, .., black, x_0) and takes T-1 actions. Action t stands
for frame t: it is compared with x_t and becomes the newest frame of the next state.
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
    """Weights of the reward.

    recurrent, recycle: of the distance to the true frame of candidates 1 and 2. video: of the verdict on the clip.
    kind: form of the adversarial losses. style: weight of the style term.
    """

    recurrent: float = 0.1
    recycle: float = 0.1
    video: float = 1.0
    kind: str = "bce"
    style: float = 1.0


def first_state(frame: Tensor, state_frames: int) -> Tensor:
    """The state at a clip's start, (B, p, C, H, W): black frames, then its first frame (B, C, H, W)."""
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
    """The reward of an action, (B,): r = -(l_g(D(a)) + lambda mean |x_{t+1} - a|).

    D judges the action as the frame that follows its state.

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
    """The return at each step of a clip: r_t + gamma r_{t+1} + gamma^2 r_{t+2} + .. to the last reward."""
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
    """Every transition of a rollout of the policy over both domains' clips.

    Args:
        clips: (B, T, C, H, W) for "x" and "y", T >= 2. Networks must be in eval mode.
        policy: gives the two candidates.
        discriminators: by domain; a call gives an object with authenticity, style (B, T, h, w) and video (B,).
        state_frames: p.
        weights: of the reward.
        sigma2: probability of candidate 2 where the choice is drawn.
        generator: CPU generator that the choices are drawn from.
        gamma: discount of the outcomes.
        critics: if given, the candidate of higher value is taken with probability 1 - epsilon.
        epsilon: probability that the choice is drawn from (1 - sigma2, sigma2) instead.

    Returns:
        B (T-1) transitions of each domain. The last of a clip is done, and its reward is -lambda_v L_v of the clip that
        was rolled out.
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
