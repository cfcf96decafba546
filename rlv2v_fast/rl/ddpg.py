"""The critics' targets and losses, and the deterministic policy gradient.

Source: Lillicrap et al. 2015 (DDPG), with a policy that is a mixture of two deterministic candidates; Fujimoto et al.
2018 (TD3) for the noise on target actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.rl.rollout import Policy

Critic = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixture_value(
    critic: Critic, policy: Policy, domain: str, state: Tensor, position: Tensor, sigma2: float
) -> Tensor:
    """The mean value of the two candidates, (N,): sum_k pi_k Q_d(s, a_k) with pi = (1 - sigma2, sigma2)."""
    first, second = policy.candidates(domain, state)
    return (1 - sigma2) * critic(state, first, position) + sigma2 * critic(state, second, position)


@torch.no_grad()
def td_target(
    batch: Transitions,
    domain: str,
    target_critic: Critic,
    target_policy: Policy,
    *,
    gamma: float,
    sigma2: float,
    noise: Callable[[Tensor], Tensor] = lambda action: action,
) -> Tensor:
    """The TD targets of transitions of one domain, (N,): y = r + gamma (1 - done) sum_k pi_k Q'_d(s', noise(a'_k))."""

    def critic(state: Tensor, action: Tensor, position: Tensor) -> Tensor:
        return target_critic(state, noise(action), position)

    value = mixture_value(critic, target_policy, domain, batch.next_state, batch.next_position, sigma2)
    return batch.reward + gamma * (~batch.done) * value


def clipped_noise(action: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """action plus normal noise, which is cut off at twice its deviation; action and sum lie in [-1, 1]."""
    drawn = torch.randn(action.shape, generator=generator).clamp(-2, 2) * deviation
    return (action + drawn.to(action)).clamp(-1, 1)


def explained_variance(value: Tensor, outcome: Tensor) -> float:
    """How much of the outcomes the values explain: 1 - Var(outcome - value) / Var(outcome), both (N,).

    It is 1 for a perfect critic, 0 for a constant one and negative for a worse one; NaN where all outcomes are equal.
    """
    spread = outcome.var(correction=0)
    return (1 - (outcome - value).var(correction=0) / spread).item() if spread > 0 else float("nan")


def less_mean_at(position: Tensor, numbers: Tensor) -> Tensor:
    """numbers minus the mean of the numbers at the same position, both (N,): what the time alone does not explain."""
    _, index = position.unique(return_inverse=True)
    count = index.bincount()
    return numbers - (numbers.new_zeros(len(count)).index_add(0, index, numbers) / count)[index]


def explained_within(value: Tensor, outcome: Tensor, position: Tensor) -> float:
    """explained_variance after both have lost their mean at each position in the clip, which the time explains."""
    return explained_variance(less_mean_at(position, value), less_mean_at(position, outcome))


def critic_loss(critic: Critic, batch: Transitions, target: Tensor) -> Tensor:
    """The critic's mean squared error, a scalar: mean (Q_d(s, a) - y)^2."""
    return (critic(batch.state, batch.action, batch.position) - target).square().mean()


def actor_loss(
    batches: Mapping[str, Transitions], critics: Mapping[str, Critic], policy: Policy, *, sigma2: float
) -> Tensor:
    """The policy gradient's loss, a scalar: -sum_d mean sum_k pi_k Q_d(s, a_k) / mean |Q_d|, the scale detached.

    Gradients reach the policy through the actions. The caller freezes the critics' parameters.
    """
    total: Tensor | None = None
    for domain, batch in batches.items():
        value = mixture_value(critics[domain], policy, domain, batch.state, batch.position, sigma2)
        term = -value.mean() / value.detach().abs().mean().clamp_min(1e-8)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("batches must hold at least one domain; got none")
    return total


def by_domain(batch: Transitions) -> dict[str, Transitions]:
    """The transitions of each domain that has any. A transition's domain is that of the true next frame."""
    parts = {domain: batch[batch.domain == index] for index, domain in enumerate(DOMAINS)}
    return {domain: part for domain, part in parts.items() if len(part)}
