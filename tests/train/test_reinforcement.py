"""The reinforcement learning part of a run: its schedule, its targets and its scale."""

import dataclasses

import pytest
import torch

from rlv2v_fast.models.q_network import q_members
from rlv2v_fast.rl.ddpg import by_domain
from rlv2v_fast.train.starts import make_trainer
from rlv2v_fast.train.trainer import Trainer


def trainer_with(config, domains, **rl):
    return Trainer(dataclasses.replace(config, rl=dataclasses.replace(config.rl, **rl)), domains)


def clips(domains, count=2):
    random = torch.Generator().manual_seed(3)
    return {domain: domains[domain].batch(random, count) for domain in ("x", "y")}


def test_rollouts_and_the_warm_up_begin_at_the_first_step(config, domains):
    trainer = trainer_with(config, domains, first_step=2, rollout_every=1, critic_warmup=2)
    rows = [trainer.iterate() for _ in range(5)]
    assert [any(name.startswith("critic") for name in row) for row in rows] == [False, False, True, True, True]
    assert ["actor" in row for row in rows] == [False, False, False, False, True]


def test_every_rollout_has_as_many_critic_updates_as_asked_for(config, domains):
    trainer = trainer_with(config, domains, critic_steps=3, rollout_every=1, batch_size=32)
    trainer.iterate()
    # Of 32 transitions some are of each domain, so that both critics learn each time.
    assert {state["step"].item() for state in trainer.critic_optimizer.state.values()} == {3}


def test_monte_carlo_targets_are_the_outcomes(config, domains):
    reinforcement = trainer_with(config, domains, target="monte_carlo").reinforcement
    for domain, part in by_domain(reinforcement.collect(clips(domains))[0]).items():
        assert torch.equal(reinforcement._goal(part, domain), part.outcome)


@pytest.mark.parametrize("target", ["monte_carlo", "td"])
def test_critics_are_fitted_to_standardized_returns(config, domains, target):
    rl = {"normalize": True, "baseline": True, "target": target, "batch_size": 64}
    reinforcement = trainer_with(config, domains, **rl).reinforcement
    for _ in range(3):
        batch = reinforcement.collect(clips(domains))[0]
    part = by_domain(batch)["x"]
    seen = reinforcement.returns.relative(part, reinforcement.config.gamma)
    assert not torch.equal(seen.outcome, part.outcome)
    assert reinforcement.returns.scale not in (0, 1)
    last = part.done  # whose targets have no future
    assert last.any()
    goal = reinforcement._goal(part, "x")
    assert torch.equal(goal[last], (seen.outcome if target == "monte_carlo" else seen.reward)[last])
    if target == "monte_carlo":
        assert torch.equal(goal, seen.outcome)


def test_what_the_critics_expect_is_told_in_the_size_of_returns(config, domains):
    reinforcement = trainer_with(config, domains, normalize=True, baseline=True).reinforcement
    before = reinforcement.examine(clips(domains))
    reinforcement.returns.mean.fill_(-7.0)
    after = reinforcement.examine(clips(domains))
    assert after["value_x"] == pytest.approx(before["value_x"] - 7, abs=1e-4)
    reinforcement.returns.deviation = 3.0
    assert reinforcement.examine(clips(domains))["value_x"] == pytest.approx(3 * before["value_x"] - 7, abs=1e-4)


def test_each_of_two_critics_learns_and_the_lower_one_counts(config, domains):
    trainer = trainer_with(config, domains, critics=2, rollout_every=1, critic_warmup=0)
    before = [m.head.weight.clone() for m in q_members(trainer.model.critics["x"])]
    for _ in range(2):
        trainer.iterate()
    after = [m.head.weight for m in q_members(trainer.model.critics["x"])]
    assert not torch.equal(before[0], before[1])
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_examinations_repeat_change_nothing_and_name_each_domain(config, domains):
    trainer = trainer_with(config, domains, rollout_every=1)
    trainer.iterate()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    random, held = trainer.reinforcement.random.get_state(), len(trainer.reinforcement.buffer)
    first, second = (trainer.reinforcement.examine(clips(domains)) for _ in range(2))
    assert first == second
    names = ("reward", "final_reward", "return_std", "value", "explained_variance", "explained_within")
    assert set(first) == {f"{name}_{domain}" for name in names for domain in "xy"}
    assert first["explained_variance_x"] <= 1
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert torch.equal(random, trainer.reinforcement.random.get_state())
    assert len(trainer.reinforcement.buffer) == held


def test_gradient_norms_of_the_policy_and_the_actor_are_told(config, domains):
    trainer = trainer_with(config, domains, rollout_every=1, critic_warmup=0)
    row = trainer.iterate()
    assert row["gradient_policy"] > 0
    assert row["gradient_actor"] > 0


def same(targets, followed):
    return all(torch.equal(t, followed[n]) for n, t in targets.state_dict().items())


@pytest.mark.parametrize("starts", [1, 2])
def test_targets_begin_as_copies_only_once_learning_begins(config, domains, starts):
    config = dataclasses.replace(config, starts=starts, start_steps=2, rl=dataclasses.replace(config.rl, first_step=2))
    trainer = make_trainer(config, domains)[0]
    targets = trainer.reinforcement.targets
    initial = {n: t.clone() for n, t in targets.state_dict().items()}
    trainer.iterate()
    trainer.iterate()
    assert all(torch.equal(t, initial[n]) for n, t in targets.state_dict().items())  # nothing follows before it learns
    begun = []
    collect = trainer.reinforcement.collect

    def watched(real):
        begun.append(same(targets["generators"], trainer.model.generators.state_dict()))
        return collect(real)

    trainer.reinforcement.collect = watched
    trainer.iterate()
    assert begun == [True]
    trainer.iterate()
    assert not same(targets["generators"], trainer.model.generators.state_dict())  # they trail


def test_gradients_of_losses_and_critics_make_one_step(config, domains):
    """Adam's first step is the learning rate times the gradient's sign, so twice of it would tell two steps."""
    trainer = trainer_with(config, domains, rollout_every=1, critic_warmup=0)
    before = {n: p.detach().clone() for n, p in trainer.model.generators.named_parameters()}
    trainer.iterate()
    moved = max((p - before[n]).abs().max().item() for n, p in trainer.model.generators.named_parameters())
    assert moved == pytest.approx(config.optim.lr, rel=1e-2)
