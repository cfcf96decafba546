"""What `rlv2v info` prints: versions, devices, backends, and why one is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch

import rlv2v_fast
from rlv2v_fast import extension
from rlv2v_fast.ops.backends import cpp_refusal


def report() -> list[str]:
    """Lines of text, one fact each."""
    lines = [f"rlv2v_fast {rlv2v_fast.__version__}, Python {platform.python_version()}, {platform.platform()}"]
    for package in ("torch", "triton", "numpy", "av"):
        lines.append(f"{package:12s} {_version(package)}")
    lines.append(f"{'CPU':12s} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    lines += _gpus()
    lines.append(f"{'reference':12s} available")
    lines.append(f"{'cpp (CPU)':12s} {_state(cpp_refusal(torch.empty(0)))}")
    lines.append(f"{'cpp (CUDA)':12s} {_state(extension.why_not_cuda())}")
    lines.append(f"{'triton':12s} {_state(_why_not_triton())}")
    bindings = extension.bindings()
    if bindings is None:
        lines.append(f"{'bindings':12s} not built: {extension.build_record().get('bindings', 'never built')}")
    else:
        built = bindings.build_info()
        lines.append(f"{'bindings':12s} built with torch {built['built_with_torch']}, GCC/Clang {built['compiler']}")
    return lines


def shortfall() -> str | None:
    """A sentence where the build was to make operators for this machine and did not; None where nothing is amiss."""
    reasons = {"C++": cpp_refusal(torch.empty(0))}
    if torch.cuda.is_available():
        reasons["CUDA"] = extension.why_not_cuda()
    for name, reason in reasons.items():
        if reason is not None and not reason.startswith("left out by"):
            return f"the {name} operators are not there, and PyTorch does their work, more slowly: {reason}"
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return [f"{'GPU':12s} none seen by torch {torch.__version__}"]
    return [
        f"{'GPU':12s} {torch.cuda.get_device_name(i)}, compute capability "
        f"{'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
        for i in range(torch.cuda.device_count())
    ]


def _why_not_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None if torch.cuda.is_available() else "no CUDA device"


def _state(reason: str | None) -> str:
    return "available" if reason is None else f"not available: {reason}"
