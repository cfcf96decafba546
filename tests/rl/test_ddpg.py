import math
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from rlv2v_fast.rl.ddpg import (
    actor_loss,
    by_domain,
    clipped_noise,
    critic_loss,
    explained_variance,
    less_mean_at,
    mixture_value,
    td_target,
)
from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.rl.rollout import Policy


def pixel(*levels):
    """(N, 1, 1, 1) frames of one pixel."""
    return torch.tensor(levels).reshape(-1, 1, 1, 1)


def batch_of(states, actions, rewards, done, *, position=0.0, next_position=0.0, domain=0):
    count = len(rewards)
    return Transitions(
        state=torch.tensor(states).reshape(count, -1, 1, 1, 1),
        action=pixel(*actions),
        true_action=pixel(*actions),
        reward=torch.tensor(rewards),
        position=torch.full((count,), position),
        next_position=torch.full((count,), next_position),
        domain=torch.full((count,), domain),
        done=torch.tensor(done),
        outcome=torch.tensor(rewards),
    )


def constant_policy(first, second):
    """For either domain, a_1 = first and a_2 = second whatever the state."""
    return Policy(
        {d: lambda v: torch.full_like(v, second) for d in "xy"}, {d: lambda v: torch.full_like(v, first) for d in "xy"}
    )


def value(state, action, position):
    """Q = 100 position + 10 last state frame + action, of one-pixel frames."""
    return 100 * position + 10 * state[:, -1].flatten() + action.flatten()


class Scale(nn.Module):
    """v -> w v, one parameter."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(self, video):
        return self.weight * video


class Slope(nn.Module):
    """Q(s, a) = w a + b."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.tensor(float(v))) for v in (weight, bias))

    def forward(self, state, action, position):
        return self.weight * action.flatten(1).mean(1) + self.bias


def scales(**weights):
    """Networks G_x, G_y, P_x, P_y as Scale modules, and the policy of them."""
    networks = nn.ModuleDict({name: Scale(weight) for name, weight in weights.items()})
    policy = Policy({d: networks[f"G_{d}"] for d in "xy"}, {d: networks[f"P_{d}"] for d in "xy"})
    return networks, policy


def test_mixture_value_weighs_candidates_by_their_probabilities():
    state, position = torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1, 1), torch.tensor([0.1, 0.2])
    mixed = mixture_value(value, constant_policy(1.0, 5.0), "x", state, position, sigma2=0.25)
    first, second = [10 + 5 + 1, 20 + 2.5 + 1], [10 + 5 + 5, 20 + 2.5 + 5]
    assert mixed.tolist() == pytest.approx([0.75 * a + 0.25 * b for a, b in zip(first, second, strict=True)])


def test_td_target_is_reward_plus_discounted_next_value():
    # Next states are (0.2, 0.3) and (0.5, 0.6); their last frames, the actions, are worth 10 each.
    batch = batch_of(
        [[0.1, 0.2], [0.4, 0.5]], [0.3, 0.6], [-1.0, -2.0], [False, False], position=0.25, next_position=0.5
    )
    target = td_target(batch, "x", value, constant_policy(1.0, 3.0), gamma=0.9, sigma2=0.25)
    mixed = 0.75 * 1 + 0.25 * 3
    assert target.tolist() == pytest.approx([-1 + 0.9 * (50 + 3 + mixed), -2 + 0.9 * (50 + 6 + mixed)])


def test_td_target_of_a_final_transition_is_its_reward():
    batch = batch_of([[0.1], [0.4]], [0.3, 0.6], [-1.0, -2.0], [True, False])
    target = td_target(batch, "x", value, constant_policy(1.0, 1.0), gamma=0.5, sigma2=0.5)
    assert target.tolist() == pytest.approx([-1.0, -2 + 0.5 * (6 + 1)])


@pytest.mark.parametrize(("domain", "direct", "through_other"), [("x", 7, 2 * 11 * 3), ("y", 11, 3 * 7 * 2)])
def test_td_target_takes_the_next_candidates_of_its_domain(domain, direct, through_other):
    _, policy = scales(G_x=2, G_y=3, P_x=7, P_y=11)
    batch = batch_of([[9.0]], [0.5], [0.0], [False])

    def q(state, action, position):
        return action.flatten()

    for sigma2, factor in ((0.0, direct), (1.0, through_other)):
        target = td_target(batch, domain, q, policy, gamma=1.0, sigma2=sigma2)
        assert target.item() == pytest.approx(factor * 0.5)


def test_td_target_carries_no_gradient():
    _, policy = scales(G_x=1, G_y=1, P_x=1, P_y=1)
    batch = batch_of([[0.1]], [0.3], [-1.0], [False])
    assert not td_target(batch, "x", Slope(2), policy, gamma=0.9, sigma2=0.5).requires_grad


def test_td_target_values_noisy_actions():
    batch = batch_of([[0.1], [0.4]], [0.3, 0.6], [-1.0, -2.0], [True, False])
    target = td_target(batch, "x", value, constant_policy(1.0, 1.0), gamma=0.5, sigma2=0.5, noise=lambda a: a + 0.25)
    assert target.tolist() == pytest.approx([-1.0, -2.0 + 0.5 * (6 + 1.25)])


def test_noise_on_actions_is_cut_off_and_keeps_them_in_range():
    action = torch.full((10_000,), 0.5)
    noisy = clipped_noise(action, 0.1, torch.Generator().manual_seed(0))
    moved = noisy - action
    # Float32 sums near 0.5 round by 6e-8; a normal cut off at two of its deviations has 0.959 of it.
    assert moved.abs().max().item() == pytest.approx(0.2, abs=1e-6)
    assert moved.std().item() == pytest.approx(0.1 * 0.959, rel=0.05)
    assert clipped_noise(torch.ones(1000), 0.5, torch.Generator().manual_seed(0)).max() == 1


def test_explained_variance_is_1_if_perfect_and_0_if_constant():
    outcome = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert explained_variance(outcome + 100, outcome) == pytest.approx(1)
    assert explained_variance(torch.full((4,), 7.0), outcome) == pytest.approx(0)
    assert explained_variance(-outcome, outcome) == pytest.approx(-3)
    assert math.isnan(explained_variance(outcome, torch.ones(4)))


def test_numbers_less_their_mean_at_a_position():
    position, numbers = torch.tensor([0.5, 0.25, 0.5, 0.25]), torch.tensor([1.0, 10.0, 5.0, 10.0])
    assert less_mean_at(position, numbers).tolist() == [-2, 0, 2, 0]


def test_critic_loss_is_the_squared_error_at_the_action_taken():
    batch = batch_of([[0.5], [1.0]], [2.0, 3.0], [0.0, 0.0], [False, False], position=0.25)
    # Q = 25 + 5 + 2 and 25 + 10 + 3.
    assert critic_loss(value, batch, torch.tensor([30.0, 39.0])).item() == pytest.approx((2**2 + 1**2) / 2)


def test_critic_loss_moves_the_critic_towards_the_target():
    critic, batch = Slope(1.0, 0.0), batch_of([[0.0]], [2.0], [0.0], [False])
    critic_loss(critic, batch, torch.tensor([5.0])).backward()
    # d/dw (2 w + b - 5)^2 = 2 (2 - 5) 2, d/db the same without the action.
    assert (critic.weight.grad.item(), critic.bias.grad.item()) == (-12, -6)


def test_actor_loss_is_minus_the_mean_value_over_its_mean_size():
    batch = batch_of([[1.0], [-3.0]], [0.0, 0.0], [0.0, 0.0], [False, False])
    _, policy = scales(G_x=2, G_y=1, P_x=1, P_y=1)
    # a_1 = s, a_2 = 2 s; Q = a + 2: values 0.75 s + 0.25 2 s + 2 = 3.25 and -1.75.
    loss = actor_loss({"x": batch}, {"x": Slope(1, 2)}, policy, sigma2=0.25)
    assert loss.item() == pytest.approx(-((3.25 - 1.75) / 2) / ((3.25 + 1.75) / 2))


def test_actor_loss_adds_the_domains_each_on_its_own_scale():
    _, policy = scales(G_x=1, G_y=1, P_x=1, P_y=1)
    batches = {
        "x": batch_of([[1.0], [-0.5]], [0.0, 0.0], [0.0, 0.0], [False, False]),
        "y": batch_of([[-2.0]], [0.0], [0.0], [False], domain=1),
    }
    critics = {"x": Slope(1), "y": Slope(1000)}
    # x: -0.25 / 0.75, y: +1.
    assert actor_loss(batches, critics, policy, sigma2=0.5).item() == pytest.approx(-1 / 3 + 1)


def test_the_actors_loss_and_gradient_ignore_the_critics_scale():
    results = []
    for size in (1.0, 1e-3, 500.0):
        networks, policy = scales(G_x=1.5, G_y=0.5, P_x=1, P_y=2)
        batch = batch_of([[1.0], [0.5]], [0.0, 0.0], [0.0, 0.0], [False, False])
        loss = actor_loss({"x": batch}, {"x": Slope(size, -0.2 * size)}, policy, sigma2=0.5)
        loss.backward()
        results.append([loss.item(), *(p.grad.item() for p in networks.parameters())])
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_a_step_down_the_actor_loss_raises_the_value(slope):
    networks, policy = scales(G_x=1.5, G_y=0.5, P_x=1, P_y=2)
    batch, critic = batch_of([[1.0], [0.5]], [0.0, 0.0], [0.0, 0.0], [False, False]), Slope(slope, 0.5)

    def worth():
        return mixture_value(critic, policy, "x", batch.state, batch.position, sigma2=0.5).mean().item()

    before = worth()
    actor_loss({"x": batch}, {"x": critic}, policy, sigma2=0.5).backward()
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter -= 1e-3 * parameter.grad
    assert worth() > before


def test_actor_gradient_is_the_deterministic_policy_gradient():
    networks, policy = scales(G_x=2, G_y=3, P_x=5, P_y=7)
    batch, (w, b) = batch_of([[0.5]], [0.0], [0.0], [False]), (-3.0, 0.25)
    actor_loss({"x": batch}, {"x": Slope(w, b)}, policy, sigma2=0.25).backward()
    # a_1 = P_x s, a_2 = G_x P_y G_y s; value 0.75 (w a_1 + b) + 0.25 (w a_2 + b), its size detached.
    first, second = 5 * 0.5, 2 * 7 * 3 * 0.5
    size = abs(0.75 * (w * first + b) + 0.25 * (w * second + b))
    expected = {"P_x": 0.75 * first / 5, "G_x": 0.25 * second / 2, "P_y": 0.25 * second / 7, "G_y": 0.25 * second / 3}
    for name, slope in expected.items():
        assert networks[name].weight.grad.item() == pytest.approx(-w * slope / size), name


def test_gradients_reach_all_of_the_policy_and_no_frozen_critic():
    networks, policy = scales(G_x=1, G_y=1, P_x=1, P_y=1)
    critic = Slope(1, 1).requires_grad_(False)
    batch = batch_of([[1.0]], [0.0], [0.0], [False])
    actor_loss({"x": batch}, {"x": critic}, policy, sigma2=0.5).backward()
    assert all(parameter.grad.abs() > 0 for parameter in networks.parameters())
    assert all(parameter.grad is None for parameter in critic.parameters())


@pytest.mark.parametrize(("sigma2", "moved"), [(0.0, {"P_x"}), (1.0, {"G_x", "P_y", "G_y"})])
def test_only_candidates_the_policy_may_take_are_trained(sigma2, moved):
    networks, policy = scales(G_x=1, G_y=1, P_x=1, P_y=1)
    actor_loss({"x": batch_of([[1.0]], [0.0], [0.0], [False])}, {"x": Slope(1)}, policy, sigma2=sigma2).backward()
    assert {name for name, network in networks.items() if network.weight.grad} == moved


def test_a_critic_of_zeros_gives_a_finite_gradient():
    networks, policy = scales(G_x=1, G_y=1, P_x=1, P_y=1)
    loss = actor_loss({"x": batch_of([[1.0]], [0.0], [0.0], [False])}, {"x": Slope(0)}, policy, sigma2=0.5)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(parameter.grad) for parameter in networks.parameters())


def test_an_actor_loss_of_no_domain_is_an_error():
    with pytest.raises(ValueError, match="batches must hold at least one domain; got none"):
        actor_loss({}, {}, constant_policy(0, 0), sigma2=0.5)


def test_transitions_are_split_by_domain_in_order(transitions):
    batch = transitions(5)
    parts = by_domain(batch)
    assert {domain: part.reward.tolist() for domain, part in parts.items()} == {"x": [0, 2, 4], "y": [1, 3]}
    for field in fields(Transitions):
        assert torch.equal(getattr(parts["y"], field.name), getattr(batch, field.name)[[1, 3]])


@pytest.mark.parametrize(("index", "domain"), [(0, "x"), (1, "y")])
def test_a_domain_without_transitions_is_left_out(transitions, index, domain):
    batch = replace(transitions(2), domain=torch.tensor([index, index]))
    assert list(by_domain(batch)) == [domain]
