"""Memory of a call: its peak, and the bytes that its forward saves for its backward.

On a GPU the allocator counts the peak. On a CPU it is read from the process's high-water mark, which must come from a
process that has not run the call before. One process is started for each phase of a case, and it forks one for each
backend before it computes anything.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import ROOT, Call, Case, ForwardBackward, Operation, Setting, operations, prepare_all

MIB = 2**20


def saved_bytes(call: Call) -> int | None:
    """The bytes that a call's forward saves for its backward, without its leaves; None for any other call."""
    if not isinstance(call, ForwardBackward):
        return None
    leaves = {leaf.untyped_storage().data_ptr() for leaf in call.leaves}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        # By storage, because a view that is saved beside its base takes no more memory.
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Outputs are held until everything is counted, so that no storage is freed and its address used again.
        outputs = call.outputs()
    del outputs
    return sum(size for address, size in kept.items() if address not in leaves)


def peaks(operation: Operation, case: Case, setting: Setting, phase: str, calls: Mapping[str, Call]) -> dict[str, Any]:
    """The peak MiB of one call of each backend, above what is held before it; None where it is not known."""
    if setting.device.type == "cuda":
        return {name: gpu_peak_mib(call) for name, call in calls.items()}
    # In a new process, compiling again would take long, and its memory would be measured.
    compiled = {name: cpu_peak_mib(calls[name]) for name in ("compile",) if name in calls}
    return compiled | peaks_apart(operation, case, setting, phase, [name for name in calls if name not in compiled])


def gpu_peak_mib(call: Call) -> float:
    """torch.cuda.max_memory_allocated during the call, minus what was allocated before."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def cpu_peak_mib(call: Call) -> float | None:
    """This process's high-water mark during the call, minus its memory before; None where it cannot be read."""
    gc.collect()
    try:
        # Memory that was freed but not returned to the system would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _process_mib("VmRSS")
        call()
        return _process_mib("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _process_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")


def peaks_apart(operation: Operation, case: Case, setting: Setting, phase: str, backends: list[str]) -> dict[str, Any]:
    """cpu_peak_mib of each backend, each in a process of its own."""
    request = {
        "op": operation.name,
        "case": case.name,
        "shape": dict(case.shape),
        "phase": phase,
        "backends": backends,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "layout": setting.layout,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "bench", "peak", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        print(f"no peak memory: {done.stderr[-300:]}", file=sys.stderr)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def answer(request: Mapping[str, Any]) -> dict[str, float | None]:
    """The peaks of a request: what the process that peaks_apart starts prints."""
    operations()  # Imports happen once, before the forks.
    return {backend: _in_a_fork(request, backend) for backend in request["backends"]}


def _in_a_fork(request: Mapping[str, Any], backend: str) -> float | None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(request, backend, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _measure(request: Mapping[str, Any], backend: str, sender: Connection) -> None:
    """Send the peak of one backend's call to the parent process."""
    torch.set_num_threads(request["threads"])
    operation = operations()[request["op"]]
    case = Case(request["case"], request["shape"])
    setting = Setting(torch.device("cpu"), getattr(torch, request["dtype"]), request["layout"])
    # A small call first loads code that is not part of a call. A full call would hide the scratch that backends keep.
    for small in (case for case in operation.cases if case.name == "tiny"):
        prepare_all(operation, small, setting, [backend])[0][backend][request["phase"]]()
    sender.send(cpu_peak_mib(prepare_all(operation, case, setting, [backend])[0][backend][request["phase"]]))
