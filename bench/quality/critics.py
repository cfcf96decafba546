"""python -m bench.quality.critics: what critics come to know of a frozen policy, and whether they show it a way.

Figure 1's networks train for a while without reinforcement learning, and are frozen. Then critics are fitted to the
returns of rollouts of the training clips, which no longer change, and asked about clips held out. Beside what they
explain of returns (rl.ddpg.explained_variance; "within" a position, of what time does not tell) stands the cosine
between their gradient with respect to a frame and that of the frame's reward, which discriminator and true frame give
exactly.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.harness import environment
from bench.quality.report import mean_and_spread
from bench.quality.rows import Row, append, read_rows
from bench.quality.tasks import Figure1
from bench.quality.variants import FIGURE1_VARIANTS, changed
from rlv2v_fast.nn.norm import evaluating
from rlv2v_fast.rl.ddpg import by_domain, critic_loss, explained_variance, explained_within
from rlv2v_fast.rl.replay import Transitions
from rlv2v_fast.rl.returns import RunningReturns
from rlv2v_fast.rl.rollout import step_reward
from rlv2v_fast.train.config import TrainConfig, resolve
from rlv2v_fast.train.reinforcement import Reinforcement
from rlv2v_fast.train.trainer import Trainer

MINIBATCH, LEARNING_RATE = 32, 1e-3
_ROLLOUTS, _CLIPS, _HELDOUT_ROLLOUTS, _GRADIENTS = 20, 8, 4, 64


def study(task: Figure1, config: TrainConfig, updates: Sequence[int], rollouts: int = _ROLLOUTS) -> Iterator[Row]:
    """A row for each discount, with and without baseline, domain and number of updates.

    Args:
        config: resolved; its rl.first_step is when the networks are frozen.
        rollouts: of _CLIPS training clips of each domain.
    """
    trainer = Trainer(config, task.domains(config, 40))
    for _ in range(config.rl.first_step):
        trainer.iterate()
    learner = trainer.reinforcement
    assert learner is not None
    random = torch.Generator().manual_seed(config.seed)
    known = Transitions.concatenate(
        [learner.roll({d: trainer.domains[d].batch(random, _CLIPS) for d in "xy"}, random) for _ in range(rollouts)]
    )
    unknown = Transitions.concatenate([learner.roll(task.heldout(config), random) for _ in range(_HELDOUT_ROLLOUTS)])
    for gamma in (config.rl.gamma, 0.0):
        for baseline in (False, True):
            returns = RunningReturns(config.frames, baseline=baseline, normalize=True)
            train, held = (_discounted(part, gamma) for part in (known, unknown))
            for _ in range(2):  # a deviation is from means that are there
                returns.move(returns.measured(train))
            for domain in "xy":
                parts = by_domain(train)[domain], by_domain(held)[domain]
                for found in _fitted(learner, domain, *parts, returns, gamma, updates):
                    yield {
                        "seed": config.seed,
                        "steps": config.rl.first_step,
                        "gamma": gamma,
                        "baseline": baseline,
                        "domain": domain,
                        **found,
                    }


def _discounted(batch: Transitions, gamma: float) -> Transitions:
    """Transitions of rollouts, whose outcomes have the run's discount, or none of the future."""
    return batch if gamma else dataclasses.replace(batch, outcome=batch.reward)


def _fitted(
    learner: Reinforcement,
    domain: str,
    train: Transitions,
    held: Transitions,
    returns: RunningReturns,
    gamma: float,
    updates: Sequence[int],
) -> Iterator[Row]:
    """Fit a fresh critic and tell, after each number of updates, what it knows."""
    critic = copy.deepcopy(learner.networks.critics[domain])
    assert isinstance(critic, nn.Module)
    optimizer = torch.optim.Adam(critic.parameters(), LEARNING_RATE)
    goal = returns.relative(train, gamma).outcome
    random = torch.Generator().manual_seed(0)
    for update in range(1, max(updates) + 1):
        drawn = torch.randint(len(train), (MINIBATCH,), generator=random)
        optimizer.zero_grad()
        critic_loss(critic.train(), train[drawn], goal[drawn]).backward()
        optimizer.step()
        if update in updates:
            yield {"updates": update, **_known(learner, critic.eval(), domain, held, returns)}


def _known(learner: Reinforcement, critic: nn.Module, domain: str, held: Transitions, returns: RunningReturns) -> Row:
    with torch.no_grad():
        value = returns.absolute(critic(held.state, held.action, held.position), held)
    return {
        "explained": explained_variance(value, held.outcome),
        "within": explained_within(value, held.outcome, held.position),
        "cosine": _cosine(learner, critic, domain, held),
    }


def _cosine(learner: Reinforcement, critic: nn.Module, domain: str, held: Transitions) -> float:
    """Mean cosine between the critic's and the reward's gradients with respect to frames that are not a clip's last."""
    some = held[(~held.done).nonzero().flatten()[:: max(1, len(held) // _GRADIENTS)]]
    judge, weights = learner.networks.discriminators[domain], learner.weights

    def value(action: Tensor) -> Tensor:
        return critic(some.state, action, some.position)

    def reward(action: Tensor) -> Tensor:
        scale = torch.full((len(some),), weights.recurrent)
        return step_reward(judge, some.state, action, some.true_action, scale, weights.kind, weights.style)

    with evaluating(learner.model.discriminators):
        gradients = [_gradient(of, some.action).flatten(1) for of in (value, reward)]
    return torch.cosine_similarity(gradients[0], gradients[1]).mean().item()


def _gradient(of: Any, action: Tensor) -> Tensor:
    action = action.clone().requires_grad_()
    return torch.autograd.grad(of(action).sum(), action)[0]


def table(rows: Sequence[Row]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""
    columns = [(name, domain) for name in ("explained", "within", "cosine") for domain in "xy"]
    lines = [["gamma", "baseline", "updates", "seeds", *(f"{name} {domain}" for name, domain in columns)]]
    lines.append(["---"] * len(lines[0]))
    for key in dict.fromkeys((row["gamma"], row["baseline"], row["updates"]) for row in rows):
        group = [row for row in rows if (row["gamma"], row["baseline"], row["updates"]) == key]
        cells = [
            mean_and_spread([row[name] for row in group if row["domain"] == domain], 2) for name, domain in columns
        ]
        seeds = len({row["seed"] for row in group})
        lines.append([f"{key[0]:g}", "yes" if key[1] else "no", str(key[2]), str(seeds), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Append a row for each question to a file and print the table of all it holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality.critics", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150, help="iterations before the networks are frozen")
    parser.add_argument("--updates", type=int, nargs="+", default=[30, 100, 300], help="of the critics")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("critics.jsonl"), help="file to append to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seed:
        config = changed(FIGURE1_VARIANTS["+ RL"](), seed=seed, few_shot=40, device="cpu", rl__first_step=options.steps)
        for row in study(Figure1(None, None), resolve(config), options.updates):
            append(options.out, {**environment(torch.device("cpu")), **row})
    print(table(read_rows([options.out])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
