"""Measuring: interleaved rounds, percentiles, peak memory, ceilings, and one JSON row for each result.

Peers take turns in each round, so that a slow moment of the machine hits all of them. A ratio is taken within each
round, and the row holds the median of the ratios. On a GPU a call is timed by CUDA events and, where capture works, a
second time as a replayed CUDA graph, which leaves the launches out.
"""

from __future__ import annotations

import datetime
import gc
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.cases import ROOT, Call, Case, Operation, Setting, Work, prepare_all, reason
from bench.memory import MIB, peaks, saved_bytes

# The fields of every row; a field that does not apply is None.
ROW_FIELDS = (
    *("op", "case", "shape", "dtype", "layout", "backend", "phase"),
    *("p20_ms", "p50_ms", "p80_ms", "graph_p20_ms", "graph_p50_ms", "graph_p80_ms", "compile_s", "rounds", "clock"),
    *("peak_mb", "saved_bytes", "flops", "bytes", "copy_gbs", "matmul_gflops", "share"),
    *("ratio_to_naive", "ratio_to_compile", "ratio_to_reference", "graph_ratio_to_naive", "graph_ratio_to_compile"),
    *("value", "unit", "sweep", "skipped"),
    *("device", "driver", "versions", "commit", "threads", "load", "tf32", "time"),
)
Row = dict[str, Any]
RESULTS = ROOT / "bench/results"


def wall_seconds(call: Call) -> float:
    """The seconds that pass while call runs."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor_seconds(call: Call) -> float:
    """The processor seconds that call takes in all threads; for one thread on a machine that others use too."""
    start = time.process_time()
    call()
    return time.process_time() - start


def event_seconds(call: Call) -> float:
    """The seconds from the first kernel of call to its last, on the current stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


CLOCKS: dict[str, Callable[[Call], float]] = {
    "wall": wall_seconds,
    "cpu": processor_seconds,
    "events": event_seconds,
}


def round_order(names: Sequence[str], index: int) -> list[str]:
    """The order of a round: forwards and backwards in turn, so that no peer always follows the same other."""
    return list(names) if index % 2 == 0 else list(reversed(names))


def interleave(
    calls: Mapping[str, Call], rounds: int, clock: str = "wall", *, warmup: int = 1, deadline: float | None = None
) -> dict[str, list[float]]:
    """The seconds of each call in each round.

    Args:
        calls: the peers.
        rounds: the most rounds that count; at least one runs.
        clock: one of CLOCKS.
        warmup: rounds before them that do not count.
        deadline: time.monotonic() after which no further round starts.
    """
    seconds = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(-warmup, max(1, rounds)):
        if index > 0 and deadline is not None and time.monotonic() > deadline:
            break
        for name in round_order(list(calls), index):
            taken = seconds(calls[name])
            if index >= 0:
                times[name].append(taken)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated linearly between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def ratio(base: Sequence[float] | None, values: Sequence[float]) -> float | None:
    """The median of base / value within each round: above 1 where `values` is faster than `base`."""
    if base is None:
        return None
    return percentile([b / v for b, v in zip(base, values, strict=True) if v > 0] or [float("nan")], 0.5)


@dataclass(frozen=True)
class Ceilings:
    """The speed of this device in this run: a large copy in GB/s (reads and writes count), and a large product.

    The product is a matrix product or a 3x3 convolution of many channels, whichever ran faster: on some processors the
    library for matrices uses narrower vectors than the one for convolutions.
    """

    copy_gbs: float
    matmul_gflops: float

    def share(self, work: Work, seconds: float) -> float:
        """The least time that the ceilings allow, divided by the time taken.

        It is above 1 where an algorithm (Winograd's) needs fewer operations than are counted.
        """
        return max(work.bytes / (self.copy_gbs * 1e9), work.flops / (self.matmul_gflops * 1e9)) / seconds


def measure_ceilings(setting: Setting, clock: str, *, tiny: bool = False) -> Ceilings:
    """The best of a few large copies and products in the setting's dtype; in TF32 where convolutions use it."""
    on_gpu = setting.device.type == "cuda"
    mib, side, images, channels = (512, 8192, 64, 512) if on_gpu else (64, 1024, 4, 256)
    mib, side, images, channels = (1, 64, 1, 8) if tiny else (mib, side, images, channels)
    source = torch.ones(mib * MIB, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    a = torch.randn(side, side, device=setting.device).to(setting.dtype)
    product = torch.empty_like(a)
    image = torch.randn(images, channels, 32, 32, device=setting.device).to(setting.dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=setting.device).to(setting.dtype)
    calls: dict[str, Call] = {
        "copy": lambda: target.copy_(source),
        "matmul": lambda: torch.mm(a, a, out=product),
        "conv": lambda: torch.conv2d(image, weight, padding=1),
    }
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    times = interleave(calls, 10 if on_gpu else 4, clock)
    best = {name: max(min(values), 1e-9) for name, values in times.items()}
    rates = (2 * side**3 / best["matmul"], 2 * images * 32 * 32 * channels**2 * 9 / best["conv"])
    return Ceilings(2 * mib * MIB / best["copy"] / 1e9, max(rates) / 1e9)


@dataclass(frozen=True)
class Plan:
    """How a run measures.

    clock: "wall" or "cpu"; a GPU uses CUDA events. memory: also measure peak memory and the bytes saved for the
    backward. graphs: also measure CUDA graphs. deadline: time.monotonic() after which nothing new starts.
    """

    rounds: int = 9
    clock: str = "wall"
    memory: bool = False
    graphs: bool = True
    deadline: float | None = None
    tiny: bool = False
    ceilings: dict[torch.dtype, Ceilings] = field(default_factory=dict)

    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


def clock_for(case: Case | None, setting: Setting, plan: Plan) -> str:
    """The clock of a case: CUDA events on a GPU; otherwise the case's own or the plan's."""
    if setting.device.type == "cuda":
        return "events"
    return (case.clock if case is not None else None) or plan.clock


def measure(
    operation: Operation, case: Case, setting: Setting, backends: Sequence[str], phases: Sequence[str], plan: Plan
) -> Iterator[list[Row]]:
    """The rows of one case, phase by phase. A backend that cannot run it has a row that says why."""
    backends = [name for name in backends if operation.applies is None or operation.applies(case, name)]
    prepared, refused = prepare_all(operation, case, setting, backends)
    for phase in phases:
        calls = {name: made[phase] for name, made in prepared.items() if phase in made}
        missing = {name: f"{name} has no {phase}" for name in prepared if name not in calls}
        yield _measure_phase(operation, case, setting, phase, calls, refused | missing, plan)
        if setting.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _measure_phase(
    operation: Operation,
    case: Case,
    setting: Setting,
    phase: str,
    calls: dict[str, Call],
    refused: dict[str, str],
    plan: Plan,
) -> list[Row]:
    firsts, failed = first_calls(calls, setting)
    calls = {name: call for name, call in calls.items() if name not in failed}
    clock = clock_for(case, setting, plan)
    if case.once:
        times = {name: [firsts[name]] for name in calls}
    else:
        times = interleave(calls, plan.rounds, clock, deadline=plan.deadline) if calls else {}
    # A part of the system keeps state from call to call. A replay of a graph would not.
    graphable = setting.device.type == "cuda" and plan.graphs and not operation.system and not plan.late()
    graphs = graph_times(calls, plan) if graphable else {}
    common = {
        **_case_fields(operation, case, setting, phase),
        **environment(setting.device),
        "clock": clock,
    }
    # A case with a clock of its own runs in other processes, whose memory is not this one's.
    peak_mib = peaks(operation, case, setting, phase, calls) if plan.memory and calls and case.clock is None else {}
    rows = [new_row(**common, backend=name, skipped=why) for name, why in (refused | failed).items()]
    for name, values in times.items():
        row = new_row(**common, backend=name, rounds=len(values))
        if case.timed:
            row |= _timing_fields(values, times, graphs.get(name), graphs)
        row["compile_s"] = firsts[name] if name == "compile" else None
        row["peak_mb"] = peak_mib.get(name)
        row["saved_bytes"] = saved_bytes(calls[name]) if plan.memory else None
        row |= _work_fields(operation, case, setting, phase, percentile(values, 0.5), plan)
        rows.append(row)
    return rows


def first_calls(calls: Mapping[str, Call], setting: Setting) -> tuple[dict[str, float], dict[str, str]]:
    """The seconds of each first call, with its compilation and autotuning, and the reason of each failed one."""
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, call in calls.items():
        start = time.perf_counter()
        # A peer may fail with any error, also a compiler's. Its row says which, and the other peers are measured.
        try:
            call()
            synchronize(setting.device)
        except Exception as error:
            failed[name] = reason(error)
        else:
            seconds[name] = time.perf_counter() - start
    return seconds, failed


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished; a CPU already has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def graph_times(calls: Mapping[str, Call], plan: Plan) -> dict[str, list[float]]:
    """The seconds of each call replayed as a CUDA graph, without calls that cannot be captured."""
    replays = {name: graph.replay for name, call in calls.items() if (graph := cuda_graph(call)) is not None}
    return interleave(replays, plan.rounds, "events", deadline=plan.deadline) if replays else {}


def cuda_graph(call: Call) -> torch.cuda.CUDAGraph | None:
    """call as a CUDA graph; None where it cannot be captured because it waits for the GPU or copies from the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(2):
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f"not captured as a CUDA graph: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        torch.cuda.synchronize()
        return None
    return graph


def _timing_fields(
    values: list[float],
    times: Mapping[str, list[float]],
    graph: list[float] | None,
    graphs: Mapping[str, list[float]],
) -> Row:
    fields: Row = {f"p{p}_ms": 1e3 * percentile(values, p / 100) for p in (20, 50, 80)}
    fields |= {f"ratio_to_{peer}": ratio(times.get(peer), values) for peer in ("naive", "compile", "reference")}
    if graph is not None:
        fields |= {f"graph_p{p}_ms": 1e3 * percentile(graph, p / 100) for p in (20, 50, 80)}
        for peer in ("naive", "compile"):
            base = graphs.get(peer)
            fields[f"graph_ratio_to_{peer}"] = None if base is None else percentile(base, 0.5) / percentile(graph, 0.5)
    return fields


def _case_fields(operation: Operation, case: Case, setting: Setting, phase: str) -> Row:
    return {
        "op": operation.name,
        "case": case.name,
        "shape": dict(case.shape),
        # A part of the system chooses its own: float32, and bfloat16 autocast in training on a GPU.
        "dtype": "default" if operation.system else str(setting.dtype).removeprefix("torch."),
        "layout": setting.layout,
        "phase": None if operation.system else phase,
        "sweep": case.sweep,
    }


def _work_fields(operation: Operation, case: Case, setting: Setting, phase: str, seconds: float, plan: Plan) -> Row:
    fields: Row = {}
    if operation.value is not None:
        fields["value"], fields["unit"] = operation.value(case, seconds)
    if operation.count is not None:
        work = operation.count(case, phase, setting.dtype)
        fields |= {"flops": work.flops, "bytes": work.bytes}
        if setting.dtype not in plan.ceilings:
            plan.ceilings[setting.dtype] = measure_ceilings(setting, clock_for(None, setting, plan), tiny=plan.tiny)
        ceilings = plan.ceilings[setting.dtype]
        fields |= {"copy_gbs": ceilings.copy_gbs, "matmul_gflops": ceilings.matmul_gflops}
        fields["share"] = ceilings.share(work, seconds) if seconds > 0 else None
    return fields


def new_row(**fields: Any) -> Row:
    """A row with every field of ROW_FIELDS. ValueError for any other field."""
    unknown = set(fields) - set(ROW_FIELDS)
    if unknown:
        raise ValueError(f"fields must be among ROW_FIELDS; got {', '.join(sorted(unknown))}")
    return {name: fields.get(name) for name in ROW_FIELDS}


def environment(device: torch.device) -> Row:
    """The fields of a row that say where and when it was measured."""
    on_gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "driver": driver() if on_gpu else None,
        "versions": versions(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "tf32": bool(torch.backends.cudnn.allow_tf32) if on_gpu else None,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


@cache
def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def results_folder(device: torch.device, results: Path = RESULTS) -> Path:
    """Where rows of a device are kept: bench/results/<device>, its name in letters, digits, dots and hyphens."""
    return results / re.sub(r"[^A-Za-z0-9.]+", "-", device_name(device)).strip("-")


@cache
def driver() -> str | None:
    """Version of the NVIDIA driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


@cache
def versions() -> dict[str, str | None]:
    """The versions of everything that affects a time."""
    import rlv2v_fast

    numbers: dict[str, str | None] = {"python": platform.python_version(), "rlv2v_fast": rlv2v_fast.__version__}
    for package in ("torch", "triton", "numpy"):
        try:
            numbers[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            numbers[package] = None
    numbers["torch"] = torch.__version__
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return numbers | {"cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}


@cache
def commit() -> str | None:
    """RLV2V_FAST_COMMIT; where it is unset, the working tree's commit, with "-dirty" if tracked files differ from it.

    The variable goes before git: a copied working tree may lie in a checkout that stands at another commit.
    """
    if named := os.environ.get("RLV2V_FAST_COMMIT"):
        return named

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD")[:12] + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None
