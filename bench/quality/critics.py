"""python -m bench.quality.critics: what critics learn about a frozen policy, and whether their gradient helps it.

Figure 1's networks train for a while without reinforcement learning and are then frozen. Critics are fitted to the
returns of rollouts of the training clips, and judged on clips held out: by how much of the returns they explain
(rl.ddpg.explained_variance, and explained_within without what the time explains), and by the cosine between their
gradient with respect to a frame and the gradient of the frame's reward, which is known exactly.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
    """A row for each discount, with and without a baseline, for each domain and number of updates.

    Args:
        config: resolved; the networks are frozen after its rl.first_step.
        updates: numbers of critic updates after which a row is made.
        rollouts: number of rollouts, each of _CLIPS training clips of each domain.
    """
    trainer = Trainer(config, task.domains(config, 40))
    for _ in range(config.rl.first_step):
        trainer.iterate()
    learner = trainer.reinforcement
    assert learner is not None
    random = torch.Generator().manual_seed(config.seed)
    training_set = Transitions.concatenate(
        [learner.roll({d: trainer.domains[d].batch(random, _CLIPS) for d in "xy"}, random) for _ in range(rollouts)]
    )
    heldout = Transitions.concatenate([learner.roll(task.heldout(config), random) for _ in range(_HELDOUT_ROLLOUTS)])
    for gamma in (config.rl.gamma, 0.0):
        for baseline in (False, True):
            returns = RunningReturns(config.frames, baseline=baseline, normalize=True)
            train, held = (_discounted(part, gamma) for part in (training_set, heldout))
            for _ in range(2):  # the deviation is measured from the means of the first pass
                returns.move(returns.measured(train))
            for domain in "xy":
                parts = by_domain(train)[domain], by_domain(held)[domain]
                for scores in _fit_and_score(learner, domain, *parts, returns, gamma, updates):
                    yield {
                        "seed": config.seed,
                        "steps": config.rl.first_step,
                        "gamma": gamma,
                        "baseline": baseline,
                        "domain": domain,
                        **scores,
                    }


def _discounted(batch: Transitions, gamma: float) -> Transitions:
    """The transitions with the run's outcomes; for gamma 0 with outcomes that are the rewards alone."""
    return batch if gamma else dataclasses.replace(batch, outcome=batch.reward)


def _fit_and_score(
    learner: Reinforcement,
    domain: str,
    train: Transitions,
    held: Transitions,
    returns: RunningReturns,
    gamma: float,
    updates: Sequence[int],
) -> Iterator[Row]:
    """The scores of a fresh critic after each of the numbers of updates."""
    critic = copy.deepcopy(learner.networks.critics[domain])
    assert isinstance(critic, nn.Module)
    optimizer = torch.optim.Adam(critic.parameters(), LEARNING_RATE)
    targets = returns.relative(train, gamma).outcome
    random = torch.Generator().manual_seed(0)
    for update in range(1, max(updates) + 1):
        drawn = torch.randint(len(train), (MINIBATCH,), generator=random)
        optimizer.zero_grad()
        critic_loss(critic.train(), train[drawn], targets[drawn]).backward()
        optimizer.step()
        if update in updates:
            yield {"updates": update, **_scores(learner, critic.eval(), domain, held, returns)}


def _scores(learner: Reinforcement, critic: nn.Module, domain: str, held: Transitions, returns: RunningReturns) -> Row:
    """How well a critic knows the returns of held-out transitions, and their rewards' gradient."""
    with torch.no_grad():
        value = returns.absolute(critic(held.state, held.action, held.position), held)
    return {
        "explained": explained_variance(value, held.outcome),
        "within": explained_within(value, held.outcome, held.position),
        "cosine": _cosine(learner, critic, domain, held),
    }


def _cosine(learner: Reinforcement, critic: nn.Module, domain: str, held: Transitions) -> float:
    """The mean cosine between the critic's and the reward's gradient with respect to frames before a clip's last."""
    inner = held[(~held.done).nonzero().flatten()[:: max(1, len(held) // _GRADIENTS)]]
    judge, weights = learner.networks.discriminators[domain], learner.weights

    def value(action: Tensor) -> Tensor:
        return critic(inner.state, action, inner.position)

    def reward(action: Tensor) -> Tensor:
        scale = torch.full((len(inner),), weights.recurrent)
        return step_reward(judge, inner.state, action, inner.true_action, scale, weights.kind, weights.style)

    with evaluating(learner.model.discriminators):
        gradients = [_gradient(function, inner.action).flatten(1) for function in (value, reward)]
    return torch.cosine_similarity(gradients[0], gradients[1]).mean().item()


def _gradient(function: Callable[[Tensor], Tensor], action: Tensor) -> Tensor:
    action = action.clone().requires_grad_()
    return torch.autograd.grad(function(action).sum(), action)[0]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of means and standard deviations over the seeds."""
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
    """Append the rows of the study to a file, and print the table of all rows that it holds."""
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
