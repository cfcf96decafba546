"""Data-parallel training: several processes draw clips of their own and keep one set of weights.

All processes must call each of these functions, in the same order. With one process they change nothing. CPU tensors
and Python objects are exchanged by gloo, and GPU tensors by nccl: a process group that was made elsewhere needs both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlv2v_fast.errors import InputError

T = TypeVar("T")
BUCKET_BYTES = 32 * 2**20
SEED_STRIDE = 1_000_003


@contextmanager
def joined(device: str, *, patience: timedelta | None = None) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; gives the name of this process's device.

    Args:
        device: as configured. In a run of several processes, any name of a GPU stands for the GPU of this process.
        patience: how long a process waits for another before it fails; by default as torch.distributed has it.
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
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def count() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0. Process 0 writes checkpoints, logs and previews."""
    return dist.get_rank() if count() > 1 else 0


def seed_offset() -> int:
    """The number to add to a seed so that no other process draws the same random numbers; 0 in process 0."""
    return rank() * SEED_STRIDE


def any_true(flag: bool) -> bool:
    """Whether flag is true in any process. No process continues before all have asked."""
    return bool(largest(int(flag)))


def largest(number: int) -> int:
    """The largest number that any process gives. No process continues before all have asked."""
    if count() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def from_first(decide: Callable[[], T]) -> T:
    """The result of decide() in process 0, given to all processes; its InputError is raised in all of them."""
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


def from_each(value: T) -> list[T]:
    """The value that each process gives, in the order of their numbers."""
    values: list[Any] = [value]
    if count() > 1:
        values = [None] * count()
        dist.all_gather_object(values, value)
    return values


def average_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have a number of that name."""
    if count() == 1:
        return numbers
    every = from_each(numbers)
    names = dict.fromkeys(name for one in every for name in one)
    values = {name: [one[name] for one in every if name in one] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}


def share(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if count() == 1:
        return
    for tensors in _by_kind(module.state_dict().values()):
        _in_buckets(tensors, lambda flat: dist.broadcast(flat, 0))


# Gradients are averaged here, right before an optimizer's step. DistributedDataParallel is not used: its hooks are for
# one forward and one backward of one network. An iteration calls several networks several times: some are frozen,
# some are in eval mode, R1 takes a second derivative, and a critic is not called where a minibatch has no transition of
# its domain.
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes that have one; it stays None where no process has."""
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
    """Replace running statistics by their mean over the processes, and counters by their largest value."""
    if count() == 1:
        return
    floats, counters = _by_kind(module.buffers())
    _in_buckets(floats, dist.all_reduce)
    for buffer in floats:
        buffer /= count()
    _in_buckets(counters, lambda flat: dist.all_reduce(flat, dist.ReduceOp.MAX))


def _by_kind(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The floating-point tensors, and the others."""
    every = list(tensors)
    return [t for t in every if t.is_floating_point()], [t for t in every if not t.is_floating_point()]


def _in_buckets(tensors: list[Tensor], exchange: Callable[[Tensor], Any]) -> None:
    """Exchange tensors of one dtype and device in place, flattened into a few large buckets."""
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
