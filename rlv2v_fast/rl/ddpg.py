"""The critic's temporal-difference target, and the deterministic policy gradient.

Source: Lillicrap et al. 2015 (DDPG), with the policy a mixture of two deterministic candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.rl.rollout import DOMAINS, Policy

Critic = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixture_value(
    critic: Critic, policy: Policy, domain: str, state: Tensor, position: Tensor, sigma2: float
) -> Tensor:
    """sum_k pi_k Q_d(s, a_k) with pi = (1 - sigma2, sigma2), (N,)."""
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
) -> Tensor:
    """y = r + gamma (1 - done) sum_k pi_k Q'_d(s', a'_k), (N,), for transitions all of one domain."""
    value = mixture_value(target_critic, target_policy, domain, batch.next_state, batch.next_position, sigma2)
    return batch.reward + gamma * (~batch.done) * value


def critic_loss(critic: Critic, batch: Transitions, target: Tensor) -> Tensor:
    """Scalar mean (Q_d(s, a) - y)^2."""
    return (critic(batch.state, batch.action, batch.position) - target).square().mean()


def actor_loss(
    batches: Mapping[str, Transitions], critics: Mapping[str, Critic], policy: Policy, *, sigma2: float
) -> Tensor:
    """-sum_d mean sum_k pi_k Q_d(s, a_k) / mean |Q_d|, the scale detached; scalar.

    Gradients reach the policy through the actions; the caller keeps the critics' parameters frozen.
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
    """The transitions of each domain that has any; domain is that of the true next frame."""
    parts = {domain: batch[batch.domain == index] for index, domain in enumerate(DOMAINS)}
    return {domain: part for domain, part in parts.items() if len(part)}
