"""The fused operators between convolutions, one by one, in training mode, against the same in PyTorch's own layers.

python -m bench run --op bn_stats bn_relu bn_add_relu bn_add_relu_low bn_add_relu_pool

Bytes are those that the passes of the fused operator read and write (docs/performance.md), as if no cache kept
anything from one pass to the next. On tensors larger than a GPU's cache, the share of the copy bandwidth says how well
the kernels use the memory. A share above 1 means that a cache kept data between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.bench_blocks import calls_of, random_leaf
from bench.cases import BLOCKS, Calls, Case, Operation, Setting, Work
from rlv2v_fast.ops.bn import Norm
from rlv2v_fast.ops.bn_add_relu import bn_add_relu
from rlv2v_fast.ops.bn_add_relu_pool import bn_add_relu_pool
from rlv2v_fast.ops.bn_relu import bn_relu
from rlv2v_fast.ops.bn_stats import bn_stats
from rlv2v_fast.reference.bn import (
    bn_add_relu_pool_reference,
    bn_add_relu_reference,
    bn_relu_reference,
    bn_stats_reference,
)

BACKENDS = ("naive", "compile", "cpp")


@dataclass(frozen=True)
class Traffic:
    """Memory traffic of an operator's passes: tensors of the size of x read and written, and bytes of indices."""

    fwd: float
    bwd: float = 0.0
    index_fwd: float = 0.0
    index_bwd: float = 0.0


# For each pass the tensors read + written. A skip at low resolution and a pooled tensor count a quarter.
TRAFFIC = {
    "bn_stats": Traffic(1),
    "bn_relu": Traffic(1 + (1 + 1), 2 + (2 + 1)),
    "bn_add_relu": Traffic(1 + 2 + (2 + 1), 3 + (3 + 1) + (2 + 1)),
    "bn_add_relu_low": Traffic(1 + 1.25 + (1.25 + 1), 2.25 + (2.25 + 1.25) + (2 + 1)),
    "bn_add_relu_pool": Traffic(1 + (2 + 0.25) + (0.25 + 0.25), 0.5 + (1.5 + 1) + (2 + 1), 0.25, 0.25),
}


def prepare(op: str, case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of one operator. "naive" is its formula in PyTorch's layers."""
    torch.manual_seed(0)
    x = random_leaf(case, setting)
    skip = random_leaf(case, setting, 2 if op == "bn_add_relu_low" else 1)
    channels = x.shape[1]
    first, second = (plain_norm(channels, x.device) for _ in range(2))
    if op == "bn_stats":
        measure = bn_stats_reference if backend != "cpp" else partial(bn_stats, backend="cpp")
        run = torch.compile(measure) if backend == "compile" else measure
        return {"fwd": torch.no_grad()(lambda: run(x))}
    arguments: tuple[Tensor | Norm, ...] = (x, first) if op == "bn_relu" else (x, skip, first, second)
    leaves = [x, *(() if op == "bn_relu" else (skip,))]
    leaves += [t for norm in arguments if isinstance(norm, Norm) for t in (norm.weight, norm.bias)]
    call = fused(op) if backend == "cpp" else formula(op)
    if backend == "compile":
        call = torch.compile(call)
    return calls_of(lambda: (call(*arguments),), leaves)


def plain_norm(channels: int, device: torch.device) -> Norm:
    weight, bias = torch.ones(channels, device=device), torch.zeros(channels, device=device)
    return Norm(weight.requires_grad_(), bias.requires_grad_())


def fused(op: str) -> Callable[..., Tensor]:
    functions: dict[str, Callable[..., tuple]] = {"bn_relu": bn_relu, "bn_add_relu_pool": bn_add_relu_pool}
    function = functions.get(op, bn_add_relu)
    return lambda *arguments: function(*arguments, backend="cpp")[0]


def formula(op: str) -> Callable[..., Tensor]:
    if op == "bn_relu":
        return lambda x, norm: bn_relu_reference(x, *norm)
    return {"bn_add_relu_pool": bn_add_relu_pool_reference}.get(op, bn_add_relu_reference)


def count(op: str, case: Case, phase: str, dtype: torch.dtype) -> Work:
    s, traffic = case.shape, TRAFFIC[op]
    full = s["B"] * s["C"] * s["T"] * s["H"] * s["W"]
    tensors, indices = traffic.fwd, traffic.index_fwd
    if phase == "fwd_bwd":
        tensors, indices = tensors + traffic.bwd, indices + traffic.index_bwd
    # About three operations for each number that a pass reads.
    return Work(int(3 * full * tensors), int(full * (tensors * dtype.itemsize + indices)))


OPERATIONS = tuple(
    Operation(
        op,
        BLOCKS,
        BACKENDS,
        partial(prepare, op),
        phases=("fwd",) if op == "bn_stats" else ("fwd", "fwd_bwd"),
        count=partial(count, op),
    )
    for op in TRAFFIC
)
