"""RPB and URB in training mode, whole and between their convolutions.

python -m bench run --op rpb urb rpb-between urb-between --layout contiguous channels_last

The floor of a block is the time of its two convolutions, as if everything else cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases import BLOCKS, FLOOR, Calls, Case, ForwardBackward, Operation, Setting, Work
from bench.peers import NaiveBlock
from rlv2v_fast.nn.blocks import RPB, URB
from rlv2v_fast.nn.norm import FusibleNorm
from rlv2v_fast.ops.blocks import norm_add_relu_norm, norm_add_relu_pool_norm, norm_relu

KINDS = {"RPB": RPB, "URB": URB}
BACKENDS = ("naive", "compile", "reference", "cpp", FLOOR)
# Operations per element of a normalization: three to measure, two to apply.
NORM = 5


class Between(nn.Module):
    """The part of our block between its convolutions, from their outputs and the shortcut."""

    def __init__(self, kind: str, channels: int, backend: str) -> None:
        super().__init__()
        self.kind, self.backend = kind, backend
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm3d(channels) for _ in range(3))

    def forward(self, u: Tensor, v: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        a = norm_relu(u, FusibleNorm(self.bn1), backend=self.backend)
        last = norm_add_relu_pool_norm if self.kind == "RPB" else norm_add_relu_norm
        return a, last(v, FusibleNorm(self.bn2), shortcut, FusibleNorm(self.bn3), backend=self.backend)


def random_leaf(case: Case, setting: Setting, scale: int = 1) -> Tensor:
    """A random leaf tensor, (B, C, T, H / scale, W / scale)."""
    s = case.shape
    x = torch.randn(s["B"], s["C"], s["T"], s["H"] // scale, s["W"] // scale, device=setting.device).to(setting.dtype)
    return x.contiguous(memory_format=memory_format(setting)).requires_grad_()


def memory_format(setting: Setting) -> torch.memory_format:
    return torch.channels_last_3d if setting.layout == "channels_last" else torch.contiguous_format


def to_setting(block: nn.Module, setting: Setting) -> nn.Module:
    """The block on the setting's device, its convolutions in the setting's dtype; normalizations stay float32."""
    block = block.to(setting.device, memory_format=memory_format(setting))  # type: ignore[call-overload]
    for module in block.modules():
        if isinstance(module, nn.Conv3d):
            module.to(setting.dtype)
    return block


def naive_block(kind: str, case: Case, setting: Setting) -> NaiveBlock:
    """The naive peer, whose weights all backends share."""
    torch.manual_seed(0)
    block = to_setting(NaiveBlock(kind, case.shape["C"]), setting)
    assert isinstance(block, NaiveBlock)
    return block


def prepare_block(kind: str, case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of a whole block, or of its convolutions alone."""
    naive = naive_block(kind, case, setting)
    x = random_leaf(case, setting, 1 if kind == "RPB" else 2)
    if backend == FLOOR:
        a = random_leaf(case, setting)
        weights = [naive.conv1.weight, naive.conv2.weight]
        return calls_of(lambda: (naive.first(x), naive.second(a)), [x, a, *weights])
    block: nn.Module = naive
    if backend not in ("naive", "compile"):
        block = to_setting(KINDS[kind](case.shape["C"], case.shape["C"], backend=backend), setting)
        block.load_state_dict(naive.state_dict(), strict=True)
    run = torch.compile(block) if backend == "compile" else block
    return calls_of(lambda: (run(x),), [x, *block.parameters()])


def prepare_between(kind: str, case: Case, backend: str, setting: Setting) -> Calls:
    """Calls of the part between the convolutions."""
    inputs = [random_leaf(case, setting, scale) for scale in (1, 1, 1 if kind == "RPB" else 2)]
    run: Callable[..., tuple[Tensor, Tensor]]
    if backend in ("naive", "compile"):
        naive = naive_block(kind, case, setting)
        parameters = [p for norm in (naive.bn1, naive.bn2, naive.bn3) for p in norm.parameters()]
        run = torch.compile(naive.between) if backend == "compile" else naive.between
    else:
        run = module = to_setting(Between(kind, case.shape["C"], backend), setting)
        parameters = list(module.parameters())
    return calls_of(lambda: run(*inputs), [*inputs, *parameters])


def calls_of(outputs: Callable[[], tuple[Tensor, ...]], leaves: list[Tensor]) -> Calls:
    """Forward without gradients, and forward with the gradients of every leaf."""
    return {"fwd": torch.no_grad()(outputs), "fwd_bwd": ForwardBackward(outputs, leaves)}


def sizes(kind: str, case: Case) -> tuple[int, int, int]:
    """The numbers of elements of a convolution's output, of the block's input and of the block's output."""
    s = case.shape
    full = s["B"] * s["C"] * s["T"] * s["H"] * s["W"]
    return (full, full, full // 4) if kind == "RPB" else (full, full // 4, full)


def work(phase: str, flops: int, read: int, written: int, dtype: torch.dtype) -> Work:
    """The work of a phase: a backward does the forward's twice, reads inputs and gradients, and writes gradients."""
    if phase == "fwd":
        return Work(flops, (read + written) * dtype.itemsize)
    return Work(3 * flops, (3 * read + 2 * written) * dtype.itemsize)


def count_block(kind: str, case: Case, phase: str, dtype: torch.dtype) -> Work:
    """The work of a block: multiplications and additions of both convolutions; x, weights and output once."""
    full, block_input, result = sizes(kind, case)
    channels = case.shape["C"]
    return work(phase, 2 * 2 * full * channels * 27, block_input + 2 * 27 * channels**2, result, dtype)


def count_between(kind: str, case: Case, phase: str, dtype: torch.dtype) -> Work:
    """The work between convolutions: three normalizations, two ReLUs, an addition, the maxima; each tensor once."""
    full, block_input, result = sizes(kind, case)
    flops = full * (2 * NORM + 3) + result * (NORM + (3 if kind == "RPB" else 0))
    return work(phase, flops, 2 * full + block_input, full + result, dtype)


def block_operations(kind: str) -> tuple[Operation, Operation]:
    """The operations of a whole block and of the part between its convolutions."""
    return (
        Operation(kind.lower(), BLOCKS, BACKENDS, partial(prepare_block, kind), count=partial(count_block, kind)),
        Operation(
            f"{kind.lower()}-between",
            BLOCKS,
            tuple(name for name in BACKENDS if name != FLOOR),
            partial(prepare_between, kind),
            count=partial(count_between, kind),
        ),
    )


OPERATIONS = tuple(operation for kind in KINDS for operation in block_operations(kind))
