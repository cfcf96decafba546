"""ConvLSTM on the CPU: the fused layer against the naive one, in interleaved rounds.

    python -m bench.bench_convlstm                     every case: time, accuracy, memory, one-step latency
    python -m bench.bench_convlstm --cases A --rounds 9 --sections time
    python -m bench.bench_convlstm --threads 1 --clock cpu      processor time, for a machine that others use too
    pytest bench/bench_convlstm.py                     the same calls under pytest-benchmark

A ratio is naive / variant within one round, so that a slow moment of the machine hits both; the line gives the median
of the ratios and their 20th and 80th percentile.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from bench.peers import NaiveConvLSTM
from rlv2v_fast.nn.convlstm import ConvLSTM


@dataclass(frozen=True)
class Case:
    batch: int
    steps: int
    channels: int
    size: int
    hidden: int
    kernel: int

    def input(self) -> Tensor:
        return torch.randn(self.batch, self.steps, self.channels, self.size, self.size)


CASES = {
    "A": Case(2, 10, 16, 64, 64, 3),
    "B": Case(4, 16, 3, 64, 32, 3),
    "C": Case(1, 8, 64, 32, 128, 3),
    "D": Case(8, 10, 1, 64, 64, 5),
}
STREAMING = Case(1, 1, 64, 32, 64, 3)
OURS: dict[str, dict[str, object]] = {
    "reference": {"backend": "reference"},
    "cpp": {"backend": "cpp"},
    "cpp exact": {"backend": "cpp", "exact": True},
    "cpp memory=low": {"backend": "cpp", "memory": "low"},
}
VARIANTS = ("naive", "torch.compile", *OURS)
Layer = Callable[[Tensor], Tensor]


def layers(case: Case, names: tuple[str, ...] = VARIANTS) -> dict[str, Layer]:
    """The named variants with the same weights, each mapping x to the output sequence."""
    torch.manual_seed(0)
    naive = NaiveConvLSTM(case.channels, case.hidden, (case.kernel, case.kernel))
    made: dict[str, torch.nn.Module] = {}
    for name in names:
        if name == "naive":
            made[name] = naive
        elif name == "torch.compile":
            made[name] = torch.compile(naive)  # type: ignore[assignment]
        else:
            made[name] = ConvLSTM(case.channels, case.hidden, case.kernel, 1, batch_first=True, **OURS[name])
            made[name].load_state_dict(naive.state_dict(), strict=True)
    return {name: lambda x, module=module: module(x)[0][0] for name, module in made.items()}


def forward(layer: Layer, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def forward_backward(layer: Layer, x: Tensor) -> None:
    """x needs a gradient, as the output of an encoder does; parameter gradients accumulate."""
    layer(x.detach().requires_grad_()).sum().backward()


PASSES = {"fwd": forward, "fwd+bwd": forward_backward}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleave(calls: dict[str, Callable[[], None]], rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one round that is not counted."""
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            start = now()
            call()
            if index:
                times[name].append(now() - start)
    return times


def percentile(values: list[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()


def report(title: str, times: dict[str, list[float]]) -> None:
    base = times["naive"]
    for name, values in times.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        low, middle, high = (percentile(ratios, share) for share in (0.2, 0.5, 0.8))
        milliseconds = 1e3 * percentile(values, 0.5)
        print(
            f"{title:10} {name:16} {milliseconds:9.2f} ms  {middle:5.2f}x  p20 {low:5.2f} p80 {high:5.2f}", flush=True
        )


def time_cases(names: list[str], rounds: int, clock: str) -> None:
    for name in names:
        case = CASES[name]
        variants, x = layers(case), case.input()
        for title, run in PASSES.items():
            calls = {v: partial(run, layer, x) for v, layer in variants.items()}
            report(f"{name} {title}", interleave(calls, rounds, clock))


def time_streaming(rounds: int, clock: str) -> None:
    """One step of one frame: the fixed cost of a call."""
    variants, x = layers(STREAMING), STREAMING.input()
    calls = {v: partial(forward, layer, x) for v, layer in variants.items()}
    report("streaming", interleave(calls, 20 * rounds, clock))


def accuracy(names: list[str]) -> None:
    """Largest absolute error of the output, and of each gradient over its largest entry, against float64."""
    for name in names:
        case = CASES[name]
        x = case.input()
        torch.manual_seed(0)
        naive = NaiveConvLSTM(case.channels, case.hidden, (case.kernel, case.kernel))
        want = outputs_and_gradients(naive.double(), x.double())
        for variant in ("naive", "cpp", "cpp exact"):
            module: torch.nn.Module = NaiveConvLSTM(case.channels, case.hidden, (case.kernel, case.kernel))
            if variant != "naive":
                module = ConvLSTM(case.channels, case.hidden, case.kernel, 1, batch_first=True, **OURS[variant])
            module.load_state_dict(naive.state_dict())
            got = outputs_and_gradients(module, x)
            output = (got[0] - want[0]).abs().max().item()
            grads = [((g - w).abs().max() / w.abs().max()).item() for g, w in zip(got[1:], want[1:], strict=True)]
            print(
                f"{name} error    {variant:16} output {output:.1e}  grad x, weight, bias", *(f"{g:.1e}" for g in grads)
            )


def outputs_and_gradients(module: torch.nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    output = module(x)[0][0]
    grads = torch.autograd.grad(output.square().sum(), [x, *module.parameters()])
    return [output.detach().double(), *(g.double() for g in grads)]


def memory_line(field: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def print_peak(case: Case, variant: str) -> None:
    """MiB that one forward and backward add at their peak to a process that holds the layer and its input."""
    layer, x = layers(case, (variant,))[variant], case.input()
    small = torch.randn(1, 1, case.channels, 8, 8)
    forward_backward(layer, small)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = memory_line("VmRSS")
    forward_backward(layer, x)
    print(memory_line("VmHWM") - before)


def peak_memory(names: list[str]) -> None:
    for name in names:
        peaks = {}
        for variant in VARIANTS:
            if variant == "torch.compile":
                continue
            command = [sys.executable, "-m", "bench.bench_convlstm", "--peak", name, variant]
            peaks[variant] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for variant, peak in peaks.items():
            print(f"{name} memory   {variant:16} {peak:9.1f} MiB  {peaks['naive'] / peak:5.2f}x less", flush=True)


SECTIONS = ("time", "streaming", "accuracy", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu is for --threads 1: waiting threads spin"
    )
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "VARIANT"), help="print one peak in MiB and exit")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        return print_peak(CASES[options.peak[0]], options.peak[1])
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, {options.clock} time, float32")
    print("cases (B, T, C, H=W, K, k):", {n: tuple(vars(CASES[n]).values()) for n in options.cases})
    if "accuracy" in options.sections:
        accuracy(options.cases)
    if "memory" in options.sections:
        peak_memory(options.cases)
    if "streaming" in options.sections:
        time_streaming(options.rounds, options.clock)
    if "time" in options.sections:
        time_cases(options.cases, options.rounds, options.clock)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("title", PASSES)
def test_convlstm(benchmark: Callable[..., None], title: str, name: str, variant: str) -> None:
    layer, x = layers(CASES[name], (variant,))[variant], CASES[name].input()
    benchmark(PASSES[title], layer, x)


if __name__ == "__main__":
    main()
