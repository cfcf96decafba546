"""R, RPB and URB on the CPU, training mode, float32: fused against eager and torch.compile, in interleaved rounds.

    python -m bench.bench_blocks                       the section between the convolutions, whole blocks, their bound
    python -m bench.bench_blocks --cases A --rounds 9 --sections fused
    pytest bench/bench_blocks.py                       the same calls under pytest-benchmark

A ratio is eager / variant within one round, so that a slow moment of the machine hits both; the line gives the median
of the ratios and their 20th and 80th percentile. The bound of a block is eager / its convolutions alone: what a block
would gain if everything but its convolutions cost nothing.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench import cases
from bench.cases import FLOOR, Operation, Setting, UnavailableError
from bench.harness import interleave, percentile
from rlv2v_fast.nn.blocks import RPB, URB, R
from rlv2v_fast.nn.norm import FusibleNorm
from rlv2v_fast.ops.blocks import causal_conv3d, norm_add_relu_norm, norm_add_relu_pool_norm, norm_relu
from rlv2v_fast.reference.blocks import upsample_reference

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
KINDS = {"RPB": RPB, "URB": URB}


@dataclass(frozen=True)
class Case:
    """A block's convolutions work on (batch, channels, frames, size, size)."""

    batch: int
    frames: int
    channels: int
    size: int

    def shape(self, scale: int = 1) -> tuple[int, ...]:
        return self.batch, self.channels, self.frames, self.size // scale, self.size // scale


CASES = {"A": Case(2, 8, 64, 64), "B": Case(4, 16, 32, 32)}
Call = Callable[[], list[Tensor]]


def leaf(shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=layout).requires_grad_()


class Section(nn.Module):
    """All of a block that lies between its convolutions, given what they give and the shortcut."""

    def __init__(self, kind: str, channels: int, backend: str) -> None:
        super().__init__()
        self.kind, self.backend = kind, backend
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm3d(channels) for _ in range(3))

    def forward(self, u: Tensor, v: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        a = norm_relu(u, FusibleNorm(self.bn1), backend=self.backend)
        last = norm_add_relu_pool_norm if self.kind == "RPB" else norm_add_relu_norm
        return a, last(v, FusibleNorm(self.bn2), skip, FusibleNorm(self.bn3), backend=self.backend)


def section_calls(kind: str, case: Case, layout: torch.memory_format) -> dict[str, tuple[Call, list[Tensor]]]:
    """Each variant, and what it differentiates."""
    scale = 1 if kind == "RPB" else 2
    inputs = [leaf(case.shape(), layout), leaf(case.shape(), layout), leaf(case.shape(scale), layout)]
    calls: dict[str, tuple[Call, list[Tensor]]] = {}
    for name in ("eager", "torch.compile", "fused"):
        module = Section(kind, case.channels, "cpp" if name == "fused" else "reference")
        run = torch.compile(module) if name == "torch.compile" else module
        calls[name] = partial(lambda run: list(run(*inputs)), run), [*inputs, *module.parameters()]
    return calls


def block_calls(kind: str, case: Case, layout: torch.memory_format) -> dict[str, tuple[Call, list[Tensor]]]:
    x = leaf(case.shape(1 if kind == "RPB" else 2), layout)
    calls: dict[str, tuple[Call, list[Tensor]]] = {}
    for name in ("eager", "torch.compile", "fused", "convolutions"):
        backend = "auto" if name == "fused" else "reference"
        block = KINDS[kind](case.channels, case.channels, backend=backend).to(memory_format=layout)  # type: ignore[call-overload]
        run: Callable[[Tensor], Tensor | tuple[Tensor, ...]] = block
        if name == "torch.compile":
            run = torch.compile(block)
        if name == "convolutions":
            u = leaf(case.shape(), layout)
            run = partial(convolutions, block, u)
        weights = [block.conv1.weight, block.conv2.weight] if name == "convolutions" else list(block.parameters())
        calls[name] = partial(lambda run: as_list(run(x)), run), [x, *weights, *([u] if name == "convolutions" else [])]
    return calls


def convolutions(block: R, u: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Both convolutions of the block, each on an input of its own; URB's first after upsampling."""
    first = upsample_reference(x) if isinstance(block, URB) else x
    return causal_conv3d(first, block.conv1.weight)[0], causal_conv3d(u, block.conv2.weight)[0]


def as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def forward(call: Call, leaves: list[Tensor]) -> None:
    with torch.no_grad():
        call()


def forward_backward(call: Call, leaves: list[Tensor]) -> None:
    outputs = call()
    torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])


PASSES = {"fwd": forward, "fwd+bwd": forward_backward}
SECTIONS = {"fused": section_calls, "block": block_calls}


# Variants by the names that all benchmarks share.
VARIANTS = {"naive": "eager", "compile": "torch.compile", "cpp": "fused", FLOOR: "convolutions"}


def prepare(section: str, kind: str, case: cases.Case, backend: str, setting: Setting) -> cases.Calls:
    """Calls of one variant for `python -m bench`, in float32 on the CPU."""
    if setting.device.type != "cpu" or setting.dtype != torch.float32:
        raise UnavailableError("the benchmarks of the blocks run in float32 on the CPU")
    torch.manual_seed(0)
    variants = SECTIONS[section](kind, CASES[case.name], LAYOUTS[setting.layout])
    call = variants[VARIANTS[backend]]
    return {"fwd": partial(forward, *call), "fwd_bwd": partial(forward_backward, *call)}


def registered(section: str, kind: str) -> Operation:
    """A block, or the fused section between its convolutions, for `python -m bench`."""
    shapes = {
        name: {"B": case.batch, "T": case.frames, "C": case.channels, "H": case.size, "W": case.size}
        for name, case in CASES.items()
    }
    return Operation(
        kind.lower() if section == "block" else f"{kind.lower()}-between",
        tuple(cases.Case(name, shape, devices=("cpu",)) for name, shape in shapes.items()),
        tuple(VARIANTS),
        partial(prepare, section, kind),
        applies=lambda case, backend: section == "block" or backend != FLOOR,
    )


OPERATIONS = tuple(registered(section, kind) for section in SECTIONS for kind in KINDS)


def mebibytes(kind: str, case: Case, title: str) -> float:
    """Least traffic of the fused section: each of its tensors read or written once a pass over a slice in the cache."""
    full = 4 * case.batch * case.channels * case.frames * case.size**2 / 2**20
    # bn_relu reads u, writes a; then v, skip -> z, at RPB also the pooled tensor and its index, at URB a low skip.
    forward = full * (2 + (2 + 0.25 + 0.25 + 1 / 16 if kind == "RPB" else 1 + 0.25 + 1))
    # bn_relu reads grad and u, writes one; then grad_z, v (and largest, index, or skip) -> two gradients.
    backward = full * (3 + (0.25 + 0.25 + 1 / 16 + 1 + 2 if kind == "RPB" else 1 + 1 + 0.25 + 1 + 0.25))
    return forward if title == "fwd" else forward + backward


def report(title: str, times: dict[str, list[float]]) -> None:
    base = times["eager"]
    for name, values in times.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        low, middle, high = (percentile(ratios, share) for share in (0.2, 0.5, 0.8))
        milliseconds = 1e3 * percentile(values, 0.5)
        print(
            f"{title:32} {name:14} {milliseconds:9.2f} ms  {middle:5.2f}x  p20 {low:5.2f} p80 {high:5.2f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, float32, training mode")
    print("cases (B, T, C, H=W of the convolutions):", {n: tuple(vars(CASES[n]).values()) for n in options.cases})
    for section in options.sections:
        for name in options.cases:
            for layout in options.layouts:
                for kind in KINDS:
                    torch.compiler.reset()  # each case compiles for its own shapes
                    calls = SECTIONS[section](kind, CASES[name], LAYOUTS[layout])
                    for title, run in PASSES.items():
                        timed = {variant: partial(run, *call) for variant, call in calls.items()}
                        report(f"{section} {kind} {name} {layout} {title}", interleave(timed, options.rounds))
                        if section == "fused":
                            print(f"{'':32} fused moves at least {mebibytes(kind, CASES[name], title):.0f} MiB")


@pytest.mark.parametrize("variant", ["eager", "fused"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("title", PASSES)
def test_blocks(
    benchmark: Callable[..., None], title: str, section: str, kind: str, name: str, layout: str, variant: str
) -> None:
    benchmark(PASSES[title], *SECTIONS[section](kind, CASES[name], LAYOUTS[layout])[variant])


if __name__ == "__main__":
    main()
