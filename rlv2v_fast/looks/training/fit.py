"""Training a LookNetwork on tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlv2v_fast.looks.look import LEVELS, identity_table, render
from rlv2v_fast.looks.network import LookNetwork, NetworkConfig
from rlv2v_fast.looks.training.random_looks import draw

BATCH, RATE, DECAY = 64, 1.5e-3, 0.05
# Tasks whose error is below it, in squared units of [0, 1], count no more: about 35 dB.
_EPS = 3e-4
# Noise on the statistics, in their standard deviations: common to all clips of a side, and of each clip.
_NOISE = (0.12, 0.2)
# Share of the clips that are left out.
_DROPPED = 0.15
# Random looks whose principal directions are the first directions of a network's table.
_DRAWN = 1500


def make_network(tasks: dict[str, Tensor], config: NetworkConfig, seed: int) -> LookNetwork:
    """A network before training, with the scales of the tasks' inputs, and the principal directions of their looks."""
    torch.manual_seed(seed)
    network = LookNetwork(config)
    rows = torch.cat([_rows(tasks, side).float() for side in ("source", "target")])
    network.statistics_mean.copy_(rows.mean(0))
    network.statistics_scale.copy_(rows.std(0) + 1e-3)
    closed = tasks["closed"].float().clamp(-6, 6)
    network.closed_mean.copy_(closed.mean(0))
    network.closed_scale.copy_(closed.std(0) + 1e-3)
    generator = torch.Generator().manual_seed(seed)
    every = (draw(generator).table.shape[1] - 1) // (LEVELS - 1)
    changes = torch.stack([draw(generator).table[:, ::every, ::every, ::every] for _ in range(_DRAWN)])
    changes = (changes - identity_table()).flatten(1)
    _, values, vectors = torch.pca_lowrank(changes, q=config.rank, niter=3)
    with torch.no_grad():
        network.directions.copy_((vectors * (values / len(changes) ** 0.5)).T)
    return network


def _rows(tasks: dict[str, Tensor], side: str) -> Tensor:
    count = tasks["clips"][:, 0 if side == "source" else 1].float()
    rows = tasks[side]
    return rows[torch.arange(rows.shape[1]) < count[:, None]]


def train(
    network: LookNetwork,
    tasks: dict[str, Tensor],
    minutes: float,
    *,
    held_out: dict[str, Tensor] | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Train for some minutes of processor time; the learning rate falls along a half cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    begin, count, steps, said = time.process_time(), len(tasks["clips"]), 0, 0.0
    network.train()
    while (elapsed := (time.process_time() - begin) / (60 * minutes)) < 1:
        for index in torch.randperm(count).split(BATCH):
            if len(index) < BATCH:
                continue
            elapsed = (time.process_time() - begin) / (60 * minutes)
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, steps / 50) * (0.5 + 0.5 * math.cos(math.pi * min(1, elapsed))) + 1e-6
            loss, _ = errors(network, {name: rows[index].float() for name, rows in tasks.items()}, augment=True)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            if elapsed >= 1:
                break
            if elapsed >= said:
                said += 0.1
                log(f"{elapsed:4.0%} of the time, step {steps}, {decibels(network, held_out):.2f} dB")
    network.eval()


def errors(network: LookNetwork, batch: dict[str, Tensor], *, augment: bool) -> tuple[Tensor, Tensor]:
    """The loss, and the mean square error of each task."""
    source, target, clips = batch["source"], batch["target"], batch["clips"]
    if augment:
        source, target = (_noisy(rows, network.statistics_scale) for rows in (source, target))
        source, clips_s = _fewer(source, clips[:, 0], least=3)
        target, clips_t = _fewer(target, clips[:, 1], least=1)
        clips = torch.stack([clips_s, clips_t], 1)
    table, place, neighbourhood = network(source, target, clips, batch["closed"], batch["histogram"])
    found = render(table, place, neighbourhood, batch["pixels"])
    squares = (found - batch["truth"]).square().mean((1, 2))
    return (squares + _EPS).log().mean(), squares


@torch.no_grad()
def decibels(network: LookNetwork, tasks: dict[str, Tensor] | None) -> float:
    """The mean PSNR of tasks."""
    if tasks is None:
        return math.nan
    network.eval()
    squares = []
    for index in torch.arange(len(tasks["clips"])).split(BATCH):
        squares.append(errors(network, {name: rows[index].float() for name, rows in tasks.items()}, augment=False)[1])
    network.train()
    return -10 * (torch.cat(squares) + 1e-6).log10().mean().item()


def _noisy(rows: Tensor, scale: Tensor) -> Tensor:
    together, each = _NOISE
    noise = together * torch.randn(len(rows), 1, rows.shape[2]) + each * torch.randn_like(rows)
    return rows + noise * scale


def _fewer(rows: Tensor, count: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Some of the clips (B, n, F), in random order, and how many are left."""
    held = torch.arange(rows.shape[1]) < count[:, None]
    order = (torch.rand(held.shape) + ~held).argsort(1)
    left = (count - (torch.rand(held.shape) < _DROPPED).mul(held).sum(1)).clamp(min=least)
    return rows.gather(1, order[..., None].expand_as(rows)), torch.minimum(left, count)
