"""What is kept of returns, so that critics need not learn it."""

import dataclasses

import pytest
import torch

from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.rl.returns import RunningReturns
from rlv2v_fast.rl.rollout import discounted

FRAMES = 5


def rolled_out(rewards, gamma=1.0):
    """Transitions of clips with rewards (2, T-1, B) of each domain, by position, in the order of a rollout."""
    domains, steps, clips = rewards.shape
    outcomes = torch.stack([torch.stack(discounted(list(part), gamma)) for part in rewards])
    t = torch.arange(1, steps + 1).repeat_interleave(clips).repeat(domains)
    frame = torch.zeros(t.numel(), 3, 1, 1)
    return Transitions(
        state=frame.unsqueeze(1),
        action=frame,
        true_action=frame,
        reward=rewards.flatten(),
        position=t / (steps + 1),
        next_position=(t + 1).clamp(max=steps) / (steps + 1),
        domain=torch.arange(domains).repeat_interleave(steps * clips),
        done=t == steps,
        outcome=outcomes.flatten(),
    )


def random_rollout(seed, gamma=1.0, clips=3):
    return rolled_out(torch.randn(2, FRAMES - 1, clips, generator=torch.Generator().manual_seed(seed)), gamma)


def after(returns, *rollouts):
    for fresh in rollouts:
        returns.move(returns.measured(fresh))
    return returns


def test_without_baseline_or_normalization_returns_stay_the_same():
    fresh = random_rollout(0)
    seen = after(RunningReturns(FRAMES, baseline=False, normalize=False), fresh).relative(fresh, 0.9)
    assert torch.equal(seen.reward, fresh.reward)
    assert torch.equal(seen.outcome, fresh.outcome)


def test_the_baseline_is_a_mean_for_each_position_and_domain():
    fresh = random_rollout(1)
    returns = after(RunningReturns(FRAMES, baseline=True, normalize=False), fresh)
    wanted = fresh.outcome.view(2, FRAMES - 1, 3).mean(2, keepdim=True).expand(-1, -1, 3).flatten()
    assert torch.allclose(returns.mean_at(fresh.domain, fresh.position), wanted)
    assert torch.allclose(returns.relative(fresh, 1.0).outcome, fresh.outcome - wanted, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_relative_rewards_add_up_to_relative_outcomes(gamma, normalize):
    """The shaping telescopes, so that targets made of rewards and targets made of outcomes are of one and the same."""
    returns = RunningReturns(FRAMES, baseline=True, normalize=normalize)
    fresh = random_rollout(2, gamma)
    seen = after(returns, random_rollout(3, gamma), random_rollout(4, gamma)).relative(fresh, gamma)
    again = rolled_out(seen.reward.view(2, FRAMES - 1, 3), gamma)
    assert torch.allclose(again.outcome, seen.outcome, atol=1e-5)
    assert not torch.allclose(seen.outcome, fresh.outcome, atol=1e-2)


def test_the_mean_starts_as_an_average_then_moves_a_twentieth():
    returns = RunningReturns(FRAMES, baseline=True, normalize=False)
    fresh = rolled_out(torch.ones(2, FRAMES - 1, 1))
    tripled = dataclasses.replace(fresh, outcome=3 * fresh.outcome)
    one = after(returns, fresh).mean.clone()
    assert torch.allclose(after(returns, tripled).mean, 2 * one)
    after(returns, *[fresh] * 98)
    before = returns.mean.clone()
    assert torch.allclose(after(returns, tripled).mean, before + (3 * one - before) / 20)


def test_the_deviation_is_that_of_returns_and_moves_a_twentieth():
    returns = RunningReturns(FRAMES, baseline=False, normalize=True)
    assert returns.scale == 1
    first = random_rollout(5)
    after(returns, first)
    assert returns.scale == pytest.approx(first.outcome.std(correction=0).item())
    after(returns, dataclasses.replace(first, outcome=3 * first.outcome))
    assert returns.scale == pytest.approx(1.1 * first.outcome.std(correction=0).item())
    assert torch.equal(returns.relative(first, 1.0).outcome, first.outcome / returns.scale)


def test_with_a_baseline_deviations_are_from_the_earlier_means():
    returns = RunningReturns(FRAMES, baseline=True, normalize=True)
    one = random_rollout(6, clips=1)
    after(returns, one)
    assert returns.scale == 1  # a single clip does not differ from its own mean
    after(returns, dataclasses.replace(one, outcome=one.outcome + 0.5))
    assert returns.scale == pytest.approx(0.5)


def test_clips_longer_than_those_rolled_out_are_seen_as_as_long():
    returns = RunningReturns(2, baseline=True, normalize=False)
    after(returns, rolled_out(torch.full((2, 1, 1), -4.0)))
    assert returns.mean_at(torch.tensor([0, 1]), torch.tensor([15 / 16, 15 / 16])).tolist() == [-4, -4]


def test_returns_restored_go_on_as_if_never_stopped():
    straight = after(RunningReturns(FRAMES, baseline=True, normalize=True), *map(random_rollout, range(4)))
    stopped = after(RunningReturns(FRAMES, baseline=True, normalize=True), *map(random_rollout, range(2)))
    resumed = RunningReturns(FRAMES, baseline=True, normalize=True)
    resumed.load_state_dict(stopped.state_dict())
    after(resumed, *map(random_rollout, range(2, 4)))
    assert torch.equal(resumed.mean, straight.mean)
    assert resumed.scale == straight.scale
