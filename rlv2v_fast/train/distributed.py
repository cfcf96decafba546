"""Data-parallel training: processes with clips of their own that keep one set of weights.

Each of these functions is called by all processes, in the same order; in a lone process each changes nothing. What is
decided on the CPU is exchanged there, by gloo, and tensors of a GPU by nccl: a process group that was made elsewhere
must have both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlv2v_fast.errors import InputError

T = TypeVar("T")
BUCKET_BYTES = 32 * 2**20
SEED_STRIDE = 1_000_003


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; gives the name of this one's device.

    Args:
        device: as configured. On a machine with a GPU for each process, every name of one means this process's own.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ.get("WORLD_SIZE") == "1":
        yield device
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        index = int(os.environ["LOCAL_RANK"])
        if index >= torch.cuda.device_count():
            raise InputError(
                f"--nproc-per-node must be at most {torch.cuda.device_count()}, the CUDA devices here, or device cpu"
            )
        device = f"cuda:{index}"
        torch.cuda.set_device(index)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0: the one that writes checkpoints, logs and previews."""
    return dist.get_rank() if count() > 1 else 0


def seed_offset() -> int:
    """What to add to a seed for random numbers that no other process draws; 0 in process 0."""
    return rank() * SEED_STRIDE


def any_true(flag: bool) -> bool:
    """Whether flag is true in any process; no process goes on before all have asked."""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def from_first(decide: Callable[[], T]) -> T:
    """What decide returns in process 0, where alone it is called, or its InputError, in all of them."""
    if count() == 1:
        return decide()
    answer: list[Any] = [None]
    if rank() == 0:
        try:
            answer = [decide()]
        except InputError as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], InputError):
        raise answer[0]
    return answer[0]


def average_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have one of its name."""
    if count() == 1:
        return numbers
    every: list[dict[str, float]] = [{} for _ in range(count())]
    dist.all_gather_object(every, numbers)
    names = dict.fromkeys(name for one in every for name in one)
    values = {name: [one[name] for one in every if name in one] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


def share(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if count() == 1:
        return
    for tensors in _by_kind(module.state_dict().values()):
        _in_buckets(tensors, lambda flat: dist.broadcast(flat, 0))


# Gradients are averaged here, right before an optimizer's step, and not by DistributedDataParallel: an iteration calls
# several networks several times, some frozen, some in eval mode, some for R1 with a second derivative, and critics not
# at all for a domain of which a minibatch has no transition. DDP's hooks are made for one forward and one backward of
# one network, and every exception from that has to be told them.
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes that have one; where none has, it stays None."""
    if count() == 1:
        return
    parameters = list(parameters)
    holders = torch.tensor([int(p.grad is not None) for p in parameters])
    dist.all_reduce(holders)
    held = [(p, number) for p, number in zip(parameters, holders.tolist(), strict=True) if number]
    for parameter, _ in held:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    _in_buckets([p.grad for p, _ in held if p.grad is not None], dist.all_reduce)
    for parameter, number in held:
        assert parameter.grad is not None
        parameter.grad /= number


def average_buffers(module: nn.Module) -> None:
    """Make running statistics their mean over the processes, and counters their largest."""
    if count() == 1:
        return
    floats, counters = _by_kind(module.buffers())
    _in_buckets(floats, dist.all_reduce)
    for buffer in floats:
        buffer /= count()
    _in_buckets(counters, lambda flat: dist.all_reduce(flat, dist.ReduceOp.MAX))


def _by_kind(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of floating-point numbers, and the others."""
    every = list(tensors)
    return [t for t in every if t.is_floating_point()], [t for t in every if not t.is_floating_point()]


def _in_buckets(tensors: list[Tensor], exchange: Callable[[Tensor], Any]) -> None:
    """Exchange tensors of one dtype and device in place, flattened into buckets: a few large ones and not many."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        exchange(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.nbytes
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
