"""One of two processes that train together: runs every case, in the order of main.

python distributed_worker.py RANK FOLDER; what it found goes to FOLDER/RANK.pt.
"""

import contextlib
import dataclasses
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rlv2v_fast.data.clips import Domain
from rlv2v_fast.data.synthetic import figure1_clips
from rlv2v_fast.errors import InputError
from rlv2v_fast.train import distributed
from rlv2v_fast.train.config import LossConfig, NetworkConfig, RLConfig, TrainConfig, resolve
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.signals import Stopped
from rlv2v_fast.train.trainer import Trainer

SIZE, FRAMES = 16, 3


def settings(out, **changes):
    rl = RLConfig(weight=0.1, rollout_every=1, critic_warmup=0, batch_size=2, capacity=40)
    config = TrainConfig(
        out=out, size=SIZE, frames=FRAMES, steps=2, checkpoint_every=1, preview_every=9, device="cpu", quiet=True,
        network=NetworkConfig(width=2), rl=rl,
    )  # fmt: skip
    return resolve(dataclasses.replace(config, **changes))


def domains():
    return {
        name: Domain.from_arrays(figure1_clips(kind, 3, 8, SIZE, seed=1), frames=FRAMES, size=SIZE)
        for name, kind in (("x", "source"), ("y", "target"))
    }


class Given:
    """Clips fixed in advance, two a step, of which this process gets its own; alone it gets both."""

    def __init__(self, seed, poisoned=False):
        self.random = torch.Generator().manual_seed(seed)
        self.poisoned = poisoned

    def batch(self, generator, batch_size, window=None):
        both = torch.rand(2, FRAMES, 3, SIZE, SIZE, generator=self.random, dtype=torch.float64) * 2 - 1
        own = both if distributed.count() == 1 else both[distributed.rank()].unsqueeze(0)
        return own * float("nan") if self.poisoned else own

    def fingerprint(self):
        return "given"


def exact_steps(poisoned=False):
    """The model after two steps of plain descent in double precision, with R1 and without critics.

    Adam would turn rounding in gradients near zero into whole steps.
    """
    rl = dataclasses.replace(settings(None).rl, weight=0.0)
    trainer = Trainer(settings(None, rl=rl, loss=LossConfig(r1=1.0)), {"x": Given(1, poisoned), "y": Given(2)})
    m = trainer.model.double()
    policy = [*m.generators.parameters(), *m.predictors.parameters()]
    trainer.policy_optimizer = torch.optim.SGD(policy, lr=0.05)
    trainer.discriminator_optimizer = torch.optim.SGD(m.discriminators.parameters(), lr=0.05)
    losses = [trainer.iterate() for _ in range(2)]
    return {"model": m.state_dict(), "losses": losses[-1]}


def found(trainer):
    state = {"step": trainer.step, "model": trainer.model.state_dict(), "data_random": trainer.data_random.get_state()}
    if trainer.reinforcement is not None:
        state["targets"] = trainer.reinforcement.targets.state_dict()
        state["buffer"] = trainer.reinforcement.buffer.state_dict()
        state["random"] = trainer.reinforcement.random.get_state()
    return state


def after_steps(count, **changes):
    trainer = Trainer(settings(None, **changes), domains())
    for _ in range(count):
        trainer.iterate()
    return found(trainer)


def with_starts(out):
    return settings(out, starts=2, start_steps=2, rl=RLConfig(), steps=1)


def stopped_in_starts(out):
    """The run of several starts after a signal to process 1 alone, and resumed."""
    config = with_starts(out)
    iterate = Trainer.iterate

    def interrupted(self):
        if distributed.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return iterate(self)

    Trainer.iterate = interrupted
    with contextlib.suppress(Stopped):
        fit(config, domains())
    Trainer.iterate = iterate
    return found(fit(config, domains(), resume=True))


def message(call):
    try:
        call()
    except InputError as error:
        return f"{type(error).__name__}: {error}"


def gradients():
    """Gradients after averaging, of three parameters: with one here and there, only in process 0, nowhere."""
    rank = distributed.rank()
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 0:
        parameters[1].grad = torch.tensor([5.0, 7.0])
    distributed.average_gradients(parameters)
    return [p.grad for p in parameters]


def main(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rl = settings(None).rl
    results = {
        "gradients": gradients(),
        "numbers": distributed.average_numbers({"both": float(rank), f"only {rank}": 3.0}),
        "exact": exact_steps(),
        "straight": found(fit(settings(folder / "straight"), domains())),
        "stopped": found(fit(settings(folder / "run", steps=1), domains())),
        "resumed": found(fit(settings(folder / "run"), domains(), resume=True)),
        "taken": message(lambda: fit(settings(folder / "run"), domains())),
        "starts": found(fit(with_starts(folder / "starts"), domains())),
        "resumed starts": stopped_in_starts(folder / "resumed starts"),
        "out of time": found(fit(settings(folder / "clock", steps=10**6, max_minutes=0.001), domains())),
        "waiting": after_steps(1, rl=dataclasses.replace(rl, critic_warmup=100)),
        "without rl": after_steps(1, rl=dataclasses.replace(rl, weight=0.0)),
        "apart": after_steps(1, network=NetworkConfig(width=2, sync_norm=False)),
        "diverged": message(lambda: exact_steps(poisoned=rank == 1)),
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
