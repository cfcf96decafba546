import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_module_simplified, nop

from rlv2v_fast.losses.contrast import contrast_loss
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.train.config import LossConfig
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.steps import policy_losses, translate_both
from rlv2v_fast.train.trainer import Trainer, decay_share
from tests.train.helpers import assert_same, small, weights, without_rl


def recycle_gan_step(model, optimizers, real, lambdas):
    """One update of Recycle-GAN with a video discriminator, written from the formulas alone."""
    bce = F.binary_cross_entropy_with_logits

    def one(z):
        return bce(z, torch.ones_like(z))

    def zero(z):
        return bce(z, torch.zeros_like(z))

    G, P, D = model.generators, model.predictors, model.discriminators
    other = {"x": "y", "y": "x"}
    model.train()
    fake = {d: G[d](real[other[d]]) for d in "xy"}
    loss = 0
    for d in "xy":
        # one batch, so that batch statistics are shared
        verdict = D[d](torch.cat([real[d], fake[d].detach(), real[other[d]]]))
        n = len(real[d])
        loss = loss + one(verdict.authenticity[:n]) + zero(verdict.authenticity[n : 2 * n])
        loss = loss + one(verdict.style[:n]) + zero(verdict.style[2 * n :])
        loss = loss + lambdas["v"] * (one(verdict.video[:n]) + zero(verdict.video[n : 2 * n]))
    optimizers["D"].zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(D.parameters()), 10.0)
    optimizers["D"].step()

    D.eval()
    loss = 0
    for d in "xy":
        o = other[d]
        verdict = D[d](fake[d])
        loss = loss + one(verdict.authenticity) + one(verdict.style) + lambdas["v"] * one(verdict.video)
        loss = loss + lambdas["rr"] * (real[d][:, 1:] - P[d](real[d][:, :-1])).abs().mean()
        ahead = torch.cat([fake[o][:, :1], P[o](fake[o][:, :-1])], 1)
        loss = loss + lambdas["rc"] * (real[d][:, 1:] - G[d](ahead)[:, 1:]).abs().mean()
    optimizers["GP"].zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([*G.parameters(), *P.parameters()], 10.0)
    optimizers["GP"].step()


def test_without_rl_it_is_recycle_gan_with_a_video_discriminator(config, domains):
    config = without_rl(config)
    trainer = Trainer(config, domains)
    model = RLV2VGAN(ModelConfig(width=2, critics=False), seed=config.seed)

    def sgd(m, groups):
        # Plain descent: Adam would turn rounding in near-zero gradients into whole steps.
        return torch.optim.SGD([p for group in groups for p in getattr(m, group).parameters()], lr=0.05)

    judges, policy = ["discriminators"], ["generators", "predictors"]
    trainer.discriminator_optimizer, trainer.policy_optimizer = sgd(trainer.model, judges), sgd(trainer.model, policy)
    optimizers = {"D": sgd(model, judges), "GP": sgd(model, policy)}
    random = torch.Generator().manual_seed(config.seed + 1)
    initial = weights(trainer)
    for _ in range(3):
        trainer.iterate()
        real = {d: domains[d].batch(random, 1) for d in ("x", "y")}
        recycle_gan_step(model, optimizers, real, {"rr": 0.1, "rc": 0.1, "v": 1.0})
    for group in ("generators", "predictors", "discriminators"):
        expected = getattr(model, group).state_dict()
        for name, tensor in getattr(trainer.model, group).state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=f"{group} {name}")
    moved = max((trainer.model.state_dict()[n] - t).abs().max().item() for n, t in initial.items() if "weight" in n)
    assert moved > 1e-2


def test_the_optimizers_are_the_documented_adam(config, domains):
    trainer = Trainer(config, domains)
    for optimizer, lr in (
        (trainer.policy_optimizer, 2e-4),
        (trainer.discriminator_optimizer, 2e-4),
        (trainer.critic_optimizer, 1e-4),
    ):
        assert type(optimizer) is torch.optim.Adam
        assert [(g["lr"], g["betas"]) for g in optimizer.param_groups] == [(lr, (0.5, 0.999))]


def test_reinforcement_learning_off_builds_none_of_it(config, domains):
    trainer = Trainer(without_rl(config), domains)
    assert trainer.reinforcement is None
    assert len(trainer.model.critics) == 0
    assert not any(name.startswith(("critic", "actor")) for name in trainer.iterate())


def test_before_the_first_policy_gradient_rl_moves_only_critics(config, domains):
    waiting = dataclasses.replace(config, rl=dataclasses.replace(config.rl, critic_warmup=100))
    with_rl, without = Trainer(waiting, domains), Trainer(without_rl(config), domains)
    for _ in range(3):
        with_rl.iterate()
        without.iterate()
    shared = {n: t for n, t in weights(with_rl).items() if not n.startswith("critics")}
    assert_same(shared, weights(without))


def test_only_a_policy_gradient_that_does_not_vanish_has_effect(config, domains):
    def trained(**rl):
        # Every iteration acts from the second on.
        rl = dataclasses.replace(config.rl, rollout_every=1, **rl)
        trainer = Trainer(dataclasses.replace(config, rl=rl), domains)
        for _ in range(3):
            losses = trainer.iterate()
        assert ("actor" in losses) == (rl.critic_warmup == 1)
        return weights(trainer)

    waiting, vanishing, acting = trained(critic_warmup=100), trained(weight=1e-12), trained(weight=1.0)
    for name in waiting:
        if name.startswith(("generators.", "predictors.")):
            torch.testing.assert_close(vanishing[name], waiting[name], rtol=1e-4, atol=1e-5)
    for group in ("generators.", "predictors."):
        change = max(
            (acting[n] - waiting[n]).abs().max() for n in waiting if n.startswith(group) and "running" not in n
        )
        assert change > 1e-4


def test_runs_of_one_seed_are_bit_identical_and_of_two_differ(config, domains):
    a, b = Trainer(config, domains), Trainer(config, domains)
    c = Trainer(dataclasses.replace(config, seed=1), domains)
    for trainer in (a, b, c):
        trainer.iterate()
        trainer.iterate()
    assert_same(weights(a), weights(b))
    assert any(not torch.equal(t, weights(c)[n]) for n, t in weights(a).items())


def test_only_the_network_in_training_updates_batch_statistics(config, domains):
    trainer = Trainer(dataclasses.replace(config, rl=dataclasses.replace(config.rl, rollout_every=1)), domains)
    trainer.iterate()
    trainer.iterate()
    model = trainer.model

    def counts(group):
        return {int(b) for n, b in getattr(model, group).named_buffers() if n.endswith("num_batches_tracked")}

    assert counts("generators") == {4}  # translating and returning, in each of two iterations
    assert counts("predictors") == {4}  # forecasting its own and the translated clip
    assert counts("discriminators") == {2}  # step 2 alone
    assert counts("generators_ema") == {4}  # copied


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(adversarial="hinge", distance="l2", r1=1.0),
        LossConfig(adversarial="least_squares", augment=("translation", "cutout", "brightness")),
        LossConfig(video=0.0, recurrent=0.0, recycle=0.0),
    ],
)
def test_every_loss_option_trains(config, domains, loss):
    trainer = Trainer(dataclasses.replace(config, loss=loss), domains)
    before = weights(trainer)
    losses = trainer.iterate()
    assert ("r1_x" in losses) == bool(loss.r1)
    assert ("video_x" in losses) == bool(loss.video)
    assert ("recycle_y" in losses) == bool(loss.recycle)
    changed = [n for n, t in weights(trainer).items() if not torch.equal(t, before[n])]
    assert {n.split(".")[0] for n in changed} >= {"generators", "discriminators", "generators_ema"}


def test_the_gradient_penalty_leaves_untrained_heads_alone(config, domains):
    loss = LossConfig(r1=1.0, style=0.0, video=0.0)
    trainer = Trainer(dataclasses.replace(without_rl(config), loss=loss), domains)
    judge = trainer.model.discriminators["x"]

    def heads():
        return [t.clone() for t in (judge.patch_head.weight, judge.clip_hidden.weight, judge.clip_head.weight)]

    (patch, *clip), (patch_after, *clip_after) = heads(), (trainer.iterate(), heads())[1]
    assert not torch.equal(patch[0], patch_after[0])  # authenticity
    assert torch.equal(patch[1], patch_after[1])  # style
    assert all(torch.equal(a, b) for a, b in zip(clip, clip_after, strict=True))


def test_bf16_and_instance_norm_train(config, domains):
    network = dataclasses.replace(config.network, norm="instance")
    trainer = Trainer(dataclasses.replace(config, precision="bf16", network=network), domains)
    for _ in range(3):
        trainer.iterate()
    assert all(t.dtype == torch.float32 for t in trainer.model.state_dict().values() if t.is_floating_point())


def test_small_networks_train_in_bf16_with_every_loss_and_rl(config, domains):
    config = dataclasses.replace(config, precision="bf16", network=small(config).network, window=3)
    losses = Trainer(config, domains).iterate()
    assert {"recurrent_x", "recycle_x", "video_x"} <= set(losses), losses.keys()
    assert any(name.startswith("critic") for name in losses), losses.keys()


def test_the_cycle_loss_sets_in_after_its_share_of_the_run(config, domains):
    trainer = Trainer(small(config), domains)
    assert ["cycle_x" in trainer.iterate() for _ in range(4)] == [False, False, True, True]


def test_the_contrast_loss_compares_translation_and_source(config, domains):
    config = small(config)
    trainer = Trainer(dataclasses.replace(config, loss=dataclasses.replace(config.loss, contrast=0.5)), domains)
    clips = {domain: domains[domain].batch(torch.Generator().manual_seed(0), 2) for domain in ("x", "y")}
    translated = translate_both(trainer.networks, clips)
    losses = policy_losses(trainer.networks, clips, translated, trainer.config.loss, trainer.augment_random, cycle=0.0)
    assert losses["contrast_y"] == 0.5 * contrast_loss(clips["x"], translated["y"])
    assert losses["contrast_x"] == 0.5 * contrast_loss(clips["y"], translated["x"])


def test_steps_shrink_over_the_second_half_of_a_run(config, domains):
    assert [decay_share(p) for p in (0, 0.5, 0.75, 0.9)] == pytest.approx([1, 1, 0.5, 0.2])
    trainer = Trainer(small(config), domains)
    found = []
    for _ in range(4):
        trainer.iterate()
        found.append((trainer.policy_optimizer, trainer.discriminator_optimizer))
        found[-1] = tuple(optimizer.param_groups[0]["lr"] for optimizer in found[-1])
    assert found == [pytest.approx((2e-4 * share, 1e-3 * share)) for share in (1, 1, 1, 0.5)]


def test_small_networks_and_schedules_resume_bit_for_bit(config, domains):
    config = small(config)
    whole = fit(config, domains)
    part = dataclasses.replace(config, out=config.out.with_name("part"))
    trainer = Trainer(part, domains)
    for _ in range(3):
        trainer.iterate()
    trainer.save(part.out)
    assert_same(weights(whole), weights(fit(part, domains, resume=True)))


def test_a_window_is_drawn_from_all_frames_of_the_clips(config, domains):
    trainer = Trainer(dataclasses.replace(small(config), window=3), domains)
    assert trainer._draw("x").shape == (1, 3, 3, 16, 16)


def test_every_parameter_is_trained(config, domains):
    trainer = Trainer(dataclasses.replace(config, rl=dataclasses.replace(config.rl, rollout_every=1)), domains)
    before = weights(trainer)
    for _ in range(4):
        trainer.iterate()
    after = weights(trainer)
    still = [n for n, _ in trainer.model.named_parameters() if torch.equal(before[n], after[n])]
    assert still == []


def test_compiled_training_follows_eager_training(config, domains, monkeypatch):
    # Capture and differentiation of the whole graphs; generating code for them is PyTorch's and takes minutes.
    torch.compiler.reset()
    graphs = []

    def differentiated(graph, inputs):
        graphs.append(graph)
        return aot_module_simplified(graph, inputs, fw_compiler=nop)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=differentiated))
    eager, compiled = (Trainer(dataclasses.replace(config, compile=c), domains) for c in (False, True))
    a, b = eager.iterate(), compiled.iterate()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], rel=1e-3), name
    # Generators and predictors: to be trained or not, on clips or what a network made of them; discriminators: two.
    assert len(graphs) <= 8


def test_accumulated_batches_train_as_one_bigger_batch(config, domains):
    """The local networks have no batch normalization; plain descent, as Adam would turn rounding into whole steps."""
    found = []
    for batch_size, accumulate in ((6, 1), (2, 3)):
        optim = dataclasses.replace(config.optim, batch_size=batch_size, accumulate=accumulate)
        trainer = Trainer(dataclasses.replace(small(config), optim=optim), domains)
        m = trainer.model.double()
        trainer.policy_optimizer = torch.optim.SGD([*m.generators.parameters(), *m.predictors.parameters()], lr=0.05)
        trainer.discriminator_optimizer = torch.optim.SGD(m.discriminators.parameters(), lr=0.05)
        batch = trainer._draw
        trainer._draw = lambda domain, batch=batch: batch(domain).double()
        losses = [trainer.iterate() for _ in range(3)]
        found.append((losses, weights(trainer)))
    (one, whole), (several, parts) = found
    assert [losses.keys() for losses in one] == [losses.keys() for losses in several]
    for a, b in zip(one, several, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name, tensor in whole.items():
        if "num_batches_tracked" not in name:
            torch.testing.assert_close(parts[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_accumulated_batches_train_with_everything(config, domains):
    optim = dataclasses.replace(config.optim, accumulate=2)
    rl = dataclasses.replace(config.rl, rollout_every=1)
    loss = LossConfig(r1=1.0, augment=("translation",))
    losses = Trainer(dataclasses.replace(config, optim=optim, rl=rl, loss=loss), domains).iterate()
    assert {"r1_x", "video_x", "recycle_y", "critic_x"} <= losses.keys()
