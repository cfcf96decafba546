"""The trainer: Algorithm 1 of docs/paper.md, and its state, from which a run continues bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from rlv2v_fast.domains import DOMAINS
from rlv2v_fast.errors import InputError, TrainingDivergedError
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig
from rlv2v_fast.nn.norm import SyncBatchNorm, evaluating
from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.train import distributed, threads
from rlv2v_fast.train.checkpoint import fitting, load_state, save_checkpoint
from rlv2v_fast.train.config import TrainConfig, check_unchanged, from_dict, to_dict
from rlv2v_fast.train.logging import preview_rows, save_preview
from rlv2v_fast.train.pairs import square_pairs
from rlv2v_fast.train.protocols import ClipSource
from rlv2v_fast.train.reinforcement import Reinforcement
from rlv2v_fast.train.steps import (
    Losses,
    Networks,
    discriminator_losses,
    frozen,
    pair_losses,
    policy_losses,
    r1_losses,
    translate_both,
)

# Decay of Adam's first moment, and the largest gradient norm of a group of networks: larger ones are scaled down.
_BETA1, _LARGEST_NORM = 0.5, 10.0


class Trainer:
    """A training run in memory. In a data-parallel run each process has one (train/distributed.py).

    Args:
        config: resolved (train.config.resolve).
        domains: the clips of "x" (source) and "y" (target).
    """

    def __init__(self, config: TrainConfig, domains: Mapping[str, ClipSource]) -> None:
        self.config, self.domains = config, domains
        self.device = torch.device(config.device)
        self.step = 0
        network = config.network
        assert network.width is not None
        architecture = ModelConfig(
            width=network.width,
            norm=network.norm,
            critics=config.rl.critics if config.rl.weight else 0,
            generator=network.generator,
            discriminator=network.discriminator,
            output=network.output,
        )
        self.model = RLV2VGAN(architecture, seed=config.seed, backend=config.backend).to(self.device)
        distributed.share(self.model)
        if distributed.count() > 1 and config.network.sync_norm:
            # Critics are left out: a process whose minibatch has no transition of a domain does not run its critic, and
            # the other processes would wait for its statistics.
            for group in (self.model.generators, self.model.predictors, self.model.discriminators):
                SyncBatchNorm.convert(group)
        self.networks = self._networks(compiled=config.compile)
        m, o = self.model, config.optim
        self.policy_optimizer = self._adam([*m.generators.parameters(), *m.predictors.parameters()], o.lr)
        self.discriminator_optimizer = self._adam(m.discriminators.parameters(), o.lr_discriminator or o.lr)
        self.critic_optimizer = self._adam(m.critics.parameters(), o.lr_critic) if architecture.critics else None
        self.reinforcement = Reinforcement(m, self._networks(compiled=False), config) if architecture.critics else None
        # Separate streams, so that what one part or process draws changes nothing for another.
        self.data_random = torch.Generator().manual_seed(config.seed + 1 + distributed.seed_offset())
        self.augment_random = torch.Generator().manual_seed(config.seed + 2 + distributed.seed_offset())

    def iterate(self) -> dict[str, float]:
        """Run one iteration of Algorithm 1; gives its losses by name.

        Raises:
            TrainingDivergedError: a loss is NaN or infinite.
        """
        with threads.iteration(self.device):
            return self._iterate()

    def _iterate(self) -> dict[str, float]:
        self.model.train()
        self._schedule()
        real = {domain: self._draw(domain) for domain in DOMAINS}
        parts = self._parts(real)
        losses = self._update_discriminators(parts)
        since = self.step - self.config.rl.first_step
        learner = self.reinforcement if since >= 0 else None
        acted: Transitions | None = None
        if learner is not None and since % self.config.rl.rollout_every == 0:
            if since == 0:
                learner.reset_targets()
            critic, acted = self._update_critics(learner, real)
            losses |= critic
        losses |= self._update_policy(parts, acted if since >= self.config.rl.critic_warmup else None)
        distributed.average_buffers(self.model)
        if learner is not None:
            learner.update_targets()
        self.step += 1
        # The average is short at first: with a decay of 0.999 it would show the initial weights for hundreds of steps.
        self.model.update_ema(min(self.config.optim.ema, self.step / (self.step + 9)))
        return self._finite(losses)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights that the next iteration depends on."""
        state: dict[str, Any] = {
            **self.description(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            **self.own_state(),
        }
        if self.critic_optimizer is not None:
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        return state

    def description(self) -> dict[str, Any]:
        """The part of state_dict that says which run it is: what check compares."""
        return {
            "config": to_dict(self.config),
            "processes": distributed.count(),
            "data": {domain: self.domains[domain].fingerprint() for domain in DOMAINS},
        }

    def own_state(self) -> dict[str, Any]:
        """The part of state_dict that differs between processes: random streams and the replay buffer."""
        state: dict[str, Any] = {
            "data_random": self.data_random.get_state(),
            "augment_random": self.augment_random.get_state(),
        }
        if self.reinforcement is not None:
            state["reinforcement"] = self.reinforcement.state_dict()
        return state

    def save(self, run: Path) -> Path:
        """Write a checkpoint into the run's folder; gives the checkpoint's folder."""
        state = self.state_dict() if distributed.rank() == 0 else self.own_state()
        return save_checkpoint(run, self.step, self.model, state, self.config.keep)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint. InputError names a setting, or clips, that would change the run."""
        state = load_state(folder)
        with fitting(folder):
            self.check(state, folder)
            self.model.load_weights(folder)
            if distributed.rank():
                state |= load_state(folder, distributed.rank())
            self.restore(state)

    def check(self, state: Mapping[str, Any], folder: Path) -> None:
        """InputError names a setting, or clips, of this run that differ from those of a state saved in folder."""
        check_unchanged(from_dict(state["config"], str(folder)), self.config)
        processes = state.get("processes", 1)
        if processes != distributed.count():
            raise InputError(
                f"processes cannot change when resuming: the run has {processes}; got {distributed.count()}"
            )
        for domain, argument in zip(DOMAINS, ("source", "target"), strict=True):
            if state["data"][domain] != self.domains[domain].fingerprint():
                raise InputError(f"{argument} holds other videos than when the run was saved in {folder}")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back a state_dict with the step that it is of. The model's weights are loaded elsewhere."""
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        self.data_random.set_state(state["data_random"])
        self.augment_random.set_state(state["augment_random"])
        if self.reinforcement is not None and self.critic_optimizer is not None:
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
            self.reinforcement.load_state_dict(state["reinforcement"])
        self.step = state["step"]

    def preview(self, path: Path) -> None:
        """Write source, translated and reconstructed clips, still and animated. The clips are always the same."""
        random = torch.Generator().manual_seed(self.config.seed + 4)
        clips = {domain: self.domains[domain].batch(random, 1) for domain in DOMAINS}
        save_preview(preview_rows(self.model, clips, self.device), path)

    def _draw(self, domain: str) -> Tensor:
        """The domain's clips of an iteration, (B, window, 3, size, size): in every clip the same random window."""
        optim = self.config.optim
        count = optim.batch_size * optim.accumulate
        return self.domains[domain].batch(self.data_random, count, self.config.window).to(self.device)

    def _draw_pairs(self) -> dict[str, Tensor]:
        """A batch of true pairs, {} where the run has none."""
        if self.config.pairs is None or not self.config.loss.pairs:
            return {}
        pairs = square_pairs(self.config.pairs, self.config.size)
        chosen = torch.randint(len(pairs["x"]), (self.config.optim.batch_size,), generator=self.data_random)
        return {domain: frames[chosen].to(self.device) for domain, frames in pairs.items()}

    def _schedule(self) -> None:
        """Lower the optimizers' steps as the run proceeds, if config.optim.decay."""
        if not self.config.optim.decay:
            return
        share = decay_share(self.step / self.config.steps)
        for optimizer in (self.policy_optimizer, self.discriminator_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * share

    def _cycle_weight(self) -> float:
        """The weight of the cycle loss in this iteration."""
        loss = self.config.loss
        return loss.cycle if self.step >= loss.cycle_from * self.config.steps else 0.0

    def _parts(self, real: Mapping[str, Tensor]) -> list[_Part]:
        """The clips of an iteration in optim.accumulate batches, with their translations."""
        count = self.config.optim.accumulate
        batches = zip(*(real[domain].chunk(count) for domain in DOMAINS), strict=True)
        parts = [_Part(dict(zip(DOMAINS, batch, strict=True)), self._translate) for batch in batches]
        if len(parts) == 1:
            parts[0].keep()
        return parts

    def _translate(self, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._autocast():
            return translate_both(self.networks, real)

    def _update_discriminators(self, parts: Sequence[_Part]) -> Losses:
        def losses_of(part: _Part) -> Losses:
            fake = part.shown()
            with self._autocast():
                losses = discriminator_losses(self.networks, part.real, fake, self.config.loss, self.augment_random)
            if self.config.loss.r1:
                losses |= r1_losses(_modules(self.model.discriminators), part.real, self.config.loss)
            return losses

        return self._descend(self.discriminator_optimizer, [partial(losses_of, part) for part in parts])[0]

    def _update_policy(self, parts: Sequence[_Part], acted: Transitions | None) -> Losses:
        """The losses of one step of generators and predictors, with the critics' gradient if transitions are given.

        The two gradients are added before the step. A separate step would be as large as Adam's momentum from the
        other losses, however small the critics' gradient.
        """
        judges = self.model.discriminators
        cycle = self._cycle_weight()

        def losses_of(part: _Part) -> Losses:
            fake = part.made()
            with evaluating(judges), frozen(judges), self._autocast():
                losses = policy_losses(self.networks, part.real, fake, self.config.loss, self.augment_random, cycle)
                if pairs := self._draw_pairs():
                    losses |= pair_losses(self.networks, pairs, self.config.loss)
            return losses

        def actor_losses(learner: Reinforcement, acted: Transitions) -> Losses:
            with self._autocast():
                return learner.actor_losses(acted)

        groups = [[partial(losses_of, part) for part in parts]]
        if self.reinforcement is not None and acted is not None:
            groups.append([partial(actor_losses, self.reinforcement, acted)])
        losses, norms = self._descend(self.policy_optimizer, *groups)
        return losses | dict(zip(("gradient_policy", "gradient_actor"), norms, strict=False))

    def _update_critics(self, learner: Reinforcement, real: Mapping[str, Tensor]) -> tuple[Losses, Transitions]:
        """The losses of the critics' updates, and the last minibatch that they were trained on."""
        assert self.critic_optimizer is not None
        with self._autocast():
            batches = learner.collect(real)
        for batch in batches:
            losses, _ = self._descend(self.critic_optimizer, [partial(self._critic_losses, learner, batch)])
        return losses, batches[-1]

    def _critic_losses(self, learner: Reinforcement, batch: Transitions) -> Losses:
        with self._autocast():
            return learner.critic_losses(batch)

    def _descend(
        self, optimizer: torch.optim.Optimizer, *groups: Sequence[Callable[[], Losses]]
    ) -> tuple[Losses, list[Tensor]]:
        """One step down the sum of all losses; gives the losses, and the norm of each group's gradient, a scalar.

        A group is functions that compute the same losses of equal parts of a batch: their mean counts. They are called
        one after the other, and the graph of one is gone before the next is made. The norm of the summed gradient is
        limited before the step.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        total: list[Tensor | None] = [None] * len(parameters)
        means: Losses = {}
        norms = []
        for group in groups:
            optimizer.zero_grad(set_to_none=True)
            for compute in group:
                losses = {name: loss.float() / len(group) for name, loss in compute().items()}
                torch.stack(list(losses.values())).sum().backward()
                means |= {name: means.get(name, 0) + loss.detach() for name, loss in losses.items()}
            distributed.average_gradients(parameters)
            norms.append(get_total_norm(_present(p.grad for p in parameters)))
            total = [_sum(earlier, p.grad) for earlier, p in zip(total, parameters, strict=True)]
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        norm = norms[0] if len(groups) == 1 else get_total_norm(_present(total))
        clip_grads_with_norm_(parameters, _LARGEST_NORM, norm)
        optimizer.step()
        return means, norms

    def _finite(self, losses: Losses) -> dict[str, float]:
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        # Averaged numbers are the same in all processes, so either all of them stop or none does.
        named = distributed.average_numbers(dict(zip(losses, values, strict=True)))
        for name, value in named.items():
            if not math.isfinite(value):
                raise TrainingDivergedError(f"training diverged: {name} is {value} at step {self.step}")
        return named

    def _adam(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
        optim = self.config.optim
        # Fused, because small networks have many small parameters, and a loop over them takes longer than they do.
        return torch.optim.Adam(parameters, lr=lr, betas=(_BETA1, optim.beta2), fused=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _networks(self, *, compiled: bool) -> Networks:
        """The networks to call, compiled or not.

        Reinforcement learning calls the modules themselves. It uses other batch sizes, eval mode, and calls with and
        without gradients, so every network would be compiled several times more: more than PyTorch allows a function.
        """
        groups = ("generators", "predictors", "discriminators", "critics")
        wrapped: dict[str, dict[str, Any]] = {}
        for group in groups:
            modules = _modules(getattr(self.model, group))
            wrapped[group] = {d: torch.compile(m) if compiled else m for d, m in modules.items()}
        return Networks(**wrapped)


class _Part:
    """A part of an iteration's clips and their translations, which the two updates of an iteration see.

    Args:
        real: clips of "x" and "y".
        translate: gives the translations of such clips.
    """

    def __init__(self, real: Mapping[str, Tensor], translate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]):
        self.real, self._translate = real, translate
        self._kept: dict[str, Tensor] | None = None

    def keep(self) -> None:
        """Translate now, for both updates. The graphs of all parts at once would need the memory of the whole batch."""
        self._kept = self._translate(self.real)

    def shown(self) -> Mapping[str, Tensor]:
        """The translations for the discriminators' update, which wants no gradient."""
        if self._kept is not None:
            return self._kept
        with torch.no_grad():
            return self._translate(self.real)

    def made(self) -> Mapping[str, Tensor]:
        """The translations for the update of what made them."""
        return self._kept if self._kept is not None else self._translate(self.real)


def decay_share(progress: float) -> float:
    """The factor of Adam's step at a progress in [0, 1): 1 in the first half of a run, then evenly down to 0."""
    return min(1.0, 2 * (1 - progress))


def _modules(group: nn.ModuleDict) -> dict[str, nn.Module]:
    return dict(group.items())


def _present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is zero."""
    return b if a is None else a if b is None else a + b
